"""Study results: the status, score and flag of each study in a run, computed from its images' outcomes.

`db.assessment` decides; this module reads what it decides on, and writes the ``study_results`` table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    and_,
    any_,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from db.assessment import STATUSES_WITH_SCORE, Assessment, StudyImage, assess
from db.counts import Changes, add, tally
from db.session import Now, chunks, insert_many, one_of
from db.tables import contents, images, models, outcomes, predictions, reviews, runs, studies, study_results
from xray.thresholds import Scope
from xray.vocabulary import Label, StudyStatus

COUNTED_AS = {
    StudyStatus.SCORED: "scored",
    StudyStatus.INCOMPLETE: "incomplete",
    StudyStatus.NOT_ASSESSABLE: "not_assessable",
    StudyStatus.OUT_OF_SCOPE: "out_of_scope",
}
"""The column of `run_counts` that counts the studies of each status, which has none for pending ones."""


@dataclass(frozen=True)
class ModelOfRun:
    """What study results need of a model version."""

    id: int
    study_threshold: float
    scope: Scope


@dataclass(frozen=True)
class _StoredResult:
    """A study's result as it is stored."""

    status: str
    score: float | None
    highest: float | None
    flagged: bool
    images: int
    failed: int


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
        held = read_study_images(connection, run_id, model.id, list(locked))
        assessed = {
            study_id: assess(list(found.values()), model.scope, model.study_threshold)
            for study_id, found in held.items()
        }
        changes = add(changes, _counted(locked, -1))
        changes = add(changes, _counted(assessed, 1))
        rows = [
            {"run_id": run_id, "study_id": study_id, **asdict(assessed[study_id])}
            for study_id in sorted(assessed)
            if asdict(assessed[study_id]) != asdict(locked[study_id])
        ]
        if rows:
            insert_many(connection, study_results, rows, _or_replace)
            repeat_reviews(connection, run_id, [row["study_id"] for row in rows])
        if empty := set(locked) - assessed.keys():
            connection.execute(
                delete(study_results).where(study_results.c.run_id == run_id, study_results.c.study_id.in_(empty))
            )
    return changes


def delete_study_results(connection: Connection, run_id: int, study_ids: Sequence[int]) -> Changes:
    """Delete the results of studies in a run; return how that changes the run's counts, as `refresh_study_results`."""
    changes: Changes = Changes()
    for chunk in chunks(sorted(study_ids)):
        changes = add(changes, _counted(_lock_rows(connection, run_id, chunk, insert_missing=False), -1))
        these = one_of(connection, study_results.c.study_id, chunk)
        connection.execute(delete(study_results).where(study_results.c.run_id == run_id, these))
    return changes


def lock_results(connection: Connection, run_id: int, study_ids: Sequence[int]) -> None:
    """Keep the results of studies from being changed until the end of this transaction."""
    for chunk in chunks(sorted(study_ids)):
        _lock_rows(connection, run_id, chunk, insert_missing=False)


def repeat_reviews(connection: Connection, run_id: int, study_ids: Sequence[int]) -> None:
    """Repeat in results, which are locked, whether somebody has reviewed them with the status and label that they have.

    A review of an earlier result does not count: what was not read then may have been flagged since.
    """
    label = case(
        (study_results.c.flagged, literal(Label.POSITIVE.value)),
        (study_results.c.status == StudyStatus.SCORED, literal(Label.NEGATIVE.value)),
        else_=literal(""),
    )
    is_reviewed = (
        exists()
        .where(
            reviews.c.run_id == study_results.c.run_id,
            reviews.c.study_id == study_results.c.study_id,
            reviews.c.status == study_results.c.status,
            func.coalesce(reviews.c.label, "") == label,
        )
        .correlate(study_results)
    )
    for chunk in chunks(sorted(study_ids)):
        these = study_results.c.run_id == run_id, one_of(connection, study_results.c.study_id, chunk)
        is_different = study_results.c.reviewed != is_reviewed
        connection.execute(update(study_results).where(*these, is_different).values(reviewed=is_reviewed))


def model_of(connection: Connection, run_id: int) -> ModelOfRun:
    """Return the model version of a run."""
    names = ("id", "study_threshold", "body_parts", "modalities", "distance_threshold")
    query = select(*(models.c[name] for name in names))
    row = connection.execute(query.join(runs, runs.c.model_id == models.c.id).where(runs.c.id == run_id)).one()
    scope = Scope(frozenset(row.body_parts.split()), frozenset(row.modalities.split()), row.distance_threshold)
    return ModelOfRun(row.id, row.study_threshold, scope)


