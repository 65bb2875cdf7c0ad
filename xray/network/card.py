"""A model package's card: its description as frozen dataclasses, stored as JSON and read strictly."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xray.errors import PackageError
from xray.thresholds import Scope
from xray.vocabulary import BODY_PARTS, RADIOGRAPHY, Label, Precision

SCHEMA = 4
_FIELDS_SINCE: dict[int, dict[str, Any]] = {
    2: {"precisions": []},
    3: {"modalities": list(RADIOGRAPHY)},
    4: {"pyramid": None, "distance": None},
}
"""What earlier cards lack, by the version that added it: they allow float32 alone, know plain radiographs, have the CAM
of the backbone's last feature map, and do not tell how unlike the training images an image is."""

_PRECISION_FIELDS_SINCE_4 = {"pointing_game": None, "fp32_pointing_game": None, "same_scope": None}
"""What lower precisions on earlier cards lack: there, maps were not compared, and no image was out of scope."""

MAX_LOWER_PRECISION_TOLERANCE = 0.3
"""In logits."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A cut-off: an image's probability or a study's score at or above ``value`` is positive.

    Attributes
    ----------
    value : float
        Calibrated probability, 0 to 1.
    chosen : str
        How the value was chosen, in words.
    """

    value: float
    chosen: str


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Platt scaling: probability = sigmoid(slope * logit + intercept), with a slope above 0.

    References
    ----------
    Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods", 1999.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        """Refuse a slope that would rank images differently from their logits."""
        # Written so that NaN fails too.
        if not self.slope > 0:
            raise PackageError(
                f"the calibration's slope is {self.slope:g}, and must be above 0: otherwise the images most like the "
                "finding get the lowest probabilities. Train the model again, or use another package"
            )

    def apply(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities in [0, 1] for logits of any shape, float64."""
        z = self.slope * np.asarray(logits, np.float64) + self.intercept
        # exp of a non-positive number never overflows.
        small = np.exp(-np.abs(z))
        return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """A data set that the weights were trained on, with its licence and terms of use."""

    name: str
    role: str
    licence: str
    terms: str
    attribution: str


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measured number, with its 95 % interval if it has one.

    Attributes
    ----------
    name : str
        Name of the metric, such as ``"AUROC"``.
    population : str
        The images or studies that it was measured on, in words.
    value : float
        The number.
    low, high : float or None
        The interval's ends; both or neither.
    """

    name: str
    population: str
    value: float
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        """Refuse an interval with one end."""
        if (self.low is None) != (self.high is None):
            raise PackageError(f"the metric {self.name!r} has one end of an interval but not the other")

    @property
    def interval(self) -> str:
        """The interval as text."""
        return "no interval" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"


@dataclasses.dataclass(frozen=True)
class Distance:
    """How unlike the training images an image may be to be in scope.

    Attributes
    ----------
    components : int
        Principal components of :class:`xray.network.distance.FeatureDistance`.
    threshold : float
        An image at a greater distance is out of scope.
    chosen : str
        How the threshold was chosen, in words.
    shares : tuple of Metric
        Shares of images beyond the threshold: of held-out images like the training images, where each is a false alarm,
        and of pictures of other things.
    """

    components: int
    threshold: float
    chosen: str
    shares: tuple[Metric, ...]

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.components <= 0 or self.threshold <= 0:
            raise PackageError("the distance's components and threshold must be positive")


@dataclasses.dataclass(frozen=True)
class LowerPrecision:
    """A precision below float32 that a package allows, compared with float32 on the same images.

    Attributes
    ----------
    precision : str
        ``"bf16"`` or ``"int8"``.
    tolerance : float
        The largest difference from the golden outputs in this precision, see
        :meth:`xray.network.engine.Inference.check_agrees`.
    population : str
        The images that the rest was measured on, in words.
    auroc, fp32_auroc : float
        AUROC in this precision and in float32.
    same_label : float
        Share of images with the same label at the image threshold, 0 to 1.
    mean_difference, largest_difference : float
        Absolute differences of the logits.
    pointing_game, fp32_pointing_game : float or None
        Share of positive images whose map points at the marked finding, in this precision and in float32, 0 to 1, see
        :mod:`training.evaluate.pointing`; None where no finding is marked.
    same_scope : float or None
        Share of images that are in scope by their distance in both or in neither, 0 to 1; None where there is none.
    """

    precision: str
    tolerance: float
    population: str
    auroc: float
    fp32_auroc: float
    same_label: float
    mean_difference: float
    largest_difference: float
    pointing_game: float | None
    fp32_pointing_game: float | None
    same_scope: float | None

    def __post_init__(self) -> None:
        """Refuse what is no lower precision, or a tolerance out of range."""
        if self.precision not in (Precision.BF16, Precision.INT8):
            raise PackageError(f"{self.precision!r} is no lower precision")
        if not 0 < self.tolerance <= MAX_LOWER_PRECISION_TOLERANCE:
            raise PackageError(f"the tolerance of {self.precision} is {self.tolerance:g}")


@dataclasses.dataclass(frozen=True)
class FeaturePyramid:
    """A finer feature map, computed from the backbone's last and an earlier one (Lin et al. 2017, arXiv:1612.03144).

    Attributes
    ----------
    layer : str
        The backbone's layer that gives the earlier feature map.
    channels : int
        Channels of the finer map.
    """

    layer: str
    channels: int

    def __post_init__(self) -> None:
        """Refuse a map without channels."""
        if self.channels <= 0:
            raise PackageError("the channels of a feature pyramid must be positive")

    def __str__(self) -> str:
        return f"{self.channels} channels, from {self.layer} and the last layer"


@dataclasses.dataclass(frozen=True)
class Card:
    """A model package's card.

    Attributes
    ----------
    schema : int
        Version of the card's format.
    name, version : str
        Name and version of the package.
    backbone : str
        Name of the ``keras.applications`` model, or of one of our own in the same form.
    head : tuple of int
        Widths of the head's two hidden layers.
    pyramid : FeaturePyramid or None
        The finer map that the head attends to and the CAM is drawn on; None for the backbone's last feature map.
    finding, wording : str
        The finding (``"fracture"``), and the words for a positive result (``"positive: fracture"``).
    body_parts : tuple of str
        Body parts in scope, as DICOM Body Part Examined terms; images of others are out of scope.
    modalities : tuple of str
        Modalities in scope, as DICOM Modality terms; images of others are out of scope.
    input_size : int
        Side of the square input, pixels.
    preprocessing : str
        Id of the preprocessing, see :class:`xray.images.preprocessing.Preprocessing`.
    image_threshold, study_threshold : Threshold
        Cut-offs on calibrated probabilities.
    calibration : Calibration
        From logits to probabilities.
    distance : Distance or None
        How unlike the training images an image may be; None if the network does not tell.
    heat_map_scale : float
        The CAM value, in units of the logit, at the top of the heat map's colour scale.
    training_data : tuple of TrainingData
        The data sets that the weights were trained on.
    metrics : tuple of Metric
        The measured performance, in float32.
    precisions : tuple of LowerPrecision
        The precisions that are allowed besides float32.
    limits : tuple of str
        Limitations that a user must know.
    command : str
        The command that made the package.
    files : mapping of str to str
        SHA-256 of each other file in the package, hexadecimal, by file name.
    """

    schema: int
    name: str
    version: str
    backbone: str
    head: tuple[int, int]
    pyramid: FeaturePyramid | None
    finding: str
    wording: str
    body_parts: tuple[str, ...]
    modalities: tuple[str, ...]
    input_size: int
    preprocessing: str
    image_threshold: Threshold
    study_threshold: Threshold
    calibration: Calibration
    distance: Distance | None
    heat_map_scale: float
    training_data: tuple[TrainingData, ...]
    metrics: tuple[Metric, ...]
    precisions: tuple[LowerPrecision, ...]
    limits: tuple[str, ...]
    command: str
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        unknown = [part for part in self.body_parts if part not in BODY_PARTS]
        if self.schema != SCHEMA:
            raise PackageError(f"schema version {self.schema} is not known (known: {SCHEMA})")
        if unknown:
            raise PackageError(f"unknown body parts: {', '.join(unknown)}")
        for field in ("image_threshold", "study_threshold"):
            if not 0 <= getattr(self, field).value <= 1:
                raise PackageError(f"{field} is not a probability")
        if self.heat_map_scale <= 0 or self.input_size <= 0 or min(self.head) <= 0:
            raise PackageError("heat_map_scale, input_size and head must be positive")

    @property
    def allowed_precisions(self) -> tuple[Precision, ...]:
        """The precisions that the package may be computed in, float32 first."""
        return Precision.FP32, *(Precision(each.precision) for each in self.precisions)

    def lower_precision(self, precision: Precision) -> LowerPrecision:
        """Return what the card says of an allowed precision below float32.

        Raises
        ------
        PackageError
            If the package does not allow it.
        """
        for each in self.precisions:
            if each.precision == precision:
                return each
        raise PackageError(f"{self.name} {self.version} does not allow {precision}")

    def probability(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated probabilities of the finding.

        Parameters
        ----------
        logits : array_like
            The network's logits, any shape.

        Returns
        -------
        ndarray of float64
            Probabilities in [0, 1], same shape.
        """
        return self.calibration.apply(logits)

    @property
    def scope(self) -> Scope:
        """The images that the model applies to."""
        return Scope(frozenset(self.body_parts), frozenset(self.modalities), self.distance_threshold)

    @property
    def distance_threshold(self) -> float | None:
        """The largest distance of an image in scope; None if the network does not compute distances."""
        return None if self.distance is None else self.distance.threshold

    @property
    def components(self) -> int | None:
        """Principal components of the network's distance; None if it does not compute one."""
        return None if self.distance is None else self.distance.components

    def worded(self, label: Label) -> str:
        """Return a predicted label in the card's wording, such as ``"positive: fracture"``."""
        return self.wording if label is Label.POSITIVE else str(label)

    def to_json(self) -> str:
        """Return the card as JSON text; equal cards give equal text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Read a card from JSON text.

        Raises
        ------
        PackageError
            If the text is not JSON, or a field is missing, unknown or of a wrong type; the field is named.
        """
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise PackageError(f"not JSON: {error}") from error
        except RecursionError as error:
            raise PackageError("its JSON is nested too deeply") from error
        if isinstance(raw, dict) and raw.get("schema") in range(1, SCHEMA):
            for version, fields in _FIELDS_SINCE.items():
                raw |= fields if raw["schema"] < version else {}
            if raw["schema"] < 4 and isinstance(raw.get("precisions"), list):
                raw["precisions"] = [
                    each | _PRECISION_FIELDS_SINCE_4 if isinstance(each, dict) else each for each in raw["precisions"]
                ]
            raw["schema"] = SCHEMA
        if isinstance(raw, dict) and raw.get("schema") != SCHEMA:
            raise PackageError(f"schema version {raw.get('schema')!r} is not known (known: {SCHEMA})")
        card: Card = _decode(cls, raw, "card")
        return card


