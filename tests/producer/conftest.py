"""A clinic whose archive is scanned into the database."""

from pathlib import Path
from typing import Any

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
    """Return a function that scans the clinic, by default in the layout detected."""

    def again(layout: Layout = Layout.AUTO, key: bytes | None = None, **options: Any) -> ScanReport:
        source = Source(clinic, layout, pseudonym_key=key, **options)
        return scan_archive(database, "clinic", source, MODEL, batch_size=4)

    return again
