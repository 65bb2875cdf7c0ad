"""Say what a scan would do, and do nothing."""

import time
from collections.abc import Sequence

from db.merge import Entry
from db.runs import archive_layout
from db.scan_cache import FileKey, ScanCache, ScanDifference, archive_id_of, current_images, known_files, standing
from db.session import Database
from producer.find import Source, find
from producer.manifest_checks import require_consistent, require_manifest
from producer.scan import choose_layout, steps
from producer.scan_report import Plan
from producer.study_grouping import placer
from producer.walk import ArchiveFile, Skipped
from xray.vocabulary import Layout


def plan_archive(database: Database | None, name: str, source: Source, digest: str) -> Plan:
    """Read an archive as a scan would, and compare it with the run of a model version.

    Parameters
    ----------
    database : Database or None
        None where nothing has been screened yet.
    name : str
        The archive's name.
    source : Source
        The archive on this host.
    digest : str
        The model package's digest.

    Raises
    ------
    UsageError
        A scan would refuse the archive.
    Outage
        The archive or the database does not answer.
    """
    ledger = _Ledger(database, name, digest)
    source = choose_layout(name, source, ledger.layout)
    if source.layout is Layout.MANIFEST:
        require_manifest(source, time.sleep)
        require_consistent(source)
    plan = Plan(source.layout)
    place = placer(source, ledger.known)
    seen = 0
    for step in steps(find(source, time.sleep), source.layout, lambda: None):
        plan.take(one for one in step if isinstance(one, Skipped))
        files = [one for one in step if isinstance(one, ArchiveFile)]
        plan.note_absent(files)
        placed = place(files)
        plan.take(placed)
        entries = [one for one in placed if isinstance(one, Entry)]
        stand = ledger.standing([(entry.path, entry.size, entry.mtime_ns) for entry in entries])
        plan.processed += stand.processed
        plan.left += stand.left
        plan.changed += stand.changed
        plan.new += len(entries) - stand.processed - stand.left - stand.changed
        seen += stand.current
    kept = sum(ledger.current_images(place) for place in plan.not_looked_at)
    plan.gone = ledger.current_images() - seen - kept
    return plan


class _Ledger:
    """What the database says of an archive, which it may not know yet."""

    def __init__(self, database: Database | None, name: str, digest: str) -> None:
        archive_id = None if database is None else archive_id_of(database, name)
        self._held = None if database is None or archive_id is None else (database, archive_id)
        self._digest = digest

    @property
    def layout(self) -> str | None:
        return archive_layout(*self._held) if self._held else None

    def known(self, files: Sequence[FileKey]) -> ScanCache:
        return known_files(*self._held, files) if self._held else ScanCache()

    def standing(self, files: Sequence[FileKey]) -> ScanDifference:
        return standing(*self._held, self._digest, files) if self._held else ScanDifference()

    def current_images(self, below: str | None = None) -> int:
        return current_images(*self._held, below) if self._held else 0
