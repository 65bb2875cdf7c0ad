"""The elements that all objects share: series, maker, times, and the mark that they are for research."""

import io
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from bonescreen.exports.dicom.identity import Identity, Kind
from bonescreen.exports.dicom.source import Source, local_time
from xray.network.card import Card

RESEARCH_MARK = "RESEARCH - NOT FOR DIAGNOSIS"
"""What each series is called, each report says, and each picture shows."""

MAKER = "bonescreen"

_SERIES_NUMBERS = {Kind.REPORT: 9001, Kind.HEAT_MAP: 9002, Kind.OUTLINE: 9003}
"""Beyond those of a modality, so that a viewer lists them last."""

_TIMES = tuple(
    (f"{before}Date{after}", f"{before}Time{after}")
    for before, after in (
        ("InstanceCreation", ""),
        ("Content", ""),
        ("PresentationCreation", ""),
        ("", "OfSecondaryCapture"),
    )
)
"""What highdicom sets to now, or leaves out."""

_MAX_LONG_STRING = 64
"""Characters of a description (LO, PS3.5 6.2)."""


def model_name(card: Card) -> str:
    """Return a model's name and version."""
    return f"{card.name} {card.version}"


def long_string(text: str) -> str:
    """Return a text as an element of VR LO holds it: in ASCII, without backslashes, and cut where it is too long."""
    plain = text.encode("ascii", "replace").decode().replace("\\", "/")
    return plain if len(plain) <= _MAX_LONG_STRING else f"{plain[: _MAX_LONG_STRING - 3]}..."


def shared_arguments(kind: Kind, identity: Identity, sop_instance: str, card: Card) -> dict[str, Any]:
    """Return what each class of highdicom takes alike.

    Parameters
    ----------
    kind : Kind
    identity : Identity
    sop_instance : str
        The object's SOP Instance UID.
    card : Card
        Of the model package.
    """
    return {
        "series_instance_uid": identity.series(kind),
        "series_number": _SERIES_NUMBERS[kind],
        "series_description": long_string(f"{RESEARCH_MARK}: {kind}, {model_name(card)}"),
        "sop_instance_uid": sop_instance,
        "manufacturer": MAKER,
        "manufacturer_model_name": long_string(model_name(card)),
        "software_versions": long_string(f"{card.version} {identity.precision}"),
        # Sixty-four hexadecimal digits fit exactly.
        "device_serial_number": identity.digest,
        "content_qualification": "RESEARCH",
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "specific_character_set": "ISO_IR 192",
    }


def as_file(made: Dataset, source: Source, changed_at: float) -> bytes:
    """Write an object as a DICOM file: the same bytes each time.

    Parameters
    ----------
    made : Dataset
        As highdicom made it, with the time of now in it.
    source : Source
        The image that the object is about, or the first of them.
    changed_at : float
        When the study's result last changed, in seconds since 1970: the time of all that is written of it.
    """
    moment = local_time(source, changed_at)
    for date, time in _TIMES:
        if date in made:
            setattr(made, date, moment.strftime("%Y%m%d"))
            setattr(made, time, moment.strftime("%H%M%S"))
    made.SeriesDate, made.SeriesTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    for equipment in made.get("ContributingEquipmentSequence", []):
        equipment.pop("ContributionDateTime", None)
    if made.Modality != "SR":
        made.Laterality = source.described.Laterality
    if "TimezoneOffsetFromUTC" in source.described:
        made.TimezoneOffsetFromUTC = source.described.TimezoneOffsetFromUTC
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"):
        if keyword in source.described:
            setattr(made, keyword, source.described[keyword].value)
    file = io.BytesIO()
    dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()
