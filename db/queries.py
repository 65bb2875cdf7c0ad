"""Queries about results for commands, exports and pages: studies, images and failures. Nothing here writes."""

import heapq
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Real
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    null,
    select,
)

from db.assessment import STATUSES_WITH_SCORE, image_states
from db.run_queries import RunSummary, newest_run_ids, newest_runs, run_summary, run_totals
from db.session import Database, one_of
from db.study_results import COUNTED_AS, model_of, read_study_images
from db.tables import archives, contents, images, models, outcomes, predictions, runs, scans, studies, study_results
from xray.errors import UsageError
from xray.thresholds import is_unlike, label_of
from xray.vocabulary import BODY_PARTS, KEEP, ImageState, Label, StudyStatus

KEPT_COLUMN = {"date": "study_date"}
"""The column of each that has another name than it is asked for by."""

STUDIES_AT_ONCE = 200
"""Studies whose images are read at once, while images are streamed."""

LARGEST_NUMBER = 2**63 - 1
"""The largest integer that a database column stores."""


@dataclass(frozen=True)
class StudyRow:
    """One study in one run; `score` in [0, 1] is the mean of its images' probabilities (as in the MURA paper).

    `db.assessment` says which images count; `highest` is the highest of their probabilities. Both are None if the study
    is pending, not assessable or out of scope. `patients` is above 1 if its images are of several patients. `accession`
    to `path` are None unless `ResultFilter.keep` names them; `modality` and `path` are those of its first image.
    `changed_at` is when its result last changed, in seconds since 1970.
    """

    run: int
    study: str
    body_part: str | None
    human_label: str | None
    status: str
    score: float | None
    label: str | None
    flagged: bool
    images: int
    failed: int
    model: str
    precision: str
    highest: float | None
    patients: int | None
    accession: str | None
    study_date: str | None
    modality: str | None
    path: str | None
    changed_at: float | None


@dataclass(frozen=True)
class ImageRow:
    """One current image of a study in one run: with a prediction, with a failure, or not processed yet.

    `state` says how it counts in its study's score (`ImageState`). `label` is predicted: positive if the probability is
    at least the model's image threshold. It is None if the image is out of scope. `reason` says why it failed; `detail`
    what exactly, or of an image that was read, what of its file was wrong and read otherwise.

    `cam` is a signed class activation map, float16 row-major, of shape `cam_shape`. `distance` says how unlike the
    model's training images it is, and `distance_threshold` from where on it is out of scope; None if the model does not
    tell.
    """

    image_id: int
    image: str
    archive: str
    body_part: str | None
    view: str | None
    laterality: str | None
    series: str | None
    modality: str | None
    intent: str | None
    state: str
    label: str | None
    probability: float | None
    logit: float | None
    cam: bytes | None
    cam_shape: tuple[int, int] | None
    reason: str | None
    detail: str | None
    sha256: str | None
    distance: float | None
    distance_threshold: float | None

    @property
    def is_unlike(self) -> bool:
        """Whether it is too unlike the training images to be in scope."""
        return is_unlike(self.distance, self.distance_threshold)


@dataclass(frozen=True)
class Study:
    """One study in one run, with its images; `patient` is a keyed hash (32 hexadecimal digits) or None."""

    row: StudyRow
    digest: str
    patient: str | None
    images: list[ImageRow]


@dataclass(frozen=True)
class ResultFilter:
    """Which studies to list. None means all, except for `run`: each archive's newest run, so each study once.

    `threshold` replaces the model's study threshold. With `since` (seconds since 1970), only studies whose result has
    changed since. `keep` names what is shown besides, see `xray.settings.Settings`.
    """

    run: int | None = None
    flagged: bool = False
    min_score: float | None = None
    threshold: float | None = None
    body_part: str | None = None
    label: Label | None = None
    limit: int | None = None
    since: float | None = None
    keep: frozenset[str] = frozenset()


