"""Store what workers found: contents, predictions and outcomes, then the results of the studies concerned."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select

from db.batching import BLOCKS_AT_ONCE
from db.counts import add, block_of, change_run_counts, tally
from db.session import Database, chunks, insert_many, one_of, or_nothing
from db.study_results import model_of, refresh_study_results
from db.tables import contents, images, outcomes, predictions
from xray.vocabulary import Reason

RETRY_IMAGES = 1_000
"""Failures that one transaction deletes: few enough that workers on SQLite do not wait long."""


@dataclass(frozen=True)
class Prediction:
    """The network's output for one content (the bytes of one or more image files).

    Parameters
    ----------
    logit : float
        The network's raw output.
    probability : float
        The calibrated probability, in [0, 1].
    cam : bytes
        Signed class activation map, float16, row-major.
    cam_shape : tuple of (int, int)
        Rows and columns of the map.
    distance : float or None
        How unlike the training images the picture is (`xray.network.distance`); None if the model does not tell.
    """

    logit: float
    probability: float
    cam: bytes
    cam_shape: tuple[int, int]
    distance: float | None = None


@dataclass(frozen=True)
class ImageOutcome:
    """The result of processing one image: its file's content, or the reason why it has no prediction.

    `prediction` is None if the content has one already: from another image of the batch, or in the database. `detail`
    is more on the reason or, with a content, what was read otherwise than the file says (`xray.vocabulary.Repair`).
    `picture` is the content's, see `xray.copies`.
    """

    image_id: int
    digest: bytes | None = None
    prediction: Prediction | None = None
    reason: Reason | None = None
    detail: str = ""
    attempts: int = 1
    picture: bytes | None = None


def predicted_contents(database: Database, model_id: int, digests: Sequence[bytes]) -> set[bytes]:
    """Return those contents (SHA-256, 32 bytes each) that a model version has predicted already."""
    known: set[bytes] = set()
    with database.read() as connection:
        for chunk in chunks(sorted(set(digests))):
            known.update(
                connection.execute(
                    select(contents.c.sha256)
                    .join(predictions, predictions.c.content_id == contents.c.id)
                    .where(predictions.c.model_id == model_id, contents.c.frame == 0)
                    .where(one_of(connection, contents.c.sha256, chunk))
                ).scalars()
            )
    return known


def record_outcomes(connection: Connection, run_id: int, results: Sequence[ImageOutcome]) -> None:
    """Write the outcomes of images, refresh the results of their studies, and count.

    An outcome without its prediction is left out if the database no longer has that prediction, as it was forgotten
    since it was found there (`db.forget`): the image stays unprocessed.

    Rows that other transactions may also write are written in sorted order; different orders would deadlock. The caller
    keeps the run from being locked (`share_run`), as it could not be scanned at the same time.

    Raises
    ------
    sqlalchemy.exc.IntegrityError
        An image already has an outcome in this run.
    """
    if not results:
        return
    model = model_of(connection, run_id)
    ids, new = _content_ids(connection, run_id, {r.digest: r.picture for r in results if r.digest is not None})
    predicted = {ids[r.digest]: r.prediction for r in results if r.digest is not None and r.prediction is not None}
    rows: list[dict[str, Any]] = [
        {
            "content_id": content_id,
            "model_id": model.id,
            "logit": prediction.logit,
            "probability": prediction.probability,
            "cam": prediction.cam,
            "cam_rows": prediction.cam_shape[0],
            "cam_columns": prediction.cam_shape[1],
            "distance": prediction.distance,
        }
        for content_id, prediction in sorted(predicted.items(), key=lambda item: item[0])
    ]
    for chunk in chunks(rows):
        insert_many(connection, predictions, chunk, or_nothing)
    unpredicted = {ids[r.digest] for r in results if r.digest is not None} - predicted.keys()
    forgotten = unpredicted - _predicted(connection, model.id, sorted(unpredicted))
    if forgotten:
        results = [r for r in results if r.digest is None or ids[r.digest] not in forgotten]
        new = set(new) - forgotten
    processed: list[dict[str, Any]] = [
        {
            "run_id": run_id,
            "image_id": r.image_id,
            "content_id": None if r.digest is None else ids[r.digest],
            "reason": r.reason,
            "detail": r.detail or None,
            "attempts": r.attempts,
        }
        for r in sorted(results, key=lambda r: r.image_id)
    ]
    for chunk in chunks(processed):
        insert_many(connection, outcomes, chunk)
    studies, current = _studies_of(connection, [r.image_id for r in results])
    changes = tally(new, "inferred")
    changes = add(changes, tally(current, "processed"))
    changes = add(changes, tally((r.image_id for r in results if r.reason and r.image_id in current), "failed"))
    changes = add(changes, refresh_study_results(connection, run_id, studies, model=model))
    change_run_counts(connection, run_id, changes)


def _predicted(connection: Connection, model_id: int, content_ids: Sequence[int]) -> set[int]:
    """Return those contents that a model version has predicted."""
    found: set[int] = set()
    for chunk in chunks(content_ids):
        these = predictions.c.model_id == model_id, one_of(connection, predictions.c.content_id, chunk)
        found.update(connection.execute(select(predictions.c.content_id).where(*these)).scalars())
    return found


def without_stored(connection: Connection, run_id: int, results: Sequence[ImageOutcome]) -> list[ImageOutcome]:
    """Leave out the outcomes of images that have one in this run."""
    stored: set[int] = set()
    for chunk in chunks([r.image_id for r in results]):
        these = one_of(connection, outcomes.c.image_id, chunk)
        of_run = select(outcomes.c.image_id).where(outcomes.c.run_id == run_id, these)
        stored.update(connection.execute(of_run).scalars())
    return [r for r in results if r.image_id not in stored]


def delete_failures(connection: Connection, run_id: int, after: int) -> list[int]:
    """Delete the outcomes of some of a run's failed images, so that these are processed again.

    Parameters
    ----------
    connection : Connection
        Has locked the run.
    run_id : int
    after : int
        Leave images up to this id as they are.

    Returns
    -------
    list of int
        The images' ids, ascending; empty if none is left.
    """
    failed = (
        select(outcomes.c.image_id)
        .where(outcomes.c.run_id == run_id, outcomes.c.reason.is_not(None), outcomes.c.image_id > after)
        .order_by(outcomes.c.image_id)
        .limit(RETRY_IMAGES)
    )
    ids = list(connection.execute(failed).scalars())
    # One call of `make_batches` then makes batches of them all.
    ids = [image_id for image_id in ids if block_of(image_id) < block_of(ids[0]) + BLOCKS_AT_ONCE]
    delete_outcomes(connection, run_id, ids)
    return ids


def delete_outcomes(connection: Connection, run_id: int, image_ids: Sequence[int]) -> None:
    """Delete the outcomes of images that failed in a run, which the caller has locked; their studies are updated."""
    for chunk in chunks(image_ids):
        these = one_of(connection, outcomes.c.image_id, chunk)
        connection.execute(delete(outcomes).where(outcomes.c.run_id == run_id, these))
    studies, current = _studies_of(connection, image_ids)
    changes = add(tally(current, "processed", -1), tally(current, "failed", -1))
    changes = add(changes, refresh_study_results(connection, run_id, studies))
    change_run_counts(connection, run_id, changes)


def _content_ids(
    connection: Connection, run_id: int, pictures: Mapping[bytes, bytes | None]
) -> tuple[dict[bytes, int], Collection[int]]:
    """Return the ids of contents, by digest, and which of them have no outcome in the run yet; add new ones."""
    ids: dict[bytes, int] = {}
    digests = sorted(pictures)
    for chunk in chunks(digests):
        rows = [{"sha256": digest, "frame": 0, "picture": pictures[digest]} for digest in chunk]
        added = insert_many(connection, contents, rows, _returning_new)
        ids.update({bytes(row.sha256): row.id for row in added})
    new = set(ids.values())
    for chunk in chunks([digest for digest in digests if digest not in ids]):
        # Locked, so that of two workers that store the same content in a run, the second one sees the first one's.
        known = connection.execute(
            select(contents.c.sha256, contents.c.id)
            .where(contents.c.frame == 0, one_of(connection, contents.c.sha256, chunk))
            .order_by(contents.c.id)
            .with_for_update(key_share=True)
        )
        known_ids = {bytes(row.sha256): row.id for row in known}
        these = one_of(connection, outcomes.c.content_id, known_ids.values())
        of_run = select(outcomes.c.content_id).where(outcomes.c.run_id == run_id, these)
        new |= set(known_ids.values()) - set(connection.execute(of_run).scalars())
        ids.update(known_ids)
    return ids, new


def _returning_new(statement: Any) -> Any:
    return or_nothing(statement).returning(contents.c.sha256, contents.c.id)


def _studies_of(connection: Connection, image_ids: Sequence[int]) -> tuple[list[int], Collection[int]]:
    """Return the studies of images, ascending, and which of the images are current."""
    studies: set[int] = set()
    current: set[int] = set()
    for chunk in chunks(image_ids):
        these = one_of(connection, images.c.id, chunk)
        for row in connection.execute(select(images.c.id, images.c.study_id, images.c.current).where(these)):
            studies.add(row.study_id)
            if row.current:
                current.add(row.id)
    return sorted(studies), current
