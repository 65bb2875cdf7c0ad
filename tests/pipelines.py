"""A worker's pipeline in this process: its archive's files, its batches, and an engine that can be watched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from db import ledger
from db.ledger import Claim
from db.session import Database
from db.tables import batches
from worker.pipeline import BatchWorker
from xray.network.engine import Engine, Inference, PendingInference
from xray.vocabulary import Precision


def put(root: Path, number: int, data: bytes) -> Path:
    file = root / f"XR_HAND/patient{number:05}/study1_positive/image1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    return file


def claim_any(database: Database) -> Claim:
    """Claim the next batch as another worker."""
    queue = ledger.queues_with_work(database, 1)[0].queue
    claim = ledger.claim_next(database, queue, "another")
    assert claim is not None
    return claim


def state(database: Database, batch_id: int) -> tuple[str, int]:
    with database.read() as connection:
        row = connection.execute(select(batches.c.state, batches.c.attempts).where(batches.c.id == batch_id)).one()
    return row[0], row[1]


class WatchedEngine:
    """An engine that calls a function with the number of each call before it computes."""

    def __init__(self, engine: Engine, before: Callable[[int], None]) -> None:
        self._engine, self._before, self._calls = engine, before, 0
        self.name, self.precision, self.batch = engine.name, engine.precision, engine.batch

    def infer(self, images: NDArray[np.uint8]) -> Inference:
        return self.submit(images).result()

    def submit(self, images: NDArray[np.uint8]) -> PendingInference:
        self._calls += 1
        self._before(self._calls)
        return self._engine.submit(images)


def watched_worker(
    worker: BatchWorker, engine: Engine, before: Callable[[int], None], stopping: Callable[[], bool] = lambda: False
) -> BatchWorker:
    watched = WatchedEngine(engine, before)
    return BatchWorker(
        worker.database,
        worker.settings,
        worker.package,
        [Precision.FP32],
        lambda precision: watched,
        worker.lease_renewer,
        worker.name,
        stopping,
    )
