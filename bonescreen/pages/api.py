"""The JSON API: what the pages show, and reviews and retries, for scripts; described by OpenAPI at ``/api/docs``."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bonescreen.continue_run import retry_failures
from bonescreen.installed_models import list_models
from bonescreen.pages.dependencies import Configured, Ledger, Number, Reviewer, Run
from bonescreen.pages.errors import CHANGES, CONFLICT, CREDENTIALS, EVERYWHERE, NOT_FOUND
from bonescreen.pictures import package_of
from db.comparison import ComparedStudy, compare_runs, count_labels
from db.failures import count_failures, page_of_failures
from db.queries import LARGEST_NUMBER, ImageRow, Study
from db.reviews import NOTE_CHARACTERS, REVIEWER_CHARACTERS, add_review, agreement, reviews_of
from db.reviews import Review as StoredReview
from db.run_queries import RunState, RunSummary, list_runs
from db.session import Database
from db.worklist import study_by_id, worklist
from db.worklist_search import WorklistFilter
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE, Decision, ImageState, Label, StudyStatus

MOST_ROWS = 1_000

router = APIRouter(prefix="/api/v1", responses=EVERYWHERE, dependencies=CREDENTIALS)


def _as_text(text: str) -> str:
    # PostgreSQL's texts hold any character but this one.
    if "\0" in text:
        raise ValueError("a text must not hold the character NUL")
    return text


def _as_seconds(moment: datetime) -> datetime:
    try:
        moment.timestamp()
    except (ValueError, OverflowError):
        raise ValueError("the time is too early or too late") from None
    return moment


Text = Annotated[str, AfterValidator(_as_text)]
Score = Annotated[float, Query(ge=0, le=1)]


class RunOut(BaseModel):
    """A run: one archive screened with one model version. `skipped` counts files by reason."""

    model_config = ConfigDict(title="Run")

    run: int
    archive: str
    root: str
    model: str
    digest: str
    precision: str
    finding: str
    study_threshold: float
    state: RunState
    studies: int
    images: int
    processed: int
    failed: int
    inferred: int
    flagged: int
    open_batches: int
    skipped: dict[str, int]
    gone: int
    priority: int
    percent: int
    created_at: datetime


class StudyOut(BaseModel):
    """A study's result in a run; `score` is the mean and `highest` the highest of its images' probabilities.

    The label is predicted: the model's, not a diagnosis.
    """

    model_config = ConfigDict(title="Study")

    study_id: int
    run: int
    study: str
    body_part: str | None
    human_label: str | None
    status: StudyStatus
    score: float | None
    highest: float | None
    label: Label | None
    flagged: bool
    images: int
    failed: int
    model: str
    precision: str
    patients: int | None
    accession: str | None
    study_date: str | None
    modality: str | None
    path: str | None


class ListedStudy(StudyOut):
    """A study of a worklist: `decision` is that of its newest review, `reviewers` how many people reviewed it.

    `is_outdated` tells that this review is of an earlier result, with another status or label.
    """

    model_config = ConfigDict(title="ListedStudy")

    decision: Decision | None
    reviewers: int
    is_outdated: bool


class Worklist(BaseModel):
    """A page of a worklist; `next` and `previous` are cursors, None where the list ends."""

    studies: list[ListedStudy]
    next: str | None
    previous: str | None
    notice: str = RESEARCH_NOTICE


class ImageOut(BaseModel):
    """An image of a study; `picture` and `heat_map` are the paths of its PNGs, None where there is none.

    An image is out of scope if its `distance`, how unlike the training images it is, exceeds `distance_threshold`.
    """

    model_config = ConfigDict(title="Image")

    image_id: int
    image: str
    archive: str
    body_part: str | None
    view: str | None
    laterality: str | None
    series: str | None
    modality: str | None
    intent: str | None
    state: ImageState
    label: Label | None
    probability: float | None
    logit: float | None
    reason: str | None
    detail: str | None
    sha256: str | None
    distance: float | None
    distance_threshold: float | None
    picture: str | None
    heat_map: str | None


class StudyWithImages(StudyOut):
    """A study's result in a run, and its images."""

    digest: str
    patient: str | None
    images_held: list[ImageOut]
    notice: str = RESEARCH_NOTICE


class ReviewOut(BaseModel):
    """A person's decision on a study's result; label, score and status are what the reviewer saw."""

    model_config = ConfigDict(title="Review")

    id: int
    run: int
    study_id: int
    study: str
    decision: Decision
    note: str | None
    reviewer: str
    reviewed_at: datetime
    label: Label | None
    score: float | None
    status: StudyStatus


