"""Scans of a DICOMweb service: an Orthanc, through a proxy that counts what it is asked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from db import ledger, scans
from db.forget import Kind, find_targets, forget
from db.run_queries import run_progress
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import images, read_studies, studies
from db.tables import scans as scans_table
from producer.dry_run import dry_run
from producer.scan import finish_abandoned_scan, scan_archive
from producer.scan_summary import ScanReport
from producer.selection import ALL, Selection
from producer.source import Source
from tests.awaiting import await_that
from tests.dicomweb import instance, path, service_of
from tests.faulty_proxy import FaultyProxy, cut, edited, silence, status
from tests.faulty_proxy import Kind as Asked
from tests.orthanc import Orthanc
from tests.seeding import MODEL, claim_next
from xray.errors import ArchiveOutage, UsageError
from xray.vocabulary import Layout, Reason, SkipReason

ScanService = Callable[..., ScanReport]


@pytest.fixture
def source(faulty_proxy: FaultyProxy, tmp_path: Path) -> Source:
    return Source(service_of(faulty_proxy, tmp_path))


@pytest.fixture
def scan(database: Database, source: Source) -> ScanService:
    def again(**selected: object) -> ScanReport:
        chosen = Source(source.root, selection=Selection(**selected))  # type: ignore[arg-type]
        return scan_archive(database, "pacs", chosen, MODEL, batch_size=4)

    return again


def current(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(images.c.path).where(images.c.current)).scalars())


def metadata_read(proxy: FaultyProxy, *studies: int) -> list[int]:
    return [proxy.count(Asked.METADATA, f"1.2.{study}") for study in studies]


def test_an_increment_reads_only_studies_that_are_new_or_have_changed(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService, database: Database
) -> None:
    orthanc.upload(instance(study) for study in range(1, 4))
    assert (scan().found, metadata_read(faulty_proxy, 1, 2, 3)) == (3, [1, 1, 1])
    orthanc.upload([instance(2, 2), instance(4)])
    orthanc.delete_study("1.2.3")
    report = scan()
    assert (report.found, report.gone) == (4, 1)
    assert metadata_read(faulty_proxy, 1, 2, 3, 4) == [1, 2, 1, 1]
    assert current(database) == {path(1), path(2), path(2, 2), path(4)}
    orthanc.upload([instance(3)])
    assert (scan().found, metadata_read(faulty_proxy, 1, 2, 3, 4)) == (5, [1, 2, 2, 1])
    assert run_progress(database, 1).images == 5
    assert faulty_proxy.count(Asked.WADO) == 0


def test_what_is_no_radiograph_is_skipped_with_its_reason_in_each_scan(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService
) -> None:
    ct = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}
    capture = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}
    orthanc.upload([
        instance(1), instance(1, 2, **ct, SeriesInstanceUID="1.2.1.2"),
        instance(1, 3, **capture, SeriesInstanceUID="1.2.1.3"), instance(2, **ct),
    ])  # fmt: skip
    skipped = {SkipReason.NO_RADIOGRAPHS: 2, "Secondary Capture Image Storage": 1}
    assert [(report.found, report.skipped) for report in (scan(), scan())] == [(1, skipped)] * 2
    # Of the CT nothing was read.
    assert faulty_proxy.count(Asked.METADATA, "1.2.2") == faulty_proxy.count(Asked.METADATA, "1.2.1.2") == 0


def test_a_scan_of_some_studies_leaves_the_others_as_they_are(
    orthanc: Orthanc, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1, StudyDate="20251231"), instance(2), instance(2, 2), instance(3, Modality="CR")])
    scan()
    orthanc.delete_study("1.2.1")
    orthanc.upload([instance(4), instance(5, StudyDate="20251230")])
    report = scan(since=date(2026, 1, 1))
    assert (report.found, report.gone) == (4, 0)
    assert current(database) == {path(1), path(2), path(2, 2), path(3), path(4)}
    assert scan(modalities=("CR", "MG")).found == 1
    assert scan(since=date(2027, 1, 1)).found == 0
    report = scan()
    assert (report.found, report.gone) == (5, 1)


def test_an_image_that_left_a_study_is_gone_though_only_some_studies_are_looked_for(
    orthanc: Orthanc, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(1, 2), instance(2)])
    scan()
    orthanc.delete_study("1.2.1")
    orthanc.upload([instance(1)])
    assert scan(modalities=("DX",)).gone == 1
    assert current(database) == {path(1), path(2)}


def test_headers_that_are_to_be_read_otherwise_are_read_again_of_each_study_that_is_found(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, source: Source, database: Database
) -> None:
    orthanc.upload([instance(1, StudyDate="20251231", BodyPartExamined="HANDGELENK"), instance(2)])

    def scan(selection: Selection = ALL, **options: Any) -> list[int]:
        chosen = Source(source.root, selection=selection, **options)
        scan_archive(database, "pacs", chosen, MODEL, batch_size=4)
        return metadata_read(faulty_proxy, 1, 2)

    assert scan() == [1, 1]
    terms = {"HANDGELENK": "WRIST"}
    assert scan(Selection(date(2026, 1, 1)), site_terms=terms) == [1, 2]
    assert scan(site_terms=terms) == [2, 2]
    assert scan(site_terms=terms, pseudonym_key=b"k" * 32) == [3, 3]
    with database.read() as connection:
        assert connection.execute(select(images.c.body_part).where(images.c.path == path(1))).scalar_one() == "WRIST"
        assert None not in connection.execute(select(studies.c.patient)).scalars().all()


def test_a_feeder_finishes_a_scan_with_the_selection_that_it_began_with(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, source: Source, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1, StudyDate="20251231"), instance(2), instance(3)])
    faulty_proxy.inject(status(401), Asked.METADATA, uid="1.2.3")
    with pytest.raises(ArchiveOutage, match="HTTP 401"):
        scan(since=date(2026, 1, 1))
    faulty_proxy.heal()
    (abandoned,) = scans.open_scans(database)
    assert abandoned.expired
    report = finish_abandoned_scan(database, abandoned.scan_id, source, "feeder:1")
    assert report is not None
    assert current(database) == {path(2), path(3)}


def test_nothing_is_lost_if_a_scan_dies_between_reading_and_merging(
    orthanc: Orthanc, scan: ScanService, source: Source, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    orthanc.upload([instance(1), instance(2)])

    class Dies(Exception):
        pass

    def die(*_: object) -> None:
        raise Dies

    with monkeypatch.context() as patched:
        patched.setattr("db.merge.merge", die)
        with pytest.raises(Dies):
            scan()
    with database.write() as connection:
        assert len(connection.execute(select(read_studies.c.key)).all()) == 2
        connection.execute(update(scans_table).values(lease_expires_at=Now() - 1))
    assert scan().found == 2
    assert current(database) == {path(1), path(2)}


def test_a_study_that_cannot_be_read_keeps_what_is_known_of_it_and_is_read_by_the_next_scan(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(2)])
    scan()
    orthanc.upload([instance(1, 2)])
    faulty_proxy.inject(status(500), Asked.METADATA, uid="1.2.1")
    report = scan()
    assert (report.gone, report.skipped, report.is_partial) == (0, {SkipReason.UNREADABLE: 1}, True)
    assert current(database) == {path(1), path(2)}
    faulty_proxy.heal()
    assert (scan().found, current(database)) == (3, {path(1), path(1, 2), path(2)})


def test_a_cut_connection_is_tried_again_and_an_outage_leaves_the_scan_open(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(2)])
    faulty_proxy.inject(cut(), Asked.METADATA, times=1)
    assert scan().found == 2
    orthanc.kill()
    with pytest.raises(ArchiveOutage):
        scan()
    assert len(scans.open_scans(database)) == 1
    orthanc.start()
    assert (scan().found, scans.open_scans(database)) == (2, [])


def test_what_a_service_says_in_wrong_types_ends_no_scan(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(2)])

    def edit(found: Any) -> None:
        found[0] |= {"00080061": {"vr": "CS", "Value": 5}, "00201208": {"vr": "IS", "Value": ["9" * 5000]}}
        found[1] |= {"00080061": "DX", "00201208": {"vr": "IS", "Value": [None]}}

    faulty_proxy.inject(edited(edit), Asked.QIDO, uid="studies", times=1)
    assert scan().found == 2
    assert faulty_proxy.count(Asked.QIDO, "series") == 2
    assert current(database) == {path(1), path(2)}


def test_a_uid_that_is_none_is_skipped_and_named_in_what_can_be_printed(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(2), instance(2, 2)])

    def damage(tag: str) -> Callable[[Any], None]:
        return lambda found: found[0][tag].update(Value=["1.2\0\ud800\x1b[31m" + "x" * 5000])

    faulty_proxy.inject(edited(damage("00080018")), Asked.METADATA, uid="1.2.2")
    assert scan().skipped == {SkipReason.IMPOSSIBLE_NAME: 1}
    faulty_proxy.inject(edited(damage("0020000D")), Asked.QIDO, uid="studies", times=1)
    report = scan()
    assert report.skipped[SkipReason.IMPOSSIBLE_NAME] >= 1
    assert all(warning.isascii() and warning.isprintable() for warning in report.warnings)
    assert len(report.warnings) >= 1


def test_a_scan_keeps_its_lease_while_the_service_is_asked_for_what_has_failed(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, scan: ScanService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    orthanc.upload([instance(1)])
    scan()
    claim = claim_next(database)
    (image,) = ledger.unprocessed_images(database, claim)
    assert ledger.finish(database, claim, [ImageOutcome(image.image_id, reason=Reason.UNREADABLE)])
    monkeypatch.setattr("producer.scan.RENEW_SECONDS", 0.05)
    faulty_proxy.inject(silence(), Asked.WADO)

    seen: set[float] = set()

    def renewed() -> bool:
        seen.update(found.lease_expires_at for found in scans.open_scans(database))
        return len(seen) > 3

    with ThreadPoolExecutor(1) as thread:
        scanning = thread.submit(scan)
        try:
            await_that(lambda: faulty_proxy.count(Asked.WADO), 20, "it is asked for the image")
            await_that(renewed, 3, "the lease is renewed")
        finally:
            faulty_proxy.heal()
    assert scanning.result().batches == 1


def test_a_dry_run_counts_what_a_scan_would_find_and_reads_nothing_twice(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, source: Source, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(2)])
    assert dry_run(None, "pacs", source, MODEL.queue).new == 2
    scan()
    orthanc.upload([instance(3)])
    orthanc.delete_study("1.2.1")
    plan = dry_run(database, "pacs", source, MODEL.queue)
    assert (plan.new, plan.unprocessed, plan.gone) == (1, 1, 1)
    assert metadata_read(faulty_proxy, 2, 3) == [2, 1]
    assert current(database) == {path(1), path(2)}


def test_nothing_of_a_forgotten_study_is_left_and_the_next_scan_finds_it_again(
    orthanc: Orthanc, scan: ScanService, database: Database
) -> None:
    orthanc.upload([instance(1), instance(2)])
    run = scan().run_id
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE batches SET state = 'cancelled' WHERE run_id = {run}")
    (target,) = find_targets(database, "1.2.1", Kind.STUDY)
    forget(database, target)
    with database.read() as connection:
        assert connection.execute(select(read_studies.c.key)).scalars().all() == ["1.2.2"]
    assert (scan().found, current(database)) == (2, {path(1), path(2)})


def test_a_layout_of_a_service_and_some_studies_of_a_folder_are_refused(
    source: Source, tmp_path: Path, database: Database
) -> None:
    with pytest.raises(UsageError, match="leave out --layout"):
        scan_archive(database, "pacs", Source(source.root, Layout.MURA), MODEL, batch_size=4)
    some = Source(tmp_path, selection=Selection(modalities=("DX",)))
    with pytest.raises(UsageError, match="--since and --modality"):
        scan_archive(database, "folder", some, MODEL, batch_size=4)


def test_a_service_with_nothing_in_it_changes_nothing(scan: ScanService, database: Database) -> None:
    with pytest.raises(UsageError, match="no image found"):
        scan()
    assert scans.open_scans(database) == []
