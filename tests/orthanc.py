"""Debian's Orthanc with its DICOMweb plugin: a real archive, which tests fill, kill and restart.

``python -m tests.orthanc FILE...`` shows DICOM files in its pages, such as results with the image that they belong to;
with Debian's package orthanc-webviewer their pictures too.
"""

import base64
import http.client
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.awaiting import PATIENCE, await_that
from tests.broker import free_port

PROGRAM = Path("/usr/sbin/Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
VIEWER = Path("/usr/share/orthanc/plugins/libOrthancWebViewer.so")

USER, PASSWORD = "screening", "not-a-secret"


@dataclass(frozen=True)
class Answer:
    """What Orthanc answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Orthanc:
    """An Orthanc on a port of loopback, without its DICOM port.

    Parameters
    ----------
    folder : Path
        For its configuration, log, index and files.
    password : str or None
        Of `USER`. With None everybody may read and write.
    plugins : sequence of Path
    """

    def __init__(self, folder: Path, *, password: str | None = PASSWORD, plugins: Sequence[Path] = (PLUGIN,)) -> None:
        self.folder = folder
        self.password = password
        self.plugins = plugins
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def dicomweb(self) -> str:
        """The root of its DICOMweb service, without credentials."""
        return f"{self.url}/dicom-web"

    def start(self) -> None:
        """Start it on its storage, and wait until its DICOMweb service answers."""
        storage = self.folder / "storage"
        storage.mkdir(parents=True, exist_ok=True)
        configuration = {
            "StorageDirectory": str(storage),
            "IndexDirectory": str(storage),
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "DicomServerEnabled": False,
            "AuthenticationEnabled": self.password is not None,
            "RegisteredUsers": {} if self.password is None else {USER: self.password},
            "Plugins": [str(plugin) for plugin in self.plugins],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(configuration))
        with (self.folder / "log").open("ab") as log:
            # With a file named, it reads nothing of /etc/orthanc.
            self._process = subprocess.Popen([PROGRAM, file], cwd=self.folder, stdout=log, stderr=log)
        await_that(self._responds, 30, "Orthanc answers")

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(20 * PATIENCE)
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it on the same port and storage."""
        self.kill()
        self.start()

    def upload(self, files: Iterable[Path | bytes]) -> None:
        """Store DICOM files; those that are there already stay as they are."""
        for file in files:
            answer = self.ask("POST", "/instances", file.read_bytes() if isinstance(file, Path) else file)
            assert answer.status == 200, answer.body

    def delete_study(self, study_uid: str) -> None:
        """Delete a study with all its instances."""
        answer = self.ask("DELETE", f"/studies/{self._own_id(study_uid, 'Study')}")
        assert answer.status == 200, answer.body

    def instances(self) -> int:
        """Return how many instances it has."""
        count: int = self.ask("GET", "/statistics").json["CountInstances"]
        return count

    def studies(self) -> set[str]:
        """Return the UIDs of its studies."""
        return {study["MainDicomTags"]["StudyInstanceUID"] for study in self.ask("GET", "/studies?expand").json}

    def study_page(self, study_uid: str) -> str:
        """Return the address of a study in Orthanc Explorer, its page for browsers."""
        return f"{self.url}/app/explorer.html#study?uuid={self._own_id(study_uid, 'Study')}"

    def viewer_page(self, series_uid: str) -> str:
        """Return the address of a series of images in the viewer."""
        return f"{self.url}/web-viewer/app/viewer.html?series={self._own_id(series_uid, 'Series')}"

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request with the credentials to any of its addresses."""
        return ask(self.port, method, path, body, {**authorization(self.password), **(headers or {})})

    def _own_id(self, uid: str, level: str) -> str:
        found: list[dict[str, str]] = self.ask("POST", "/tools/lookup", uid.encode()).json
        ids = [one["ID"] for one in found if one["Type"] == level]
        assert len(ids) == 1, f"{len(ids)} with the UID {uid}"
        return ids[0]

    def _responds(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.ask("GET", "/dicom-web/studies?limit=1").status == 200
        except OSError:
            return False


def authorization(password: str | None, user: str = USER) -> dict[str, str]:
    """Return the header with credentials; none without a password."""
    if password is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def ask(port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Send a request to a port of loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * PATIENCE)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def main() -> None:
    """Show files until Ctrl-C, to everybody on this host."""
    with tempfile.TemporaryDirectory() as folder:
        server = Orthanc(Path(folder), password=None, plugins=[one for one in (PLUGIN, VIEWER) if one.exists()])
        server.start()
        try:
            server.upload(map(Path, sys.argv[1:]))
            for study in sorted(server.studies()):
                print(server.study_page(study))
                for series in server.ask("GET", f"/dicom-web/studies/{study}/series").json:
                    modality, uid = (series[tag]["Value"][0] for tag in ("00080060", "0020000E"))
                    print(f"  {modality:<3}", server.viewer_page(uid))
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            server.kill()


if __name__ == "__main__":
    main()
