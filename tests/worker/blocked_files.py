"""Files whose opening never returns, as on a dead network mount: the kernel asks this process, which is silent."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FAN_CLASS_CONTENT = 0x4
FAN_MARK_ADD = 0x1
FAN_OPEN_PERM = 0x10000
FAN_ONDIR = 0x40000000
AT_FDCWD = -100


@contextmanager
def blocked(files: Sequence[Path]) -> Iterator[None]:
    """Let no process open these files and folders within the block (Linux's fanotify; only root may do it)."""
    libc = ctypes.CDLL(None, use_errno=True)
    group = libc.fanotify_init(FAN_CLASS_CONTENT, os.O_RDONLY)
    assert group >= 0, os.strerror(ctypes.get_errno())
    try:
        for file in files:
            events = ctypes.c_uint64(FAN_OPEN_PERM | (FAN_ONDIR if file.is_dir() else 0))
            mark = libc.fanotify_mark(group, FAN_MARK_ADD, events, AT_FDCWD, bytes(file))
            assert mark == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        os.close(group)
