"""A clinic whose archive is scanned into the ledger."""

from pathlib import Path

import pytest

from db.session import Database
from producer.scan import scan_archive
from producer.scan_summary import ScanReport
from producer.source import Source
from tests.clinics import Scan
from tests.seeding import MODEL
from xray.vocabulary import Layout


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    folder.mkdir()
    return folder


@pytest.fixture
def scan(database: Database, clinic: Path) -> Scan:
    """Scan the clinic, whatever layout it shows."""

    def again(layout: Layout = Layout.AUTO, key: bytes | None = None) -> ScanReport:
        return scan_archive(database, "clinic", Source(clinic, layout, pseudonym_key=key), MODEL, batch_size=4)

    return again
