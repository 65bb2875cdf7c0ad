"""A folder of de-identified images with their results: ``pseudonym/study/image1.dcm``, two tables and a README."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bonescreen.deidentification.dicom_file import DicomFile, Identity
from bonescreen.deidentification.profile import EDITION
from bonescreen.exports.csv_text import cell
from bonescreen.exports.private_file import make_private_folders, open_private
from bonescreen.pictures import ChangedFile, read_screened
from db.queries import ImageRow, Study
from db.scan_cache import archive_id_of, header_marks
from db.session import Database
from xray.archive_root import Root
from xray.errors import FileFault
from xray.images.decode import decode
from xray.images.dicom.header import HEAD_BYTES, is_dicom, read_header
from xray.pseudonym import key_mark, pseudonym, pseudonymous_uid
from xray.vocabulary import RESEARCH_NOTICE, count, reason_text

README, STUDIES, IMAGES = "README.txt", "studies.csv", "images.csv"

STUDY_COLUMNS = (
    "study", "patient", "body_part", "human_label", "status", "score", "label", "flagged", "images", "failed",
    "exported", "highest", "model", "precision", "notice",
)  # fmt: skip
IMAGE_COLUMNS = (
    "file", "study", "patient", "study_instance_uid", "body_part", "view", "laterality", "modality", "state", "label",
    "probability", "notice",
)  # fmt: skip

CHECKED = "--pictures-checked"
"""The option by which a person says that no picture names its patient."""


class NotExported(Exception):
    """Why one image is not exported; the text says it."""


@dataclass
class Export:
    """Writes studies to a folder, and counts what it did.

    Attributes
    ----------
    database : Database
    roots : mapping of str to Path
        The archives' roots on this host, by name.
    key : bytes
        The pseudonym key.
    folder : Path
        It is empty or missing.
    pictures_checked : bool
        A person has seen that no picture names its patient.
    say : callable
        Takes a line for each image that is not exported.
    exported, refused, unmarked : int
        Images that were and that were not exported; of the former those that only `pictures_checked` let through.
    """

    database: Database
    roots: Mapping[str, Root]
    key: bytes = field(repr=False)
    folder: Path
    pictures_checked: bool
    say: Callable[[str], object]
    exported: int = 0
    refused: int = 0
    unmarked: int = 0
    studies: int = 0
    models: set[str] = field(default_factory=set)
    _held: tuple[int, bytes] | None = field(default=None, repr=False)

    def write(self, studies: Iterable[Study], advance: Callable[[int], object]) -> None:
        """Export studies, one after the other; the tables and the README appear when all are done.

        Raises
        ------
        ArchiveOutage
            An archive has no root on this host, or does not answer.
        StorageOutage
            The folder cannot be written.
        """
        make_private_folders(self.folder)
        with ExitStack() as stack:
            study_table = self._table(stack, STUDIES, STUDY_COLUMNS)
            image_table = self._table(stack, IMAGES, IMAGE_COLUMNS)
            for study in studies:
                study_table(self._export(study, image_table))
                advance(1)
        with open_private(self.folder / README) as file:
            file.write(self._readme().encode())

    def _table(self, stack: ExitStack, name: str, columns: Sequence[str]) -> Callable[[Mapping[str, object]], None]:
        file = io.TextIOWrapper(stack.enter_context(open_private(self.folder / name)), encoding="utf-8", newline="\n")
        stack.callback(file.detach)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)

        def write(row: Mapping[str, object]) -> None:
            writer.writerow([cell(row[column]) for column in columns])

        return write

    def _export(self, study: Study, write_image: Callable[[Mapping[str, object]], None]) -> Mapping[str, object]:
        patients = _Patients(self, study)
        uid = pseudonymous_uid(self.key, study.row.study)
        exported = 0
        for number, image in enumerate(study.images, 1):
            try:
                row = self._export_image(study, image, patients, PurePosixPath(uid, f"image{number}"))
            except NotExported as reason:
                self.say(f"{image.image}: not exported: {reason}")
                self.refused += 1
            else:
                write_image({**row, "study": uid})
                exported += 1
        self.exported += exported
        self.studies += 1
        self.models.add(f"{study.row.model}, {study.row.precision}, digest {study.digest}")
        row = {column: getattr(study.row, column, None) for column in STUDY_COLUMNS}
        return {**row, "study": uid, "patient": patients.only, "exported": exported, "notice": RESEARCH_NOTICE}

    def _export_image(
        self, study: Study, image: ImageRow, patients: "_Patients", name: PurePosixPath
    ) -> Mapping[str, object]:
        data = self.read(image)
        patient = patients.of(data)
        try:
            if is_dicom(data[:HEAD_BYTES]):
                written, name = (
                    self._dicom(data, Identity(self.key, patient, study.row.study)),
                    name.with_suffix(".dcm"),
                )
                instance = read_header(io.BytesIO(written)).study
            else:
                written, name, instance = self._picture(data), name.with_suffix(".png"), None
            if not np.array_equal(decode(written), decode(data)):
                raise NotExported("its picture would not be the same")
        except FileFault as fault:
            raise NotExported(_text_of(fault)) from None
        target = self.folder / patient / name
        make_private_folders(target.parent)
        with open_private(target) as file:
            file.write(written)
        row = {column: getattr(image, column, None) for column in IMAGE_COLUMNS}
        found = {"file": f"{patient}/{name}", "patient": patient, "study_instance_uid": instance}
        return {**row, **found, "notice": RESEARCH_NOTICE}

    def read(self, image: ImageRow) -> bytes:
        """Read the file of an image as it was screened.

        Raises
        ------
        NotExported
            It was not screened, cannot be read, or has changed.
        """
        if image.sha256 is None or image.reason is not None:
            raise NotExported("not screened yet" if image.reason is None else reason_text(image.reason))
        if self._held is not None and self._held[0] == image.image_id:
            # A study's first image is read for its patient too, perhaps from a service.
            return self._held[1]
        try:
            self._held = (image.image_id, read_screened(image, self.roots))
            return self._held[1]
        except ChangedFile:
            raise NotExported("the file has changed since it was screened; screen its archive again") from None
        except FileFault as fault:
            raise NotExported(f"it cannot be read any more: {reason_text(fault.reason)}") from None

    def _dicom(self, data: bytes, identity: Identity) -> bytes:
        opened = DicomFile(data)
        if opened.burned_in is not None:
            self._check_unmarked(opened.burned_in)
        return opened.deidentified(identity)

    def _picture(self, data: bytes) -> bytes:
        """Return the gray of a PNG, JPEG or TIFF file as it is screened, as a PNG that holds nothing else."""
        self._check_unmarked("a PNG, JPEG or TIFF file does not say whether text is burned into its picture")
        file = io.BytesIO()
        Image.fromarray(decode(data)).save(file, "PNG")
        return file.getvalue()

    def _check_unmarked(self, why: str) -> None:
        if not self.pictures_checked:
            raise NotExported(f"{why}; look at it, and if it names nobody, export it with {CHECKED}")
        self.unmarked += 1

    def manifest_patient(self, study: Study) -> str | None:
        """Return the stored pseudonym of a study's patient, if it was made with this key."""
        archive = archive_id_of(self.database, study.images[0].archive) if study.images else None
        if archive is None or header_marks(self.database, archive).pseudonym_key != key_mark(self.key):
            return None
        return study.patient

    def _readme(self) -> str:
        return README_TEXT.format(
            notice=RESEARCH_NOTICE,
            bonescreen=version("bonescreen"),
            edition=EDITION,
            models="\n".join(f"  {model}" for model in sorted(self.models)),
            studies=count(self.studies, "study"),
            exported=count(self.exported, "image"),
            refused=count(self.refused, "image"),
            unmarked=count(self.unmarked, "image"),
        )