def read_study_images(
    connection: Connection, run_id: int, model_id: int, study_ids: Sequence[int]
) -> dict[int, dict[int, StudyImage]]:
    """Read the current images of studies, with their outcomes in a run.

    Returns
    -------
    dict of int to dict of int to StudyImage
        By study and image id, the images in the order of their ids. A study without current images has none.
    """
    columns = (images.c[name] for name in ("body_part", "modality", "intent", "view", "laterality", "patient_mark"))
    # Two queries, each by a key: joined, PostgreSQL may read every outcome of a run that it has no statistics of yet.
    rows = connection.execute(
        select(images.c.id, images.c.study_id, images.c.size, *columns)
        .where(one_of(connection, images.c.study_id, study_ids), images.c.current)
        .order_by(images.c.id)
    ).all()
    prediction = and_(predictions.c.content_id == outcomes.c.content_id, predictions.c.model_id == model_id)
    found: dict[int, tuple[float | None, float | None, int | None, bytes | None]] = {}
    for chunk in chunks([row.id for row in rows]):
        of_images = (outcomes.c.run_id == run_id, one_of(connection, outcomes.c.image_id, chunk))
        query = (
            select(
                outcomes.c.image_id,
                predictions.c.probability,
                predictions.c.distance,
                outcomes.c.content_id,
                contents.c.picture,
            )
            .outerjoin(predictions, prediction)
            .outerjoin(contents, contents.c.id == outcomes.c.content_id)
        )
        found.update((row[0], tuple(row[1:])) for row in connection.execute(query.where(*of_images)))
    held: dict[int, dict[int, StudyImage]] = {}
    for row in rows:
        probability, distance, content, picture = found.get(row.id, (None, None, None, None))
        held.setdefault(row.study_id, {})[row.id] = StudyImage(
            row.body_part,
            row.modality,
            row.intent,
            row.view,
            row.laterality,
            row.patient_mark,
            row.size,
            row.id in found,
            probability,
            content,
            None if picture is None else bytes(picture),
            distance,
        )
    return held


def _counted(results: Mapping[int, Assessment | _StoredResult], by: int) -> Changes:
    """Count studies by status and flag."""
    changes: Changes = Changes()
    for status, column in COUNTED_AS.items():
        these = [study for study, result in results.items() if result.status == status]
        changes = add(changes, tally(these, column, by))
    for status in STATUSES_WITH_SCORE:
        flagged = [study for study, result in results.items() if result.status == status and result.flagged]
        changes = add(changes, tally(flagged, f"flagged_{COUNTED_AS[status]}", by))
    return changes


def _lock_rows(
    connection: Connection, run_id: int, study_ids: Sequence[int], *, insert_missing: bool
) -> dict[int, _StoredResult]:
    """Lock the results of studies, and return them by study id."""
    # Rows are inserted and locked before images are counted. Otherwise two workers that each finish one image of a
    # study at the same time would both count without the other's image.
    if insert_missing:
        connection.execute(_insert_pending(connection.dialect.name), {"run": run_id, "these": list(study_ids)})
    columns = [study_results.c[name] for name in _StoredResult.__dataclass_fields__]
    known = connection.execute(
        select(study_results.c.study_id, *columns)
        .where(study_results.c.run_id == run_id, one_of(connection, study_results.c.study_id, study_ids))
        .order_by(study_results.c.study_id)
        .with_for_update()
    )
    return {row[0]: _StoredResult(*row[1:]) for row in known}


@cache
def _insert_pending(dialect: str) -> Any:
    """Return the statement that inserts pending results of studies that have none, with what they repeat of others."""
    run = bindparam("run", type_=BigInteger)
    if dialect == "postgresql":
        is_one = studies.c.id == any_(bindparam("these", type_=postgresql.ARRAY(BigInteger)))
    else:
        is_one = studies.c.id.in_(bindparam("these", expanding=True))
    values = {
        "run_id": run,
        "study_id": studies.c.id,
        "status": literal(StudyStatus.PENDING.value),
        "flagged": false(),
        "images": literal(0),
        "failed": literal(0),
        "human_label": func.coalesce(studies.c.human_label, ""),
        "body_parts": func.coalesce(studies.c.body_parts, ""),
    }
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    described = select(*values.values()).where(is_one).order_by(studies.c.id)
    return insert(study_results).from_select(list(values), described).on_conflict_do_nothing()


def _or_replace(statement: Any) -> Any:
    fresh = {name: statement.excluded[name] for name in _StoredResult.__dataclass_fields__}
    return statement.on_conflict_do_update(index_elements=["run_id", "study_id"], set_={**fresh, "changed_at": Now()})
