"""Store what workers found: contents, predictions and outcomes, then the results of the studies concerned."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from db.session import Database, chunks, insert_into
from db.study_results import refresh_study_results
from db.tables import contents, images, outcomes, predictions, runs
from xray.vocabulary import Reason


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
    """

    logit: float
    probability: float
    cam: bytes
    cam_shape: tuple[int, int]


@dataclass(frozen=True)
class ImageOutcome:
    """The result of processing one image: its file's content, or the reason why it has no prediction.

    `prediction` is None if the content has one already: from another image of the batch, or in the database.
    """

    image_id: int
    digest: bytes | None = None
    prediction: Prediction | None = None
    reason: Reason | None = None
    detail: str = ""
    attempts: int = 1


def predicted_contents(database: Database, model_id: int, digests: Sequence[bytes]) -> set[bytes]:
    """Return those contents (SHA-256, 32 bytes each) that a model version has predicted already."""
    known: set[bytes] = set()
    with database.read() as connection:
        for chunk in chunks(sorted(set(digests))):
            known.update(
                connection.execute(
                    select(contents.c.sha256)
                    .join(predictions, predictions.c.content_id == contents.c.id)
                    .where(predictions.c.model_id == model_id, contents.c.frame == 0, contents.c.sha256.in_(chunk))
                ).scalars()
            )
    return known


def record_outcomes(connection: Connection, run_id: int, results: Sequence[ImageOutcome]) -> None:
    """Write the outcomes of images and refresh the results of their studies.

    Rows that other transactions may also write are written in sorted order; different orders would deadlock.

    Raises
    ------
    sqlalchemy.exc.IntegrityError
        An image already has an outcome in this run.
    """
    model_id = connection.execute(select(runs.c.model_id).where(runs.c.id == run_id)).scalar_one()
    ids = _content_ids(connection, sorted({r.digest for r in results if r.digest is not None}))
    new = {ids[r.digest]: r.prediction for r in results if r.digest is not None and r.prediction is not None}
    rows = [
        {
            "content_id": content_id,
            "model_id": model_id,
            "logit": prediction.logit,
            "probability": prediction.probability,
            "cam": prediction.cam,
            "cam_rows": prediction.cam_shape[0],
            "cam_columns": prediction.cam_shape[1],
        }
        for content_id, prediction in sorted(new.items(), key=lambda item: item[0])
    ]
    for chunk in chunks(rows):
        connection.execute(insert_into(connection, predictions).on_conflict_do_nothing(), chunk)
    processed = [
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
        connection.execute(insert(outcomes), chunk)
    refresh_study_results(connection, run_id, _studies_of(connection, [r.image_id for r in results]))


def without_stored(connection: Connection, run_id: int, results: Sequence[ImageOutcome]) -> list[ImageOutcome]:
    """Leave out the outcomes of images that have one in this run."""
    stored: set[int] = set()
    for chunk in chunks([r.image_id for r in results]):
        of_run = select(outcomes.c.image_id).where(outcomes.c.run_id == run_id, outcomes.c.image_id.in_(chunk))
        stored.update(connection.execute(of_run).scalars())
    return [r for r in results if r.image_id not in stored]


def delete_failures(connection: Connection, run_id: int) -> int:
    """Delete the outcomes of a run's failed images, so that these are processed again; return how many."""
    failed = list(
        connection.execute(
            select(outcomes.c.image_id).where(outcomes.c.run_id == run_id, outcomes.c.reason.is_not(None))
        ).scalars()
    )
    for chunk in chunks(failed):
        connection.execute(delete(outcomes).where(outcomes.c.run_id == run_id, outcomes.c.image_id.in_(chunk)))
    refresh_study_results(connection, run_id, _studies_of(connection, failed))
    return len(failed)


def _content_ids(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, int]:
    ids: dict[bytes, int] = {}
    for chunk in chunks(digests):
        connection.execute(
            insert_into(connection, contents).on_conflict_do_nothing(),
            [{"sha256": digest, "frame": 0} for digest in chunk],
        )
        rows = connection.execute(
            select(contents.c.sha256, contents.c.id).where(contents.c.frame == 0, contents.c.sha256.in_(chunk))
        )
        ids.update({bytes(row.sha256): row.id for row in rows})
    return ids


def _studies_of(connection: Connection, image_ids: Sequence[int]) -> list[int]:
    found: set[int] = set()
    for chunk in chunks(image_ids):
        found.update(connection.execute(select(images.c.study_id).where(images.c.id.in_(chunk)).distinct()).scalars())
    return sorted(found)
