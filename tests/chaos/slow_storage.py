"""Storage on which opening a file takes a while, as on a busy network mount, so that work stays open without load."""

import ctypes
import heapq
import os
import random
import select
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.worker.blocked_files import AT_FDCWD, FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_OPEN_PERM

FAN_NONBLOCK = 0x2
FAN_ONDIR = 0x40000000
FAN_EVENT_ON_CHILD = 0x08000000
FAN_ALLOW = 1

EVENT = struct.Struct("=IBBHQii")
"""struct fanotify_event_metadata of linux/fanotify.h."""
RESPONSE = struct.Struct("=iI")

SECONDS, SLOW_SECONDS, SLOW_SHARE = 0.2, 2.0, 0.01
"""How long opening a file takes; and a slow one, with their share."""

CHECK_SECONDS = 0.2


class SlowStorage:
    """Delays each opening of these folders and of the files in them (Linux's fanotify; only root may do it).

    The kernel asks this process, whose thread answers when the time has come. Files are opened at once after `close`.
    """

    def __init__(self, folders: Sequence[Path], seed: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._group = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_NONBLOCK, os.O_RDONLY)
        assert self._group >= 0, os.strerror(ctypes.get_errno())
        mask = ctypes.c_uint64(FAN_OPEN_PERM | FAN_EVENT_ON_CHILD | FAN_ONDIR)
        for folder in folders:
            marked = libc.fanotify_mark(self._group, FAN_MARK_ADD, mask, AT_FDCWD, bytes(folder))
            assert marked == 0, os.strerror(ctypes.get_errno())
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="slow-storage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let everything be opened at once."""
        self._stop.set()
        self._thread.join()
        os.close(self._group)

    def _answer(self) -> None:
        due: list[tuple[float, int]] = []
        while not self._stop.is_set():
            pause = max(0.0, due[0][0] - time.monotonic()) if due else CHECK_SECONDS
            if select.select([self._group], [], [], min(pause, CHECK_SECONDS))[0]:
                for file in self._asked():
                    heapq.heappush(due, (time.monotonic() + self._seconds(), file))
            while due and due[0][0] <= time.monotonic():
                self._allow(heapq.heappop(due)[1])
        for _, file in due:
            self._allow(file)

    def _asked(self) -> list[int]:
        events = os.read(self._group, 65536)
        files, at = [], 0
        while at < len(events):
            length, _, _, _, _, file, _ = EVENT.unpack_from(events, at)
            files.append(file)
            at += length
        return files

    def _seconds(self) -> float:
        return SLOW_SECONDS if self._rng.random() < SLOW_SHARE else SECONDS

    def _allow(self, file: int) -> None:
        try:
            os.write(self._group, RESPONSE.pack(file, FAN_ALLOW))
        except FileNotFoundError:
            # The process that asked was killed meanwhile.
            pass
        finally:
            os.close(file)