def as_count(number: object) -> int:
    """Return a run's number or a limit as a plain integer.

    Raises
    ------
    UsageError
        It is not a whole number, is below 1, or larger than a database column stores; the text begins with "must".
    """
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise UsageError("must be a whole number")
    count = int(number)
    if not 1 <= count <= LARGEST_NUMBER:
        allowed = "of at least 1" if count < 1 else f"from 1 to {LARGEST_NUMBER}"
        raise UsageError(f"must be a whole number {allowed}")
    return count


def as_score(score: object) -> float:
    """Return a score or threshold as a plain float.

    Raises
    ------
    UsageError
        It is not a number from 0 to 1; the text begins with "must".
    """
    if isinstance(score, bool) or not isinstance(score, Real) or not 0 <= float(score) <= 1:
        raise UsageError("must be a number from 0 to 1")
    return float(score)


def find_runs(database: Database, run: int | None) -> list[RunSummary]:
    """Summarise the runs that `results` lists: one, or by default each archive's newest.

    Raises
    ------
    UsageError
        There is no such run, or nothing has been screened yet.
    """
    found = [run_summary(database, number) for number in (newest_runs(database) if run is None else [run])]
    if not found:
        raise UsageError("nothing has been screened yet; run: bonescreen screen PATH")
    return found


def check_body_part(database: Database, body_part: str, listed: Sequence[RunSummary], option: str) -> str | None:
    """Check that some images of the listed runs show a body part.

    Parameters
    ----------
    database : Database
    body_part : str
        In capitals or not.
    listed : sequence of RunSummary
        As `find_runs` returns them.
    option : str
        The name of the argument, for the error.

    Returns
    -------
    str or None
        A note for the user if no image shows this part.

    Raises
    ------
    UsageError
        No image shows it, and its name is none of `BODY_PARTS`.
    """
    present = list_body_parts(database, [summary.run for summary in listed])
    if body_part.upper() in present:
        return None
    known = f"body parts in these results: {', '.join(present)}" if present else "no body part is known of these images"
    if body_part.upper() not in BODY_PARTS:
        raise UsageError(f"{option} {body_part!r} is not known; {known}")
    return f"No image shows {body_part.upper()}; {known}."


def results(database: Database, wanted: ResultFilter) -> Generator[StudyRow, None, None]:
    """Stream studies by descending score; those without a score come last."""
    with database.read() as connection, closing(_stream_studies(connection, wanted)) as rows:
        yield from (study_row(row) for row in islice(rows, wanted.limit))


def _stream_studies(connection: Connection, wanted: ResultFilter) -> Generator[dict[str, Any], None, None]:
    with ExitStack() as stack:
        run_ids = sorted(_listed_runs(connection, wanted), reverse=True)
        streams = [stack.enter_context(closing(_stream_run(connection, run_id, wanted))) for run_id in run_ids]
        yield from heapq.merge(*streams, key=lambda row: (row["score"] is None, -(row["score"] or 0.0)))


def _listed_runs(connection: Connection, wanted: ResultFilter) -> Sequence[int]:
    if wanted.run is not None:
        return [wanted.run]
    return connection.execute(newest_run_ids()).scalars().all()


def _stream_run(connection: Connection, run_id: int, wanted: ResultFilter) -> Generator[dict[str, Any], None, None]:
    for selected in _select_matching(run_id, wanted):
        query = selected.limit(wanted.limit).execution_options(yield_per=1000)
        with connection.execute(query) as rows:
            for row in rows:
                yield row._asdict()


def count_results(database: Database, wanted: ResultFilter) -> dict[StudyStatus, int]:
    """Count by status the studies that `results` would list without a limit."""
    counted: Counter[StudyStatus] = Counter()
    with database.read() as connection:
        for run_id in _listed_runs(connection, wanted):
            own_threshold = wanted.threshold is None or (not wanted.flagged and wanted.label is None)
            if own_threshold and wanted.min_score is None and wanted.body_part is None and wanted.since is None:
                counted.update(_kept_counts(run_totals(connection, run_id), wanted))
                continue
            for row in connection.execute(_select_status_counts(run_id, wanted)):
                counted[StudyStatus(row.status)] += row.studies
    return {status: number for status, number in counted.items() if number}


