"""Instances come from a service whole or not at all; a fault of one is no outage, and an outage no fault."""

import contextlib
import itertools
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dicomweb import instance, path, service_of, write_access
from tests.faulty_proxy import Fault, FaultyProxy, Handler, Kind, content_type, cut, oversized, silence, status, trickle
from tests.orthanc import Orthanc
from xray.archives import dicomweb, pauses
from xray.archives.files import is_readable, read_image_file
from xray.archives.storage_errors import require_root
from xray.dicomweb import DicomWebService, parse_service
from xray.errors import ArchiveOutage, FileFault
from xray.vocabulary import Reason


@pytest.fixture
def service(orthanc: Orthanc, faulty_proxy: FaultyProxy, tmp_path: Path) -> DicomWebService:
    orthanc.upload([instance(1), instance(2)])
    return service_of(faulty_proxy, tmp_path)


@pytest.fixture(autouse=True)
def _without_pauses() -> Iterator[None]:
    yield
    pauses._turns.clear()


def test_an_instance_is_read_as_it_was_stored(service: DicomWebService) -> None:
    assert read_image_file(service, path(1)) == instance(1)
    assert is_readable(service, path(2), dicomweb.VERSION)
    assert not is_readable(service, path(3), dicomweb.VERSION)


def test_faults_of_one_instance_are_its_own_while_the_service_answers(
    service: DicomWebService, faulty_proxy: FaultyProxy
) -> None:
    faults: list[tuple[Fault, Reason, str]] = [
        (status(404), Reason.VANISHED, ""),
        (status(410), Reason.VANISHED, ""),
        (status(500), Reason.UNREADABLE, "HTTP 500"),
        (status(406), Reason.UNREADABLE, "HTTP 406"),
        # As a server in front answers where the service's own process breaks off.
        (status(502), Reason.UNREADABLE, "HTTP 502"),
        (status(403), Reason.UNREADABLE, "HTTP 403"),
        (cut(), Reason.UNREADABLE, "broke the connection"),
        (length_of_many_digits, Reason.UNREADABLE, "sent an instance without its length"),
        (content_type("text/html"), Reason.UNREADABLE, "sent text/html"),
        (content_type("multipart/related; boundary=other"), Reason.UNREADABLE, "ends too early"),
        (oversized(2**20), Reason.TOO_LARGE, "the cap"),
    ]
    for fault, reason, said in faults:
        faulty_proxy.inject(fault, Kind.WADO, uid="1.2.1.1.1")
        with pytest.raises(FileFault) as caught:
            read_image_file(service, path(1), max_bytes=2**19)
        assert (caught.value.reason, said in caught.value.detail) == (reason, True), caught.value
        assert read_image_file(service, path(2)) == instance(2)
        faulty_proxy.heal()


def test_what_passes_is_tried_again(service: DicomWebService, faulty_proxy: FaultyProxy) -> None:
    at_no_time = "Fri, 31 Dec 9999 23:59:59 -2359"
    faults = [status(500), status(504), cut(), content_type(), status(503), status(429, retry_after=1)]
    faults.append(status(503, retry_after=at_no_time))
    for fault in faults:
        faulty_proxy.inject(fault, Kind.WADO, times=1)
        assert read_image_file(service, path(1)) == instance(1)
        assert faulty_proxy.heal() is None
    assert faulty_proxy.met == len(faults)


def test_what_befalls_the_whole_service_is_an_outage_that_says_what_to_do(
    service: DicomWebService, faulty_proxy: FaultyProxy
) -> None:
    faults = [
        (status(401), "HTTP 401.*BONESCREEN_DICOMWEB"),
        (status(403), "HTTP 403"),
        (status(404), "HTTP 404.*check its path"),
        (status(302), "redirection.*BONESCREEN_ARCHIVES"),
        (status(500), "HTTP 500"),
        (status(502), "HTTP 502"),
        (cut(), "broke the connection"),
        (content_type(), "sent no DICOM JSON: .*check its path"),
        (status(429, retry_after=60), r"busy: it asks for a pause of ([1-5]\d|60) s"),
    ]
    for fault, said in faults:
        faulty_proxy.inject(fault)
        with pytest.raises(ArchiveOutage, match=said):
            read_image_file(service, path(1))
        faulty_proxy.heal()


