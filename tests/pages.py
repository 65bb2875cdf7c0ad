"""Pages as a browser or a script asks for them."""

import base64
import urllib.error
import urllib.request
from dataclasses import dataclass

from tests.awaiting import PATIENCE


@dataclass(frozen=True)
class Pages:
    """What is served on a port of this host, asked as a user or as nobody."""

    port: int
    user: str | None = None
    password: str = ""

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
        """Status and text of an answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, method=method)
        if self.user is not None:
            credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        try:
            with urllib.request.urlopen(request, timeout=20 * PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def text(self, path: str) -> str:
        """Text of an answer that has to be well."""
        code, text = self.ask(path)
        assert code == 200, (path, code, text)
        return text
