"""An HTTP proxy before a DICOMweb service, which counts what is asked and answers some of it wrongly."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.awaiting import PATIENCE


class Kind(StrEnum):
    """What a request is for."""

    QIDO = "search"
    METADATA = "metadata"
    WADO = "retrieve"
    STOW = "store"


def kind_of(method: str, path: str) -> Kind:
    """Tell searching, reading headers, retrieving and storing apart."""
    if method == "POST":
        return Kind.STOW
    last = urlsplit(path).path.rstrip("/").rsplit("/", 1)[-1]
    if last == "metadata":
        return Kind.METADATA
    return Kind.QIDO if last in ("studies", "series", "instances") else Kind.WADO


@dataclass(frozen=True)
class Request:
    """One request that came to the proxy."""

    kind: Kind
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What the service answered."""

    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[["Handler"], None]
"""Answers a request in place of the proxy."""


def status(code: int, *, retry_after: int | str | None = None) -> Fault:
    """Answer with an error, which asks for a pause of so many seconds, or until a time."""

    def answer(handler: "Handler") -> None:
        pause = {} if retry_after is None else {"Retry-After": str(retry_after)}
        handler.answer(Answer(code, pause, b"no"))

    return answer


def cut() -> Fault:
    """Send half of the answer, which ends within a part, and break the connection."""

    def answer(handler: "Handler") -> None:
        right = handler.forward()
        handler.answer(Answer(right.status, right.headers, right.body), sent=len(right.body) // 2)
        handler.reset()

    return answer


def edited(edit: Callable[[Any], object]) -> Fault:
    """Send the right answer in JSON after a change."""

    def answer(handler: "Handler") -> None:
        # Compressed, it could not be changed.
        del handler.headers["Accept-Encoding"]
        right = handler.forward()
        found = json.loads(right.body)
        edit(found)
        handler.answer(Answer(right.status, right.headers, json.dumps(found).encode()))

    return answer


def content_type(wrong: str = "text/html") -> Fault:
    """Send the right answer as something else."""

    def answer(handler: "Handler") -> None:
        right = handler.forward()
        handler.answer(Answer(right.status, {**right.headers, "Content-Type": wrong}, right.body))

    return answer


def oversized(size: int) -> Fault:
    """Send one instance of so many bytes, in a multipart message whose length is not told."""

    def answer(handler: "Handler") -> None:
        kind = 'multipart/related; type="application/dicom"; boundary=b'
        handler.start(200, {"Content-Type": kind, "Connection": "close"})
        handler.close_connection = True
        handler.wfile.write(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + bytes(128) + b"DICM")
        block = bytes(1 << 16)
        with suppress(OSError):
            for _ in range(size // len(block) + 1):
                handler.wfile.write(block)
            handler.wfile.write(b"\r\n--b--\r\n")

    return answer


def trickle(seconds: float) -> Fault:
    """Send an answer byte by byte, and break the connection after so many seconds."""

    def answer(handler: "Handler") -> None:
        handler.start(200, {"Content-Type": "application/dicom", "Content-Length": "1000000"})
        until = time.monotonic() + seconds
        while time.monotonic() < until and not handler.proxy.healed.wait(0.05):
            handler.wfile.write(b"0")
        handler.reset()

    return answer


def silence() -> Fault:
    """Never answer; the connection stays open until the proxy closes or heals."""

    def answer(handler: "Handler") -> None:
        handler.proxy.healed.wait()
        handler.close_connection = True

    return answer


@dataclass
class Injected:
    """A fault, the requests that it is for, and how many of them are left; None: all."""

    fault: Fault
    kind: Kind | None
    uid: str | None
    times: int | None

    def applies_to(self, request: Request) -> bool:
        whole = self.uid is None or self.uid in urlsplit(request.path).path.split("/")
        return self.times != 0 and self.kind in (None, request.kind) and whole


class FaultyProxy:
    """Passes requests on to a port of loopback, except those that meet a fault.

    Attributes
    ----------
    requests : list of Request
        All that came, in their order.
    met : int
        How many were answered by a fault.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.requests: list[Request] = []
        self.met = 0
        self.healed = threading.Event()
        self._injected: list[Injected] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def dicomweb(self) -> str:
        """The root of the DICOMweb service through this proxy."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def inject(
        self, fault: Fault, kind: Kind | None = None, *, uid: str | None = None, times: int | None = None
    ) -> None:
        """Answer requests with a fault: of a kind, with a UID in their path, and only so many of them."""
        with self._lock:
            self.healed.clear()
            self._injected.append(Injected(fault, kind, uid, times))

    def heal(self) -> None:
        """Inject nothing more, and close the connections that are kept silent."""
        with self._lock:
            self._injected.clear()
            self.healed.set()

    def count(self, kind: Kind, uid: str | None = None) -> int:
        """Return how many requests of a kind came, with a UID in their path."""
        asked = Injected(status(500), kind, uid, None)
        with self._lock:
            return sum(map(asked.applies_to, self.requests))

    def close(self) -> None:
        """Stop."""
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def register(self, request: Request) -> Fault | None:
        """Count a request, and return the fault that is for it."""
        with self._lock:
            self.requests.append(request)
            for injected in self._injected:
                if injected.applies_to(request):
                    self.met += 1
                    if injected.times is not None:
                        injected.times -= 1
                    return injected.fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection to the proxy."""

    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"
    body = b""

    def handle_one_request(self) -> None:
        # A client that goes away is no error of the proxy's.
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        self.body = self._read_body()
        request = Request(kind_of(self.command, self.path), self.path, dict(self.headers.items()))
        if fault := self.proxy.register(request):
            fault(self)
            return
        try:
            self.answer(self.forward())
        except (OSError, HTTPException):
            # As if the service were asked itself.
            self.reset()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def forward(self) -> Answer:
        """Ask the service what the proxy was asked."""
        hop = ("connection", "keep-alive", "transfer-encoding", "content-length")
        connection = HTTPConnection("127.0.0.1", self.proxy.target, timeout=60 * PATIENCE)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
            # With the client's Host, so that the addresses in the answer are the proxy's.
            connection.request(self.command, self.path, self.body or None, headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in hop}
            return Answer(answer.status, kept, answer.read())
        finally:
            connection.close()

    def start(self, code: int, headers: dict[str, str]) -> None:
        """Send the head of an answer."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, answer: Answer, *, sent: int | None = None) -> None:
        """Send an answer, or so many bytes of it."""
        self.start(answer.status, {**answer.headers, "Content-Length": str(len(answer.body))})
        self.wfile.write(answer.body[:sent])

    def reset(self) -> None:
        """Break the connection at once (RST)."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
