"""What must be true of a run's ledger at its end, whatever happened before."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import select

from db.run_queries import RunState, list_runs
from db.session import Database
from db.tables import batches, contents, images, outcomes, predictions, study_results
from tests.chaos.audit import Write, writes
from tests.recount import kept_counts, recount
from xray.vocabulary import BatchState

Predicted = tuple[float, float, bytes]
"""Logit, probability and class activation map, compared bit by bit."""

KINDS = ("lost", "doubled", "stale", "falsified")
"""What a ledger can be found to be; other kinds of violation are of the run or of `status`."""


@dataclass(frozen=True)
class Violation:
    """Something that must never be: its kind (one of `KINDS`, ``unfinished`` or ``unnamed``), and what."""

    kind: str
    what: str


def read_predictions(database: Database) -> dict[bytes, Predicted]:
    """Return all predictions, by the SHA-256 of the content."""
    query = select(contents.c.sha256, predictions.c.logit, predictions.c.probability, predictions.c.cam).join(
        predictions, predictions.c.content_id == contents.c.id
    )
    with database.read() as connection:
        return {row.sha256: (row.logit, row.probability, row.cam) for row in connection.execute(query)}


def violations(
    database: Database, archive: Mapping[str, bytes], expected: Mapping[bytes, Predicted]
) -> list[Violation]:
    """List what is wrong with a database's one run after its end.

    Parameters
    ----------
    database : Database
        With an audit (`tests.chaos.audit`) since before the run.
    archive : mapping of str to bytes
        The content (SHA-256) of each image, by path below the archive's root.
    expected : mapping of bytes to Predicted
        The predictions of a run without faults, by content.
    """
    recorded = writes(database)
    return [
        *_of_the_run(database, len(archive)),
        *_of_images(database, archive, expected),
        *_doubled(recorded),
        *_stale(database, recorded),
    ]


def _of_the_run(database: Database, number: int) -> Iterator[Violation]:
    (run,) = list_runs(database)
    if (run.state, run.images, run.processed) != (RunState.DONE, number, number):
        yield Violation(
            "unfinished", f"the run is {run.state}, {run.processed} of {run.images} images ({number} files)"
        )
    if kept_counts(database) != recount(database):
        yield Violation("falsified", "the counts that are kept are not those of the rows")
    with database.read() as connection:
        counted = select(study_results.c.images, study_results.c.failed, study_results.c.status)
        for row in connection.execute(counted.where(study_results.c.failed > 0)):
            yield Violation("falsified", f"a study of {row.images} images has {row.failed} failures ({row.status})")


def _of_images(
    database: Database, archive: Mapping[str, bytes], expected: Mapping[bytes, Predicted]
) -> Iterator[Violation]:
    query = (
        select(images.c.path, images.c.current, contents.c.sha256, outcomes.c.reason, outcomes.c.detail)
        .outerjoin(outcomes, outcomes.c.image_id == images.c.id)
        .outerjoin(contents, contents.c.id == outcomes.c.content_id)
    )
    with database.read() as connection:
        found = {row.path: row for row in connection.execute(query)}
    predicted = read_predictions(database)
    for path, digest in archive.items():
        row = found.get(path)
        if row is None or not row.current or (row.sha256 is None and row.reason is None):
            yield Violation("lost", f"{path} has no outcome")
        elif row.reason is not None:
            yield Violation("falsified", f"{path} failed: {row.reason} ({row.detail})")
        elif row.sha256 != digest:
            yield Violation("falsified", f"{path} has the outcome of another file")
        elif digest not in predicted:
            yield Violation("lost", f"{path} has no prediction")
        elif predicted[digest] != expected[digest]:
            yield Violation("falsified", f"{path}: {predicted[digest][:2]}, but {expected[digest][:2]} without faults")
    yield from (Violation("falsified", f"{path} is no file of the archive") for path in found.keys() - archive.keys())


def _doubled(recorded: list[Write]) -> Iterator[Violation]:
    stored = Counter[int | None]()
    for write in recorded:
        if write.kind in ("changed", "rewritten"):
            yield Violation("doubled", f"the result of image or content {write.image} was {write.kind}")
        stored[write.image] += {"added": 1, "deleted": -1}.get(write.kind, 0)
    yield from (Violation("doubled", f"image {image} has {n} outcomes") for image, n in stored.items() if n > 1)


def _stale(database: Database, recorded: list[Write]) -> Iterator[Violation]:
    """List the outcomes that were stored without a valid claim on their batch.

    Storing changes a claimed batch first. On PostgreSQL that must be in the same transaction, and by the connection of
    the worker that holds the claim; SQLite has neither to tell, only one writer at a time.
    """
    with database.read() as connection:
        query = select(batches.c.id, batches.c.first_image_id, batches.c.last_image_id)
        spans = {row.id: range(row.first_image_id, row.last_image_id + 1) for row in connection.execute(query)}
    workers: dict[str | None, str | None] = {}
    tokens: dict[int | None, int] = defaultdict(int)
    last: dict[int | None, Write] = {}
    for write in recorded:
        if write.kind == "batch":
            last[write.transaction_id] = write
            if write.state_after == BatchState.CLAIMED != write.state_before:
                workers[write.connection] = write.worker
            if (write.token or 0) < tokens[write.batch]:
                yield Violation("stale", f"batch {write.batch} went from token {tokens[write.batch]} to {write.token}")
            tokens[write.batch] = write.token or 0
        elif write.kind == "added":
            held = last.get(write.transaction_id)
            if held is None or held.state_before != BatchState.CLAIMED or write.image not in spans[held.batch or 0]:
                yield Violation("stale", f"image {write.image} was stored without a claim on its batch")
            elif write.connection and workers.get(write.connection, held.worker) != held.worker:
                yield Violation(
                    "stale", f"image {write.image} was stored by {workers[write.connection]}, held by {held.worker}"
                )