@dataclass
class _Patients:
    """The pseudonyms of a study's images: one for all, unless the study is known to be of several patients."""

    export: Export
    study: Study

    @cached_property
    def only(self) -> str | None:
        """The study's only patient: of the first file that names one, of the manifest, or of this study alone."""
        if (self.study.row.patients or 1) > 1:
            return None
        for image in self.study.images:
            try:
                data = self.export.read(image)
            except NotExported:
                continue
            if not is_dicom(data[:HEAD_BYTES]):
                break
            if (patient := self._named_in(data)) is not None:
                return patient
        return self.export.manifest_patient(self.study) or pseudonym(self.export.key, "", self.study.row.study)

    def of(self, data: bytes) -> str:
        """Return the pseudonym of the patient of a file."""
        if self.only is not None:
            return self.only
        named = self._named_in(data) if is_dicom(data[:HEAD_BYTES]) else None
        if named is not None:
            return named
        mark = self._mark_of(data) if is_dicom(data[:HEAD_BYTES]) else None
        return pseudonym(self.export.key, mark or "", self.study.row.study)

    def _named_in(self, data: bytes) -> str | None:
        try:
            return read_header(io.BytesIO(data), self.export.key).patient
        except FileFault:
            return None

    def _mark_of(self, data: bytes) -> str | None:
        try:
            return read_header(io.BytesIO(data), study=self.study.row.study).patient_mark
        except FileFault:
            return None


