"""An archive with real pictures, screened by two model versions without a worker: what pages show is known exactly."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from db import ledger, merge, scans
from db.migrate import upgrade
from db.runs import ModelVersion, open_run, register_archive, register_model
from db.session import Database
from db.store import ImageOutcome, Prediction
from tests.seeding import MODEL
from xray.archives.archive_file import ArchiveFile, Placement
from xray.network.package import ModelPackage
from xray.vocabulary import Label, Reason

SIDE = 256
MARKUP = '<img src=x onerror="document.title=1">'
"""The name of a study: names of files may hold anything."""


@dataclass(frozen=True)
class Shot:
    """One image: its probability in the first run and in the second, and how much evidence its map holds at most."""

    first: float | None
    second: float | None
    evidence: float = 1.5


STUDIES: dict[str, tuple[str, Label, list[Shot]]] = {
    "HAND/ann": ("HAND", Label.POSITIVE, [Shot(0.95, 0.9), Shot(0.85, 0.8)]),
    "HAND/dark": ("HAND", Label.POSITIVE, [Shot(0.7, 0.6, evidence=0.04)]),
    "WRIST/ben": ("WRIST", Label.NEGATIVE, [Shot(0.4, 0.8)]),
    "WRIST/half": ("WRIST", Label.NEGATIVE, [Shot(0.3, 0.3), Shot(None, None)]),
    MARKUP: ("HAND", Label.NEGATIVE, [Shot(0.1, 0.1)]),
    "WRIST/none": ("WRIST", Label.NEGATIVE, [Shot(None, None)]),
}


def model_of(package: ModelPackage) -> ModelVersion:
    """Return the model version of a package, in float32."""
    return replace(MODEL, digest=package.digest, body_parts=package.card.body_parts)


def screen(home: Path, root: Path, package: ModelPackage) -> Database:
    """Write the archive below `root`, and screen it in runs 1 and 2 of the embedded database of a home."""
    home.mkdir(parents=True)
    database = Database(f"sqlite:///{home / 'bonescreen.db'}")
    upgrade(database)
    found, shots = [], {}
    for study, (key, (part, label, images)) in enumerate(STUDIES.items(), 1):
        for number, shot in enumerate(images):
            path = f"{key}/image{number}.png"
            shots[path] = shot
            write_ramp(root / path, len(shots))
            placement = Placement(key, part, label, view="PA", modality="DX", accession=f"A-{study}")
            found.append(ArchiveFile(path, (root / path).stat().st_size, 1_000, placement))
    first = model_of(package)
    second = replace(first, precision="int8", queue="screen.tiny.int8")
    for model, name in ((first, "first"), (second, "second")):
        begin_run(database, root, found, model)
        finish(database, model, root, {path: getattr(shot, name) for path, shot in shots.items()}, shots)
    return database


def begin_run(database: Database, root: Path, found: list[ArchiveFile], model: ModelVersion) -> int:
    """Scan an archive, named as its root; return its run."""
    run_id = open_run(database, register_archive(database, root.name, str(root)), register_model(database, model), 2)
    scan = scans.begin_scan(database, run_id, "folder", "test")
    assert scan is not None
    merge.stage(database, scan, found)
    merge.merge(database, scan, lambda path: None)
    merge.mark_gone(database, scan)
    scans.close_scan(database, scan, {})
    return run_id


def finish(
    database: Database,
    model: ModelVersion,
    root: Path,
    probabilities: dict[str, float | None],
    shots: dict[str, Shot],
    batches: int = 1_000,
) -> int:
    """Store the outcomes of pending batches, as a worker does; return how many images that were."""
    done = 0
    for _ in range(batches):
        claim = ledger.claim_next(database, model.queue, "test")
        if claim is None:
            break
        work = ledger.unprocessed_images(database, claim)
        results = [
            outcome(image.image_id, root / image.path, probabilities[image.path], shots[image.path].evidence)
            for image in work
        ]
        assert ledger.finish(database, claim, results)
        done += len(work)
    return done


def outcome(image_id: int, file: Path, probability: float | None, evidence: float) -> ImageOutcome:
    """Return an image's outcome: a map with its evidence in the upper left, or a failure."""
    if probability is None:
        return ImageOutcome(image_id, reason=Reason.TRUNCATED, detail="6 bytes are missing")
    cam = np.full((2, 2), -1, np.float16)
    cam[0, 0] = evidence
    prediction = Prediction(float(np.log(probability / (1 - probability))), probability, cam.tobytes(), cam.shape)
    return ImageOutcome(image_id, hashlib.sha256(file.read_bytes()).digest(), prediction)


def write_ramp(file: Path, number: int) -> None:
    """Write a picture whose columns have every gray level, from black to white; `number` makes its bytes its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    gray = np.repeat(np.arange(SIDE, dtype=np.uint8)[None], SIDE, axis=0)
    gray[-1, :number] = 255
    Image.fromarray(gray).save(file)
