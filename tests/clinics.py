"""DICOM files to scan, and the studies that the database has after a scan."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import uid

from db.queries import ResultFilter, results
from db.session import Database
from producer.scan_summary import ScanReport
from tests.dicoms import dicom

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
KEY = b"a key that nobody guesses"
OTHER_KEY = b"another key that nobody guesses"

Scan = Callable[..., ScanReport]


def put(clinic: Path, path: str, data: bytes) -> None:
    file = clinic / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def swap(clinic: Path, path: str, data: bytes) -> None:
    """Replace the content of a file, with the same size and time."""
    file = clinic / path
    before = file.stat()
    assert before.st_size == len(data)
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def dicom_image(number: int = 0, **elements: object) -> bytes:
    return dicom(PIXELS + np.uint8(number), **elements)


def ct() -> bytes:
    return dicom_image(SOPClassUID=uid.CTImageStorage, Modality="CT")


def studies(database: Database) -> dict[str, int]:
    return {row.study: row.images for row in results(database, ResultFilter())}
