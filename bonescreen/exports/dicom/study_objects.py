"""All objects of a study, made in memory: a study is exported whole, or not at all."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from bonescreen.exports.dicom.heat_map_image import draw_picture, heat_map_image
from bonescreen.exports.dicom.identity import Identity, Kind
from bonescreen.exports.dicom.outline import outlines, presentation_state
from bonescreen.exports.dicom.report import ReportedImage, report_facts, study_report
from bonescreen.exports.dicom.shared_elements import RESEARCH_MARK, as_file, model_name, shared_arguments
from bonescreen.exports.dicom.source import NoReference, Source, read_source
from bonescreen.pictures import ChangedFile, cam_of, read_file, read_screened
from bonescreen.results_table import why_out_of_scope
from db.queries import ImageRow, Study
from xray.archive_root import Root
from xray.errors import FileFault
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.network.card import Card
from xray.network.heatmap import scale_note
from xray.network.package import ModelPackage
from xray.vocabulary import RESEARCH_NOTICE, ImageState, Label, Repair, StudyStatus, reason_text

# Both log and warn of values that they take over, among them patients' names.
for _library in ("highdicom", "pydicom"):
    logging.getLogger(_library).setLevel(logging.CRITICAL)


class NotExported(Exception):
    """Nothing can be written of a study; the text says why and what to do."""


@dataclass(frozen=True)
class DicomObject:
    """One object, as a DICOM file.

    Attributes
    ----------
    kind : Kind
    study, series, sop_class, sop_instance : str
        Its UIDs.
    data : bytes
        The file.
    """

    kind: Kind
    study: str
    series: str
    sop_class: str
    sop_instance: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class StudyObjects:
    """What is written of a study, and why images have no part in it: a line for each."""

    objects: list[DicomObject]
    left_out: list[str]


@dataclass(frozen=True)
class _Found:
    """An image that objects can refer to; `data` only while objects are to be made of it."""

    image: ImageRow
    source: Source
    data: bytes | None


def study_objects(study: Study, package: ModelPackage, roots: Mapping[str, Root]) -> StudyObjects:
    """Make the objects of a study: a report, and of each image with a say a heat map and its outlines.

    Parameters
    ----------
    study : Study
    package : ModelPackage
        That it was screened with.
    roots : mapping of str to Path or DicomWebService
        The archives' roots on this host, by name.

    Raises
    ------
    NotExported
        Nothing can be written of it.
    ArchiveOutage
        Its archive does not answer.
    """
    if study.row.status == StudyStatus.PENDING:
        raise NotExported("not all of its images are screened yet")
    if (study.row.patients or 1) > 1:
        raise NotExported(
            f"its images are of {study.row.patients} patients, and an object can be filed under one of them only"
        )
    with _libraries():
        return _made(study, package, roots)


@contextmanager
def _libraries() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
            # Headers hold what neither library foresees. Its text may quote the header, so only its type is said.
            raise NotExported(f"its images' headers have values that fit no object ({type(error).__name__})") from error


def _made(study: Study, package: ModelPackage, roots: Mapping[str, Root]) -> StudyObjects:
    card, left_out, comments = package.card, list[str](), list[str]()
    made: list[DicomObject] = []
    reported: list[ReportedImage] = []
    identity: Identity | None = None
    for found in _sources(study, roots, left_out, comments):
        if identity is None:
            identity = Identity.of(study, found.source.study)
        elif identity.study != found.source.study:
            raise NotExported(
                "its images are of several DICOM studies, and a result of all of them belongs to none; screen them "
                "with --layout dicom"
            )
        heat_map = None
        if found.data is not None:
            pictures = _pictures(found, found.data, study, card, identity)
            made += pictures
            heat_map = _reference(pictures[0])
        reported.append(_reported(found, heat_map))
    if identity is None:
        raise NotExported(
            "it holds no DICOM image that anything can refer to" + "".join(f"; {one}" for one in left_out)
        )
    uid = identity.instance(Kind.REPORT, *report_facts(study.row, reported, comments))
    shared = shared_arguments(Kind.REPORT, identity, uid, card)
    report = study_report(study.row, card, identity, reported, comments, **shared)
    return StudyObjects([_as_object(Kind.REPORT, report, reported[0].source, study), *made], left_out)


def _sources(study: Study, roots: Mapping[str, Root], left_out: list[str], comments: list[str]) -> Iterator[_Found]:
    """Yield the images that objects can refer to, those that count first; say of the others why not."""
    seen = set[str]()
    for image in sorted(
        study.images, key=lambda one: (one.state != ImageState.SCORED, one.probability is None, one.image)
    ):
        data = _read(image, roots)
        try:
            if data is None:
                raise NoReference("could not be read")
            source = read_source(data)
            if source.sop_instance in seen:
                if image.state == ImageState.COPY:
                    continue
                raise NoReference("has the SOP Instance UID of another image")
        except NoReference as why:
            left_out.append(f"{image.image}: left out, as it {why}")
            says = "The score counts an image" if image.state == ImageState.SCORED else "The study holds an image"
            comments.append(f"{says} that is not listed here, as it {why}.")
            continue
        seen.add(source.sop_instance)
        is_drawn = image.probability is not None and image.state != ImageState.OUT_OF_SCOPE
        yield _Found(image, source, data if is_drawn else None)


def _read(image: ImageRow, roots: Mapping[str, Root]) -> bytes | None:
    """Read an image's file; None for one that never could be read."""
    if image.probability is None:
        try:
            return read_file(image, roots)
        except FileFault:
            return None
    try:
        return read_screened(image, roots)
    except ChangedFile:
        raise NotExported(
            f"{image.image} has changed since it was screened, so that its result is another image's; screen its "
            "archive again"
        ) from None
    except FileFault as fault:
        raise NotExported(
            f"{image.image} cannot be read any more ({reason_text(fault.reason)}); screen its archive again"
        ) from fault


