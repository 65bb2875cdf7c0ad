"""Which precisions a machine computes, and which one a run gets."""

import platform
from collections.abc import Collection
from functools import cache
from pathlib import Path

from xray.errors import UsageError
from xray.network.engine import keras_has_gpu
from xray.network.package import ModelPackage
from xray.settings import EngineName
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

    Measured (docs/performance.md): with AMX, bfloat16 is as fast as INT8 and nearer to float32; without it, INT8 is
    faster than bfloat16 by AVX-512, which is faster than float32.

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
    """Return the precisions that a CPU computes at all: bfloat16 is emulated by AVX-512, at a third of float32's speed.

    INT8 is left out where products of 8 bits would overflow.
    """
    emulated = {Precision.BF16} if set(flags) >= _AVX512 else set()
    return frozenset({*fast_precisions(flags), *emulated})


def machine_precisions(engine: EngineName) -> tuple[Precision, ...]:
    """Return the precisions that an engine computes fast on this machine, the fastest first."""
    if engine == "keras" or (engine == "auto" and keras_has_gpu()):
        return (Precision.BF16, Precision.FP32) if keras_has_gpu() else (Precision.FP32,)
    return fast_precisions(cpu_flags())


def choose_precision(package: ModelPackage, wanted: str, fast: Collection[Precision]) -> Precision:
    """Choose the precision to compute a package in.

    Parameters
    ----------
    package : ModelPackage
        Its card says which precisions it allows.
    wanted : str
        A precision, or ``"auto"``: the first of ``fast`` that the package allows.
    fast : collection of Precision
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