class NewReview(BaseModel):
    """A review to add. Reviews are never changed: who has changed their mind adds another one.

    The reviewer is who is signed in; only where the pages have no users is a name needed.
    """

    model_config = ConfigDict(extra="forbid")

    decision: Decision
    note: str | None = Field(None, max_length=NOTE_CHARACTERS)
    reviewer: str | None = Field(None, min_length=1, max_length=REVIEWER_CHARACTERS)


class AgreementOut(BaseModel):
    """How far reviewers agree with a run's results; of each reviewer and study the newest review counts."""

    model_config = ConfigDict(title="Agreement")

    studies: int
    reviewed: int
    agree: int
    disagree: int
    unsure: int
    by_label: dict[Label, dict[Decision, int]]


class Comparison(BaseModel):
    """Two runs of one archive: how many studies each labels positive, and a page of those that both have labelled."""

    both_positive: int
    only_first: int
    only_second: int
    both_negative: int
    not_comparable: int
    studies: list[ComparedStudy]
    next: str | None
    notice: str = RESEARCH_NOTICE


class Failure(BaseModel):
    """An image that could not be read."""

    image_id: int
    image: str
    study_id: int
    study: str
    detail: str | None
    attempts: int


class Failures(BaseModel):
    """How many images of a run could not be read, by reason; and some of one reason, if one was asked for."""

    reasons: dict[str, int]
    images: list[Failure]


class Retried(BaseModel):
    """How many failed images will be read again."""

    retried: int


class ModelOut(BaseModel):
    """A model package that is installed; `problem` says why it cannot be used."""

    model_config = ConfigDict(title="Model")

    name: str
    in_use: bool
    problem: str | None
    version: str | None = None
    finding: str | None = None
    body_parts: list[str] | None = None
    digest: str | None = None


@router.get("/runs", tags=["runs"])
def get_runs(database: Ledger) -> list[RunOut]:
    """List all runs, the newest first."""
    return [_run(run) for run in list_runs(database)]


@router.get("/runs/{run}", tags=["runs"], responses=NOT_FOUND)
def get_run(run: Run) -> RunOut:
    """Return a run, with its progress."""
    return _run(run)