def _decode(kind: Any, raw: Any, where: str) -> Any:
    """Convert a JSON value to ``kind``: a dataclass, tuple, mapping of strings, plain type, or one of these or None."""
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, raw, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        kinds = (arguments[0],) * len(raw) if isinstance(raw, list) and Ellipsis in arguments else arguments
        if not isinstance(raw, list) or len(raw) != len(kinds):
            raise PackageError(f"{where} is not a list of the right length")
        pairs = enumerate(zip(kinds, raw, strict=True))
        return tuple(_decode(each, value, f"{where}[{i}]") for i, (each, value) in pairs)
    if origin is types.UnionType:
        return None if raw is None else _decode(arguments[0], raw, where)
    if origin is not None:
        if not isinstance(raw, dict):
            raise PackageError(f"{where} is not an object")
        return {key: _decode(arguments[1], value, f"{where}.{key}") for key, value in raw.items()}
    if kind is float and type(raw) is int:
        raw = float(raw)
    if type(raw) is not kind:
        raise PackageError(f"{where} is {type(raw).__name__}, not {kind.__name__}")
    if kind is float and not math.isfinite(raw):
        raise PackageError(f"{where} is not finite")
    return raw


def _decode_dataclass(kind: Any, raw: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(raw, dict):
        raise PackageError(f"{where} is not an object")
    for name in sorted(hints.keys() ^ raw.keys()):
        raise PackageError(f"{where}.{name} is {'missing' if name in hints else 'unknown'}")
    return kind(**{name: _decode(hint, raw[name], f"{where}.{name}") for name, hint in hints.items()})
