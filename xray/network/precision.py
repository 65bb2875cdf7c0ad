"""Which precisions a machine computes, and which one a run gets."""

import platform
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

from xray.errors import UsageError
from xray.network.engine import may_have_gpu
from xray.network.package import ModelPackage
from xray.settings import EngineName, PrecisionName
from xray.vocabulary import Precision

_CPUINFO = Path("/proc/cpuinfo")

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})


@cache
def cpu_flags() -> frozenset[str]:
    """Return the names of this CPU's instruction sets, as Linux writes them; empty on other systems and other CPUs."""
    if platform.machine() != "x86_64" or not _CPUINFO.exists():
        return frozenset()
    lines = _CPUINFO.read_text().splitlines()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def fast_precisions(flags: Collection[str]) -> tuple[Precision, ...]:
    """Return the precisions that a CPU computes with instructions made for them, the fastest first.

    With AMX, bfloat16 is as fast as INT8, as was reported to us, and nearer to float32. Without it INT8 is faster than
    bfloat16 by AVX-512, and that than float32 (measured, docs/performance.md).

    Parameters
    ----------
    flags : collection of str
        From :func:`cpu_flags`.
    """
    found = []
    if "amx_bf16" in flags:
        found.append(Precision.BF16)
    if {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags):
        found.append(Precision.INT8)
    if "avx512_bf16" in flags and Precision.BF16 not in found:
        found.append(Precision.BF16)
    return (*found, Precision.FP32)


def computable_precisions(flags: Collection[str]) -> frozenset[Precision]:
    """Return the precisions that a CPU computes at all: AVX-512 without bfloat16 emulates it, more slowly than float32.

    INT8 is left out where products of 8 bits would overflow.
    """
    emulated = {Precision.BF16} if set(flags) >= _AVX512 else set()
    return frozenset({*fast_precisions(flags), *emulated})


def machine_precisions(engine: EngineName) -> tuple[Precision, ...]:
    """Return the precisions that an engine computes fast on this machine, the fastest first; imports no framework."""
    if engine == "keras" or (engine == "auto" and may_have_gpu()):
        return (Precision.BF16, Precision.FP32) if may_have_gpu() else (Precision.FP32,)
    return fast_precisions(cpu_flags())


def served_precisions(package: ModelPackage, engine: EngineName, wanted: PrecisionName) -> tuple[Precision, ...]:
    """Return the precisions whose runs a worker on this machine takes: all that it computes and the package allows.

    Also those that it computes slowly: a run never waits for a machine that is gone.

    Raises
    ------
    UsageError
        If this machine does not compute the precision that is wanted, or the package does not allow it.
    """
    computed = {*machine_precisions(engine), *(() if engine == "keras" else computable_precisions(cpu_flags()))}
    if wanted == "auto":
        return tuple(precision for precision in package.card.allowed_precisions if precision in computed)
    precision = choose_precision(package, wanted, ())
    if precision not in computed:
        raise UsageError(
            f"BONESCREEN_PRECISION={wanted}: this machine computes {', '.join(sorted(computed))}; choose one of them, "
            "or auto"
        )
    return (precision,)


def choose_precision(package: ModelPackage, wanted: PrecisionName, fast: Iterable[Precision]) -> Precision:
    """Choose the precision to compute a package in.

    Parameters
    ----------
    package : ModelPackage
        Its card says which precisions it allows.
    wanted : {"auto", "fp32", "bf16", "int8"}
        ``auto`` takes the first of ``fast`` that the package allows.
    fast : iterable of Precision
        What the machines compute fast, the fastest first.

    Raises
    ------
    UsageError
        If the package does not allow the precision.
    """
    allowed = package.card.allowed_precisions
    if wanted == "auto":
        return next((precision for precision in fast if precision in allowed), Precision.FP32)
    if wanted not in allowed:
        raise UsageError(
            f"BONESCREEN_PRECISION={wanted}: {package.card.name} {package.card.version} allows {', '.join(allowed)}; "
            "choose one of them, or auto"
        )
    return Precision(wanted)


def common_precisions(machines: Sequence[Sequence[Precision]]) -> list[Precision]:
    """Return the precisions that all of some machines compute fast, in the first one's order; float32 of no machine."""
    if not machines:
        return [Precision.FP32]
    return [precision for precision in machines[0] if all(precision in others for others in machines)]
