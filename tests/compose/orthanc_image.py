"""What the image orthancteam/orthanc does, with Debian's Orthanc: it is configured by its environment.

``python -m tests.compose.orthanc_image start FILE`` writes the configuration to FILE and becomes Orthanc, and
``probe FILE`` tells by the exit code whether it answers. The image's rules:
https://orthanc.uclouvain.be/book/users/docker-orthancteam.html
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.orthanc import PLUGIN, PROGRAM, ask, authorization

PREFIX = "ORTHANC__"


def configuration() -> dict[str, Any]:
    """Return the image's defaults, on this machine's folders and ports, and the settings of the environment."""
    settings: dict[str, Any] = {
        "StorageDirectory": os.environ["STAND_IN_STORAGE"],
        "IndexDirectory": os.environ["STAND_IN_STORAGE"],
        "HttpPort": int(os.environ["STAND_IN_HTTP_PORT"]),
        "DicomPort": int(os.environ["STAND_IN_DICOM_PORT"]),
        "AuthenticationEnabled": True,
    }
    if os.environ.get("DICOM_WEB_PLUGIN_ENABLED") == "true":
        settings |= {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True}}
    for name, value in os.environ.items():
        if name.startswith(PREFIX):
            settings["".join(word.capitalize() for word in name.removeprefix(PREFIX).split("_"))] = json.loads(value)
    return settings


def responds(settings: dict[str, Any]) -> bool:
    """Ask as /probes/test-aliveness.py does."""
    user, password = next(iter(settings["RegisteredUsers"].items()))
    try:
        return ask(settings["HttpPort"], "GET", "/changes?last", b"", authorization(password, user)).status == 200
    except OSError:
        return False


def main() -> None:
    what, file = sys.argv[1], Path(sys.argv[2])
    if what == "probe":
        sys.exit(0 if responds(json.loads(file.read_text())) else 1)
    file.write_text(json.dumps(configuration()))
    os.execv(PROGRAM, [str(PROGRAM), str(file)])


if __name__ == "__main__":
    main()
