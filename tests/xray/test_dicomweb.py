"""A DICOMweb service is named without credentials; these come from a file, and are never shown."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from xray.dicomweb import DicomWebService, parse_service
from xray.errors import ArchiveOutage, UsageError
from xray.settings import read_settings


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str | None]]]:
    """A server's URL, and the Authorization headers that it was sent."""
    headers: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append(self.headers["Authorization"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web", headers
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("dicomweb+https://pacs.example/dicom-web/", "https://pacs.example/dicom-web"),
        ("dicomweb+https://PACS.example:8443", "https://pacs.example:8443"),
        ("dicomweb+http://127.0.0.1:8042/dicom-web", "http://127.0.0.1:8042/dicom-web"),
        ("dicomweb+http://localhost/x", "http://localhost/x"),
        ("dicomweb+http://[::1]:80/x", "http://[::1]:80/x"),
    ],
)
def test_an_archive_may_be_a_dicomweb_service(text: str, url: str) -> None:
    archives = read_settings({"BONESCREEN_ARCHIVES": f"here=/data,pacs={text}"}).archives
    assert archives == {"here": Path("/data"), "pacs": DicomWebService(url)}
    assert str(archives["pacs"]) == f"dicomweb+{url}"


@pytest.mark.parametrize(
    "text",
    [
        "dicomweb+https://",
        "dicomweb+ftp://host/x",
        "dicomweb+https://host:no/x",
        "dicomweb+https://host/x?a=b",
        "dicomweb+https://host/a b",
        "https://host/x",
    ],
)
def test_what_is_no_services_url_is_refused_with_the_form_that_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"BONESCREEN_ARCHIVES.*dicomweb\+https://host/"):
        read_settings({"BONESCREEN_ARCHIVES": f"pacs={text}"})


@pytest.mark.parametrize("text", ["dicomweb+https://me:s3cret@host/x", "https://me:s3cret@host", "dicomweb+x@s3cret"])
def test_credentials_in_a_url_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings({"BONESCREEN_ARCHIVES": f"pacs={text}"})
    assert "cret" not in str(caught.value)


def test_patients_data_cross_no_network_in_the_clear_unless_that_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in the clear"):
        parse_service("dicomweb+http://orthanc:8042/dicom-web")
    access = tmp_path / "dicomweb.toml"
    access.write_text('["http://orthanc:8042/dicom-web"]\nplain_http = true\n')
    assert parse_service("dicomweb+http://orthanc:8042/dicom-web", access).url == "http://orthanc:8042/dicom-web"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3cret", "is not a TOML file"),
        ("user = 's3cret'", "outside a table"),
        ("[URL]\npasword = 's3cret'", "'pasword' is unknown"),
        ("[URL]\npassword = 's3cret'", "need each other"),
        ("[URL]\nuser = 'me'\npassword = 5", "password must be a text"),
        ("[URL]\nuser = 'me'\npassword = 's3cret'\ntoken_file = '/dev/null'", "both a password and a token_file"),
        ("[URL]\nuser = 'me'\npassword = 's3cret'\npassword_variable = 'X'", "both a password and a password_variable"),
        ("[URL]\nuser = 'me'\npassword_variable = 'NO_SUCH'", "the environment has no NO_SUCH"),
        ("[URL]\nca_file = '/no/such.pem'", "/no/such.pem cannot be read"),
        ("[URL]\nca_file = 'FOLDER'", "FOLDER cannot be read"),
        ("[URL]\nca_file = 'FOLDER/dicomweb.toml'", "dicomweb.toml holds no certificates (PEM)"),
        ("[URL]\ncertificate_file = 'FOLDER/dicomweb.toml'", "does not hold a certificate with its key"),
    ],
)
def test_a_wrong_file_of_credentials_is_said_without_any_of_them(tmp_path: Path, text: str, said: str) -> None:
    access = tmp_path / "dicomweb.toml"
    access.write_text(text.replace("URL", '"https://host/x"').replace("FOLDER", str(tmp_path)))
    with pytest.raises(ArchiveOutage, match="BONESCREEN_DICOMWEB") as caught:
        parse_service("dicomweb+https://host/x", access).session()
    assert said.replace("FOLDER", str(tmp_path)) in str(caught.value)
    assert "s3cret" not in repr(caught.value) + repr(caught.value.__cause__)


def test_the_password_is_sent_to_its_own_service_only(tmp_path: Path, asked: tuple[str, list[str | None]]) -> None:
    url, headers = asked
    access = tmp_path / "dicomweb.toml"
    access.write_text(f'["{url}"]\nuser = "me"\npassword = "pö"\n')
    parse_service(f"dicomweb+{url}", access).session().get(url)
    parse_service(f"dicomweb+{url}-other", access).session().get(f"{url}-other")
    assert headers == ["Basic bWU6cMO2", None]


def test_the_table_of_a_service_is_found_however_its_host_is_written(tmp_path: Path) -> None:
    access = tmp_path / "dicomweb.toml"
    access.write_text('["https://Pacs.Example/DICOM-web/"]\ntoken_file = "/no/such"\n')
    with pytest.raises(ArchiveOutage, match="/no/such cannot be read"):
        parse_service("dicomweb+https://Pacs.Example/DICOM-web/", access).session()
    parse_service("dicomweb+https://pacs.example/dicom-web", access).session()


def test_a_password_may_be_in_the_variable_that_the_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, list[str | None]]
) -> None:
    url, headers = asked
    access = tmp_path / "dicomweb.toml"
    access.write_text(f'["{url}"]\nuser = "me"\npassword_variable = "PACS_PASSWORD"\n')
    monkeypatch.setenv("PACS_PASSWORD", "pö")
    service = parse_service(f"dicomweb+{url}", access)
    service.session().get(url)
    assert headers == ["Basic bWU6cMO2"]
    assert "pö" not in repr(service) + repr(service.session())


def test_a_token_is_read_again_when_it_was_renewed(tmp_path: Path, asked: tuple[str, list[str | None]]) -> None:
    url, headers = asked
    access, token = tmp_path / "dicomweb.toml", tmp_path / "token"
    token.write_text("one\n")
    access.write_text(f'["{url}"]\ntoken_file = "{token}"\n')
    service = parse_service(f"dicomweb+{url}", access)
    service.session().get(url)
    token.write_text("two\n")
    service.session().get(url)
    assert headers == ["Bearer one", "Bearer two"]


def test_no_password_is_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, list[str | None]]
) -> None:
    url, headers = asked
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    parse_service(f"dicomweb+{url}").session().get(url)
    assert headers == [None]


def test_no_representation_of_a_service_holds_its_credentials(tmp_path: Path) -> None:
    access = tmp_path / "dicomweb.toml"
    access.write_text('["https://host/x"]\nuser = "me"\npassword = "s3cret"\n')
    service = parse_service("dicomweb+https://host/x", access)
    assert "s3cret" not in f"{service} {service!r} {service.session()!r}"
