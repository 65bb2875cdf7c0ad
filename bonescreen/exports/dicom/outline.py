"""Where a heat map is high, as outlines and a text over the original image: a softcopy presentation state.

Gray images get a Grayscale Softcopy Presentation State (PS3.3 A.33.1), colour ones a Color one (A.33.2). A viewer lays
them over the original at its full size and can switch them off. Of what the standard has for overlays it is the kind
that viewers show: a colour map in a presentation state (pseudo-colour, blending) and parametric maps are shown by few.
"""

import pkgutil
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from contourpy import contour_generator
from highdicom import ModalityLUT, ModalityLUTTransformation, PresentationLUTTransformation
from highdicom.color import CIELabColor
from highdicom.content import VOILUT
from highdicom.pr import (
    ColorSoftcopyPresentationState,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
)
from highdicom.pr.content import GraphicAnnotation, GraphicLayer, GraphicObject, TextObject
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from bonescreen.exports.dicom.source import MODALITY_LUT_TYPE, RESCALE_TYPE, Source
from xray.images.dicom import tags
from xray.images.dicom.data_set import DataSet
from xray.images.dicom.grayscale import lut_table, usable_windows
from xray.images.dicom.pixels import LEAST_ASPECT
from xray.images.preprocessing import Preprocessing
from xray.network.heatmap import DARK, evidence_at_image_size

T = TypeVar("T", ModalityLUT, VOILUT)

LEVEL = DARK
"""Share of the model's colour scale that an outline encloses: a map that looks empty has no outline."""

_GRID_SIDE = 256
"""Points along the image's long side at which the map, which has a few cells, is followed."""

_LAYER = "RESEARCH"
_CORNER = (0.01, 0.01, 0.7, 0.16)
"""The text's box, in terms of the displayed area: left, top, right, bottom."""

_COLOUR = CIELabColor(85.0, 5.0, 80.0)
"""A yellow, which no gray is."""

_LABEL = "HEAT MAP OUTLINE"


def outlines(
    cam: NDArray[np.floating], shape: tuple[int, int], source: Source, *, preprocessing: Preprocessing, scale: float
) -> list[NDArray[np.float64]]:
    """Return the outlines of the areas where a heat map reaches `LEVEL`.

    Parameters
    ----------
    cam : ndarray of float, (h, w)
        Class activation map, in units of the logit.
    shape : (int, int)
        Height and width of the decoded image, whose pixels are square.
    source : Source
        The image as it is stored, whose pixels need not be.
    preprocessing : Preprocessing
        The preprocessing that made the network's input from the image.
    scale : float
        The CAM value at the top of the model's colour scale.

    Returns
    -------
    list of ndarray of float64, (N, 2)
        Closed lines of column and row: from 0 at the left and upper edge of the stored image to its columns and rows at
        the other edges (PS3.3 C.10.5).
    """
    height, width = (max(2, round(side * _GRID_SIDE / max(shape))) for side in shape)
    evidence = evidence_at_image_size(cam, height, width, preprocessing=preprocessing, scale=scale)
    # Nothing around the image closes the outlines of areas that reach its edge.
    lines = contour_generator(z=np.pad(evidence, 1)).lines(LEVEL)
    size = np.array([source.columns, source.rows], np.float64)
    # A point of the grid is the middle of a cell, and the padding has moved it by one.
    scaled = [(np.asarray(line, np.float64) - 0.5) * size / (width, height) for line in lines if len(line) > 2]
    return [np.round(np.clip(line, 0, size), 2).astype(np.float64) for line in scaled]


def presentation_state(
    source: Source,
    shape: tuple[int, int],
    areas: Sequence[NDArray[np.float64]],
    text: Sequence[str],
    window: bool,
    **shared: object,
) -> Dataset:
    """Make the presentation state of an image.

    Parameters
    ----------
    source : Source
    shape : (int, int)
        Height and width of the decoded image, whose pixels are square.
    areas : sequence of ndarray of float, (N, 2)
        As `outlines` returns them.
    text : sequence of str
        Lines in the upper left corner.
    window : bool
        Whether the header's window fits the pixels; if not, the state has none.
    **shared : object
        As `bonescreen.exports.dicom.shared_elements.shared_arguments` gives them.
    """
    described = source.described
    layer = GraphicLayer(_LAYER, order=1, description="Where the heat map is high", display_color=_COLOUR)
    annotation = GraphicAnnotation(
        referenced_images=[described],
        graphic_layer=layer,
        graphic_objects=[GraphicObject("POLYLINE", area, units="PIXEL") for area in areas] or None,
        text_objects=[
            TextObject("\r\n".join(text), units="DISPLAY", bounding_box=_CORNER, text_justification="LEFT"),
        ],
    )
    common = {
        "referenced_images": [described],
        "instance_number": int(described.InstanceNumber),
        "content_label": _LABEL,
        "content_description": "Where the heat map is high",
        "graphic_annotations": [annotation],
        "graphic_layers": [layer],
        **shared,
    }
    made = _gray_state(source, window, common) if source.is_gray else _colour_state(common)
    # Vertical and horizontal size of a stored pixel (C.10.4).
    sides = shape[0] * source.columns, shape[1] * source.rows
    if max(sides) > LEAST_ASPECT * min(sides):
        made.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = [
            round(1000 * side / min(sides)) for side in sides
        ]
    return made


