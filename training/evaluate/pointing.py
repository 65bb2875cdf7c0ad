"""Does the map point at the finding? Measured on positive images whose finding somebody has marked.

The pointing game (Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", arXiv:1608.00507): the share
of images whose greatest cell lies on a finding, with a tolerance. Beside it, the share of the map's evidence on one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.annotations import Annotation, cell_shares, mask
from training.data.dataset import UPPER_LIMB, Dataset, Example
from training.evaluate.bootstrap import percentile_interval, resample_means
from training.evaluate.evaluation import ALL, UPPER_LIMB_NAME
from training.evaluate.population import FEWEST_GROUPS, Estimate
from xray.images.preprocessing import Preprocessing

TOLERANCE = 1 / 14
"""How far from a finding's box the centre of the greatest cell may lie, as a share of the input's side.

Half a cell of a map of 7 x 7, whose greatest cell is a hit where it touches the box. The same for finer maps, so that
they can be compared."""


@dataclass(frozen=True)
class MapPoint:
    """Where the map of one image points.

    Attributes
    ----------
    x, y : float
        Centre of the greatest cell, as fractions of the network's input.
    is_hit : bool
        Whether it lies on a finding's box, or within `TOLERANCE` of it. A map that is the same everywhere points
        nowhere, and is no hit.
    hit_area : float
        The share of the image that would be a hit.
    mass : float
        The share of the map's positive values on a finding's box, without tolerance; 0 where no value is positive.
    finding_area : float
        The share of the image on a finding's box.
    """

    x: float
    y: float
    is_hit: bool
    hit_area: float
    mass: float
    finding_area: float


@dataclass(frozen=True)
class Pointing:
    """How well maps point at findings.

    Attributes
    ----------
    name : str
        ``"all"`` or ``"upper limb"``.
    n, groups : int
        Positive images with marked findings, and groups among them.
    game : Estimate
        The pointing game: the share of these images whose map's greatest cell is a hit.
    game_by_chance : float
        What a point anywhere on the image would reach: the mean area that is a hit.
    mass : Estimate
        The share of the map's positive values on a finding, mean over images.
    mass_by_chance : float
        What an even map would reach: the mean area of the findings.
    missing : str or None
        Why there are no intervals.
    """

    name: str
    n: int
    groups: int
    game: Estimate
    game_by_chance: float
    mass: Estimate
    mass_by_chance: float
    missing: str | None


def is_pointed_at(example: Example) -> bool:
    """Return whether an example is measured: positive, read, and its finding marked."""
    return example.label and bool(example.annotations) and example.size is not None


def measure_pointing(
    dataset: Dataset, cams: NDArray[np.floating], preprocessing: Preprocessing
) -> tuple[Pointing, ...]:
    """Measure maps on the positive images whose findings are marked.

    Parameters
    ----------
    dataset : Dataset
        N examples whose images have been read (:func:`training.data.images.load_images`).
    cams : ndarray of float, (N, h, w)
        Their class activation maps, signed.
    preprocessing : Preprocessing
        How the images became the network's input.

    Returns
    -------
    tuple of Pointing
        For all such images, and for those of the upper limb where these are some of them; empty if there are none.
    """
    measured = np.array([is_pointed_at(example) for example in dataset.examples], np.bool_)
    if not measured.any():
        return ()
    points = [find_point(dataset.examples[i], cams[i], preprocessing) for i in np.flatnonzero(measured)]
    rows = dataset.select(measured)
    values = np.array([(p.is_hit, p.mass, p.hit_area, p.finding_area) for p in points], np.float64)
    upper = np.isin(rows.body_parts, list(UPPER_LIMB))
    pointing = [_pointing(ALL, values, rows.groups)]
    if 0 < upper.sum() < len(upper):
        pointing.append(_pointing(UPPER_LIMB_NAME, values[upper], rows.groups[upper]))
    return tuple(pointing)


def _pointing(name: str, values: NDArray[np.float64], groups: NDArray[np.str_]) -> Pointing:
    hits, mass, hit_area, finding_area = values.mean(axis=0).tolist()
    number = len(np.unique(groups))
    estimates, missing = [Estimate(hits), Estimate(mass)], None
    if number < FEWEST_GROUPS:
        missing = f"no intervals: {number} group{'s' * (number != 1)}, and {FEWEST_GROUPS} are needed"
    else:
        ends = zip(*percentile_interval(resample_means(values[:, :2], groups)), strict=True)
        # Where all resamples give the same, the bootstrap has no interval to offer.
        estimates = [
            Estimate(each.value, float(low), float(high)) if low < high else each
            for each, (low, high) in zip(estimates, ends, strict=True)
        ]
    return Pointing(name, len(values), number, estimates[0], hit_area, estimates[1], finding_area, missing)


def find_point(example: Example, cam: NDArray[np.floating], preprocessing: Preprocessing) -> MapPoint:
    """Return where a map points, and whether that is on a finding.

    Parameters
    ----------
    example : Example
        An image that has been read, with annotations.
    cam : ndarray of float, (h, w)
        Its class activation map, signed; of cells with the same greatest value, the first counts.
    preprocessing : Preprocessing
        How the image became the network's input.

    Raises
    ------
    ValueError
        If the image has not been read.
    """
    if example.size is None:
        raise ValueError(f"{example.image} has not been read")
    height, width = example.size
    top, left, box_height, box_width = (side / preprocessing.size for side in preprocessing.image_box(height, width))
    rows, columns = cam.shape
    row, column = divmod(int(np.argmax(cam)), columns)
    x, y = (column + 0.5) / columns, (row + 0.5) / rows
    # In fractions of the image, as the boxes are.
    image_x, image_y = (x - left) / box_width, (y - top) / box_height
    margin_x, margin_y = TOLERANCE / box_width, TOLERANCE / box_height
    boxes = [_corners(annotation) for annotation in example.annotations]
    near = [(x0 - margin_x, y0 - margin_y, x1 + margin_x, y1 + margin_y) for x0, y0, x1, y1 in boxes]
    inside, within = (mask([_box(*each) for each in some], preprocessing, height, width) for some in (boxes, near))
    evidence = np.clip(np.asarray(cam, np.float64), 0, None)
    total = float(evidence.sum())
    mass = float((evidence * cell_shares(inside, rows, columns)).sum()) / total if total else 0.0
    pixels = 255 * preprocessing.size**2 * box_height * box_width
    return MapPoint(
        x,
        y,
        bool(cam.max() > cam.min()) and any(x0 <= image_x <= x1 and y0 <= image_y <= y1 for x0, y0, x1, y1 in near),
        float(within.sum(dtype=np.int64) / pixels),
        mass,
        float(inside.sum(dtype=np.int64) / pixels),
    )


def _corners(annotation: Annotation) -> tuple[float, float, float, float]:
    left, top, width, height = annotation.box
    return left, top, left + width, top + height


def _box(left: float, top: float, right: float, bottom: float) -> Annotation:
    """Return a box without outline, cut at the edge of the image."""
    left, top = max(left, 0.0), max(top, 0.0)
    return Annotation((left, top, min(right, 1.0) - left, min(bottom, 1.0) - top))
