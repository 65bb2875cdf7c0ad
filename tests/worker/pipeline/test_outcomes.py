"""What becomes of images: scored, failed, read otherwise than their file says, or predicted before."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sqlalchemy import select

from db.failures import list_failures
from db.queries import ResultFilter, results
from db.run_queries import run_summary
from db.session import Database
from db.tables import outcomes, predictions
from producer.scan import model_version, scan_archive
from producer.source import Source
from tests.archives import png
from tests.dicoms import dicom, phantom
from tests.pipelines import put
from worker.pipeline import BatchWorker
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.vocabulary import Precision, Reason, Repair


def test_copies_of_a_file_are_inferred_once_within_a_batch_and_across_batches(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(6):
        put(root, number, png(0 if number % 2 else number))
    run = scan(3)
    done = [worker.run() for _ in range(2)]
    assert [summary.images for summary in done] == [3, 3]
    assert sum(summary.inferred for summary in done) == 3
    assert run_summary(database, run).inferred == 3
    copies = {row.score for row in results(database, ResultFilter(run=run)) if int(row.study[-21:-16]) % 2}
    assert len(copies) == 1


def test_what_was_read_otherwise_than_the_header_says_is_kept_with_each_outcome_copies_included(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    contradictory = dicom(phantom(), WindowCenter=127, WindowWidth=255, PresentationLUTShape="INVERSE")
    for number, data in enumerate((contradictory, png(1), contradictory, contradictory)):
        put(root, number, data)
    scan(3)
    assert [worker.run().failures for _ in range(2)] == [0, 0]
    with database.read() as connection:
        kept = connection.execute(select(outcomes.c.detail, outcomes.c.reason).order_by(outcomes.c.image_id)).all()
    repaired = (f"{Repair.WINDOW}; {Repair.CONTRADICTION}", None)
    assert [tuple(row) for row in kept] == [repaired, (None, None), repaired, repaired]


def test_how_unlike_the_training_images_a_picture_is_is_stored_and_decides_the_scope_of_a_model_that_says_so(
    worker: BatchWorker, database: Database, root: Path, engine: Engine, tiny_package: ModelPackage
) -> None:
    files = [put(root, number, png(number)) for number in range(3)]
    preprocessing = Preprocessing.from_id(tiny_package.card.preprocessing)
    expected = engine.infer(np.stack([load(open_image(file.read_bytes()), preprocessing) for file in files])).distances
    assert expected is not None
    nearest, middle, farthest = sorted(expected.tolist())
    assert nearest < middle < farthest
    model = replace(model_version(tiny_package, Precision.FP32), distance_threshold=middle)
    run = scan_archive(database, "clinic", Source(root), model, batch_size=8).run_id
    assert worker.run().inferred == 3
    with database.read() as connection:
        stored = connection.execute(select(predictions.c.distance)).scalars().all()
    assert sorted(stored) == [nearest, middle, farthest]
    statuses = [row.status for row in results(database, ResultFilter(run=run))]
    assert sorted(statuses) == ["out of scope", "scored", "scored"]


def test_one_truncated_file_is_a_failure_and_its_neighbours_are_scored(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    for number in range(5):
        put(root, number, png(number)[:-40] if number == 2 else png(number))
    run = scan(8)
    summary = worker.run()
    assert (summary.images, summary.failures, summary.inferred) == (5, 1, 4)
    # Both numbers are rounded, the seconds to 0.01.
    assert 5 / (summary.seconds + 0.006) - 0.1 < summary.rate < 5 / max(summary.seconds - 0.006, 1e-9) + 0.1
    (failed,) = list_failures(database, run)
    assert failed.reason == Reason.TRUNCATED
    assert [row.status for row in results(database, ResultFilter(run=run))].count("scored") == 4


def test_one_file_that_vanished_is_a_failure(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    files = [put(root, number, png(number)) for number in range(3)]
    run = scan(8)
    files[1].unlink()
    summary = worker.run()
    assert (summary.images, summary.failures) == (3, 1)
    (failed,) = list_failures(database, run)
    assert failed.reason == Reason.VANISHED


def test_a_file_that_has_changed_since_its_scan_gets_no_prediction_until_it_is_scanned_again(
    worker: BatchWorker, database: Database, root: Path, scan: Callable[[int], int]
) -> None:
    files = [put(root, number, png(number)) for number in range(3)]
    run = scan(8)
    files[0].write_bytes(png(100))
    os.utime(files[0], ns=(0, 0))
    files[1].write_bytes(png(101) + bytes(1))
    assert worker.run().inferred == 1
    assert [row.reason for row in list_failures(database, run)] == [Reason.CHANGED, Reason.CHANGED]
    assert scan(8) == run
    assert list(list_failures(database, run)) == []
    assert worker.run().inferred == 2
