"""`bonescreen export dicom --store`: objects are sent to a real Orthanc, and to services that refuse them."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from bonescreen.exports import stow
from tests.awaiting import PATIENCE, await_that
from tests.bonescreen.conftest import Bonescreen, DicomClinic
from tests.bonescreen.processes import BONESCREEN
from tests.dicom_clinic import STUDY, Screened, hand
from tests.faulty_proxy import Fault, FaultyProxy, Handler, Kind, silence, status
from tests.orthanc import PASSWORD, USER, Orthanc
from xray.archives import pauses
from xray.dicomweb import parse_service


def access(path: Path, url: str, password: str = PASSWORD) -> Path:
    """Write the file with the credentials of a service."""
    path.write_text(f'["{url}"]\nuser = "{USER}"\npassword = "{password}"\n')
    return path


def sop_instances(orthanc: Orthanc, study: str) -> set[str]:
    """Return the SOP Instance UIDs of a study in Orthanc."""
    answer = orthanc.ask("GET", f"/dicom-web/studies/{study}/instances", headers={"Accept": "application/dicom+json"})
    return {one["00080018"]["Value"][0] for one in answer.json}


@pytest.fixture
def proxied(
    dicom_clinic: DicomClinic, faulty_proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """An Orthanc behind a proxy, as `--store` names it, whose credentials are set; one study is screened."""
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(access(tmp_path / "access.toml", faulty_proxy.dicomweb)))
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    return f"dicomweb+{faulty_proxy.dicomweb}"


def test_objects_are_stored_in_their_study_and_a_second_time_they_are_the_same(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(access(tmp_path / "access.toml", orthanc.dicomweb)))
    images = [hand(1), hand(2)]
    orthanc.upload(images)
    dicom_clinic({"one.dcm": Screened(images[0], 0.9), "two.dcm": Screened(images[1], 0.7)})
    for _ in range(2):
        done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", f"dicomweb+{orthanc.dicomweb}")
        assert done.code == 0, done.err
        assert f"dicomweb+{orthanc.dicomweb} has 5 objects" in done.err
        assert PASSWORD not in done.out + done.err
        made = {str(dcmread(path).SOPInstanceUID) for path in (tmp_path / "out").rglob("*.dcm")}
        assert orthanc.studies() == {STUDY}
        assert sop_instances(orthanc, STUDY) == {f"{STUDY}.1.1", f"{STUDY}.1.2", *made}
        assert orthanc.instances() == 7


def test_an_archive_that_is_a_service_gets_its_results_back(
    bonescreen: Bonescreen,
    dicom_clinic: DicomClinic,
    orthanc: Orthanc,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = access(tmp_path / "access.toml", orthanc.dicomweb)
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(file))
    orthanc.upload([hand(1)])
    archive = parse_service(f"dicomweb+{orthanc.dicomweb}", file)
    dicom_clinic({f"{STUDY}/{STUDY}.1/{STUDY}.1.1": Screened(hand(1), 0.9)}, archive)
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", archive)
    assert done.code == 0, done.err
    assert len(sop_instances(orthanc, STUDY)) == 4
    assert orthanc.studies() == {STUDY}


@pytest.mark.parametrize("kind", ["dicom", "deidentified"])
def test_an_archive_that_is_busy_gets_the_pause_that_it_asks_for_though_a_person_would_not_wait(
    bonescreen: Bonescreen,
    dicom_clinic: DicomClinic,
    orthanc: Orthanc,
    faulty_proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    file = access(tmp_path / "access.toml", faulty_proxy.dicomweb)
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(file))
    monkeypatch.setenv("BONESCREEN_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
    monkeypatch.setattr("bonescreen.context.PATIENCE_SECONDS", 0.5)
    orthanc.upload([hand(1)])
    archive = parse_service(f"dicomweb+{faulty_proxy.dicomweb}", file)
    dicom_clinic({f"{STUDY}/{STUDY}.1/{STUDY}.1.1": Screened(hand(1), 0.9)}, archive)
    faulty_proxy.inject(status(503, retry_after=1), Kind.WADO, times=1)
    done = bonescreen("export", kind, STUDY, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == (3 if kind == "dicom" else 1)


def test_nothing_leaves_this_machine_unless_a_service_is_named(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    url = "http://127.0.0.1:9/dicom-web"
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(access(tmp_path / "access.toml", url)))
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    assert bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out").code == 0
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "dry", "--store", f"dicomweb+{url}", "--dry-run")
    assert done.code == 0, done.err
    assert not asked


def test_wrong_credentials_stop_the_export_and_are_not_shown(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = access(tmp_path / "access.toml", orthanc.dicomweb, "open-sesame")
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(wrong))
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", f"dicomweb+{orthanc.dicomweb}")
    assert done.code == 1
    assert "refuses these credentials (HTTP 401); correct them in the file that BONESCREEN_DICOMWEB names" in done.err
    assert "open-sesame" not in done.out + done.err
    assert orthanc.instances() == 0


@pytest.mark.parametrize("busy", [status(503, retry_after=1), status(429)])
def test_a_service_that_is_busy_is_waited_for_as_it_asks(
    bonescreen: Bonescreen, orthanc: Orthanc, faulty_proxy: FaultyProxy, proxied: str, tmp_path: Path, busy: Fault
) -> None:
    faulty_proxy.inject(busy, Kind.STOW, times=2)
    began = time.monotonic()
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", proxied)
    assert done.code == 0, done.err
    assert time.monotonic() - began >= 2
    assert done.err.count(f"{proxied} is busy: waiting as it asks, 300 s at most") == 1
    assert faulty_proxy.count(Kind.STOW) == 5
    assert orthanc.instances() == 3


def test_a_service_that_is_busy_for_too_long_ends_the_export_which_can_be_repeated(
    bonescreen: Bonescreen, orthanc: Orthanc, faulty_proxy: FaultyProxy, proxied: str, tmp_path: Path
) -> None:
    faulty_proxy.inject(passed_on, Kind.STOW, times=1)
    faulty_proxy.inject(status(503, retry_after=6_000), Kind.STOW)
    store = ("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", proxied)
    done = bonescreen(*store)
    assert done.code == 1
    assert "is busy: it asks for a pause of 600 s more" in done.err
    assert f"Stopped: 0 of 1 study done; {proxied} has 1 object." in done.err
    assert "Run the same command again" in done.err
    faulty_proxy.heal()
    pauses._turns.clear()
    assert bonescreen(*store).code == 0
    assert orthanc.instances() == 3


def test_an_interrupted_export_says_how_far_it_came_and_the_same_command_completes_it(
    bonescreen: Bonescreen, orthanc: Orthanc, faulty_proxy: FaultyProxy, proxied: str, tmp_path: Path
) -> None:
    faulty_proxy.inject(passed_on, Kind.STOW, times=1)
    faulty_proxy.inject(silence(), Kind.STOW)
    store = ("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", proxied)
    with subprocess.Popen([*BONESCREEN, *map(str, store)], stderr=subprocess.PIPE, text=True) as process:
        await_that(lambda: faulty_proxy.count(Kind.STOW) == 2, 30, "the second object is sent")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30 * PATIENCE)[1]
    assert process.returncode == 130
    assert f"Stopped: 0 of 1 study done; {proxied} has 1 object." in said
    assert "Run the same command again: it makes the same objects" in said
    assert "Traceback" not in said
    faulty_proxy.heal()
    assert bonescreen(*store).code == 0
    assert orthanc.instances() == 3


def passed_on(handler: Handler) -> None:
    """Answer a request as if there were no fault."""
    handler.answer(handler.forward())


def test_a_service_that_does_not_answer_is_named(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    store = "dicomweb+http://127.0.0.1:9/dicom-web"
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", store)
    assert done.code == 1
    assert f"{store} does not answer" in done.err


def test_a_service_is_named_as_an_archive_is_and_without_a_password(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    for url, why in (
        ("https://me:secret@host/dicom-web", "--store: the URL of a DICOMweb service has a '@'"),
        ("https://host/dicom-web", "write dicomweb+https://host/dicom-web"),
        ("objects", "'objects' is not the URL of a DICOMweb service; write dicomweb+https://host/dicom-web"),
    ):
        done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", url)
        assert (done.code, done.out) == (2, "")
        assert why in done.err
        assert "secret" not in done.err


def test_credentials_that_cannot_be_used_are_said_before_anything_is_written(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    url = "http://127.0.0.1:9/dicom-web"
    file = access(tmp_path / "access.toml", url)
    file.write_text(file.read_text() + 'token_file = "/nowhere"\n')
    monkeypatch.setenv("BONESCREEN_DICOMWEB", str(file))
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", f"dicomweb+{url}")
    assert (done.code, done.out) == (2, "")
    assert "it has both a password and a token_file; remove one of them" in done.err
    assert PASSWORD not in done.err
    assert not (tmp_path / "out").exists()


class Service:
    """A DICOMweb service that gives one answer to all that is stored."""

    def __init__(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.stored: list[bytes] = []

        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.stored.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"dicomweb+http://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with the answer that the test asks for."""
    opened = Service(*request.param)
    yield opened
    opened.close()


