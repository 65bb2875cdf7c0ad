"""A batch of a DICOMweb service: what the service has deleted fails, and what it cannot send is waited for."""

import threading
from pathlib import Path

import pytest

from db import ledger
from db.failures import list_failures
from db.run_queries import run_progress
from db.session import Database
from db.store import ImageOutcome
from producer.scan import scan_archive
from producer.source import Source
from tests.dicomweb import instance, service_of, write_access
from tests.faulty_proxy import FaultyProxy, Kind, status
from tests.orthanc import Orthanc
from tests.seeding import MODEL, scored
from worker.batch import ClaimedBatch
from xray.archives.files import read_image_file
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage, FileFault
from xray.settings import read_settings


@pytest.fixture
def service(database: Database, orthanc: Orthanc, faulty_proxy: FaultyProxy, tmp_path: Path) -> DicomWebService:
    """Three studies of two images each, scanned into batches of one image."""
    orthanc.upload(instance(study, number) for study in (1, 2, 3) for number in (1, 2))
    service = service_of(faulty_proxy, tmp_path)
    scan_archive(database, "pacs", Source(service), MODEL, batch_size=1)
    return service


def screen(database: Database, service: DicomWebService, folder: Path) -> None:
    """Process the next batch as a worker does, apart from the network."""
    environ = {"BONESCREEN_ARCHIVES": f"pacs={service}", "BONESCREEN_HOME": str(folder)}
    settings = read_settings({**environ, "BONESCREEN_DICOMWEB": str(write_access(folder, service.url))})
    claim = ledger.claim_more(database, 1, "test", images=1)
    assert claim is not None
    batch = ClaimedBatch(database, settings, claim, threading.Event())
    for image in batch.waiting:
        try:
            read_image_file(service, image.path)
            batch.add([scored(image.image_id)])
        except FileFault as fault:
            batch.add([ImageOutcome(image.image_id, reason=fault.reason)])
    batch.finish()


def test_a_study_that_is_deleted_between_two_of_its_images_does_not_keep_a_run_open(
    database: Database, orthanc: Orthanc, service: DicomWebService, tmp_path: Path
) -> None:
    for _ in range(3):
        screen(database, service, tmp_path)
    orthanc.delete_study("1.2.2")
    for _ in range(3):
        screen(database, service, tmp_path)
    assert run_progress(database, 1).state == "done"
    assert [row.reason for row in list_failures(database, 1)] == ["vanished"]


def test_what_a_service_lists_but_does_not_find_is_waited_for(
    database: Database, service: DicomWebService, faulty_proxy: FaultyProxy, tmp_path: Path
) -> None:
    screen(database, service, tmp_path)
    faulty_proxy.inject(status(404), Kind.WADO)
    with pytest.raises(ArchiveOutage, match=r"is vanished, and .* which was read before, cannot be read now"):
        screen(database, service, tmp_path)
    assert list(list_failures(database, 1)) == []
