"""Study results: the status, score and flag of each study in a run, computed from its images' outcomes.

`study_status` decides the status; `refresh_study_results` applies it to the ``study_results`` table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sqlalchemy import Connection, and_, delete, select

from db.counts import Changes, add, tally
from db.session import chunks, insert_many, one_of, or_nothing
from db.tables import images, models, outcomes, predictions, runs, study_results
from xray.thresholds import is_in_scope, is_positive
from xray.vocabulary import StudyStatus

COUNTED_AS = {
    StudyStatus.SCORED: "scored",
    StudyStatus.INCOMPLETE: "incomplete",
    StudyStatus.NOT_ASSESSABLE: "not_assessable",
    StudyStatus.OUT_OF_SCOPE: "out_of_scope",
}
"""The column of `run_counts` that counts the studies of each status, which has none for pending ones."""

STATUSES_WITH_SCORE = (StudyStatus.SCORED, StudyStatus.INCOMPLETE)
"""Only studies of these statuses have a score in results and can be flagged."""


@dataclass(frozen=True)
class ModelOfRun:
    """What study results need of a model version."""

    id: int
    study_threshold: float
    body_parts: frozenset[str]


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
    connection: Connection,
    run_id: int,
    study_ids: Sequence[int],
    *,
    only_known: bool = False,
    model: ModelOfRun | None = None,
) -> Changes:
    """Recompute the results of studies; with `only_known`, add no row for a study that has none yet.

    The result of a study without current images is deleted. `model` is what `model_of` returns, if it is known.

    Returns
    -------
    Changes
        Of the run's counts, for `db.counts.change_run_counts`.
    """
    changes: Changes = Changes()
    if not study_ids:
        return changes
    model = model or model_of(connection, run_id)
    for chunk in chunks(sorted(study_ids)):
        locked = _lock_rows(connection, run_id, chunk, insert_missing=not only_known)
        if not locked:
            continue
        held = _read_images(connection, run_id, model.id, list(locked))
        rows = [_result_row(run_id, study_id, held[study_id], model) for study_id in sorted(held)]
        changes = add(changes, _counted(locked, -1))
        changes = add(changes, _counted({row["study_id"]: (row["status"], row["flagged"]) for row in rows}, 1))
        if rows:
            insert_many(connection, study_results, rows, _or_replace)
        if empty := set(locked) - {row["study_id"] for row in rows}:
            connection.execute(
                delete(study_results).where(study_results.c.run_id == run_id, study_results.c.study_id.in_(empty))
            )
    return changes


def model_of(connection: Connection, run_id: int) -> ModelOfRun:
    """Return the model version of a run."""
    query = select(models.c.id, models.c.study_threshold, models.c.body_parts)
    row = connection.execute(query.join(runs, runs.c.model_id == models.c.id).where(runs.c.id == run_id)).one()
    return ModelOfRun(row.id, row.study_threshold, frozenset(row.body_parts.split()))


def _counted(results: Mapping[int, tuple[str, bool]], by: int) -> Changes:
    """Count studies, given status and flag by id."""
    changes: Changes = Changes()
    for status, column in COUNTED_AS.items():
        changes = add(changes, tally([study for study, result in results.items() if result[0] == status], column, by))
    for status in STATUSES_WITH_SCORE:
        flagged = [study for study, result in results.items() if result[0] == status and result[1]]
        changes = add(changes, tally(flagged, f"flagged_{COUNTED_AS[status]}", by))
    return changes


def _lock_rows(
    connection: Connection, run_id: int, study_ids: Sequence[int], *, insert_missing: bool
) -> dict[int, tuple[str, bool]]:
    """Lock the results of studies; return their status and flag by study id."""
    # Rows are inserted and locked before images are counted. Otherwise two workers that each finish one image of a
    # study at the same time would both count without the other's image.
    if insert_missing:
        placeholder = {"status": StudyStatus.PENDING, "score": None, "flagged": False, "images": 0, "failed": 0}
        rows = [{"run_id": run_id, "study_id": study_id, **placeholder} for study_id in study_ids]
        insert_many(connection, study_results, rows, or_nothing)
    known = connection.execute(
        select(study_results.c.study_id, study_results.c.status, study_results.c.flagged)
        .where(study_results.c.run_id == run_id, one_of(connection, study_results.c.study_id, study_ids))
        .order_by(study_results.c.study_id)
        .with_for_update()
    )
    return {row.study_id: (row.status, row.flagged) for row in known}


def _or_replace(statement: Any) -> Any:
    fresh = {name: statement.excluded[name] for name in ("status", "score", "flagged", "images", "failed")}
    return statement.on_conflict_do_update(index_elements=["run_id", "study_id"], set_=fresh)


@dataclass(frozen=True)
class _HeldImage:
    """A current image of a study; `probability` is None without a prediction."""

    body_part: str | None
    processed: bool
    probability: float | None


def _read_images(
    connection: Connection, run_id: int, model_id: int, study_ids: Sequence[int]
) -> dict[int, list[_HeldImage]]:
    # Two queries, each by a key: joined, PostgreSQL may read every outcome of a run that it has no statistics of yet.
    rows = connection.execute(
        select(images.c.id, images.c.study_id, images.c.body_part)
        .where(one_of(connection, images.c.study_id, study_ids), images.c.current)
        .order_by(images.c.id)
    ).all()
    prediction = and_(predictions.c.content_id == outcomes.c.content_id, predictions.c.model_id == model_id)
    probabilities: dict[int, float | None] = {}
    for chunk in chunks([row.id for row in rows]):
        of_images = (outcomes.c.run_id == run_id, one_of(connection, outcomes.c.image_id, chunk))
        query = select(outcomes.c.image_id, predictions.c.probability).outerjoin(predictions, prediction)
        probabilities.update((row[0], row[1]) for row in connection.execute(query.where(*of_images)))
    held: dict[int, list[_HeldImage]] = {}
    for row in rows:
        image = _HeldImage(row.body_part, row.id in probabilities, probabilities.get(row.id))
        held.setdefault(row.study_id, []).append(image)
    return held


def _result_row(run_id: int, study_id: int, held: Sequence[_HeldImage], model: ModelOfRun) -> dict[str, Any]:
    in_scope = [image for image in held if is_in_scope(image.body_part, model.body_parts)]
    processed = sum(image.processed for image in held)
    scored = sum(image.probability is not None for image in held)
    probabilities = [image.probability for image in in_scope if image.probability is not None]
    status = study_status(len(held), processed, scored, len(in_scope), len(probabilities))
    score = fmean(probabilities) if status in STATUSES_WITH_SCORE else None
    return {
        "run_id": run_id,
        "study_id": study_id,
        "status": status,
        "score": score,
        "flagged": score is not None and is_positive(score, model.study_threshold),
        "images": len(held),
        "failed": processed - scored,
    }
