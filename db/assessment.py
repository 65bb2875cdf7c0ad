"""The assessment of a study from its images: which of them count, and what follows for its score and status."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from xray.copies import find_copies
from xray.pseudonym import count_patients
from xray.thresholds import Scope, is_positive
from xray.vocabulary import FOR_PROCESSING, ImageState, StudyStatus

STATUSES_WITH_SCORE = (StudyStatus.SCORED, StudyStatus.INCOMPLETE)
"""Only studies of these statuses have a score in results and can be flagged."""

_SIDE: dict[str | None, str] = {"L": "L", "R": "R", "B": "B"}
"""Other lateralities, such as U for an unpaired part, tell no side."""

_DIRECTION: dict[str | None, str] = {
    **dict.fromkeys(("AP", "PA", "DP", "PD", "A P", "P A", "FRONTAL", "ANTEROPOSTERIOR", "POSTEROANTERIOR"), "FRONTAL"),
    **dict.fromkeys(("LAT", "LATERAL", "LL", "RL", "LM", "ML", "MEDIOLATERAL", "LATEROMEDIAL"), "LATERAL"),
    **dict.fromkeys(("OBL", "OBLIQUE", "RAO", "LAO", "RPO", "LPO", "LLO", "RLO"), "OBLIQUE"),
}
"""Words of one direction, as two images of an exposure may be named by different ones."""

MOST_COMPARED = 200
"""Images of a study whose pictures are compared: no examination has more, and many take long."""


@dataclass(frozen=True)
class StudyImage:
    """A current image of a study.

    Parameters
    ----------
    body_part, modality, intent, view, laterality, patient_mark : str or None
        As in `xray.archives.archive_file.Placement`.
    size : int
        Bytes of the file.
    processed : bool
        Whether it has an outcome.
    probability : float or None
        In [0, 1]; None without a prediction.
    content : int or None
        Files of equal bytes have the same one.
    picture : bytes or None
        Equal or nearly equal in copies, see `xray.copies`.
    distance : float or None
        How unlike the model's training images it is; None if that is unknown.
    """

    body_part: str | None
    modality: str | None
    intent: str | None
    view: str | None
    laterality: str | None
    patient_mark: str | None
    size: int
    processed: bool
    probability: float | None
    content: int | None
    picture: bytes | None
    distance: float | None = None


@dataclass(frozen=True)
class Assessment:
    """What follows from a study's images.

    Parameters
    ----------
    status : StudyStatus
        Whether it can be scored.
    score : float or None
        The mean probability of the images that count, in [0, 1]; None unless the status has a score.
    highest : float or None
        The highest of these probabilities; None where there is no score.
    flagged : bool
        Whether the score is at or above the study threshold.
    images, failed : int
        Images that it holds, and those of them that were processed and have no prediction.
    """

    status: StudyStatus
    score: float | None
    highest: float | None
    flagged: bool
    images: int
    failed: int


def assess(images: Sequence[StudyImage], scope: Scope, threshold: float) -> Assessment:
    """Assess a study by its images, at least one.

    - Images that the model does not apply to do not count, unless the study has no others: it is then out of scope.
    - An image FOR PROCESSING does not count beside another of the same view, as that shows the same exposure worked up.
    - Copies of one picture count once: the largest file, which is compressed least.
    - A study with images of several patients has no score, as it would be nobody's (PS3.3 C.7.2.1: a study has one
      patient).
    """
    failed = sum(image.processed and image.probability is None for image in images)
    if not all(image.processed for image in images):
        return Assessment(StudyStatus.PENDING, None, None, False, len(images), failed)
    states = image_states(images, scope)
    counted = [
        image.probability
        for image, state in zip(images, states, strict=True)
        if state is ImageState.SCORED and image.probability is not None
    ]
    status = _status(images, states, counted)
    has_score = status in STATUSES_WITH_SCORE
    score = fmean(counted) if has_score else None
    return Assessment(
        status,
        score,
        max(counted) if has_score else None,
        score is not None and is_positive(score, threshold),
        len(images),
        failed,
    )


def image_states(images: Sequence[StudyImage], scope: Scope) -> list[ImageState]:
    """Return how each image of a study counts, in their order."""
    states = [_state(image, images, scope) for image in images]
    scored = [n for n, state in enumerate(states) if state is ImageState.SCORED]
    several = count_patients(image.patient_mark for image in images) > 1
    for mark in {images[n].patient_mark for n in scored} if several else {None}:
        own = [n for n in scored if not several or images[n].patient_mark == mark]
        # Of equal size, the one that was found first.
        own.sort(key=lambda n: -images[n].size)
        for n in _copies(images, own):
            states[n] = ImageState.COPY
    return states


def _copies(images: Sequence[StudyImage], order: Sequence[int]) -> Iterator[int]:
    """Yield which of one patient's images are copies of one that comes before them in an order."""
    contents: set[int | None] = set()
    different: list[int] = []
    for n in order:
        content = images[n].content
        if content in contents:
            yield n
        else:
            different.append(n)
            contents.add(content)
    compared = different[:MOST_COMPARED]
    yield from (
        n for n, is_copy in zip(compared, find_copies([images[n].picture for n in compared]), strict=True) if is_copy
    )


def _state(image: StudyImage, images: Sequence[StudyImage], scope: Scope) -> ImageState:
    if not _is_in_scope(image, scope):
        return ImageState.OUT_OF_SCOPE
    if image.intent == FOR_PROCESSING and any(
        other.intent != FOR_PROCESSING and _is_in_scope(other, scope) and _is_same_view(image, other)
        for other in images
    ):
        return ImageState.FOR_PROCESSING
    if not image.processed:
        return ImageState.PENDING
    return ImageState.FAILED if image.probability is None else ImageState.SCORED


def _is_in_scope(image: StudyImage, scope: Scope) -> bool:
    return scope.includes(image.body_part, image.modality, image.distance)


def _is_same_view(one: StudyImage, other: StudyImage) -> bool:
    described = (
        (one.body_part, other.body_part),
        (_DIRECTION.get(one.view, one.view), _DIRECTION.get(other.view, other.view)),
        (_SIDE.get(one.laterality), _SIDE.get(other.laterality)),
    )
    return all(mine is None or theirs is None or mine == theirs for mine, theirs in described)


def _status(images: Sequence[StudyImage], states: Sequence[ImageState], counted: Sequence[float]) -> StudyStatus:
    if all(image.probability is None for image in images):
        return StudyStatus.NOT_ASSESSABLE
    if all(state is ImageState.OUT_OF_SCOPE for state in states):
        return StudyStatus.OUT_OF_SCOPE
    if not counted or count_patients(image.patient_mark for image in images) > 1:
        return StudyStatus.NOT_ASSESSABLE
    return StudyStatus.INCOMPLETE if ImageState.FAILED in states else StudyStatus.SCORED
