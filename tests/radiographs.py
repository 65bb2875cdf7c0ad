"""Pictures as complete DX instances, of many studies: what an archive has, for tests that need more than pixels."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom import uid
from pydicom.dataset import Dataset

from tests.dicoms import dicom

REGIONS = {
    "HAND": ("85562004", "Hand"),
    "LEG": ("30021000", "Lower leg"),
    "HIP": ("24136001", "Hip joint"),
    "KNEE": ("72696002", "Knee"),
    "SHOULDER": ("16982005", "Shoulder"),
}
"""SNOMED CT's codes of DICOM's terms for body parts (PS3.16 annex L)."""


def study_uid(study: int) -> str:
    """Return the Study Instance UID of the study with a number."""
    return _uid("study", study)


def series_uid(study: int) -> str:
    """Return the Series Instance UID of a study's only series."""
    return _uid("series", study)


def instance_uid(study: int, image: int = 1) -> str:
    """Return the SOP Instance UID of an image of a study."""
    return _uid("instance", study, image)


def _uid(*words: object) -> str:
    return str(uid.generate_uid(entropy_srcs=[str(word) for word in words]))


def radiograph(
    picture: NDArray[np.uint8] | NDArray[np.uint16] | Path | bytes,
    study: int,
    image: int = 1,
    *,
    body_part: str = "HAND",
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    **elements: Any,
) -> bytes:
    """Write a grayscale picture as a DX image for presentation, without an error for dciodvfy.

    Parameters
    ----------
    picture : array of shape (height, width), Path or bytes
        Bright where bones are; or a PNG or JPEG, as a file or its content.
    study, image : int
        Their numbers, from which the UIDs, the patient and the accession number follow.
    body_part : str
        One of `REGIONS`.
    syntax : UID
        A native transfer syntax.
    **elements
        Elements to add or replace, by keyword; None omits one.

    Returns
    -------
    bytes
        The DICOM file.
    """
    pixels = picture if isinstance(picture, np.ndarray) else _pixels(picture)
    bits = pixels.dtype.itemsize * 8
    described = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", ""],
        "SOPClassUID": uid.DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": instance_uid(study, image),
        "StudyDate": "20240102",
        "AcquisitionDate": "20240102",
        "ContentDate": "20240102",
        "StudyTime": "030405",
        "AcquisitionTime": "030405",
        "ContentTime": "030405",
        "AccessionNumber": f"A{study}",
        "Modality": "DX",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "None",
        "ReferringPhysicianName": "Referrer^Rita",
        "StudyDescription": f"{REGIONS[body_part][1]} pa",
        "PatientName": f"Doe^Patient {study}",
        "PatientID": f"P{study}",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "BodyPartExamined": body_part,
        "ImagerPixelSpacing": [0.2, 0.2],
        "DetectorType": "DIRECT",
        "StudyInstanceUID": study_uid(study),
        "SeriesInstanceUID": series_uid(study),
        "StudyID": str(study),
        "SeriesNumber": 1,
        "InstanceNumber": image,
        "PatientOrientation": ["L", "F"],
        "ImageLaterality": "R",
        "AcquisitionContextSequence": [],
        "AnatomicRegionSequence": _code(*REGIONS[body_part]),
        "BitsAllocated": bits,
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": -1,
        "BurnedInAnnotation": "NO",
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "WindowCenter": 2 ** (bits - 1),
        "WindowWidth": 2**bits,
        "PresentationLUTShape": "IDENTITY",
        "LossyImageCompression": "00",
    }
    return dicom(pixels, syntax, **{**described, **elements})


def _pixels(picture: Path | bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("L"))


def _code(value: str, meaning: str) -> Sequence[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return [code]
