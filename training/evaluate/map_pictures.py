"""Thirty maps beside the marked findings: a page to look at, whatever the numbers say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.data.dataset import Dataset
from training.evaluate.pointing import MapPoint, Pointing, find_point, is_pointed_at
from training.report_page import encode_image, render_page
from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, FileFault
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.images.resize import resize
from xray.network.heatmap import blend, evidence_at_image_size

MAPS_FILE = "maps.html"
PICTURES = 30
SEED = 0

_SIDE = 400
_GAP = 6
_LINE = 2
_CROSS = 7
_BOX, _POINT = (86, 180, 233), (255, 255, 255)
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class MapPicture:
    """One image beside the same image with its heat map, the marked findings outlined in both.

    Attributes
    ----------
    image, body_part : str
        As in :class:`training.data.dataset.Example`; ``body_part`` is empty where unknown.
    probability : float
        What the model predicts, in [0, 1].
    point : MapPoint
        Where the map points.
    drawn : bytes
        JPEG.
    """

    image: str
    body_part: str
    probability: float
    point: MapPoint
    drawn: bytes


def draw_maps(
    dataset: Dataset,
    cams: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    preprocessing: Preprocessing,
    scale: float,
) -> list[MapPicture]:
    """Draw the maps of at most `PICTURES` positive images whose findings are marked, drawn at random, always the same.

    Parameters
    ----------
    dataset : Dataset
        N examples whose images have been read.
    cams : ndarray of float, (N, h, w)
        Their class activation maps, signed.
    probabilities : ndarray of float, (N,)
        What the model predicts.
    preprocessing : Preprocessing
        How the images became the network's input.
    scale : float
        The value that gets the top colour, as on the card.

    Returns
    -------
    list of MapPicture
        In the order of the data set; without files that can no longer be read.
    """
    measured = [i for i, example in enumerate(dataset.examples) if is_pointed_at(example)]
    chosen = np.random.default_rng(SEED).permutation(measured)[:PICTURES]
    pictures = []
    for i in np.sort(chosen).tolist():
        example = dataset.examples[i]
        try:
            gray = decode(read_image_file(dataset.root, example.image))
        except (ArchiveOutage, FileFault):
            continue
        point = find_point(example, cams[i], preprocessing)
        boxes = [annotation.box for annotation in example.annotations]
        drawn = encode_image(_draw(gray, cams[i], point, boxes, preprocessing, scale), "JPEG", quality=_JPEG_QUALITY)
        pictures.append(MapPicture(example.image, example.body_part or "", float(probabilities[i]), point, drawn))
    return pictures


def _draw(
    gray: NDArray[np.uint8],
    cam: NDArray[np.floating],
    point: MapPoint,
    boxes: Sequence[tuple[float, float, float, float]],
    preprocessing: Preprocessing,
    scale: float,
) -> Image.Image:
    reduction = _SIDE / max(gray.shape)
    height, width = (max(1, round(side * reduction)) for side in gray.shape)
    top, left, box_height, box_width = (
        side / preprocessing.size for side in preprocessing.image_box(gray.shape[0], gray.shape[1])
    )
    image = np.repeat(resize(gray, height, width)[..., None], 3, axis=-1)
    evidence = evidence_at_image_size(cam, height, width, preprocessing=preprocessing, scale=scale)
    canvas = Image.new("RGB", (2 * width + _GAP, height), (16, 16, 16))
    canvas.paste(Image.fromarray(image), (0, 0))
    canvas.paste(Image.fromarray(blend(image, evidence)), (width + _GAP, 0))
    draw = ImageDraw.Draw(canvas)
    for start in (0, width + _GAP):
        for x, y, box_w, box_h in boxes:
            corners = (x * width, y * height, (x + box_w) * width, (y + box_h) * height)
            # Around the finding, not over it.
            draw.rectangle(
                [start + corners[0] - _LINE, corners[1] - _LINE, start + corners[2] + _LINE, corners[3] + _LINE],
                outline=_BOX,
                width=_LINE,
            )
    x = width + _GAP + (point.x - left) / box_width * width
    y = (point.y - top) / box_height * height
    draw.line([x - _CROSS, y, x + _CROSS, y], fill=_POINT, width=_LINE)
    draw.line([x, y - _CROSS, x, y + _CROSS], fill=_POINT, width=_LINE)
    return canvas


def maps_page(title: str, finding: str, how: str, pointing: Sequence[Pointing], pictures: Sequence[MapPicture]) -> str:
    """Return the page, HTML.

    Parameters
    ----------
    title : str
        The model and the data: ``"fracture 5 on FracAtlas"``.
    finding : str
        What a positive label means.
    how : str
        How the images were held out, or whether they were, as a sentence.
    pointing : sequence of Pointing
        The numbers.
    pictures : sequence of MapPicture
        The pictures.
    """
    return render_page("maps.html.j2", title=title, finding=finding, how=how, pointing=pointing, pictures=pictures)