@router.get("/runs/{run}/studies", tags=["studies"], responses=NOT_FOUND)
def get_studies(
    run: Run,
    database: Ledger,
    settings: Configured,
    body_part: Annotated[Text | None, Query(max_length=100)] = None,
    label: Annotated[Label | None, Query(description="The predicted one.")] = None,
    flagged: bool = False,
    min_score: Score | None = None,
    max_score: Score | None = None,
    status: StudyStatus | None = None,
    reviewed: Annotated[bool | None, Query(description="The result as it is now: by somebody, or by nobody.")] = None,
    since: Annotated[
        Annotated[datetime, AfterValidator(_as_seconds)] | None,
        Query(description="Only results that are new or changed since then; without a zone, by the server's clock."),
    ] = None,
    text: Annotated[
        Text | None, Query(max_length=400, description="Part of a study's key or accession number.")
    ] = None,
    human_label: Label | None = None,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` or `previous` of another page.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> Worklist:
    """Return a page of a run's worklist: studies by descending score, those without one last."""
    wanted = WorklistFilter(
        run.run,
        body_part=body_part,
        label=label,
        flagged=flagged,
        min_score=min_score,
        max_score=max_score,
        status=status,
        reviewed=reviewed,
        since=None if since is None else since.timestamp(),
        text=text,
        human_label=human_label,
    )
    page = worklist(database, wanted, cursor, limit, settings.keep)
    listed = [
        ListedStudy(
            **asdict(each.row),
            study_id=each.study_id,
            decision=Decision(each.decision) if each.decision else None,
            reviewers=each.reviewers,
            is_outdated=each.is_outdated,
        )
        for each in page.rows
    ]
    return Worklist(studies=listed, next=page.next, previous=page.previous)


@router.get("/runs/{run}/studies/{study_id}", tags=["studies"], responses=NOT_FOUND)
def get_study(run: Run, study_id: Number, database: Ledger) -> StudyWithImages:
    """Return a study's result in a run, and its images."""
    study = _study(database, run.run, study_id)
    return StudyWithImages(
        **asdict(study.row),
        study_id=study_id,
        digest=study.digest,
        patient=study.patient,
        images_held=[_image(run.run, image) for image in study.images],
    )


@router.get("/runs/{run}/studies/{study_id}/reviews", tags=["reviews"], responses=NOT_FOUND)
def get_reviews(run: Run, study_id: Number, database: Ledger) -> list[ReviewOut]:
    """Return the reviews of a study in a run, the newest first."""
    _study(database, run.run, study_id)
    return [_review(review) for review in reviews_of(database, run.run, study_id)]


@router.post(
    "/runs/{run}/studies/{study_id}/reviews",
    tags=["reviews"],
    status_code=201,
    responses={**NOT_FOUND, **CONFLICT, **CHANGES},
)
def post_review(run: Run, study_id: Number, new: NewReview, database: Ledger, signed_in: Reviewer) -> ReviewOut:
    """Add a review of a study's result in a run."""
    if _study(database, run.run, study_id).row.status == StudyStatus.PENDING:
        raise HTTPException(409, "the study has no result yet; review it when it has one")
    if new.reviewer is None and signed_in is None:
        raise HTTPException(422, "a review needs its reviewer's name: give `reviewer`")
    if new.reviewer is not None and signed_in is not None and new.reviewer != signed_in:
        raise HTTPException(422, "a review is signed by who is signed in: leave out `reviewer`")
    name = signed_in or new.reviewer or ""
    return _review(add_review(database, run.run, study_id, name, new.decision, new.note))


@router.get("/runs/{run}/agreement", tags=["reviews"], responses=NOT_FOUND)
def get_agreement(run: Run, database: Ledger) -> AgreementOut:
    """Count how far reviewers agree with a run's results."""
    found = agreement(database, run.run)
    by_label = {label: dict(zip(Decision, counts, strict=True)) for label, counts in found.by_label.items()}
    return AgreementOut(**{**asdict(found), "by_label": by_label})


@router.get("/runs/{run}/compare/{other}", tags=["runs"], responses={**NOT_FOUND, **CONFLICT})
def get_comparison(
    run: Run,
    other: Number,
    database: Ledger,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of another page.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> Comparison:
    """Compare two runs of one archive: studies with different labels first, then by the difference of the scores."""
    try:
        counts = count_labels(database, run.run, other)
    except UsageError as error:
        raise HTTPException(409, str(error)) from error
    page = compare_runs(database, run.run, other, limit, cursor)
    return Comparison(**asdict(counts), studies=page.rows, next=page.next)


@router.get("/runs/{run}/failures", tags=["failures"], responses=NOT_FOUND)
def get_failures(
    run: Run,
    database: Ledger,
    reason: Annotated[Text | None, Query(max_length=100, description="List the images of this reason.")] = None,
    after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="List images with a higher `image_id`.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> Failures:
    """Count the images of a run that could not be read, by reason, and list those of one reason."""
    rows = [] if reason is None else page_of_failures(database, run.run, reason, after, limit)
    return Failures(reasons=count_failures(database, run.run), images=[Failure(**asdict(row)) for row in rows])


@router.post("/runs/{run}/retry", tags=["failures"], responses={**NOT_FOUND, **CONFLICT, **CHANGES})
def post_retry(run: Run, database: Ledger) -> Retried:
    """Let the failed images of a run be read again, once their files are repaired."""
    try:
        return Retried(retried=retry_failures(database, run))
    except UsageError as error:
        raise HTTPException(409, str(error)) from error


@router.get("/models", tags=["models"])
def get_models(settings: Configured) -> list[ModelOut]:
    """List the installed model packages."""
    return [
        ModelOut(**{name: value for name, value in model.items() if name != "path"}) for model in list_models(settings)
    ]


@router.get("/models/{digest}", tags=["models"], responses=NOT_FOUND)
def get_card(digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], settings: Configured) -> dict[str, Any]:
    """Return a model package's card: what it finds, in which body parts, how well, and its limits."""
    package = package_of(settings, digest)
    if package is None:
        raise HTTPException(404, "no model package here has this digest")
    return {**json.loads(package.card.to_json()), "digest": package.digest}


def _run(run: RunSummary) -> RunOut:
    values = {name: value for name, value in asdict(run).items() if name in RunOut.model_fields}
    return RunOut(**{**values, "percent": run.percent, "created_at": datetime.fromtimestamp(run.created_at, UTC)})


def _study(database: Database, run: int, study_id: int) -> Study:
    try:
        return study_by_id(database, run, study_id)
    except UsageError:
        raise HTTPException(404, f"run {run} has no study {study_id}") from None


def _image(run: int, image: ImageRow) -> ImageOut:
    at = f"/api/v1/images/{run}/{image.image_id}"
    return ImageOut(
        **{name: value for name, value in asdict(image).items() if name in ImageOut.model_fields},
        picture=None if image.sha256 is None else f"{at}/image.png",
        heat_map=None if image.cam is None or image.state is ImageState.OUT_OF_SCOPE else f"{at}/heatmap.png",
    )


def _review(review: StoredReview) -> ReviewOut:
    return ReviewOut(**{**asdict(review), "reviewed_at": datetime.fromtimestamp(review.reviewed_at, UTC)})