def _text_of(fault: FileFault) -> str:
    return f"{reason_text(fault.reason)}: {fault.detail}" if fault.detail else reason_text(fault.reason)


README_TEXT = """\
DE-IDENTIFIED RADIOGRAPHS, AND THE RESULTS OF BONESCREEN
{notice}

{studies}, {exported}; {refused} of these studies not exported.
Written by bonescreen {bonescreen}; screened with
{models}

WHAT IS HERE
  PATIENT/STUDY/imageN.dcm   the images (of PNG, JPEG and TIFF files: imageN.png)
  studies.csv                a line for each study: score, predicted label, status
  images.csv                 a line for each image: file, probability, state

PATIENT is a pseudonym: a keyed hash, the same in every export with the same key. STUDY is the new
Study Instance UID; where a study was a folder and not one of DICOM, it is made from the folder's name in
the same way, and images.csv has the Study Instance UID of each file.

WHAT WAS DONE
The headers of DICOM files were de-identified after the Basic Application Level Confidentiality Profile of
DICOM PS3.15 {edition} (Table E.1-1), in sequences too; no option of the profile was applied.
- Names, addresses, numbers of patients, orders and devices, descriptions and comments: removed or empty.
- Dates and times: removed or empty. Intervals between studies are lost.
- Study, series, instance, frame of reference and other UIDs: replaced by keyed ones, the same in every
  export with the same key.
- Patient ID: the pseudonym. Sex, age, size and weight: removed or empty.
- Private elements, overlays, curves, and elements that DICOM's dictionary does not have: removed.
- Preamble, file meta information, and what follows the pixel data: not copied.
PNG, JPEG and TIFF files: only their gray values were copied, to a PNG without metadata.

WHAT WAS NOT DONE
- THE PICTURES ARE AS THEY WERE. Text that is burned into a picture, such as a name, was not looked for and
  not removed. Files that say that there is some, Secondary Captures that do not say that there is none,
  and PNG, JPEG and TIFF files are here only if the person who made this export said that the pictures
  were checked: {unmarked}.
- What the pixel data hold besides the picture, such as a comment in a compressed one, was not removed.
- Manufacturer, model and software of the device, body part, view and exposure are kept, as the profile says.
- The studies are pseudonymous, not anonymous: who has the key and the hospital's records can tell whose
  they are, and who has the same picture can recognise it.
"""
