"""The page of a study: its images with their heat maps, the model's result, and its review."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
from fastapi import APIRouter, Form, HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bonescreen.pages.dependencies import Configured, Ledger, Number, Reviewer, Run
from bonescreen.pages.rendering import render
from bonescreen.pages.users import check_name
from bonescreen.pages.worklist_filter import Asked, Listed
from bonescreen.pictures import cam_of, package_of
from bonescreen.results_table import why_out_of_scope
from db.queries import ImageRow, Study
from db.reviews import ResultChanged, Review, add_review, agreement, result_mark, reviews_of
from db.run_queries import RunSummary
from db.session import Database
from db.worklist import neighbours, study_by_id
from xray.errors import UsageError
from xray.settings import Settings
from xray.vocabulary import FOR_PROCESSING, Decision, ImageState, Label, StudyStatus, count, reason_text

if TYPE_CHECKING:
    from xray.network.card import Card

LEGEND_STEPS = 24

router = APIRouter(include_in_schema=False)


class Darkness(StrEnum):
    """How dark a heat map is: hardly visible on the common scale, or without any evidence."""

    DARK = "dark"
    EMPTY = "empty"


@dataclass(frozen=True)
class ImageView:
    """One image as the page shows it: `url` is None where there is no picture, and `why` says why."""

    id: int
    name: str
    shows: str
    probability: float | None
    url: str | None
    heat_url: str | None
    why: str | None
    darkness: Darkness | None
    notes: Sequence[str]


@router.get("/runs/{run}/studies/{study_id}")
def study_page(
    request: Request,
    run: Run,
    study_id: Number,
    listed: Asked,
    settings: Configured,
    database: Ledger,
    stored: int | None = None,
) -> Response:
    """Show a study; `stored` is the study whose review was stored last."""
    return _show(request, run, study_id, listed, settings, database, stored=stored)


@router.post("/runs/{run}/studies/{study_id}/reviews")
def review_study(
    request: Request,
    run: Run,
    study_id: Number,
    listed: Asked,
    settings: Configured,
    database: Ledger,
    reviewer: Reviewer,
    decision: Annotated[str, Form()] = "",
    note: Annotated[str, Form()] = "",
    name: Annotated[str, Form()] = "",
    saw: Annotated[str, Form()] = "",
    stay: Annotated[bool, Form()] = False,
) -> Response:
    """Store a review, and go on to the next study of the worklist."""
    # Before the review, by which the study may leave the list.
    following = _neighbours(database, listed, study_id)[1]
    # Browsers send the ends of lines as two characters, and count them as one.
    written = note.replace("\r\n", "\n").strip()
    try:
        if reviewer is None:
            reviewer = request.session["name"] = check_name(name.strip())
        if decision not in set(Decision):
            raise UsageError("choose one of: " + ", ".join(Decision))
        add_review(database, run.run, study_id, reviewer, Decision(decision), written or None, saw=saw)
    except UsageError as error:
        status = 409 if isinstance(error, ResultChanged) else 422
        return _show(
            request, run, study_id, listed, settings, database, problem=str(error), note=written, status=status
        )
    if stay:
        following = study_id
    if following is None:
        return RedirectResponse(f"/runs/{run.run}{listed.query(last='true')}", 303)
    return RedirectResponse(
        f"/runs/{run.run}/studies/{following}{listed.query(cursor=listed.cursor, stored=study_id)}", 303
    )


def _neighbours(database: Database, listed: Listed, study_id: int) -> tuple[int | None, int | None]:
    try:
        return neighbours(database, listed.wanted, study_id)
    except UsageError as error:
        raise HTTPException(404, str(error)) from None


def _show(
    request: Request,
    run: RunSummary,
    study_id: int,
    listed: Listed,
    settings: Settings,
    database: Database,
    *,
    stored: int | None = None,
    problem: str | None = None,
    note: str = "",
    status: int = 200,
) -> Response:
    previous, following = _neighbours(database, listed, study_id)
    study = study_by_id(database, run.run, study_id)
    reviews = reviews_of(database, run.run, study_id)
    package = package_of(settings, study.digest)
    card = package.card if package else None
    images = [_view(image, run.run, study, card) for image in study.images]
    return render(
        request,
        "study.html",
        status,
        run=run,
        study_id=study_id,
        row=study.row,
        saw=result_mark(study.row.status, study.row.score),
        digest=study.digest,
        images=images,
        across=across(len(images)),
        image_threshold=card.image_threshold.value if card else None,
        scale=legend_colours(),
        heat_maps=any(image.heat_url for image in images),
        has_package=card is not None,
        used=sum(image.state is ImageState.SCORED for image in study.images),
        caution=_caution(study),
        previous=previous,
        next=following,
        query=listed.here,
        has_filter=bool(listed.given),
        reviews=[(review, _earlier_result(review, study)) for review in reviews],
        mine=_newest_of(reviews, request.state.reviewer),
        agreement=agreement(database, run.run),
        decisions=[(decision, str(decision)[0]) for decision in Decision],
        stored=stored,
        problem=problem or listed.problem,
        note=note,
    )


def across(images: int) -> int:
    """Return how many of a study's images are beside each other: with more than three, as near a square as can be."""
    return min(images, 3) if images <= 3 else min(4, math.ceil(math.sqrt(images)))


