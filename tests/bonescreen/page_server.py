"""`bonescreen serve` in a process of its own, and visitors who ask it what browsers and scripts ask."""

import base64
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from tests.awaiting import PATIENCE, await_that
from tests.broker import free_port

USER, PASSWORD = "ada", "correct horse battery"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Visitor:
    """Somebody who asks a server on a port of this host, and keeps its cookies."""

    port: int
    credentials: tuple[str, str] | None = None
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask for exactly this path, and follow no redirection."""
        sent = dict(headers or {})
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.credentials is not None:
            sent["Authorization"] = f"Basic {base64.b64encode(':'.join(self.credentials).encode()).decode()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20 * PATIENCE)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        finally:
            connection.close()
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def csrf_token(self, path: str = "/sign-in") -> str:
        """The token in a form of a page."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def send_form(self, path: str, **fields: str) -> Answer:
        """Send a form with its session's token."""
        fields = {"csrf_token": self.csrf_token(), **fields}
        return self.ask("POST", path, urlencode(fields).encode(), {"Content-Type": FORM})

    def sign_in(self, user: str = USER, password: str = PASSWORD) -> Answer:
        return self.send_form("/sign-in", name=user, password=password)


@dataclass(frozen=True)
class PageServer:
    """A running `bonescreen serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def visitor(self, credentials: tuple[str, str] | None = None) -> Visitor:
        return Visitor(self.port, credentials)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20 * PATIENCE)


@contextmanager
def page_server(home: Path, *arguments: str, port: int | None = None, **environ: str) -> Iterator[PageServer]:
    """Run `bonescreen serve` until the block ends; its log has no traceback then."""
    port, log = port or free_port(), home / "pages.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bonescreen", "serve", "--port", str(port), *arguments],
            env={**clean, "PYTHONUNBUFFERED": "1", "BONESCREEN_HOME": str(home), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await_that(lambda: f":{port}/" in log.read_text() or process.poll() is not None, 30, "the pages are served")
        assert process.poll() is None, log.read_text()
        yield PageServer(process, port, log)
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
