"""The Python API, for notebooks and scripts: the numbers of `bonescreen screen` without a database.

Errors are those of `xray.errors`; all descend from `BonescreenError`.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bonescreen.context import open_ledger, settings_here
from db import queries
from db.queries import ResultFilter, StudyRow
from training.explain.input_images import read_gray
from xray.errors import FileFault, UsageError
from xray.images.preprocessing import Preprocessing
from xray.network.card import Card
from xray.network.engine import Engine
from xray.network.heatmap import render_heat_map, scale_note
from xray.network.open_engine import open_engine_here
from xray.network.package import ModelPackage, load_package
from xray.thresholds import is_unlike, label_of
from xray.vocabulary import REASON_TEXT, RESEARCH_NOTICE, UNLIKE, Label

if TYPE_CHECKING:
    from pandas import DataFrame

ImageSource = str | Path | NDArray[np.uint8]
"""An image file, or gray pixels ``uint8 (H, W)`` with bone bright, as `load_image` returns them."""

Value = TypeVar("Value")

IMAGES_AT_ONCE = 32
"""Images of a list that are decoded and given to the engine together, so that memory does not grow with the list."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's prediction for one image; equal only to itself.

    Attributes
    ----------
    probability : float
        Calibrated probability of the finding, in [0, 1].
    label : {"positive", "negative"} or None
        Positive at or above the model's image threshold; None if the image is out of scope.
    logit : float
        The network's output before calibration.
    cam : ndarray of float32, (h, w)
        Signed class activation map over the network's square input, in units of the logit.
    distance : float or None
        How unlike the model's training images the image is; None if the model does not tell.
    """

    probability: float
    label: Label | None
    logit: float
    cam: NDArray[np.float32] = field(repr=False)
    distance: float | None
    _image: ImageSource = field(repr=False)
    _card: Card = field(repr=False)

    @property
    def in_scope(self) -> bool:
        """False if the image is too unlike the model's training images for its probability to mean anything."""
        return not is_unlike(self.distance, self._card.distance_threshold)

    def heat_map(self, *, own_scale: bool = False) -> Image.Image:
        """Draw the image, and beside it the same image under its heat map, as `bonescreen heatmap` does.

        An image given as a file is read again. Of an image out of scope, the picture says that it is.

        Parameters
        ----------
        own_scale : bool
            End the colours at the image's own highest value, which the picture then says.

        Returns
        -------
        PIL.Image.Image
            RGB. Negative CAM values are not drawn; the colour scale is the model's, the same for all images, unless
            `own_scale`.

        References
        ----------
        Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv:1610.02391.
        """
        label = self._card.worded(self.label) if self.label else f"out of scope: {UNLIKE}"
        note = scale_note(
            self.cam, self._card.heat_map_scale, positive=self.label is Label.POSITIVE, own_scale=own_scale
        )
        name = [] if isinstance(self._image, np.ndarray) else [Path(self._image).name]
        model = f"{self._card.name} {self._card.version}"
        return render_heat_map(
            _gray(self._image),
            self.cam,
            preprocessing=Preprocessing.from_id(self._card.preprocessing),
            scale=self._card.heat_map_scale,
            own_scale=own_scale,
            caption=[
                *name,
                f"{label}, probability {self.probability:.3f} ({model})",
                *([note] if note else []),
                RESEARCH_NOTICE,
            ],
        )


class Model:
    """A model package, loaded into an engine; made by `load_model`.

    Attributes
    ----------
    package : ModelPackage
        The package's folder, card and digest.
    card : Card
        Finding, body parts in scope, thresholds, metrics, training data and limits.
    """

    def __init__(self, package: ModelPackage, engine: Engine) -> None:
        self.package = package
        self.card = package.card
        self._engine = engine
        self._preprocessing = Preprocessing.from_id(package.card.preprocessing)

    def __repr__(self) -> str:
        return f"Model({self.card.name} {self.card.version}, {self._engine.name}, digest {self.package.digest[:12]})"

    @overload
    def predict(self, images: ImageSource) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is iterable, too

    @overload
    def predict(self, images: Iterable[ImageSource]) -> list[Prediction]: ...

    def predict(self, images: ImageSource | Iterable[ImageSource]) -> Prediction | list[Prediction]:
        """Predict the finding for one image or several.

        Parameters
        ----------
        images : str, Path or ndarray of uint8 (H, W), or an iterable of these
            Image files in any format that screening reads, or gray pixels as `load_image` returns them.

        Returns
        -------
        Prediction or list of Prediction
            One for one image, a list for several, in their order. The numbers are those of `bonescreen screen`.

        Raises
        ------
        FileFault
            A file cannot be read as a radiograph; the error's note names it.
        UsageError
            There is no such file, an array is not ``uint8 (H, W)`` or is empty, or an image is none of these.
        ArchiveOutage
            The storage of a file does not answer.
        """
        if isinstance(images, (str, Path, np.ndarray)):
            return self._predict_group([images])[0]
        if isinstance(images, bytes | bytearray) or not isinstance(images, Iterable):
            raise _not_an_image(images)
        source = iter(images)
        groups = iter(lambda: list(islice(source, IMAGES_AT_ONCE)), [])
        return [prediction for group in groups for prediction in self._predict_group(group)]

    def _predict_group(self, images: Sequence[ImageSource]) -> list[Prediction]:
        inputs = np.stack([self._preprocessing.apply(_gray(image)) for image in images])
        inference = self._engine.infer(inputs)
        probabilities = self.card.probability(inference.logits)
        distances = [None] * len(images) if inference.distances is None else inference.distances.tolist()
        threshold, farthest = self.card.image_threshold.value, self.card.distance_threshold
        return [
            Prediction(
                probability=float(probability),
                label=None if is_unlike(distance, farthest) else label_of(probability, threshold),
                logit=float(logit),
                cam=cam,
                distance=distance,
                _image=image,
                _card=self.card,
            )
            for image, probability, logit, cam, distance in zip(
                images, probabilities, inference.logits, inference.cams, distances, strict=True
            )
        ]