def _newest_of(reviews: Sequence[Review], reviewer: str | None) -> Decision | None:
    return next((review.decision for review in reviews if review.reviewer == reviewer), None)


def _earlier_result(review: Review, study: Study) -> str | None:
    """Say what a reviewer saw, where it is no longer what the page shows."""
    row = study.row
    if (review.status, review.label) == (row.status, row.label):
        return None
    return str(review.label or review.status)


def _caution(study: Study) -> str | None:
    """Say of a study whose images were not all read, or that has no result, what that means."""
    row, status = study.row, StudyStatus(study.row.status)
    if row.patients is not None and row.patients > 1:
        return f"Its images are of {count(row.patients, 'patient')}, so it has no score: a study has one patient."
    match status:
        case StudyStatus.PENDING:
            return "Not screened yet."
        case StudyStatus.NOT_ASSESSABLE:
            return "No image could be read, so there is no result. That is not a negative one: look at it yourself."
        case StudyStatus.OUT_OF_SCOPE:
            return "The model does not know such images, so there is no result. That is not a negative one."
        case StudyStatus.INCOMPLETE:
            unread = f"{row.failed} of {count(row.images, 'image')} could not be read."
            if row.label == Label.POSITIVE:
                return f"{unread} The study is flagged by the others."
            return f"{unread} So the study is not called negative: look at it yourself."
        case StudyStatus.SCORED:
            return None


def _view(image: ImageRow, run_id: int, study: Study, card: "Card | None") -> ImageView:
    at = f"/api/v1/images/{run_id}/{image.image_id}"
    # Evidence of what the model does not know would read as a result, and there is none.
    has_heat_map = image.cam is not None and card is not None and image.state is not ImageState.OUT_OF_SCOPE
    return ImageView(
        id=image.image_id,
        name=image.image.removeprefix(f"{study.row.study}/"),
        shows=" ".join(filter(None, (image.modality, image.body_part, image.view, image.laterality))),
        probability=image.probability if image.state is ImageState.SCORED else None,
        url=None if image.sha256 is None else f"{at}/image.png",
        heat_url=f"{at}/heatmap.png" if has_heat_map else None,
        why=_why_not(image) if image.sha256 is None else None,
        darkness=_darkness(image, card),
        notes=list(_notes(image)),
    )


def _why_not(image: ImageRow) -> str:
    if image.reason is None:
        return "Not screened yet."
    detail = f" ({image.detail})" if image.detail else ""
    return f"Could not be read: {reason_text(image.reason)}{detail}"


def _notes(image: ImageRow) -> Iterator[str]:
    """Say why an image does not count, and what of its file was wrong."""
    match image.state:
        case ImageState.COPY:
            yield "Does not count: the same picture as another image of this study, which counts once."
        case ImageState.FOR_PROCESSING:
            yield "Does not count: a raw image (FOR PROCESSING), and there is a finished one of its view."
        case ImageState.OUT_OF_SCOPE:
            yield f"Does not count: out of scope: {why_out_of_scope(image)}."
        case ImageState.SCORED if image.intent == FOR_PROCESSING:
            yield "A raw image (FOR PROCESSING), scored as there is no finished one of its view."
    if image.reason is None and image.detail is not None:
        yield f"Read all the same: {image.detail}."


def _darkness(image: ImageRow, card: "Card | None") -> Darkness | None:
    """Tell whether nothing of a positive image's heat map can be seen on the scale of all images."""
    from xray.network.heatmap import is_dark

    if card is None or image.state is not ImageState.SCORED or image.label != Label.POSITIVE:
        return None
    cam = cam_of(image)
    if not is_dark(cam, card.heat_map_scale):
        return None
    return Darkness.DARK if cam.max(initial=0.0) > 0 else Darkness.EMPTY


@cache
def legend_colours() -> list[str]:
    """Return the heat map's colours over a mid-gray, from low to high evidence, as HTML writes them."""
    from xray.network.heatmap import blend

    shades = blend(np.full((1, LEGEND_STEPS, 3), 96, np.uint8), np.linspace(0, 1, LEGEND_STEPS)[None])
    return ["#" + bytes(shade).hex() for shade in shades[0]]
