"""Summary of a scan or a dry run: counts, and the first paths that somebody should check."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from xray.archives.archive_file import MISSING, ArchiveFile, Skipped, path_as_text
from xray.archives.layouts import MANIFEST_NAME
from xray.vocabulary import SKIP_REMEDY, UNSEEN, Layout, SkipReason

MAX_WARNINGS = 10
MAX_TERMS = 1_000
"""Maximum number of body part terms that are counted, as anybody may write anything."""

EXPLAINED = frozenset(
    {
        SkipReason.ENCRYPTED_CONTAINER,
        SkipReason.UNKNOWN_PACKING,
        SkipReason.UNREADABLE_MEMBERS,
        SkipReason.NESTED_CONTAINER,
        SkipReason.COMPRESSED_TAR,
        SkipReason.CONTAINER_TOO_LARGE,
        SkipReason.EMPTIED_FOLDER,
    }
)
"""Reasons whose warning says what to do: behind one line there may be all images of an archive."""

UNREAD = frozenset(
    {
        SkipReason.STILL_WRITTEN,
        SkipReason.UNREADABLE,
        SkipReason.BROKEN_LINK,
        SkipReason.DAMAGED_CONTAINER,
        SkipReason.CONTAINER_TOO_LARGE,
        SkipReason.ENCRYPTED_CONTAINER,
        SkipReason.UNKNOWN_PACKING,
        SkipReason.EMPTIED_FOLDER,
    }
)
"""Reasons that leave open what a file, folder or container holds: images known there are not gone."""

EXPECTED = frozenset({SkipReason.HIDDEN, SkipReason.NOT_AN_IMAGE, SkipReason.NO_RADIOGRAPHS})
"""Reasons without a warning; behind all others there may be images that somebody wants to screen."""


@dataclass
class ScanSummary:
    """Summary of what an archive holds.

    Parameters
    ----------
    layout : Layout
        The layout used.
    body_parts, modalities : Counter of str
        How many images there are of each, as far as it is known; of at most `MAX_TERMS` terms.
    found : int
        Images found, or listed in a manifest.
    missing : int
        Images that a manifest lists and that do not exist.
    gone : int
        Images of earlier scans that no longer exist.
    skipped : Counter of str
        How many files and folders were skipped, by reason; also those that became images that fail.
    warnings : list of str
        The first `MAX_WARNINGS` paths that somebody should check, with the reason.
    unread : set of str
        Paths that could not be read; images known at or below these are not gone.
    """

    layout: Layout
    body_parts: Counter[str] = field(default_factory=Counter)
    modalities: Counter[str] = field(default_factory=Counter)
    found: int = 0
    missing: int = 0
    gone: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)

    @property
    def is_partial(self) -> bool:
        """Whether a part of the archive could not be looked at."""
        return self.missing > 0 or not UNSEEN.isdisjoint(self.skipped)

    def add(self, found: Iterable[ArchiveFile | Skipped]) -> None:
        """Count images and skipped files, and note those to warn of."""
        for one in found:
            if isinstance(one, Skipped):
                self._add_skipped(one)
                continue
            self.found += 1
            if one.placement is not None:
                # Most files of a folder name neither.
                if one.placement.body_part is not None:
                    self._count_term(self.body_parts, one.placement.body_part)
                if one.placement.modality is not None:
                    self._count_term(self.modalities, one.placement.modality)
            if one.lost is not None:
                self._count_skipped(Skipped(one.path, one.lost))
            if self.layout is Layout.MANIFEST and one.version == MISSING:
                self.missing += 1
                self._warn(f"{path_as_text(one.path)} (listed in {MANIFEST_NAME}, but missing)")

    def _count_term(self, terms: Counter[str], term: str) -> None:
        if term in terms or len(terms) < MAX_TERMS:
            terms[term] += 1

    def _add_skipped(self, skipped: Skipped) -> None:
        if skipped.reason in UNREAD:
            self.unread.add(skipped.path)
        self._count_skipped(skipped)

    def _count_skipped(self, skipped: Skipped) -> None:
        self.skipped[skipped.reason] += 1
        if skipped.reason in frozenset(SkipReason) - EXPECTED:
            remedy = SKIP_REMEDY[SkipReason(skipped.reason)] if skipped.reason in EXPLAINED else None
            self._warn(f"{skipped}: {remedy}" if remedy else str(skipped))

    def _warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)


@dataclass
class ScanReport(ScanSummary):
    """Summary of a scan, the run that it extends, and how many batches it made for that run.

    Parameters
    ----------
    run_id, batches : int
        The run, and how many batches.
    several_patients : int
        How many of the archive's studies have images of several patients.
    of_several_patients : list of str
        The keys of the first `MAX_WARNINGS` of them.
    """

    run_id: int = 0
    batches: int = 0
    several_patients: int = 0
    of_several_patients: list[str] = field(default_factory=list)


@dataclass
class DryRunReport(ScanSummary):
    """Summary of what a scan would find, and of the images that would have to be screened.

    Parameters
    ----------
    new : int
        Images that no earlier scan has found.
    changed : int
        Images of which earlier scans have found a different version.
    unprocessed : int
        Images of earlier scans that the model version's run has not processed.
    processed : int
        Images that the run has processed.
    """

    new: int = 0
    changed: int = 0
    unprocessed: int = 0
    processed: int = 0
