"""Keep the indexes of the containers that are being read, so that each is indexed once and not once an image."""

import os
from collections import OrderedDict
from threading import Lock

from xray.containers.members import MAX_MEMBERS, TAR_SUFFIX, ZIP_SUFFIX, Index
from xray.containers.tars import index_tar
from xray.containers.zips import index_zip
from xray.errors import ContainerFault
from xray.studies import SkipReason

MAX_KEPT = 64
"""Containers whose indexes a process keeps, those used last; with no more than `MAX_MEMBERS` members in all."""

Version = tuple[int, int, int, int]


class _Slot:
    """A container's index, or why it has none; whoever comes first makes it, the others wait."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.outcome: Index | ContainerFault | None = None


# An index holds no descriptor: it may be dropped while it is in use, and after a fork nothing is shared. A fork must
# not meet a lock that is held; the processes that fork read no archive.
_slots: OrderedDict[tuple[str, Version], _Slot] = OrderedDict()
_lock = Lock()


def version_of(descriptor: int) -> Version:
    """Return what changes when an open file is replaced or written: device, inode, size, time of the last change."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def index_of(path: str, descriptor: int) -> Index:
    """Return a container's index, kept or read now.

    Parameters
    ----------
    path : str
        The container's real path; its name tells what it is.
    descriptor : int
        The container, open for reading.

    Raises
    ------
    ContainerFault
        It is damaged or cut off, not what its name says, or over a cap.
    OSError
        The storage failed.
    """
    key = (path, version_of(descriptor))
    with _lock:
        slot = _slots.setdefault(key, _Slot())
        _slots.move_to_end(key)
    with slot.lock:
        if slot.outcome is None:
            slot.outcome = _outcome(path, descriptor)
            _drop_oldest()
        outcome = slot.outcome
    if isinstance(outcome, ContainerFault):
        raise ContainerFault(outcome.reason, outcome.detail)
    return outcome


def _outcome(path: str, descriptor: int) -> Index | ContainerFault:
    # A fault is kept too: each of its two thousand images would have the container read again.
    try:
        return _read_index(path, descriptor)
    except ContainerFault as fault:
        return fault.with_traceback(None)


def _read_index(path: str, descriptor: int) -> Index:
    name = path.lower()
    if name.endswith(ZIP_SUFFIX):
        return index_zip(descriptor)
    if name.endswith(TAR_SUFFIX):
        return index_tar(descriptor)
    raise ContainerFault(SkipReason.DAMAGED_CONTAINER, "a link to a file that is not named .zip or .tar")


def _drop_oldest() -> None:
    with _lock:
        while len(_slots) > 1 and (len(_slots) > MAX_KEPT or sum(map(_members, _slots.values())) > MAX_MEMBERS):
            _slots.popitem(last=False)


def _members(slot: _Slot) -> int:
    return len(slot.outcome.members) if isinstance(slot.outcome, Index) else 0
