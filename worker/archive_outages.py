"""The runs whose archives were away a moment ago, in memory that a worker's next child process has too.

A child that waits for an archive ends itself (`worker.watchdog`). If the next one did not know of it, it would claim of
the same run again, and the other runs would wait for that archive too.
"""

import ctypes
import multiprocessing
import time

OUTAGE_SECONDS = 60.0
"""For so long, a run whose archive was away, or whose engine failed, comes after other runs."""

REMEMBERED = 64
"""Of more runs, those whose archives were away longest ago are forgotten."""


class _Outage(ctypes.Structure):
    _fields_ = (("run_id", ctypes.c_int64), ("noted_at", ctypes.c_double))


class ArchiveOutages:
    """Made by the Celery parent; one child process at a time uses it."""

    def __init__(self) -> None:
        self._latest = multiprocessing.RawArray(_Outage, REMEMBERED)

    def note(self, run_id: int) -> None:
        """Let other runs come first for a while, as the archive of this one is away."""
        place = min(self._latest, key=lambda outage: (outage.run_id != run_id, outage.noted_at))
        place.run_id, place.noted_at = run_id, time.monotonic()

    def runs(self) -> list[int]:
        """Return the runs whose archives were away within `OUTAGE_SECONDS`."""
        now = time.monotonic()
        return [one.run_id for one in self._latest if one.run_id and now - one.noted_at < OUTAGE_SECONDS]