def _colour_state(common: dict[str, Any]) -> Dataset:
    profile = pkgutil.get_data("highdicom", "_icc_profiles/sRGB_v4_ICC_preference.icc")
    return ColorSoftcopyPresentationState(icc_profile=profile, **common)


def _gray_state(source: Source, window: bool, common: dict[str, Any]) -> Dataset:
    voi = _voi(source.header) if window else None
    return GrayscaleSoftcopyPresentationState(
        modality_lut_transformation=_modality(source.header),
        voi_lut_transformations=None if voi is None else [voi],
        # What MONOCHROME1 stores as the lowest value is white, and a state's output has black there (C.11.6.1).
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if source.photometric == "MONOCHROME1" else "IDENTITY"
        ),
        **common,
    )


def _modality(header: DataSet) -> ModalityLUTTransformation | None:
    for item in header.items.get(tags.MODALITY_LUT_SEQUENCE, [])[:1]:
        if (table := lut_table(item, is_signed=_is_signed(header))) is not None:
            first, entries = table
            # Entries that share a word stay so.
            native = entries.astype(np.uint16) if entries.itemsize == 2 else entries
            lut = ModalityLUT(item.text(MODALITY_LUT_TYPE) or "US", first % 2**16, native)
            # As many bits as the image says, as without a window they are the range of grays.
            bits = next(iter(item.integers(tags.LUT_DESCRIPTOR)[2:]), 16)
            fits = int(entries.max()).bit_length() <= bits <= 16
            return ModalityLUTTransformation(modality_lut=_described(lut, first, bits if fits else 16))
    slope, intercept = (header.decimals(tag)[:1] for tag in (tags.RESCALE_SLOPE, tags.RESCALE_INTERCEPT))
    if not (slope and intercept and np.isfinite([*slope, *intercept]).all() and slope[0]):
        return None
    return ModalityLUTTransformation(
        rescale_slope=slope[0], rescale_intercept=intercept[0], rescale_type=header.text(RESCALE_TYPE) or "US"
    )


def _voi(header: DataSet) -> SoftcopyVOILUTTransformation | None:
    for item in header.items.get(tags.VOI_LUT_SEQUENCE, [])[:1]:
        if (table := lut_table(item, is_signed=_is_signed(header))) is not None and table[1].any():
            first, entries = table
            # The brightest entry is white, whatever the descriptor says of an entry's bits.
            stretched = np.rint(entries * (65535 / entries.max())).astype(np.uint16)
            lut = VOILUT(first % 2**16, stretched)
            return SoftcopyVOILUTTransformation(voi_luts=[_described(lut, first, 16)])
    for center, width in usable_windows(header)[:1]:
        function = header.text(tags.VOI_LUT_FUNCTION).upper()
        known = function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else None
        return SoftcopyVOILUTTransformation(window_center=center, window_width=width, voi_lut_function=known)
    return None


def _is_signed(header: DataSet) -> bool:
    """Tell whether values that are looked up can be negative."""
    return (
        header.integer(tags.PIXEL_REPRESENTATION) == 1
        or min(header.decimals(tags.RESCALE_INTERCEPT)[:1], default=0) < 0
    )


def _described(lut: T, first: int, bits: int) -> T:
    """Say of a lookup table how many bits its entries have, and which value it begins with, if that is negative."""
    count = int(lut.LUTDescriptor[0])
    if first < 0:
        # Of VR SS, in which the number of entries is written as if it were signed too (C.11.1.1).
        count = (count + 2**15) % 2**16 - 2**15
    lut[tags.LUT_DESCRIPTOR] = DataElement(tags.LUT_DESCRIPTOR, "SS" if first < 0 else "US", [count, first, bits])
    return lut