def load_model(name_or_path: str | Path) -> Model:
    """Load a model package and check its network against the golden outputs.

    The engine is the one that ``BONESCREEN_ENGINE`` names; derived graphs are kept in ``BONESCREEN_HOME``.

    Parameters
    ----------
    name_or_path : str or Path
        Name of an installed package (``bonescreen models list``), or a package's folder.

    Returns
    -------
    Model

    Raises
    ------
    PackageError
        There is no such package, or it is damaged.
    UsageError
        The engine's libraries are not installed.
    """
    settings = settings_here()
    package = load_package(name_or_path)
    return Model(package, open_engine_here(package, settings))


def load_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file to gray at its full size, as screening does.

    Parameters
    ----------
    path : str or Path
        A PNG, JPEG, TIFF or DICOM file.

    Returns
    -------
    ndarray of uint8, (H, W)
        Bone bright, pixels square.

    Raises
    ------
    UsageError
        There is no such file.
    FileFault
        The file cannot be read as a radiograph; the error's note names it.
    ArchiveOutage
        The storage does not answer.
    """
    try:
        return read_gray(path)
    except FileFault as fault:
        fault.add_note(f"{path}: {REASON_TEXT[fault.reason]}")
        raise


@overload
def results(
    run: int | None = None,
    *,
    flagged: bool = ...,
    min_score: float | None = ...,
    threshold: float | None = ...,
    body_part: str | None = ...,
    label: str | None = ...,
    limit: int | None = ...,
    as_frame: Literal[False] = ...,
) -> list[StudyRow]: ...


@overload
def results(
    run: int | None = None,
    *,
    flagged: bool = ...,
    min_score: float | None = ...,
    threshold: float | None = ...,
    body_part: str | None = ...,
    label: str | None = ...,
    limit: int | None = ...,
    as_frame: Literal[True],
) -> "DataFrame": ...


def results(
    run: int | None = None,
    *,
    flagged: bool = False,
    min_score: float | None = None,
    threshold: float | None = None,
    body_part: str | None = None,
    label: str | None = None,
    limit: int | None = None,
    as_frame: bool = False,
) -> "list[StudyRow] | DataFrame":
    """Return the studies that have been screened, the highest score first, as `bonescreen results` lists them.

    Reads the database that the ``BONESCREEN_*`` settings name.

    Parameters
    ----------
    run : int, optional
        One run; by default the newest of each archive.
    flagged : bool
        Only studies at or above the study threshold.
    min_score : float, optional
        Only studies with at least this score, in [0, 1].
    threshold : float, optional
        A study threshold to use instead of the model's, in [0, 1].
    body_part : str, optional
        Only studies that show this body part, such as ``"WRIST"``.
    label : {"positive", "negative"}, optional
        Only studies with this predicted label.
    limit : int, optional
        At most this many.
    as_frame : bool
        Return a pandas DataFrame, one row a study; pandas must be installed.

    Returns
    -------
    list of StudyRow, or DataFrame
        Empty if no study matches.

    Raises
    ------
    UsageError
        An argument is not as described, there is no such run, no such body part is known, nothing has been screened
        yet, or pandas is not installed.
    DatabaseOutage
        The database does not answer.
    """
    wanted = ResultFilter(
        run=_checked("run", queries.as_count, run),
        flagged=flagged,
        min_score=_checked("min_score", queries.as_score, min_score),
        threshold=_checked("threshold", queries.as_score, threshold),
        body_part=_checked("body_part", _as_text, body_part),
        label=_checked("label", _as_label, label),
        limit=_checked("limit", queries.as_count, limit),
    )
    listed = _list_studies(wanted)
    if not as_frame:
        return listed
    try:
        from pandas import DataFrame
    except ModuleNotFoundError as error:
        raise UsageError("as_frame=True needs pandas: pip install pandas") from error
    return DataFrame([asdict(row) for row in listed], columns=list(StudyRow.__dataclass_fields__))


def _checked(name: str, check: Callable[[object], Value], value: object) -> Value | None:
    try:
        return None if value is None else check(value)
    except UsageError as error:
        raise UsageError(f"{name} {error}") from error


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError("must be a text")
    return value


def _as_label(value: object) -> Label:
    if not isinstance(value, str) or value not in set(Label):
        raise UsageError(f"{value!r} is neither positive nor negative")
    return Label(value)


def _list_studies(wanted: ResultFilter) -> list[StudyRow]:
    settings = settings_here()
    with open_ledger(settings) as database:
        runs = queries.find_runs(database, wanted.run)
        if wanted.body_part is not None:
            queries.check_body_part(database, wanted.body_part, runs, "body_part")
        with closing(queries.results(database, replace(wanted, keep=settings.keep))) as rows:
            return list(rows)


def _gray(image: ImageSource) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        return load_image(image)
    if not isinstance(image, np.ndarray):
        raise _not_an_image(image)
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        raise UsageError(
            f"an image is uint8 (H, W), not empty, as load_image returns it, not {image.dtype} {image.shape}"
        )
    return image


def _not_an_image(value: object) -> UsageError:
    return UsageError(f"an image is a file (str or Path) or an array of uint8 (H, W), not {type(value).__name__}")
