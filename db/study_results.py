"""Study results: the status, score and flag of each study in a run, computed from its images' outcomes.

`study_status` decides the status; `refresh_study_results` applies it to the ``study_results`` table.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, delete, func, or_, select

from db.session import chunks, insert_into
from db.tables import images, models, outcomes, predictions, runs, study_results
from xray.thresholds import is_positive
from xray.vocabulary import StudyStatus

STATUSES_WITH_SCORE = (StudyStatus.SCORED, StudyStatus.INCOMPLETE)
"""Only studies of these statuses have a score in results and can be flagged."""


def study_status(images_held: int, processed: int, scored: int, in_scope: int, scored_in_scope: int) -> StudyStatus:
    """Decide a study's status from the counts of its images.

    Images of a body part that the model does not know are ignored, unless the study has no others.

    Parameters
    ----------
    images_held, processed, scored : int
        Number of images in the study; of those that have an outcome; of those that have a prediction.
    in_scope, scored_in_scope : int
        Number of images of a known or unstated body part; of those among them that have a prediction.
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


def refresh_study_results(
    connection: Connection, run_id: int, study_ids: Sequence[int], *, only_known: bool = False
) -> None:
    """Recompute the results of studies; with `only_known`, add no row for a study that has none yet.

    The result of a study without current images is deleted.
    """
    model = connection.execute(
        select(models.c.id, models.c.study_threshold, models.c.body_parts)
        .join(runs, runs.c.model_id == models.c.id)
        .where(runs.c.id == run_id)
    ).one()
    body_parts = frozenset(model.body_parts.split())
    for chunk in chunks(sorted(study_ids)):
        locked = _lock_rows(connection, run_id, chunk, insert_missing=not only_known)
        counts = connection.execute(_select_counts(run_id, model.id, locked, body_parts))
        rows = [_result_row(run_id, study, model.study_threshold) for study in counts]
        if rows:
            upsert = insert_into(connection, study_results)
            updated = {name: upsert.excluded[name] for name in ("status", "score", "flagged", "images", "failed")}
            connection.execute(upsert.on_conflict_do_update(index_elements=["run_id", "study_id"], set_=updated), rows)
        if empty := set(locked) - {row["study_id"] for row in rows}:
            connection.execute(
                delete(study_results).where(study_results.c.run_id == run_id, study_results.c.study_id.in_(empty))
            )


def _lock_rows(connection: Connection, run_id: int, study_ids: Sequence[int], *, insert_missing: bool) -> list[int]:
    # Rows are inserted and locked before images are counted. Otherwise two workers that each finish one image of a
    # study at the same time would both count without the other's image.
    if insert_missing:
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


def _select_counts(run_id: int, model_id: int, study_ids: Sequence[int], body_parts: Collection[str]) -> Select[Any]:
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


def _result_row(run_id: int, study: Row[Any], threshold: float) -> dict[str, Any]:
    status = study_status(study.images, study.processed, study.scored, study.in_scope, study.scored_in_scope)
    has_score = status in STATUSES_WITH_SCORE and study.score is not None
    return {
        "run_id": run_id,
        "study_id": study.id,
        "status": status,
        "score": study.score,
        "flagged": has_score and is_positive(study.score, threshold),
        "images": study.images,
        "failed": study.processed - study.scored,
    }
