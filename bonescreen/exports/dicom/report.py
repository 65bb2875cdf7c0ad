"""The result of a study as a structured report: TID 1500 Measurement Report (PS3.16) in an Enhanced SR (PS3.3 A.35.2).

Enhanced SR is the least class that holds numbers, codes and references to images, so that most viewers read it. What
DICOM and SNOMED CT have no code for is coded in a scheme of our own, `SCHEME`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from bonescreen.exports.dicom.heat_map_image import CLASS_ACTIVATION
from bonescreen.exports.dicom.identity import Identity, derived_uid
from bonescreen.exports.dicom.shared_elements import MAKER, RESEARCH_MARK, long_string, model_name
from bonescreen.exports.dicom.source import Source
from db.queries import StudyRow
from xray.network.card import Card
from xray.vocabulary import ImageState, Label, StudyStatus

SCHEME = "99BONESCREEN"
"""A private coding scheme: 99 begins those (PS3.16 8)."""

DEVICE_UID = derived_uid("device", MAKER)
"""The UID of the device that observed: this software, wherever it runs."""


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


LOOKED_FOR = _own("LOOKED_FOR", "Finding that was looked for")
PREDICTED_LABEL = _own("LABEL", "Predicted label")
STUDY_STATUS = _own("STATUS", "Study status")
IMAGE_STATE = _own("IMAGE_STATE", "How the image counts in the study's score")

STATUSES = {
    StudyStatus.SCORED: _own("SCORED", "Scored: every image was read"),
    StudyStatus.INCOMPLETE: _own("INCOMPLETE", "Incomplete: an image could not be read"),
    StudyStatus.NOT_ASSESSABLE: _own("NOT_ASSESSABLE", "Not assessable: no image could be read"),
    StudyStatus.OUT_OF_SCOPE: _own("OUT_OF_SCOPE", "Out of scope: the model does not know such images"),
}
STATES = {
    ImageState.SCORED: _own("COUNTED", "It counts"),
    ImageState.COPY: _own("COPY", "Copy of another image: it does not count"),
    ImageState.FOR_PROCESSING: _own("RAW", "Raw image beside a finished one: it does not count"),
    ImageState.OUT_OF_SCOPE: _own("IMAGE_UNKNOWN", "Out of scope: it does not count"),
    ImageState.FAILED: _own("UNREAD", "It could not be read"),
}
FINDINGS = {
    "fracture": CodedConcept("125605004", "SCT", "Fracture of bone"),
    "abnormality": CodedConcept("C9440", "NCIt", "Abnormality"),
}
LABELS = {
    Label.POSITIVE: CodedConcept.from_code(codes.SCT.Positive),
    Label.NEGATIVE: CodedConcept.from_code(codes.SCT.Negative),
}
NORMALITY = {
    Label.POSITIVE: CodedConcept.from_code(codes.SCT.Abnormal),
    Label.NEGATIVE: CodedConcept("17621005", "SCT", "Normal"),
}
"""What a model says whose finding is any abnormality (PS3.16 CID 222)."""

_PROBABILITY, _THRESHOLD = codes.DCM.Probability, codes.DCM.ThresholdValue
_DECIMALS = 6


@dataclass(frozen=True)
class ReportedImage:
    """One image in a report.

    Attributes
    ----------
    source : Source
    heat_map : Dataset or None
        Its heat map, where there is one.
    state : ImageState
    probability : float or None
        None where it says nothing: the image has none, or is out of scope.
    label : Label or None
    why : str or None
        Why it does not count, in words.
    content : str
        SHA-256 of its file, or why there is none.
    """

    source: Source
    heat_map: Dataset | None
    state: ImageState
    probability: float | None
    label: Label | None
    why: str | None
    content: str


def report_facts(row: StudyRow, images: Sequence[ReportedImage], comments: Sequence[str]) -> list[str]:
    """Return everything that tells a report from another of the same study and model."""
    of_images = [
        (one.source.sop_instance, one.content, one.state, f"{one.probability}", f"{one.why}") for one in images
    ]
    return [row.status, f"{row.score}", f"{row.label}", *comments, *(text for each in of_images for text in each)]


def study_report(
    row: StudyRow,
    card: Card,
    identity: Identity,
    images: Sequence[ReportedImage],
    comments: Sequence[str],
    **shared: object,
) -> Dataset:
    """Make the report of a study.

    Parameters
    ----------
    row : StudyRow
        The study's result.
    card : Card
        Of the model package that it was screened with.
    identity : Identity
    images : sequence of ReportedImage
        The first one's patient and study become the report's.
    comments : sequence of str
        What a reader has to know besides, a sentence each: what the score counts that nothing refers to.
    **shared : object
        As `bonescreen.exports.dicom.shared_elements.shared_arguments` gives them.
    """
    algorithm = _algorithm(card, identity)
    groups = [_study_group(row, card, identity, algorithm)]
    groups += [_image_group(one, number, card, identity, algorithm) for number, one in enumerate(images, 1)]
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                codes.DCM.Device,
                DeviceObserverIdentifyingAttributes(
                    DEVICE_UID, name=MAKER, manufacturer_name=MAKER, model_name=model_name(card)
                ),
            )
        ),
        procedure_reported=codes.LN.XRUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    # The measurements come last: nobody is to read a number before the mark.
    items = content[0].ContentSequence
    for text in (f"{RESEARCH_MARK}. Made by a program, and verified by nobody.", *comments):
        items.insert(len(items) - 1, _comment(text))
    _separate(content[0])
    missing = _missing(row, comments)
    made = EnhancedSR(
        evidence=[
            *(one.source.described for one in images),
            *(one.heat_map for one in images if one.heat_map is not None),
        ],
        content=content[0],
        instance_number=1,
        is_complete=missing is None,
        is_final=False,
        is_verified=False,
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name=MAKER, responsible_organization=MAKER)],
        **shared,  # type: ignore[arg-type]
    )
    made.CompletionFlagDescription = long_string(missing or "Every image was read")
    return made


def _separate(item: Dataset) -> None:
    """Have viewers show each item with its name, not all of them as one text."""
    if "ContinuityOfContent" in item:
        item.ContinuityOfContent = "SEPARATE"
    for each in item.get("ContentSequence", []):
        _separate(each)


def _missing(row: StudyRow, comments: Sequence[str]) -> str | None:
    """Say what a report lacks to be complete; None if nothing."""
    if row.status != StudyStatus.SCORED:
        return str(STATUSES[StudyStatus(row.status)].meaning)
    return comments[0] if comments else None


def _study_group(
    row: StudyRow, card: Card, identity: Identity, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    mean = CodedConcept.from_code(codes.SCT.Mean)
    return _group(
        f"Study: mean of its images, {model_name(card)}",
        identity.tracking("study"),
        card,
        algorithm,
        measured=[] if row.score is None else [_number(_PROBABILITY, row.score, mean)],
        threshold=card.study_threshold.value,
        label=Label(row.label) if row.label else None,
        counts=(STUDY_STATUS, STATUSES[StudyStatus(row.status)]),
    )


def _image_group(
    image: ReportedImage, number: int, card: Card, identity: Identity, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    described = image.source.described
    group = _group(
        f"Image {number}, {model_name(card)}",
        identity.tracking("image", image.source.sop_instance, image.content),
        card,
        algorithm,
        measured=[] if image.probability is None else [_number(_PROBABILITY, image.probability)],
        threshold=card.image_threshold.value,
        label=image.label,
        counts=(IMAGE_STATE, STATES[image.state]),
        source=SourceImageForMeasurementGroup(described.SOPClassUID, described.SOPInstanceUID),
    )
    items = group[0].ContentSequence
    if image.heat_map is not None:
        made = image.heat_map
        contains = RelationshipTypeValues.CONTAINS
        items.append(ImageContentItem(CLASS_ACTIVATION, made.SOPClassUID, made.SOPInstanceUID, None, None, contains))
    if image.why is not None:
        items.append(_comment(image.why))
    return group


def _group(
    name: str,
    tracking: str,
    card: Card,
    algorithm: AlgorithmIdentification,
    *,
    measured: Sequence[Measurement],
    threshold: float,
    label: Label | None,
    counts: tuple[CodedConcept, CodedConcept],
    source: SourceImageForMeasurementGroup | None = None,
) -> MeasurementsAndQualitativeEvaluations:
    coded = [(LOOKED_FOR, _finding(card)), counts]
    if label is not None:
        coded.append((PREDICTED_LABEL, (NORMALITY if card.finding == "abnormality" else LABELS)[label]))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(tracking, name),
        # Who reads only this must not find one where the model has not.
        finding_type=_finding(card) if label is Label.POSITIVE else None,
        algorithm_id=algorithm,
        measurements=[*measured, _number(_THRESHOLD, threshold)],
        qualitative_evaluations=[QualitativeEvaluation(name, value) for name, value in coded],
        source_images=None if source is None else [source],
    )


def _number(name: Code, value: float, derivation: CodedConcept | None = None) -> Measurement:
    return Measurement(name, round(value, _DECIMALS), codes.UCUM.NoUnits, derivation=derivation)


def _finding(card: Card) -> CodedConcept:
    """Return the code of a model's finding; one of its own name where no terminology is known to have it."""
    code = f"F{hashlib.sha256(card.finding.encode()).hexdigest()[:12].upper()}"
    return FINDINGS.get(card.finding) or _own(code, long_string(card.finding))


def _algorithm(card: Card, identity: Identity) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=card.name,
        version=card.version,
        manufacturer=MAKER,
        family=codes.DCM.ArtificialIntelligence,
        parameters=[f"package SHA-256: {identity.digest}", f"precision: {identity.precision}"],
    )


def _comment(text: str) -> TextContentItem:
    plain = text.encode("ascii", "backslashreplace").decode()
    return TextContentItem(codes.DCM.Comment, plain, RelationshipTypeValues.CONTAINS)