def _select_status_counts(run_id: int, wanted: ResultFilter) -> Select[str, int]:
    status = _status().label("status")
    counted = select(status, func.count().label("studies")).group_by(status)
    if wanted.body_part is None:
        counted = counted.where(study_results.c.run_id == run_id)
    else:
        archive_id = select(runs.c.archive_id).where(runs.c.id == run_id).scalar_subquery()
        shown = (images.c.archive_id == archive_id, images.c.current, images.c.body_part == wanted.body_part.upper())
        of_part = select(images.c.study_id).where(*shown).distinct().subquery()
        result = and_(study_results.c.run_id == run_id, study_results.c.study_id == of_part.c.study_id)
        counted = counted.select_from(of_part).outerjoin(study_results, result)
    return counted.where(*_score_conditions(wanted), *_time_conditions(wanted))


def _kept_counts(totals: Mapping[str, int], wanted: ResultFilter) -> dict[StudyStatus, int]:
    """Return the counts of the studies of each status that are wanted by flag or label only."""
    every = {status: totals[column] for status, column in COUNTED_AS.items()}
    flagged = {status: totals[f"flagged_{COUNTED_AS[status]}"] for status in STATUSES_WITH_SCORE}
    if wanted.label is Label.NEGATIVE:
        negative = every[StudyStatus.SCORED] - flagged[StudyStatus.SCORED]
        return {} if wanted.flagged else {StudyStatus.SCORED: negative}
    if wanted.flagged or wanted.label is Label.POSITIVE:
        return flagged
    return {**every, StudyStatus.PENDING: totals["studies"] - sum(every.values())}


def list_body_parts(database: Database, run_ids: Sequence[int]) -> list[str]:
    """List the body parts that the images of some runs show, each once, in alphabetical order."""
    found: set[str] = set()
    with database.read() as connection:
        archive_ids = connection.execute(select(runs.c.archive_id).where(runs.c.id.in_(run_ids)).distinct()).scalars()
        for archive_id in archive_ids.all():
            # One look into the index for each part: SELECT DISTINCT would read every image.
            first = select(func.min(images.c.body_part)).where(images.c.archive_id == archive_id, images.c.current)
            part = connection.execute(first).scalar_one()
            while part is not None:
                found.add(part)
                part = connection.execute(first.where(images.c.body_part > part)).scalar_one()
    return sorted(found)


def find_study(database: Database, key: str, run_id: int | None = None) -> list[Study]:
    """Return a study by its key, or by an unambiguous end of its key: once for each run, the last scanned first.

    Raises
    ------
    UsageError
        No study matches the key, or more than one does.
    """
    with database.read() as connection:
        rows = _rows_of_study(connection, key, run_id)
        if not rows:
            where = "in the database" if run_id is None else f"in run {run_id}"
            raise UsageError(f"no study {key!r} {where}; see: bonescreen results")
        return [read_study(connection, row) for row in rows]


def study_of_image(database: Database, image_id: int) -> int | None:
    """Return the id of the study that an image belongs to, or None if there is no such image."""
    with database.read() as connection:
        return connection.execute(select(images.c.study_id).where(images.c.id == image_id)).scalar_one_or_none()


def row_of_study(connection: Connection, run_id: int, study_id: int) -> RowMapping:
    """Return the columns of `result_columns`, with all that is kept, of a study in a run.

    Raises
    ------
    UsageError
        The run has no such study.
    """
    row = None
    if 1 <= run_id <= LARGEST_NUMBER and 1 <= study_id <= LARGEST_NUMBER:
        query = select_studies(result_columns(KEEP), run_id, [study_id])
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise UsageError(f"run {run_id} has no study {study_id}; see: bonescreen results --run {run_id}")
    return row


