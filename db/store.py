"""Writes of results: contents, predictions, outcomes, and the study results that follow from them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, delete, func, insert, or_, select

from db.session import Database, chunks, insert_into
from db.tables import contents, images, models, outcomes, predictions, runs, study_results
from xray.vocabulary import Reason, StudyStatus


@dataclass(frozen=True)
class Prediction:
    """What the network says of one content.

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
    """How one image of a run was settled: by a content's prediction, or by a reason why there is none.

    `prediction` is None when the content is one that the database already holds a prediction for.
    """

    image_id: int
    digest: bytes | None = None
    prediction: Prediction | None = None
    reason: Reason | None = None
    detail: str = ""
    attempts: int = 1


def predicted_contents(database: Database, model_id: int, digests: Sequence[bytes]) -> set[bytes]:
    """Tell which contents (SHA-256, 32 bytes each) a model version has a prediction for."""
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
    """Write the outcomes of images, each once, and renew the results of their studies.

    Rows that other transactions may write too are taken in sorted order: in different orders they would deadlock.

    Raises
    ------
    sqlalchemy.exc.IntegrityError
        An image of the run is settled already.
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


def delete_failures(connection: Connection, run_id: int) -> int:
    """Delete a run's failed outcomes, so that their images are unsettled again; returns how many."""
    failed = list(
        connection.execute(
            select(outcomes.c.image_id).where(outcomes.c.run_id == run_id, outcomes.c.reason.is_not(None))
        ).scalars()
    )
    for chunk in chunks(failed):
        connection.execute(delete(outcomes).where(outcomes.c.run_id == run_id, outcomes.c.image_id.in_(chunk)))
    refresh_study_results(connection, run_id, _studies_of(connection, failed))
    return len(failed)


def refresh_study_results(
    connection: Connection, run_id: int, study_ids: Sequence[int], *, only_known: bool = False
) -> None:
    """Compute the results of studies anew from their images' outcomes; `only_known` makes no new rows.

    A study that has no current image any more has no result either.
    """
    model = connection.execute(
        select(models.c.id, models.c.study_threshold, models.c.body_parts)
        .join(runs, runs.c.model_id == models.c.id)
        .where(runs.c.id == run_id)
    ).one()
    body_parts = frozenset(model.body_parts.split())
    for chunk in chunks(sorted(study_ids)):
        locked = _lock_results(connection, run_id, chunk, make=not only_known)
        tallied = connection.execute(_tally(run_id, model.id, locked, body_parts))
        rows = [_result_row(run_id, study, model.study_threshold) for study in tallied]
        if rows:
            upsert = insert_into(connection, study_results)
            fresh = {name: upsert.excluded[name] for name in ("status", "score", "flagged", "images", "failed")}
            connection.execute(upsert.on_conflict_do_update(index_elements=["run_id", "study_id"], set_=fresh), rows)
        if empty := set(locked) - {row["study_id"] for row in rows}:
            connection.execute(
                delete(study_results).where(study_results.c.run_id == run_id, study_results.c.study_id.in_(empty))
            )


def _result_row(run_id: int, study: Row[Any], threshold: float) -> dict[str, Any]:
    status = study_status(study.images, study.processed, study.scored, study.in_scope, study.scored_in_scope)
    shown = status in (StudyStatus.SCORED, StudyStatus.INCOMPLETE)
    return {
        "run_id": run_id,
        "study_id": study.id,
        "status": status,
        "score": study.score,
        "flagged": shown and study.score is not None and study.score >= threshold,
        "images": study.images,
        "failed": study.processed - study.scored,
    }


def study_status(images_held: int, processed: int, scored: int, in_scope: int, scored_in_scope: int) -> StudyStatus:
    """Name a study's status from the tally of its images.

    Those that show a body part the model does not know have no say in it, unless there are no others.

    Parameters
    ----------
    images_held, settled, scored : int
        Images of the study; those that have an outcome; those that have a prediction.
    in_scope, scored_in_scope : int
        Images of a body part that the model knows, or of which none is told; those of them that have a prediction.
    """
    if processed < images_held:
        return StudyStatus.PENDING
    if scored == 0:
        return StudyStatus.NOT_ASSESSABLE
    if in_scope == 0:
        return StudyStatus.OUT_OF_SCOPE
    if scored_in_scope == 0:
        return StudyStatus.NOT_ASSESSABLE
    return StudyStatus.SCORED if scored_in_scope == in_scope else StudyStatus.INCOMPLETE


def _lock_results(connection: Connection, run_id: int, study_ids: Sequence[int], *, make: bool) -> list[int]:
    # The rows are made and locked before the tally is read: two workers that each settle one image of a study
    # would else both count without the other's.
    if make:
        placeholder = {"status": StudyStatus.PENDING, "score": None, "flagged": False, "images": 0, "failed": 0}
        connection.execute(
            insert_into(connection, study_results).on_conflict_do_nothing(),
            [{"run_id": run_id, "study_id": study_id, **placeholder} for study_id in study_ids],
        )
    return list(
        connection.execute(
            select(study_results.c.study_id)
            .where(study_results.c.run_id == run_id, study_results.c.study_id.in_(study_ids))
            .order_by(study_results.c.study_id)
            .with_for_update()
        ).scalars()
    )


def _tally(run_id: int, model_id: int, study_ids: Sequence[int], body_parts: Collection[str]) -> Select[Any]:
    in_scope = or_(images.c.body_part.is_(None), images.c.body_part.in_(body_parts))
    scored_in_scope = and_(in_scope, predictions.c.content_id.is_not(None))
    return (
        select(
            images.c.study_id.label("id"),
            func.count(images.c.id).label("images"),
            func.count(outcomes.c.image_id).label("processed"),
            func.count(predictions.c.content_id).label("scored"),
            func.count(case((in_scope, 1))).label("in_scope"),
            func.count(case((scored_in_scope, 1))).label("scored_in_scope"),
            func.avg(case((in_scope, predictions.c.probability))).label("score"),
        )
        .outerjoin(outcomes, and_(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id))
        .outerjoin(
            predictions,
            and_(predictions.c.content_id == outcomes.c.content_id, predictions.c.model_id == model_id),
        )
        .where(images.c.study_id.in_(study_ids), images.c.current)
        .group_by(images.c.study_id)
        .order_by(images.c.study_id)
    )


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
