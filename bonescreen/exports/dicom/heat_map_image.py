"""The heat map over its image as a Secondary Capture: colour that every viewer shows, with the mark in its pixels."""

from collections.abc import Sequence

import numpy as np
from highdicom.content import ReferencedImageSequence
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from bonescreen.exports.dicom.shared_elements import RESEARCH_MARK
from bonescreen.exports.dicom.source import Source
from xray.images.preprocessing import Preprocessing
from xray.network.heatmap import BAR_WIDTH, MARGIN, blend, draw_legend, evidence_at_image_size, wrap_text

LEAST_SIDE, MOST_SIDE = 512, 1024
"""Of the image in the picture, pixels: so that text is legible, and not more than the map, which is coarse, has to say.
The original lies beside it, at its full size."""

_BACKGROUND, _INK, _MARK = (16, 16, 16), (230, 230, 230), (255, 214, 0)

CLASS_ACTIVATION = CodedConcept("130402", "DCM", "Class activation")
"""What the colours show (PS3.16 CID 217)."""


def draw_picture(
    gray: NDArray[np.uint8],
    cam: NDArray[np.floating],
    *,
    preprocessing: Preprocessing,
    scale: float,
    caption: Sequence[str],
) -> NDArray[np.uint8]:
    """Draw an image under its heat map, with the research mark above, a legend beside it and a caption below.

    Parameters
    ----------
    gray : ndarray of uint8, (H, W)
        The decoded image.
    cam : ndarray of float, (h, w)
        Its class activation map, in units of the logit.
    preprocessing : Preprocessing
        The preprocessing that made the network's input from the image.
    scale : float
        The CAM value at the top of the colour scale; from the model's card.
    caption : sequence of str
        Lines of text.

    Returns
    -------
    ndarray of uint8, (height, width, 3)
        RGB.
    """
    long_side = min(max(*gray.shape, LEAST_SIDE), MOST_SIDE)
    height, width = (max(1, round(side * long_side / max(gray.shape))) for side in gray.shape)
    image = np.asarray(Image.fromarray(gray).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    drawn = blend(image, evidence_at_image_size(cam, height, width, preprocessing=preprocessing, scale=scale))
    size = round(long_side / 44) + 4
    font, line = ImageFont.load_default(size), round(1.4 * size)
    total = max(width + BAR_WIDTH + 6 * size + 2 * MARGIN, LEAST_SIDE)
    mark = mark_font(total - 2 * MARGIN)
    band = round(1.6 * mark.size)
    lines = [wrapped for text in caption for wrapped in wrap_text(text, total - 2 * MARGIN, font)]
    canvas = Image.new("RGB", (total, band + height + line * len(lines) + 2 * MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((total // 2, band // 2), RESEARCH_MARK, fill=_MARK, font=mark, anchor="mm")
    left = (total - width - BAR_WIDTH - 6 * size - MARGIN) // 2
    canvas.paste(Image.fromarray(drawn), (left, band))
    draw_legend(canvas, draw, (left + width + MARGIN, band), height, font, own_scale=False)
    for number, text in enumerate(lines):
        draw.text((MARGIN, band + height + MARGIN + number * line), text, fill=_INK, font=font)
    return np.asarray(canvas)


def mark_font(width: int) -> ImageFont.FreeTypeFont:
    """Return the largest font in which the research mark is at most so many pixels wide."""
    for size in range(width // 8, 8, -1):
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise ValueError("Pillow was built without FreeType")
        if font.getlength(RESEARCH_MARK) <= width:
            return font
    raise ValueError(f"no mark fits into {width} pixels")


def heat_map_image(
    picture: NDArray[np.uint8], source: Source, body_part: str | None, description: str, **shared: object
) -> Dataset:
    """Make the Secondary Capture of a picture (PS3.3 A.8.1), lossless and uncompressed.

    It has no pixel spacing: nothing is to be measured on it.

    Parameters
    ----------
    picture : ndarray of uint8, (height, width, 3)
        RGB.
    source : Source
        The image that it shows.
    body_part : str or None
        What it shows, where the header does not say it as the standard has it.
    description : str
        What was done to the image, at most 1,024 characters.
    **shared : object
        As `bonescreen.exports.dicom.shared_elements.shared_arguments` gives them.
    """
    described = source.described
    made = SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=source.study,
        instance_number=int(described.InstanceNumber),
        patient_id=described.PatientID,
        patient_name=described.PatientName,
        patient_birth_date=described.PatientBirthDate,
        patient_sex=described.PatientSex,
        accession_number=described.AccessionNumber,
        study_id=described.StudyID,
        study_date=described.StudyDate or None,
        study_time=described.StudyTime or None,
        referring_physician_name=described.ReferringPhysicianName,
        # It asks for one, and the standard takes an empty one.
        patient_orientation=("L", "F"),
        **shared,  # type: ignore[arg-type]
    )
    made.copy_patient_and_study_information(described)
    made.PatientOrientation = described.get("PatientOrientation", "")
    part = described.get("BodyPartExamined") or body_part
    if part:
        made.BodyPartExamined = part
    if "BurnedInAnnotation" in described:
        # Whether the pixels identify the patient: the mark does not.
        made.BurnedInAnnotation = described.BurnedInAnnotation
    if source.is_lossy:
        # Once lossy, always (C.7.6.1.1.5).
        made.LossyImageCompression = "01"
    made.DerivationDescription = description
    made.DerivationCodeSequence = [CLASS_ACTIVATION]
    references = ReferencedImageSequence([described])
    references[0].PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    made.SourceImageSequence = references
    return made