def read_study(connection: Connection, row: Mapping[Any, Any]) -> Study:
    """Read the images of a study, of which `row` has the columns of `result_columns`."""
    found = _read_images(connection, row["run"], [row["study_id"]], row["image_threshold"])
    return Study(study_row(row), row["digest"], row["patient"], found.get(row["study_id"], []))


def _rows_of_study(connection: Connection, key: str, run_id: int | None) -> Sequence[RowMapping]:
    last_scan = select(func.max(scans.c.id)).where(scans.c.run_id == runs.c.id).scalar_subquery()
    every = _select_studies(result_columns(frozenset(KEEP))).order_by(last_scan.desc())
    if run_id is not None:
        every = every.where(runs.c.id == run_id)
    exact = connection.execute(every.where(studies.c.key == key)).mappings().all()
    if exact:
        return exact
    ends_with_key = studies.c.key.endswith("/" + key, autoescape=True)
    matching = every.with_only_columns(studies.c.key).where(ends_with_key).order_by(None).distinct().limit(6)
    keys = list(connection.execute(matching).scalars())
    if len(keys) > 1:
        raise UsageError(f"{key!r} matches more than one study; give one of: " + ", ".join(sorted(keys)[:5]))
    return connection.execute(every.where(studies.c.key.in_(keys))).mappings().all()


def _select_matching(run_id: int, wanted: ResultFilter) -> Iterator[Select[tuple[Any, ...]]]:
    """Select the studies of a run that have a score, the highest first, then those without one that are wanted too."""
    columns, score, conditions = (
        result_columns(wanted.keep, wanted.threshold),
        study_results.c.score,
        _score_conditions(wanted),
    )
    by_score = _join_study(select(*columns).select_from(study_results)).order_by(score.desc(), studies.c.key)
    by_score = by_score.where(
        runs.c.id == run_id, study_results.c.run_id == run_id, *conditions or [score.is_not(None)]
    )
    without = _select_studies(columns).where(runs.c.id == run_id, score.is_(None)).order_by(studies.c.key)
    if changed := _time_conditions(wanted):
        by_score, without = by_score.where(*changed), without.where(*changed)
    if wanted.body_part is not None:
        shown = ("," + studies.c.body_parts + ",").contains(f",{wanted.body_part.upper()},", autoescape=True)
        by_score, without = by_score.where(shown), without.where(shown)
    yield by_score
    if not conditions:
        yield without


def _score_conditions(wanted: ResultFilter) -> list[ColumnElement[bool]]:
    """Return what is asked of a study's score, by which it must have one; nothing if studies without one count too."""
    flagged, conditions = _is_flagged(wanted.threshold), []
    if wanted.flagged or wanted.label is Label.POSITIVE:
        conditions.append(flagged)
    if wanted.label is Label.NEGATIVE:
        conditions += [study_results.c.status == StudyStatus.SCORED, ~flagged, study_results.c.score.is_not(None)]
    if wanted.min_score is not None:
        conditions.append(study_results.c.score >= wanted.min_score)
    return conditions


def _time_conditions(wanted: ResultFilter) -> list[ColumnElement[bool]]:
    return [] if wanted.since is None else [study_results.c.changed_at >= wanted.since]


def _join_study(selected: Select[tuple[Any, ...]]) -> Select[tuple[Any, ...]]:
    return (
        selected.join(studies, studies.c.id == study_results.c.study_id)
        .join(runs, runs.c.id == study_results.c.run_id)
        .join(models, models.c.id == runs.c.model_id)
    )


