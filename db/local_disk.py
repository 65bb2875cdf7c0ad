"""Where an SQLite database may lie: on a disk of its own machine, as its locks and its shared memory need one."""

import os
import re
from pathlib import Path

from xray.errors import UsageError

SHARED_FILE_SYSTEMS = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs",
        "lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "vboxsf", "fuse",
    }
)  # fmt: skip

LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})
"""What a container without root's rights has for its own disk; NTFS and exFAT on a local disk are ``fuseblk``."""


MOUNTS = Path("/proc/self/mounts")


def require_local_disk(file: Path) -> None:
    """Check that an SQLite database is on a local disk (https://www.sqlite.org/wal.html, "Overview", disadvantage 1).

    Parameters
    ----------
    file : Path
        The database.

    Raises
    ------
    UsageError
        It is on a network or cluster file system, or on FUSE, behind which there may be anything.
    """
    folder = os.path.realpath(file.parent)
    kind = _file_system(folder)
    if kind in SHARED_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in LOCAL_FUSE):
        raise UsageError(
            f"{folder} is on a network, cluster or FUSE file system ({kind}), where SQLite loses data; "
            "set BONESCREEN_HOME to a local disk, or BONESCREEN_DATABASE_URL to a PostgreSQL database"
        )


def _file_system(folder: str) -> str:
    """Return the type of the file system that a folder is on; empty if it is not known."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best = ("", "")
    for line in lines:
        point, kind = line.split(" ")[1:3]
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        # Of several mounts at one point, the last one is seen.
        if os.path.commonpath([point, folder]) == point and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
