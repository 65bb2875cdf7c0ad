"""What a scan found, in numbers and in a few names."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from db.merge import Entry
from producer.walk import ArchiveFile, Skipped
from xray.archives.layouts import MANIFEST_NAME
from xray.vocabulary import Layout, SkipReason

SHOWN_PATHS = 10

NOT_LOOKED_AT = frozenset(
    {
        SkipReason.STILL_WRITTEN,
        SkipReason.UNREADABLE,
        SkipReason.BROKEN_LINK,
        SkipReason.DAMAGED_CONTAINER,
        SkipReason.CONTAINER_TOO_LARGE,
    }
)
"""Reasons that say nothing of what a file, folder or container holds: images known there are not gone."""

WORTH_A_LOOK = frozenset(SkipReason) - {SkipReason.HIDDEN, SkipReason.NOT_AN_IMAGE}
"""Reasons behind which images may lie that somebody wants screened."""


@dataclass
class Found:
    """What lies in an archive.

    Parameters
    ----------
    layout : Layout
        The layout used.
    found : int
        Images found, or listed in a manifest.
    absent : int
        Images of a manifest that are not there.
    gone : int
        Images that were there before and are not any more.
    skipped : Counter of str
        Files and folders passed over, by reason.
    look_at : list of str
        What was passed over and somebody should look at, the first few, relative to the root.
    not_looked_at : set of str
        Paths of what could not be looked at; images known at or below these are not gone.
    """

    layout: Layout
    found: int = 0
    absent: int = 0
    gone: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    look_at: list[str] = field(default_factory=list)
    not_looked_at: set[str] = field(default_factory=set)

    def take(self, placed: Iterable[Entry | Skipped]) -> None:
        """Count files; those that are passed over are named if images may lie behind them."""
        for one in placed:
            if isinstance(one, Entry):
                self.found += 1
                continue
            self.skipped[one.reason] += 1
            if one.reason in NOT_LOOKED_AT:
                self.not_looked_at.add(one.path)
            if one.reason in WORTH_A_LOOK:
                self._name(f"{one.path} ({one.reason})")

    def note_absent(self, files: Iterable[ArchiveFile]) -> None:
        """Count files that a manifest lists and that are not there; they become images that fail."""
        for file in files:
            if file.is_absent:
                self.absent += 1
                self._name(f"{file.path} (listed in {MANIFEST_NAME}, and not there)")

    def _name(self, text: str) -> None:
        if len(self.look_at) < SHOWN_PATHS:
            self.look_at.append(text)


@dataclass
class ScanReport(Found):
    """What a scan found, the run that it extends, and the batches cut for what that run has not settled."""

    run_id: int = 0
    batches: int = 0


@dataclass
class Plan(Found):
    """What a scan would find, and how much of it there is to screen.

    Parameters
    ----------
    new : int
        Images never seen before.
    changed : int
        Images of which another version was seen before.
    left : int
        Images seen before and not settled in the model version's run.
    settled : int
        Images that the run has settled.
    """

    new: int = 0
    changed: int = 0
    left: int = 0
    processed: int = 0