def test_a_pause_that_a_service_asks_for_is_kept(service: DicomWebService, faulty_proxy: FaultyProxy) -> None:
    faulty_proxy.inject(status(503, retry_after=60), times=1)
    for _ in range(3):
        with pytest.raises(ArchiveOutage, match="busy"):
            read_image_file(service, path(1))
    assert len(faulty_proxy.requests) == 1


def test_a_service_that_is_silent_or_away_is_an_outage(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, service: DicomWebService, tmp_path: Path
) -> None:
    hurried = DicomWebService(service.url, service.access, patience=1.0)
    faulty_proxy.inject(silence())
    with pytest.raises(ArchiveOutage, match="sent nothing for too long"):
        read_image_file(hurried, path(1))
    faulty_proxy.heal()
    direct = parse_service(f"dicomweb+{orthanc.dicomweb}", write_access(tmp_path, orthanc.dicomweb))
    orthanc.kill()
    with pytest.raises(ArchiveOutage, match="does not answer: Connection refused"):
        read_image_file(direct, path(1))
    orthanc.start()
    assert read_image_file(direct, path(1)) == instance(1)


def test_a_service_that_sends_a_little_now_and_then_is_waited_for_no_longer_than_a_silent_one(
    service: DicomWebService, faulty_proxy: FaultyProxy
) -> None:
    faulty_proxy.inject(trickle(seconds=10.0))
    with pytest.raises(ArchiveOutage, match=r"did not come to the end of its answer in time|sent nothing for too long"):
        read_image_file(DicomWebService(service.url, service.access, patience=1.0), path(1))


def test_a_wrong_password_is_an_outage_until_the_file_has_the_right_one(
    orthanc: Orthanc, service: DicomWebService, tmp_path: Path
) -> None:
    write_access(tmp_path, service.url, "wrong")
    with pytest.raises(ArchiveOutage, match="does not accept these credentials"):
        require_root(service)
    write_access(tmp_path, service.url)
    require_root(service)


def test_a_service_that_holds_nothing_is_an_outage(orthanc: Orthanc, faulty_proxy: FaultyProxy, tmp_path: Path) -> None:
    with pytest.raises(ArchiveOutage, match="no study that this user may see"):
        require_root(service_of(faulty_proxy, tmp_path))


def test_a_url_without_the_path_of_dicomweb_is_told_to_check_it(orthanc: Orthanc, tmp_path: Path) -> None:
    above = parse_service(f"dicomweb+{orthanc.url}", write_access(tmp_path, orthanc.url))
    with pytest.raises(ArchiveOutage, match=r"HTTP 400: .*check its path"):
        require_root(above)


@pytest.mark.parametrize(
    "relative", ["", "1.2", "1.2/3/4/5", "1.2/../1.3", "1.2/3/..", "1.2/3/a?b", "/1.2/3/4", "1/2/%2e"]
)
def test_a_path_that_is_no_instances_is_asked_for_nowhere(relative: str) -> None:
    with pytest.raises(FileFault) as caught:
        read_image_file(DicomWebService("http://127.0.0.1:9"), relative)
    assert caught.value.reason is Reason.OUTSIDE_ARCHIVE


def length_of_many_digits(handler: Handler) -> None:
    """Answer with a length that no number of Python's may have."""
    handler.start(200, {"Content-Type": "application/dicom", "Content-Length": "9" * 5000})
    handler.close_connection = True


def damaged_head(handler: Handler) -> None:
    """Answer with a header that is none, of which urllib3 warns with the URL."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\nno header\r\nX: y\r\n\r\n")


def test_no_error_and_no_log_line_names_a_study_or_the_password(
    orthanc: Orthanc, service: DicomWebService, faulty_proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = []
    every: list[Fault] = [
        status(500),
        status(404),
        status(401),
        cut(),
        content_type(),
        status(429, retry_after=60),
        damaged_head,
    ]
    for fault, kind in itertools.product(every, (Kind.WADO, None)):
        faulty_proxy.inject(fault, kind)
        try:
            read_image_file(service, path(1))
        except (FileFault, ArchiveOutage) as error:
            said.append("".join(traceback.format_exception(error)))
        faulty_proxy.heal()
        pauses._turns.clear()
    orthanc.kill()
    with contextlib.suppress(ArchiveOutage):
        read_image_file(service, path(1))
    assert len(said) == 14
    for named in ("1.2.1", "not-a-secret", "bm90LWEtc2VjcmV0"):
        assert named not in "".join(said) + caplog.text
