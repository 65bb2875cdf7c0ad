"""What a measurement was made on: the processor, the memory, the libraries, and how busy the machine was."""

import importlib.util
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from xray.cpus import usable_cpus
from xray.network.precision import cpu_flags

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
"""The instruction sets that decide how fast a precision is."""

LIBRARIES = ("openvino", "keras", "tensorflow", "sqlalchemy", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return the machine's processor, usable CPUs, memory, system and libraries, as the JSON has them."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpus": usable_cpus(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES if importlib.util.find_spec(name)},
    }


def load_average() -> float:
    """Return how many processes ran or waited to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def cpu_times() -> tuple[float, float]:
    """Return the seconds that all CPUs of the machine together were idle, and all their seconds, since it started.

    On a machine without ``/proc/stat``, zeros.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, 0.0
    # user, nice, system, idle, iowait, irq, softirq, steal; proc(5).
    ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
    per_second = os.sysconf("SC_CLK_TCK")
    return (ticks[3] + ticks[4]) / per_second, sum(ticks) / per_second


def _field(file: str, name: str) -> str | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
