"""Debian's packages that some tests need: optional on a developer's host, required in CI."""

import os
from pathlib import Path

import pytest

FILES = {
    "redis-server": "usr/bin/redis-server",
    "postgresql": "usr/lib/postgresql/*/bin/initdb",
    "pgbouncer": "usr/sbin/pgbouncer",
    "orthanc": "usr/sbin/Orthanc",
    "orthanc-dicomweb": "usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    "dicom3tools": "usr/bin/dciodvfy",
    "dcmtk": "usr/bin/dsr2html",
}
"""What tests use of each package."""


def require_packages(*names: str) -> None:
    """Skip the test if one is not installed; with BONESCREEN_TEST_DEBIAN set, as in CI, fail it."""
    missing = [name for name in names if not any(Path("/").glob(FILES[name]))]
    if missing:
        reason = f"not installed: apt-get install {' '.join(missing)}"
        if os.environ.get("BONESCREEN_TEST_DEBIAN"):
            pytest.fail(reason)
        pytest.skip(reason)
