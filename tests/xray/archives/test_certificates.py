"""A DICOMweb service and this host trust each other by the certificates that the file of credentials names."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from xray.archives.dicomweb import require_service
from xray.dicomweb import parse_service
from xray.errors import ArchiveOutage

Serve = Callable[..., str]

FOUND = b'[{"0020000D": {"vr": "UI", "Value": ["1.2"]}}]'


class Handler(BaseHTTPRequestHandler):
    """Answers every search with one study."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(FOUND)))
        self.end_headers()
        self.wfile.write(FOUND)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a service with the certificate ``own.pem`` and settings of TLS; return its URL."""
    extension = ["-addext", "subjectAltName=DNS:localhost"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "own.pem"]
    subprocess.run(["openssl", "req", "-x509", *kind, *files, *extension], check=True, capture_output=True)
    (tmp_path / "client.pem").write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "own.pem").read_bytes())
    servers: list[HTTPServer] = []

    def start(adjust: Callable[[ssl.SSLContext], None] = lambda _: None) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "own.pem", tmp_path / "key.pem")
        context.load_verify_locations(tmp_path / "own.pem")
        adjust(context)
        server = HTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"https://localhost:{server.server_port}/dicom-web"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(url: str, access: Path, *lines: str) -> None:
    access.write_text("\n".join([f'["{url}"]', *lines]))
    require_service(parse_service(f"dicomweb+{url}", access))


def test_a_service_is_asked_only_if_its_certificate_is_trusted(serve: Serve, tmp_path: Path) -> None:
    url, authority = serve(), f'ca_file = "{tmp_path / "own.pem"}"'
    with pytest.raises(ArchiveOutage, match=r"self-signed certificate.*ca_file"):
        ask(url, tmp_path / "without.toml")
    ask(url, tmp_path / "with.toml", authority)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_service_that_wants_a_clients_certificate_gets_it(
    serve: Serve, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    def want_certificate(context: ssl.SSLContext) -> None:
        context.verify_mode, context.maximum_version = ssl.CERT_REQUIRED, version

    url, authority = serve(want_certificate), f'ca_file = "{tmp_path / "own.pem"}"'
    # With TLS 1.3 the client may see that the connection is broken before it sees why.
    with pytest.raises(ArchiveOutage, match="certificate_file"):
        ask(url, tmp_path / "without.toml", authority)
    ask(url, tmp_path / "with.toml", authority, f'certificate_file = "{tmp_path / "client.pem"}"')


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_one(tmp_path: Path, serve: Serve) -> None:
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", tmp_path / "key.pem", "-out", "locked.pem"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    (tmp_path / "both.pem").write_bytes((tmp_path / "locked.pem").read_bytes() + (tmp_path / "own.pem").read_bytes())
    url, authority = serve(), f'ca_file = "{tmp_path / "own.pem"}"'
    with pytest.raises(ArchiveOutage, match=r"both.pem does not hold .*its key \(PEM, not encrypted\)"):
        ask(url, tmp_path / "with.toml", authority, f'certificate_file = "{tmp_path / "both.pem"}"')


def test_a_connection_that_ends_in_the_handshake_is_broken_and_says_nothing_of_trust(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=end_without_a_word, args=[server], daemon=True).start()
        with pytest.raises(ArchiveOutage, match=r"broke the connection.*wants a client's certificate"):
            ask(f"https://localhost:{server.getsockname()[1]}/dicom-web", tmp_path / "own.toml")


def end_without_a_word(server: socket.socket) -> None:
    """End one connection after its first bytes, without a word."""
    connection, _ = server.accept()
    with connection:
        connection.recv(1 << 16)
