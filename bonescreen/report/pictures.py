"""The pictures of a report: images, and their heat maps, small enough that the file can be sent."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from bonescreen.pictures import ChangedFile, cam_of, read_gray
from bonescreen.results_table import why_out_of_scope
from db.queries import ImageRow, Study
from xray.archive_root import Root
from xray.errors import FileFault
from xray.vocabulary import ImageState, Label, reason_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from xray.network.package import ModelPackage

LONG_SIDE = 560
"""Pixels of a picture's long side at most."""

QUALITY = 82
"""Of the JPEGs."""

MOST_IMAGES = 6
"""Images of a study that are shown: those with the highest probabilities."""


@dataclass(frozen=True)
class ReportImage:
    """An image as the report shows it.

    Attributes
    ----------
    name : str
        Its path, below its study's folder.
    probability : float or None
    state : str
        How it counts in the study's score, or why it has no prediction.
    picture, heat_map, own_scale : str or None
        Data URIs; `own_scale` only where a positive image's map is dark.
    note : str or None
        What a reader has to know of the colours.
    problem : str or None
        Why there is no picture.
    """

    name: str
    probability: float | None
    state: str
    picture: str | None = None
    heat_map: str | None = None
    own_scale: str | None = None
    note: str | None = None
    problem: str | None = None


def report_images(
    study: Study, package: "ModelPackage | None", roots: Mapping[str, Root]
) -> tuple[list[ReportImage], int]:
    """Return a study's images, those that count first, and how many more it has.

    Raises
    ------
    ArchiveOutage
        Their archive has no root on this host, or does not answer.
    """
    order = sorted(study.images, key=lambda image: (image.state != ImageState.SCORED, -(image.probability or 0)))
    shown = order[:MOST_IMAGES]
    return [_report_image(image, study, package, roots) for image in shown], len(order) - len(shown)


def _report_image(
    image: ImageRow, study: Study, package: "ModelPackage | None", roots: Mapping[str, Root]
) -> ReportImage:
    from xray.network.heatmap import is_dark, scale_note

    name = image.image.removeprefix(f"{study.row.study}/")
    if image.probability is None:
        why = "not screened yet" if image.reason is None else f"could not be read: {reason_text(image.reason)}"
        return ReportImage(name, None, why)
    try:
        gray = read_gray(image, roots)
    except ChangedFile:
        return ReportImage(name, image.probability, image.state, problem="the file has changed since it was screened")
    except FileFault as fault:
        text = f"the file cannot be read any more: {reason_text(fault.reason)}"
        return ReportImage(name, image.probability, image.state, problem=text)
    small = _small(gray)
    if image.state is ImageState.OUT_OF_SCOPE:
        state = f"{image.state}: {why_out_of_scope(image)}"
        return ReportImage(name, image.probability, state, _jpeg(small))
    if package is None:
        return ReportImage(name, image.probability, image.state, _jpeg(small))
    cam, scale, positive = cam_of(image), package.card.heat_map_scale, image.label == Label.POSITIVE
    dark = positive and is_dark(cam, scale) and cam.max(initial=0.0) > 0
    return ReportImage(
        name=name,
        probability=image.probability,
        state=image.state,
        picture=_jpeg(small),
        heat_map=_jpeg(_overlay(small, cam, package, own_scale=False)),
        own_scale=_jpeg(_overlay(small, cam, package, own_scale=True)) if dark else None,
        note=scale_note(cam, scale, positive=positive, own_scale=False),
    )


def _small(gray: "NDArray[np.uint8]") -> "Image.Image":
    from PIL import Image

    picture = Image.fromarray(gray)
    picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return picture


def _overlay(
    small: "Image.Image", cam: "NDArray[np.float32]", package: "ModelPackage", *, own_scale: bool
) -> "Image.Image":
    import numpy as np
    from PIL import Image

    from xray.images.preprocessing import Preprocessing
    from xray.network.heatmap import blend, evidence_at_image_size

    evidence = evidence_at_image_size(
        cam,
        small.height,
        small.width,
        preprocessing=Preprocessing.from_id(package.card.preprocessing),
        scale=package.card.heat_map_scale,
        own_scale=own_scale,
    )
    return Image.fromarray(blend(np.asarray(small.convert("RGB")), evidence))


def _jpeg(picture: "Image.Image") -> str:
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def legend_colours(steps: int = 12) -> list[str]:
    """Return the heat map's colours over mid-gray, from low to high evidence, as CSS writes them."""
    import numpy as np

    from xray.network.heatmap import blend

    shades = blend(np.full((1, steps, 3), 96, np.uint8), np.linspace(0, 1, steps)[None])
    return ["#" + bytes(shade).hex() for shade in shades[0]]
