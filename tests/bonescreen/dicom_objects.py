"""Read the DICOM objects that an export has written, and what a report says."""

from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

MARK = "RESEARCH - NOT FOR DIAGNOSIS"


def objects(folder: Path, kind: str = "*") -> list[Dataset]:
    """Read the objects below a folder, or those of a kind."""
    return [dcmread(path) for path in sorted(folder.rglob(f"{kind}-2.25.*.dcm"))]


def content(item: Dataset) -> dict[str, list[str]]:
    """Return what a measurement group says, by the names of its concepts."""
    said: dict[str, list[str]] = {}
    for each in item.ContentSequence:
        name = each.ConceptNameCodeSequence[0].CodeMeaning
        value = {
            "CODE": lambda each: each.ConceptCodeSequence[0].CodeMeaning,
            "NUM": lambda each: str(each.MeasuredValueSequence[0].NumericValue),
            "TEXT": lambda each: each.TextValue,
            "UIDREF": lambda each: each.UID,
            "IMAGE": lambda each: each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
            "CONTAINER": lambda each: "",
        }[each.ValueType](each)
        said.setdefault(name, []).append(str(value))
    return said


def groups(report: Dataset) -> list[dict[str, list[str]]]:
    """Return the measurement groups of a report: the study's, and each image's."""
    measurements = report.ContentSequence[-1]
    assert measurements.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    return [content(group) for group in measurements.ContentSequence]
