"""An archive of DICOM files that were screened without a worker, so that each result is known exactly."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from db import ledger
from db.merge import mark_gone, merge, stage
from db.runs import ModelVersion, open_run, register_archive, register_model
from db.scans import begin_scan, close_scan
from db.store import ImageOutcome, Prediction
from tests.dicoms import dicom, phantom
from tests.ledgers import embedded
from tests.seeding import MODEL
from xray.archive_root import Root
from xray.archives.archive_file import ArchiveFile, Placement
from xray.errors import FileFault
from xray.images.dicom.header import read_header
from xray.network.package import ModelPackage
from xray.vocabulary import Reason

STUDY = "1.2.826.0.1.3680043.8.498.1"

CAM = ((1.2, 0.1), (0.0, -1.0))
"""On a scale that ends at 1: high in the upper left."""


@dataclass(frozen=True)
class Screened:
    """A file and what screening found: a probability, a failure, or nothing yet."""

    data: bytes
    found: float | Reason | None
    study: str | None = None
    detail: str = ""
    distance: float | None = None
    patient_mark: str | None = None
    picture: bytes | None = None


def hand(number: int = 1, *, study: str = STUDY, pixels: np.ndarray | None = None, **elements: Any) -> bytes:
    """Return a radiograph of a hand as a DICOM file; another number gives another image."""
    described = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.1",
        "SOPInstanceUID": f"{study}.1.{number}",
        "BodyPartExamined": "HAND",
        "PatientOrientation": ["L", "F"],
        "BitsStored": 12,
        "WindowCenter": "1700",
        "WindowWidth": "3000",
    }
    return dicom(phantom(start=200 + number) if pixels is None else pixels, **{**described, **elements})


def model_of(package: ModelPackage) -> ModelVersion:
    """Return the model version of a package, in float32."""
    return replace(MODEL, digest=package.digest, body_parts=package.card.body_parts)


def screened_dicoms(
    home: Path,
    root: Root,
    package: ModelPackage,
    files: Mapping[str, Screened],
    *,
    archive: str = "clinic",
    cam: tuple[tuple[float, ...], ...] = CAM,
) -> int:
    """Store the outcomes of files, as a scan and a worker do; return the run.

    The files are written below the root, unless that is a service, which has them already.
    """
    found = []
    for path, file in files.items():
        if isinstance(root, Path):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(file.data)
        found.append(ArchiveFile(path, len(file.data), 1_000, _placement(path, file)))
    database = embedded(home)
    model = replace(model_of(package), distance_threshold=2.0)
    run = open_run(database, register_archive(database, archive, str(root)), register_model(database, model), 1000)
    scan = begin_scan(database, run, "dicom", "test")
    assert scan is not None
    stage(database, scan, found)
    merge(database, scan, lambda path: None)
    mark_gone(database, scan)
    close_scan(database, scan, {})
    while claim := ledger.claim_next(database, model.queue, "worker"):
        items = ledger.unprocessed_images(database, claim)
        outcomes = [_outcome(item.image_id, files[item.path], cam) for item in items]
        done = [outcome for outcome in outcomes if outcome is not None]
        if len(done) < len(items):
            assert ledger.store(database, claim, done)
            break
        assert ledger.finish(database, claim, done)
    database.close()
    return run


def _placement(path: str, file: Screened) -> Placement:
    try:
        header = read_header(BytesIO(file.data))
    except FileFault:
        return Placement(file.study or path, "HAND")
    return Placement(
        file.study or header.study or path,
        header.body_part,
        view=header.view,
        laterality=header.laterality,
        series=header.series,
        modality=header.modality,
        intent=header.intent,
        patient_mark=file.patient_mark or header.patient_mark,
    )


def _outcome(image_id: int, file: Screened, cam: tuple[tuple[float, ...], ...]) -> ImageOutcome | None:
    if file.found is None:
        return None
    if isinstance(file.found, Reason):
        return ImageOutcome(image_id, reason=file.found, detail="the file ends early")
    digest = hashlib.sha256(file.data).digest()
    values = np.array(cam, "<f2")
    prediction = Prediction(0.1, file.found, values.tobytes(), values.shape, file.distance)
    return ImageOutcome(image_id, digest, prediction, detail=file.detail, picture=file.picture)
