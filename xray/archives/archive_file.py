"""A file of an archive, the study that it belongs to, and a file that a scan skips."""

from dataclasses import dataclass

from xray.vocabulary import Label, SkipReason

MAX_PATH_BYTES = 1000
"""PostgreSQL indexes at most 2,700 bytes a row, and the rows of a flat archive hold the path twice."""

MISSING = (0, 0)
"""Version of a file that a manifest lists and that does not exist, or whose version this user may not read: it becomes
an image that fails."""

MTIME_TOLERANCE_NS = 2_000_000_000
"""File systems keep times to a nanosecond, a second or (FAT) two, so two hosts may see times that differ a little."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The study of an image, and what describes the image in it.

    Parameters
    ----------
    study : str
        The study's key in the archive: the path of its folder below the root, of its only image, or a UID.
    body_part : str or None
        A DICOM Body Part Examined term (PS3.16 Annex L), if known.
    human_label : Label or None
        The study's human label, if known.
    view : str or None
        The view, such as DICOM's View Position (0018,5101): ``AP``, ``LL``.
    laterality : str or None
        DICOM's Image Laterality (0020,0062): ``L``, ``R``, ``B`` or ``U``.
    series : str or None
        DICOM's Series Instance UID (0020,000E).
    modality : str or None
        DICOM's Modality (0008,0060), a term of `xray.images.dicom.header.MODALITIES`.
    intent : str or None
        DICOM's Presentation Intent Type (0008,0068): ``FOR PRESENTATION`` or ``FOR PROCESSING``.
    patient_mark : str or None
        Tells patients within the study apart, see `xray.pseudonym.patient_mark`.
    patient : str or None
        A keyed hash of the patient's identity, 32 hexadecimal digits.
    accession, study_date : str or None
        The study's Accession Number (0008,0050) and Study Date (0008,0020, as YYYY-MM-DD), if they are to be kept.
    """

    study: str
    body_part: str | None = None
    human_label: Label | None = None
    view: str | None = None
    laterality: str | None = None
    series: str | None = None
    modality: str | None = None
    intent: str | None = None
    patient_mark: str | None = None
    patient: str | None = None
    accession: str | None = None
    study_date: str | None = None


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file of an archive, in a folder or in a zip or tar.

    Parameters
    ----------
    path : str
        Below the archive's root, POSIX, without '..'. Bytes that are not UTF-8 are surrogates.
    size : int
        Bytes, unpacked.
    mtime_ns : int
        Time of the last change, nanoseconds since 1970, within 64 bits. For a member of a zip its CRC-32 is added, as
        a zip keeps times to two seconds.
    placement : Placement or None
        The study that it belongs to; None until it is known.
    lost : SkipReason or None
        Why the scan can tell already that it cannot be read: if the layout places it in a study, it becomes an image
        that fails, so that the study is incomplete.
    """

    path: str
    size: int
    mtime_ns: int
    placement: Placement | None = None
    lost: SkipReason | None = None

    @property
    def version(self) -> tuple[int, int]:
        """Size (bytes) and time of the last change (ns): a file whose version changed is screened again."""
        return self.size, self.mtime_ns


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, folder or container that a scan skips.

    Parameters
    ----------
    path : str
        Below the archive's root, as in `ArchiveFile`.
    reason : str
        A `SkipReason`, or the name of the SOP class of a DICOM file that is not a radiograph.
    opened : ArchiveFile or None
        The file, if its content had to be read to decide this: the next scan need not read it again.
    """

    path: str
    reason: str
    opened: ArchiveFile | None = None

    def __str__(self) -> str:
        return f"{path_as_text(self.path)} ({self.reason})"


def path_as_text(path: str) -> str:
    r"""Write a path as readable text.

    Bytes that are not UTF-8 become ``\xNN``, control characters are escaped, and no more than `MAX_PATH_BYTES`
    characters are kept.
    """
    text = path[:MAX_PATH_BYTES].encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