def select_studies(
    columns: Sequence[ColumnElement[Any]], run_id: int, study_ids: Sequence[int] | None = None
) -> Select[tuple[Any, ...]]:
    """Select the studies of a run that have a current image, or those of them with these ids, with a result or not."""
    if study_ids is None:
        return _select_studies(columns).where(runs.c.id == run_id)
    # The sum keeps SQLite from reading the whole archive by the index on archive_id.
    these = _select_studies(columns, studies.c.archive_id + 0 == runs.c.archive_id)
    return these.where(runs.c.id == run_id, studies.c.id.in_(study_ids))


def _select_studies(
    columns: Sequence[ColumnElement[Any]], of_archive: ColumnElement[bool] = studies.c.archive_id == runs.c.archive_id
) -> Select[tuple[Any, ...]]:
    """Select the studies of every run that have a current image, with a result or not."""
    return (
        select(*columns)
        .join_from(runs, studies, of_archive)
        .join(models, models.c.id == runs.c.model_id)
        .outerjoin(study_results, and_(study_results.c.run_id == runs.c.id, study_results.c.study_id == studies.c.id))
        .where(exists().where(_CURRENT_IMAGE))
    )


_CURRENT_IMAGE = and_(images.c.study_id == studies.c.id, images.c.current)


def _status() -> ColumnElement[str]:
    return func.coalesce(study_results.c.status, StudyStatus.PENDING)


def _is_flagged(threshold: float | None) -> ColumnElement[bool]:
    # In SQL as in `xray.thresholds.is_positive`.
    return study_results.c.flagged if threshold is None else study_results.c.score >= threshold


def result_columns(keep: Collection[str] = (), threshold: float | None = None) -> list[ColumnElement[Any]]:
    """Return what `study_row` and `read_study` need of a study; `keep` and `threshold` as in `ResultFilter`."""
    flagged = func.coalesce(_is_flagged(threshold), false())
    label = case(
        (flagged, literal(Label.POSITIVE.value)),
        # Only a study whose images were all read may be called negative.
        (study_results.c.status == StudyStatus.SCORED, literal(Label.NEGATIVE.value)),
        else_=null(),
    )
    image_count = select(func.count()).where(_CURRENT_IMAGE).scalar_subquery()
    kept = {
        "accession": studies.c.accession,
        "date": studies.c.study_date,
        "modality": select(func.min(images.c.modality)).where(_CURRENT_IMAGE).scalar_subquery(),
        "path": select(func.min(images.c.path)).where(_CURRENT_IMAGE).scalar_subquery(),
    }
    shown = [(kept[name] if name in keep else null()).label(KEPT_COLUMN.get(name, name)) for name in KEEP]
    return [
        runs.c.id.label("run"),
        studies.c.id.label("study_id"),
        studies.c.key.label("study"),
        studies.c.body_parts.label("body_part"),
        studies.c.human_label,
        _status().label("status"),
        study_results.c.score,
        study_results.c.highest,
        label.label("label"),
        flagged.label("flagged"),
        func.coalesce(study_results.c.images, image_count).label("images"),
        func.coalesce(study_results.c.failed, 0).label("failed"),
        (models.c.name + " " + models.c.version).label("model"),
        models.c.precision,
        models.c.digest,
        models.c.image_threshold,
        studies.c.patient,
        studies.c.patients,
        *shown,
        study_results.c.changed_at,
    ]


def study_row(values: Mapping[Any, Any]) -> StudyRow:
    """Return what the columns of `result_columns` say of a study."""
    fields = {name: values[name] for name in StudyRow.__dataclass_fields__}
    fields["flagged"] = bool(fields["flagged"])
    return StudyRow(**fields)


def _read_images(
    connection: Connection, run_id: int, study_ids: Sequence[int], threshold: float
) -> dict[int, list[ImageRow]]:
    """Read the images of studies, by path, and how each counts."""
    model = model_of(connection, run_id)
    states: dict[int, ImageState] = {}
    for held in read_study_images(connection, run_id, model.id, study_ids).values():
        states.update(zip(held, image_states(list(held.values()), model.scope), strict=True))
    found: dict[int, list[ImageRow]] = {}
    for row in connection.execute(_select_images(connection, run_id, study_ids)):
        values = row._asdict()
        image = _image_row(values, states.get(values["image_id"], ImageState.PENDING), threshold)
        found.setdefault(values.pop("study_id"), []).append(image)
    return found