def failed(reason: int) -> dict[str, Any]:
    """Return an answer that refuses an object without saying which one."""
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


def answer(code: int, said: object, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Return an answer of a service in JSON."""
    return code, json.dumps(said).encode(), {"Content-Type": "application/dicom+json; charset=utf-8", **headers}


@pytest.mark.parametrize(
    ("service", "why"),
    [
        (answer(409, failed(0x0122)), "it does not take objects of this SOP class (0122)"),
        (answer(202, [failed(0xA7FF)]), "it is out of resources (A7FF)"),
        (answer(200, failed(0xC001)), "it cannot understand the object (C001)"),
        (answer(200, failed(0x9999)), "it does not say why (9999)"),
        (answer(413, {}), "the object is too large for it (HTTP 413)"),
        (answer(500, {}), "it fails at the object (HTTP 500)"),
        ((202, b"<html>", {"Content-Type": "text/html"}), "it does not say that it has stored it (HTTP 202)"),
        (
            answer(400, [1, {"00081198": 5, "00081199": {"Value": "x"}}]),
            "it does not understand the request (HTTP 400)",
        ),
    ],
    indirect=["service"],
)
def test_each_object_that_a_service_refuses_is_named_with_the_reason(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, service: Service, tmp_path: Path, why: str
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", service.url)
    assert done.code == 1
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert f"{path}: refused: {why}" in done.err
    assert f"{service.url} has 0 objects." in done.err
    assert "3 objects refused: see above." in done.err
    assert len(service.stored) == 3


@pytest.mark.parametrize("service", [answer(409, failed(0x0111)), answer(409, failed(0xB00E))], indirect=True)
def test_an_object_that_a_service_has_already_is_not_refused(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, service: Service, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", service.url)
    assert done.code == 0, done.err
    assert f"{service.url} has 3 objects." in done.err


@pytest.mark.parametrize("service", [(200, b"<html>Sign in", {"Content-Type": "text/html"})], indirect=True)
def test_a_web_page_is_no_answer_of_a_service_that_stores(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, service: Service, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", service.url)
    assert done.code == 1
    assert f"{service.url} answers with a web page and stores nothing" in done.err
    assert len(service.stored) == 1


@pytest.mark.parametrize("service", [answer(302, {}, Location="http://127.0.0.1:9/elsewhere")], indirect=True)
def test_no_object_follows_a_service_to_another_address(
    bonescreen: Bonescreen, dicom_clinic: DicomClinic, service: Service, tmp_path: Path
) -> None:
    dicom_clinic({"one.dcm": Screened(hand(), 0.9)})
    done = bonescreen("export", "dicom", STUDY, "-o", tmp_path / "out", "--store", service.url)
    assert done.code == 1
    assert "stores nothing at this address (HTTP 302)" in done.err
    assert len(service.stored) == 1


def test_what_a_service_warns_of_is_said(bonescreen: Bonescreen, dicom_clinic: DicomClinic, tmp_path: Path) -> None:
    said = {
        "00081199": {
            "vr": "SQ",
            "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}, "00081196": {"vr": "US", "Value": [0xB006]}}],
        }
    }
    opened = Service(*answer(202, said))
    try:
        warning = stow.store(parse_service(opened.url), "1.2", b"an object", print)
    finally:
        opened.close()
    assert warning == "it has left out elements of it (B006)"
    assert b"an object" in opened.stored[0]
