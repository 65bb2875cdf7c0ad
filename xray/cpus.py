"""How many CPUs this process may use: its affinity, and its control group's quota."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """Return the number of CPUs that this process may use, at least 1.

    The affinity counts the CPUs that it may run on. The quota, as of ``docker run --cpus``, limits their time; a part
    of a CPU counts as a whole one.

    Parameters
    ----------
    cgroups, own : Path
        Where Linux mounts control groups, and where it lists this process's own (cgroups(7)).
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _own_folders(cgroups, own) if (quota := _quota(folder)) is not None]
    return max(1, min(affinity, *(math.ceil(quota) for quota in quotas))) if quotas else affinity


def _own_folders(cgroups: Path, own: Path) -> list[Path]:
    """Return this process's control groups for CPUs and all above them: each of their quotas holds."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / "cpu"
        else:
            continue
        # Inside a container the path may be the host's, while the mount shows the container's own group as its root.
        folder = root / path.lstrip("/")
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the CPUs' worth of time that a control group may use, or None without a limit."""
    try:
        # Version 2: "max 100000" or "150000 100000".
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    if quota == "max" or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)