def _select_images(connection: Connection, run_id: int, study_ids: Sequence[int]) -> Select[tuple[object, ...]]:
    return (
        select(
            images.c.id.label("image_id"),
            images.c.study_id,
            images.c.path,
            archives.c.name.label("archive"),
            *(images.c[name] for name in ("body_part", "view", "laterality", "series", "modality", "intent")),
            *(predictions.c[name] for name in ("probability", "logit", "cam", "cam_rows", "cam_columns", "distance")),
            models.c.distance_threshold,
            outcomes.c.reason,
            outcomes.c.detail,
            contents.c.sha256,
        )
        .join_from(images, archives, archives.c.id == images.c.archive_id)
        .join(runs, runs.c.id == run_id)
        .join(models, models.c.id == runs.c.model_id)
        .outerjoin(outcomes, and_(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id))
        .outerjoin(contents, contents.c.id == outcomes.c.content_id)
        .outerjoin(
            predictions,
            and_(predictions.c.content_id == outcomes.c.content_id, predictions.c.model_id == runs.c.model_id),
        )
        .where(one_of(connection, images.c.study_id, study_ids), images.c.current)
        .order_by(images.c.path)
    )


def _image_row(values: dict[str, Any], state: ImageState, threshold: float) -> ImageRow:
    rows, digest = values["cam_rows"], values["sha256"]
    has_label = values["probability"] is not None and state is not ImageState.OUT_OF_SCOPE
    described = {name: values[name] for name in ImageRow.__dataclass_fields__ if name in values}
    return ImageRow(
        image=values["path"],
        state=state,
        label=label_of(values["probability"], threshold) if has_label else None,
        cam_shape=None if rows is None else (rows, values["cam_columns"]),
        **{**described, "sha256": None if digest is None else bytes(digest).hex()},
    )


@dataclass(frozen=True)
class ImageResult:
    """One image in one run, with its study: what `ImageRow` says of it, and its study's status and score."""

    run: int
    study: str
    image: str
    body_part: str | None
    view: str | None
    laterality: str | None
    modality: str | None
    intent: str | None
    state: str
    probability: float | None
    label: str | None
    reason: str | None
    detail: str | None
    study_status: str
    study_score: float | None
    model: str
    precision: str
    accession: str | None
    study_date: str | None
    distance: float | None
    distance_threshold: float | None


def image_results(database: Database, wanted: ResultFilter) -> Generator[ImageResult, None, None]:
    """Stream the images of the studies that `results` streams, in that order; `wanted.limit` counts images."""
    with database.read() as connection, closing(_every_image(connection, wanted)) as found:
        yield from islice(found, wanted.limit)


def _every_image(connection: Connection, wanted: ResultFilter) -> Generator[ImageResult, None, None]:
    with closing(_stream_studies(connection, wanted)) as rows:
        while chunk := list(islice(rows, STUDIES_AT_ONCE)):
            held: dict[tuple[int, int], list[ImageRow]] = {}
            for run_id in {row["run"] for row in chunk}:
                of_run = [row for row in chunk if row["run"] == run_id]
                study_ids = [row["study_id"] for row in of_run]
                found = _read_images(connection, run_id, study_ids, of_run[0]["image_threshold"])
                held.update(((run_id, study_id), rows_of) for study_id, rows_of in found.items())
            for row in chunk:
                for image in held.get((row["run"], row["study_id"]), []):
                    yield _image_result(row, image)


def _image_result(study: Mapping[str, Any], image: ImageRow) -> ImageResult:
    fields = {name: getattr(image, name, study.get(name)) for name in ImageResult.__dataclass_fields__}
    return ImageResult(**{**fields, "study_status": study["status"], "study_score": study["score"]})
