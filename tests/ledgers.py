"""Databases filled through the functions of producer and workers, without an archive."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db import ledger
from db.merge import mark_gone, merge, stage
from db.migrate import upgrade
from db.runs import ModelVersion, open_run, register_archive, register_model
from db.scans import begin_scan, close_scan
from db.session import Database
from db.store import ImageOutcome, Prediction
from tests.seeding import MODEL
from xray.archives.archive_file import ArchiveFile, Placement
from xray.vocabulary import Label, Reason


@dataclass(frozen=True)
class Unlike:
    """A prediction of a picture that is unlike the training images, at this distance."""

    probability: float
    distance: float


Outcome = float | Unlike | Reason | None
"""A probability, one of an unlike picture, a failure reason, or None for an image that is not processed yet."""

POSITIVE = "XR_HUMERUS/patient1/study1_positive"
NEGATIVE = "XR_HUMERUS/patient2/study1_negative"
INCOMPLETE = "XR_HAND/patient3/study1_negative"
NOT_ASSESSABLE = "XR_HAND/patient4/study1_positive"
OUT_OF_SCOPE = "XR_KNEE/patient5/study1_positive"

STUDIES: dict[str, list[Outcome]] = {
    POSITIVE: [0.9, 0.8],
    NEGATIVE: [0.1],
    INCOMPLETE: [0.2, Reason.TRUNCATED],
    NOT_ASSESSABLE: [Reason.EMPTY],
    OUT_OF_SCOPE: [0.95],
}


def embedded(home: Path) -> Database:
    """Open the embedded database of a home; create or upgrade it."""
    home.mkdir(parents=True, exist_ok=True)
    database = Database(f"sqlite:///{home / 'bonescreen.db'}")
    upgrade(database)
    return database


def screened(home: Path, studies: Mapping[str, list[Outcome]] = STUDIES, **options: Any) -> int:
    """Fill the embedded database of a home as `fill` does; return the run."""
    database = embedded(home)
    try:
        return fill(database, studies, **options)
    finally:
        database.close()


def fill(
    database: Database,
    studies: Mapping[str, list[Outcome]] = STUDIES,
    *,
    archive: str = "clinic",
    root: Path = Path("/clinic"),
    model: ModelVersion = MODEL,
) -> int:
    """Store a run of these studies, by key, each with its images' outcomes; return the run."""
    found = [_file(key, number) for key, outcomes in studies.items() for number in range(len(outcomes))]
    processed = {_file(key, i).path: outcome for key, outcomes in studies.items() for i, outcome in enumerate(outcomes)}
    archive_id = register_archive(database, archive, str(root))
    run_id = open_run(database, archive_id, register_model(database, model), batch_size=1)
    scan = begin_scan(database, run_id, "mura", "test")
    assert scan is not None
    stage(database, scan, found)
    merge(database, scan, lambda path: None)
    mark_gone(database, scan)
    close_scan(database, scan, {})
    any_outcome = any(outcome is not None for outcome in processed.values())
    # A batch that is released comes after the others.
    for _ in found if any_outcome else []:
        claim = ledger.claim_more(database, run_id, "worker", images=1)
        if claim is None:
            break
        (image,) = ledger.unprocessed_images(database, claim)
        outcome = processed[image.path]
        if outcome is None:
            ledger.release_claim(database, claim)
        else:
            ledger.finish(database, claim, [_outcome(image.image_id, outcome)])
    return run_id


def _file(key: str, number: int) -> ArchiveFile:
    part, label = key.split("/")[0].removeprefix("XR_"), key.rpartition("_")[2]
    human_label = Label(label) if label in ("positive", "negative") else None
    return ArchiveFile(f"{key}/image{number + 1}.png", 100, 1, Placement(key, part, human_label))


def _outcome(image_id: int, outcome: float | Unlike | Reason) -> ImageOutcome:
    if isinstance(outcome, Reason):
        return ImageOutcome(image_id, reason=outcome, detail="the file ends early")
    probability, distance = (outcome.probability, outcome.distance) if isinstance(outcome, Unlike) else (outcome, None)
    prediction = Prediction(0.1, probability, b"\x00\x00" * 4, (2, 2), distance)
    return ImageOutcome(image_id, image_id.to_bytes(32, "big"), prediction)