def _pictures(found: _Found, data: bytes, study: Study, card: Card, identity: Identity) -> list[DicomObject]:
    """Make the heat map and the outlines of an image."""
    image, source, cam = found.image, found.source, cam_of(found.image)
    gray, preprocessing = decode(data), Preprocessing.from_id(card.preprocessing)
    label = Label(image.label) if image.label else None
    outcome = f"{card.worded(label) if label else image.state}, probability {image.probability:.3f}"
    threshold = f"(an image is positive at {card.image_threshold.value:.3f} or above)"
    model = f"{model_name(card)} ({identity.precision})"
    note = scale_note(cam, card.heat_map_scale, positive=label is Label.POSITIVE, own_scale=False)
    uids = {kind: identity.instance(kind, source.sop_instance, str(image.sha256)) for kind in Kind}
    shared = {kind: shared_arguments(kind, identity, uids[kind], card) for kind in (Kind.HEAT_MAP, Kind.OUTLINE)}
    caption = [f"{outcome} {threshold}", model, *([note] if note else []), RESEARCH_NOTICE]
    picture = draw_picture(gray, cam, preprocessing=preprocessing, scale=card.heat_map_scale, caption=caption)
    description = (
        f"{RESEARCH_MARK}. The image, reduced to 8 bits and this size, under a class activation map of {model}: areas "
        "that raised the score, from low evidence (dark violet) to high evidence (yellow), on one scale for all images."
    )
    heat_map = heat_map_image(picture, source, image.body_part, description, **shared[Kind.HEAT_MAP])
    shape = gray.shape[0], gray.shape[1]
    areas = outlines(cam, shape, source, preprocessing=preprocessing, scale=card.heat_map_scale)
    reach = "Outlined: at least a quarter of its scale" if areas else "Nothing reaches a quarter of its scale"
    window = Repair.WINDOW not in (image.detail or "")
    text = [RESEARCH_MARK, outcome, f"Heat map of {model}", reach]
    state = presentation_state(source, shape, areas, text, window, **shared[Kind.OUTLINE])
    return [
        _as_object(Kind.HEAT_MAP, heat_map, source, study),
        _as_object(Kind.OUTLINE, state, source, study),
    ]


def _reported(found: _Found, heat_map: Dataset | None) -> ReportedImage:
    image, state = found.image, ImageState(found.image.state)
    why = None
    if state is ImageState.FAILED:
        why = f"No probability: {reason_text(image.reason or '')}."
    elif state is ImageState.OUT_OF_SCOPE:
        why = f"Out of scope: {why_out_of_scope(image)}."
    return ReportedImage(
        found.source,
        heat_map,
        state,
        # A number about what the model does not know would read as a result.
        None if state is ImageState.OUT_OF_SCOPE else image.probability,
        Label(image.label) if image.label else None,
        why,
        image.sha256 or str(image.reason),
    )


def _changed_at(study: Study) -> float:
    return study.row.changed_at or 0.0


def _reference(made: DicomObject) -> Dataset:
    reference = Dataset()
    reference.StudyInstanceUID, reference.SeriesInstanceUID = made.study, made.series
    reference.SOPClassUID, reference.SOPInstanceUID = made.sop_class, made.sop_instance
    return reference


def _as_object(kind: Kind, made: Dataset, source: Source, study: Study) -> DicomObject:
    return DicomObject(
        kind,
        made.StudyInstanceUID,
        made.SeriesInstanceUID,
        made.SOPClassUID,
        made.SOPInstanceUID,
        as_file(made, source, _changed_at(study)),
    )
