"""An archive of real images that were screened with a real package, so that they can be drawn."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from db import ledger
from db.merge import merge, stage
from db.runs import open_run, register_archive, register_model
from db.scans import begin_scan, close_scan
from db.store import ImageOutcome, Prediction
from tests.ledgers import embedded
from tests.seeding import MODEL
from xray.archives.archive_file import ArchiveFile, Placement
from xray.network.package import ModelPackage
from xray.vocabulary import Label, Reason

CAM = ((2.0, 0.0), (0.0, -2.0))


def pictured(
    home: Path,
    root: Path,
    package: ModelPackage,
    studies: Mapping[str, Sequence[float | None]],
    *,
    archive: str = "clinic",
    cam: Sequence[Sequence[float]] = CAM,
) -> int:
    """Write images below a root, a file for each probability, empty for None; screen them, and return the run."""
    files = []
    for index, (key, probabilities) in enumerate(studies.items()):
        (root / key).mkdir(parents=True, exist_ok=True)
        human = Label.POSITIVE if key.endswith("_positive") else Label.NEGATIVE if key.endswith("_negative") else None
        placement = Placement(
            key, key.split("/")[0].removeprefix("XR_"), human, patient=key.split("/")[1] if "/" in key else None
        )
        for number, probability in enumerate(probabilities, 1):
            path = f"{key}/image{number}.png"
            if probability is None:
                (root / path).touch()
            else:
                # A content that the model has scored already is not scored again, in another archive neither.
                gray = np.add.outer(
                    np.arange(60), np.arange(40) + 7 * index + number + 50 * (archive != "clinic")
                ).astype(np.uint8)
                Image.fromarray(gray).save(root / path)
            files.append(ArchiveFile(path, 1, 1, placement))
    database = embedded(home)
    model = replace(MODEL, digest=package.digest)
    run = open_run(database, register_archive(database, archive, str(root)), register_model(database, model), 1000)
    scan = begin_scan(database, run, "mura", "test")
    assert scan is not None
    stage(database, scan, files)
    merge(database, scan, lambda path: None)
    close_scan(database, scan, {})
    expected = {f"{key}/image{n}.png": each for key, outcomes in studies.items() for n, each in enumerate(outcomes, 1)}
    while claim := ledger.claim_next(database, model.queue, "worker"):
        outcomes = []
        for item in ledger.unprocessed_images(database, claim):
            probability, digest = expected[item.path], hashlib.sha256((root / item.path).read_bytes()).digest()
            if probability is None:
                outcomes.append(ImageOutcome(item.image_id, reason=Reason.EMPTY))
            else:
                prediction = Prediction(1.0, probability, np.array(cam, "<f2").tobytes(), (len(cam), len(cam[0])))
                outcomes.append(ImageOutcome(item.image_id, digest, prediction))
        assert ledger.finish(database, claim, outcomes)
    database.close()
    return run
