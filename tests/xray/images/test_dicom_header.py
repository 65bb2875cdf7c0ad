"""DICOM headers: which files are radiographs, what is read of them, and how damaged and hostile files fail."""

import io
import zlib

import numpy as np
import pydicom.data
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from tests.archives import jpeg, png
from tests.dicoms import NATIVE, bare, data_set, dicom, written
from xray.errors import FileFault
from xray.images.decode import decode, open_image
from xray.images.dicom.header import DEFINED_MODALITIES, Header, is_dicom, read_header
from xray.pseudonym import count_patients, pseudonym
from xray.vocabulary import REASON_TEXT, Reason

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)
KEY = b"a key for the tests"


def header(data: bytes, key: bytes | None = None) -> Header:
    return read_header(io.BytesIO(data), key)


def lost_image(data: bytes) -> FileFault:
    """Return why an image of the study 1.2.3 cannot be read."""
    assert header(data).study == "1.2.3"
    with pytest.raises(FileFault) as raised:
        decode(data)
    return raised.value


def fault(data: bytes) -> FileFault:
    with pytest.raises(FileFault) as read:
        header(data)
    with pytest.raises(FileFault) as decoded:
        decode(data)
    assert (read.value.reason, read.value.detail) == (decoded.value.reason, decoded.value.detail)
    return read.value


def code(value: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "whatever"
    return Sequence([item])


@pytest.mark.parametrize("syntax", NATIVE.values(), ids=NATIVE)
def test_a_file_is_dicom_with_and_without_preamble_in_every_encoding(syntax):
    data = dicom(PIXELS, syntax)

    assert is_dicom(data[:1024])
    if syntax != uid.DeflatedExplicitVRLittleEndian:
        assert is_dicom(bare(data)[:1024])
        assert np.array_equal(decode(bare(data)), decode(data))
        assert header(bare(data)).study == "1.2.3"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"DICM",
        b"\x08\x00",
        b"\0" * 1024,
        b"\x08\x00\x05\x00" + b"\xff" * 200,
        b"study,image\n1,2\n" * 100,
        b"PK\x03\x04" + b"\x08\x00" * 500,
        b"%PDF-1.7" * 100,
        bytes(range(256)) * 4,
    ],
)
def test_other_files_are_not_taken_for_dicom(data):
    assert not is_dicom(data)
    assert fault_reason(data) in (Reason.NOT_AN_IMAGE, Reason.EMPTY)


def fault_reason(data: bytes) -> Reason:
    with pytest.raises(FileFault) as raised:
        decode(data)
    return raised.value.reason


@pytest.mark.parametrize("make", [png, jpeg])
def test_pictures_are_not_taken_for_dicom(make):
    assert not is_dicom(make(3)[:1024])


def test_bytes_that_are_not_dicom_have_no_header():
    with pytest.raises(FileFault) as raised:
        header(b"plain text")

    assert raised.value.reason is Reason.NOT_AN_IMAGE
    assert "DICOM" in REASON_TEXT[Reason.NOT_AN_IMAGE]


def test_a_file_with_a_tiff_header_as_preamble_is_read_as_dicom():
    data = dicom(PIXELS)
    dual = b"II\x2a\x00" + data[4:]

    assert np.array_equal(decode(dual), decode(data))
    assert open_image(dual).pixel_count == 64


def test_the_fields_of_a_header_are_read():
    data = dicom(PIXELS, BodyPartExamined="HAND", ViewPosition="PA", ImageLaterality="L", IssuerOfPatientID="hospital")

    read = header(data, KEY)
    assert (read.study, read.series, read.body_part, read.view, read.laterality) == (
        "1.2.3", "1.2.3.1", "HAND", "PA", "L",
    )  # fmt: skip
    assert (read.modality, read.intent) == ("CR", None)
    assert read.patient == pseudonym(KEY, "4711", "hospital")
    assert header(data).patient is None


def test_accession_number_and_study_date_are_read_only_if_they_are_to_be_kept():
    data = dicom(PIXELS, AccessionNumber="A 17 ", StudyDate="20240229")

    assert (header(data).accession, header(data).study_date) == (None, None)
    control = data.replace(b"A 17", b"A\0\x1b7")
    assert read_header(io.BytesIO(control), keep={"accession"}).accession == "A7"
    kept = read_header(io.BytesIO(data), keep={"accession", "date"})
    assert (kept.accession, kept.study_date) == ("A 17", "2024-02-29")


@pytest.mark.parametrize(
    ("written", "date"),
    [(b"2024.02.29", "2024-02-29"), (b"20230229", None), (b"", None), (b"2024", None), (b"unknown ", None)],
)
def test_a_study_date_is_read_in_both_forms_of_the_standard_and_otherwise_none(written, date):
    data = dicom(PIXELS, StudyDate="20010101").replace(
        b"DA\x08\x0020010101", b"DA" + len(written).to_bytes(2, "little") + written
    )

    assert read_header(io.BytesIO(data), keep={"date"}).study_date == date


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"PatientID": "4711"}, {"PatientID": "4711"}, True),
        ({"PatientID": "A-0815"}, {"PatientID": "a0815 "}, True),
        ({"PatientID": "4711"}, {"PatientID": "0004711"}, True),
        ({"PatientID": "4711", "PatientName": "Doe^Jane"}, {"PatientID": "4711", "PatientName": "Doe^J"}, True),
        ({"PatientID": "4711"}, {"PatientID": "4712"}, False),
        ({"PatientID": "", "PatientName": "Doe^Jane"}, {"PatientID": "", "PatientName": "Roe^John"}, False),
        ({"PatientID": "0", "PatientName": "Doe^Jane"}, {"PatientID": "000", "PatientName": "Roe^John"}, False),
        ({"PatientID": "", "PatientName": "DOE, JANE"}, {"PatientID": "4711", "PatientName": "Doe^Jane"}, True),
        ({"PatientID": "", "PatientName": "Roe^John"}, {"PatientID": "4711", "PatientName": "Doe^Jane"}, False),
        ({"PatientID": "", "PatientName": ""}, {"PatientID": "4711", "PatientName": "Doe^Jane"}, True),
    ],
)
def test_the_marks_of_images_tell_patients_apart_however_one_is_written(one, other, same):
    marks = header(dicom(PIXELS, **one)).patient_mark, header(dicom(PIXELS, **other)).patient_mark

    assert count_patients(marks) == (1 if same else 2)
    assert all(len(mark) == 8 for mark in marks if mark)


def test_the_mark_of_a_patient_is_another_in_each_study_and_there_is_none_without_a_patient():
    marks = {header(dicom(PIXELS, StudyInstanceUID=f"1.2.{number}")).patient_mark for number in range(8)}

    assert len(marks) == 8
    assert header(dicom(PIXELS, PatientID=None, PatientName=None)).patient_mark is None


@pytest.mark.parametrize(
    ("sop_class", "written", "intent"),
    [
        (uid.DigitalXRayImageStorageForPresentation, None, "FOR PRESENTATION"),
        (uid.DigitalXRayImageStorageForProcessing, None, "FOR PROCESSING"),
        (uid.DigitalXRayImageStorageForPresentation, "FOR PROCESSING", "FOR PROCESSING"),
        (uid.ComputedRadiographyImageStorage, "for processing", "FOR PROCESSING"),
        (uid.ComputedRadiographyImageStorage, "WHATEVER", None),
    ],
)
def test_the_presentation_intent_is_what_the_header_says_or_else_the_class(sop_class, written, intent):
    data = dicom(PIXELS, SOPClassUID=sop_class, PresentationIntentType="FOR PLACEHOLDER" if written else None)

    read = header(data.replace(b"FOR PLACEHOLDER ", (written or "").ljust(16).encode()))

    assert read.intent == intent


@pytest.mark.parametrize(
    ("sop_class", "written", "modality"),
    [
        (uid.ComputedRadiographyImageStorage, "CR", "CR"),
        (uid.ComputedRadiographyImageStorage, "MG", "MG"),
        (uid.ComputedRadiographyImageStorage, "OT", "CR"),
        (uid.ComputedRadiographyImageStorage, None, "CR"),
        (uid.DigitalXRayImageStorageForPresentation, "PX", "PX"),
        (uid.DigitalXRayImageStorageForPresentation, "DR", "DX"),
        (uid.DigitalIntraOralXRayImageStorageForPresentation, "DX", "IO"),
        (uid.XRayAngiographicImageStorage, "CR", "XA"),
        (uid.SecondaryCaptureImageStorage, "DR", "DX"),
        (uid.SecondaryCaptureImageStorage, "XR", "DX"),
        (uid.SecondaryCaptureImageStorage, "DF", "RF"),
    ],
)
def test_the_modality_is_the_class_s_where_it_has_one_or_else_the_term_that_the_written_one_stands_for(
    sop_class, written, modality
):
    assert header(dicom(PIXELS, SOPClassUID=sop_class, Modality=written)).modality == modality


def test_a_patient_has_the_same_pseudonym_in_every_character_set():
    latin = dicom(PIXELS, PatientID="Müller", SpecificCharacterSet="ISO_IR 100")
    unicode = dicom(PIXELS, PatientID="Müller ", SpecificCharacterSet="ISO_IR 192")

    assert header(latin, KEY).patient == header(unicode, KEY).patient == pseudonym(KEY, "Müller")


def test_a_patient_id_that_its_charset_cannot_decode_has_a_pseudonym():
    data = dicom(PIXELS).replace(b"4711", b"\xff\xfe\xfd1")

    assert header(data, KEY).patient == pseudonym(KEY, "ÿþý1")


@pytest.mark.parametrize("identity", [None, "", "  "])
def test_without_a_patient_id_there_is_no_pseudonym(identity):
    assert header(dicom(PIXELS, PatientID=identity), KEY).patient is None


def with_study_uid(value: str) -> bytes:
    return dicom(PIXELS).replace(b"\x0d\x00UI\x06\x001.2.3\0", b"\x0d\x00UI" + length_and(value))


@pytest.mark.parametrize(
    "value", ["022f82f4-e9df-4533-b237-6ab563dfaf56", "1.2.x", "ANON 17", "0" * 64 + "." + "1" * 64, "9f86d081" * 16]
)
def test_a_uid_that_is_not_one_is_kept_as_it_is_written(value):
    assert header(with_study_uid(value)).study == value


@pytest.mark.parametrize("value", ["", " ", "1.2\t3", "1" * 1001])
def test_an_empty_unprintable_or_endless_uid_is_none(value):
    assert header(with_study_uid(value)).study is None
    assert header(with_study_uid(value)).series == "1.2.3.1"


def length_and(value: str) -> bytes:
    value += "\0" * (len(value) % 2)
    return len(value).to_bytes(2, "little") + value.encode()


@pytest.mark.parametrize(
    ("text", "part", "side"),
    [
        ("hand", "HAND", None),
        (" HAND LT", "HAND", "L"),
        ("RIGHT_FOOT", "FOOT", "R"),
        ("HANDS BILAT", "HAND", "B"),
        ("KNEE, L R", "KNEE", "B"),
        ("THUMB", "FINGER", None),
        ("Lower Leg", "LEG", None),
        ("UPPER ARM", "HUMERUS", None),
        ("CHEST", "CHEST", None),
        ("CSPINE", "CSPINE", None),
        ("EXTREMITY", None, None),
        ("LOWER EXTREMITY", None, None),
        ("R EXTREMITY", None, "R"),
        ("Hand RE", "HAND", "R"),
        ("HAND AP", "HAND", None),
        ("WRIST 3 VIEWS", "WRIST", None),
        ("RADIUS", "FOREARM", None),
        ("TIBIA", "LEG", None),
        ("CALCANEUS", "FOOT", None),
        ("<SCRIPT>", "SCRIPT", None),
        ("", None, None),
    ],
)
def test_body_parts_become_terms_of_the_vocabulary(text, part, side):
    # pydicom refuses to write an invalid code string.
    data = dicom(PIXELS, BodyPartExamined="PLACEHOLDER12345").replace(b"PLACEHOLDER12345", text.ljust(16).encode())

    found = header(data)

    assert (found.body_part, found.laterality) == (part, side)


def test_a_body_part_of_more_than_sixteen_characters_is_read():
    written = b"XR WRIST LEFT 3+ VIEWS  "
    data = dicom(PIXELS, BodyPartExamined="A" * 16).replace(b"CS\x10\x00" + b"A" * 16, b"CS\x18\x00" + written)

    assert (header(data).body_part, header(data).laterality) == ("WRIST", "L")


@pytest.mark.parametrize(
    ("value", "part"), [("85562004", "HAND"), ("T-D8700", "HAND"), ("30021000", "LEG"), ("1", "WHATEVER")]
)
@pytest.mark.parametrize("examined", [None, "EXTREMITY"])
def test_the_coded_region_is_used_if_the_body_part_is_not_named(value, part, examined):
    assert header(dicom(PIXELS, BodyPartExamined=examined, AnatomicRegionSequence=code(value))).body_part == part


@pytest.mark.parametrize(("value", "view"), [("399348003", "AP"), ("R-10214", "PA"), ("399173006", "LL"), ("1", None)])
def test_the_coded_view_is_used_if_there_is_no_view_position(value, view):
    assert header(dicom(PIXELS, ViewCodeSequence=code(value))).view == view


def test_the_image_s_laterality_comes_before_the_series_and_the_body_part_s():
    assert header(dicom(PIXELS, ImageLaterality="L", Laterality="R", BodyPartExamined="HAND R")).laterality == "L"
    assert header(dicom(PIXELS, ImageLaterality="", Laterality="R", BodyPartExamined="HAND L")).laterality == "R"
    assert header(dicom(PIXELS, ImageLaterality="X")).laterality is None


@pytest.mark.parametrize(
    "keyword",
    [
        "ComputedRadiographyImageStorage",
        "DigitalXRayImageStorageForPresentation",
        "DigitalXRayImageStorageForProcessing",
        "DigitalMammographyXRayImageStorageForPresentation",
        "DigitalIntraOralXRayImageStorageForProcessing",
        "XRayAngiographicImageStorage",
        "XRayRadiofluoroscopicImageStorage",
    ],
)
def test_projection_radiographs_are_read(keyword):
    data = dicom(PIXELS, SOPClassUID=getattr(uid, keyword), Modality="OT", NumberOfFrames=1)

    assert header(data).study == "1.2.3"
    assert decode(data).shape == (8, 8)


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX"])
@pytest.mark.parametrize("sop_class", [uid.SecondaryCaptureImageStorage, "1.2.392.200036.9125.1.1.2", None])
def test_of_a_capture_a_private_sop_class_and_none_the_modality_decides(modality, sop_class):
    data = dicom(PIXELS, SOPClassUID=sop_class, Modality=modality)

    assert header(data).study == "1.2.3"


@pytest.mark.parametrize(
    ("sop_class", "modality", "name"),
    [
        (uid.CTImageStorage, "CT", "CT Image Storage"),
        (uid.CTImageStorage, "CR", "CT Image Storage"),
        (uid.MRImageStorage, "MR", "MR Image Storage"),
        (uid.ComprehensiveSRStorage, "SR", "Comprehensive SR Storage"),
        (uid.SegmentationStorage, "SEG", "Segmentation Storage"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "PR", "Grayscale Softcopy Presentation State Storage"),
        (uid.SecondaryCaptureImageStorage, "OT", "Secondary Capture Image Storage"),
        (uid.SecondaryCaptureImageStorage, None, "Secondary Capture Image Storage"),
        ("1.2.3.4.5", "CT", "other DICOM object"),
        (None, "US", "other DICOM object"),
    ],
)
def test_other_objects_are_named_by_their_sop_class_alone(sop_class, modality, name):
    found = fault(dicom(PIXELS, SOPClassUID=sop_class, Modality=modality))

    assert (found.reason, found.detail) == (Reason.NOT_RADIOGRAPH, name)


def test_a_dicomdir_is_not_a_radiograph():
    path = pydicom.data.get_testdata_file("DICOMDIR", download=False)
    with open(path, "rb") as file:
        found = fault(file.read())

    assert (found.reason, found.detail) == (Reason.NOT_RADIOGRAPH, "Media Storage Directory Storage")


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": uid.EnhancedXAImageStorage},
        {"SOPClassUID": uid.XRayAngiographicImageStorage, "NumberOfFrames": 2},
        {"Modality": "RF", "NumberOfFrames": 30},
        {"StudyInstanceUID": None, "NumberOfFrames": 2},
    ],
)
def test_several_frames_of_what_moves_or_of_no_study_are_refused(elements):
    assert fault(dicom(PIXELS, **elements)).reason is Reason.MULTI_FRAME


@pytest.mark.parametrize(
    "elements",
    [{"NumberOfFrames": 2}, {"SOPClassUID": uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage}],
)
def test_several_frames_of_a_radiograph_are_an_image_that_its_study_has_lost(elements):
    assert lost_image(dicom(PIXELS, **elements)).reason is Reason.MULTI_FRAME


def test_a_multi_frame_capture_of_another_modality_is_not_a_radiograph():
    found = fault(dicom(PIXELS, SOPClassUID=uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage, Modality="US"))

    assert found.reason is Reason.NOT_RADIOGRAPH


def test_a_radiograph_without_pixels_is_lost_to_its_study_and_a_report_is_not_a_radiograph():
    assert lost_image(written(data_set(PIXELS))).reason is Reason.NO_PIXELS
    assert fault(written(data_set(PIXELS, StudyInstanceUID=None))).reason is Reason.NO_PIXELS
    assert fault(written(data_set(PIXELS, SOPClassUID=uid.BasicTextSRStorage))).reason is Reason.NOT_RADIOGRAPH


@pytest.mark.parametrize("encoding", ["implicit", "explicit", "big"])
def test_a_truncated_header_has_a_reason_wherever_it_ends(encoding):
    data = dicom(PIXELS, NATIVE[encoding])

    with_study = 0
    for end in range(132, len(data) - PIXELS.nbytes - 12):
        with pytest.raises(FileFault) as raised:
            decode(data[:end])
        assert raised.value.reason in (Reason.TRUNCATED, Reason.NO_PIXELS, Reason.NOT_RADIOGRAPH)
        try:
            with_study += header(data[:end]).study == "1.2.3"
        except FileFault as fault:
            assert fault.reason is raised.value.reason  # noqa: PT017
    # From the element after the UID on, the study has lost this image.
    assert with_study > 100


def test_sequences_nested_without_end_are_corrupt():
    data = dicom(PIXELS)
    place = data.index(b"\x10\x00\x10\x00PN")
    nested = b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 100_000

    found = fault(data[:place] + nested + data[place:])

    assert (found.reason, found.detail) == (Reason.CORRUPT, "more than 64 nested sequences")


def test_too_many_elements_are_corrupt_in_a_radiograph_and_another_object_is_not_a_radiograph():
    place = dicom(PIXELS).index(b"\x10\x00\x10\x00PN")
    many = b"\x09\x00\x01\x10LO\0\0" * 100_001

    radiograph, report = dicom(PIXELS), dicom(PIXELS, SOPClassUID=uid.SegmentationStorage)
    assert fault(radiograph[:place] + many + radiograph[place:]).reason is Reason.CORRUPT
    place = report.index(b"\x10\x00\x10\x00PN")
    assert fault(report[:place] + many + report[place:]).reason is Reason.NOT_RADIOGRAPH


def test_sequences_of_all_kinds_are_skipped():
    described = data_set(PIXELS, BodyPartExamined="HAND")
    inner = Dataset()
    inner.BodyPartExamined = "SKULL"
    inner.ReferencedImageSequence = code("1")
    described.RequestAttributesSequence = Sequence([inner, Dataset()])
    described.add_new(0x00091010, "UN", b"\xfe\xff\x00\xe0\x04\0\0\0\x09\0\1\0\xfe\xff\xdd\xe0\0\0\0\0")
    described.PixelData = PIXELS.tobytes()
    defined = written(described)
    described["RequestAttributesSequence"].is_undefined_length = True
    inner.is_undefined_length_sequence_item = True

    for data in (defined, written(described)):
        assert header(data).body_part == "HAND"
        assert np.array_equal(decode(data), decode(dicom(PIXELS)))


def test_a_deflated_header_over_the_cap_is_corrupt_before_it_is_inflated():
    data = dicom(PIXELS, NATIVE["deflated"])
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [packer.compress(b"\x08\x00\x05\x00UN\0\0\xfe\xff\xff\x7f")]
    parts += [packer.compress(b"\0" * 2**20) for _ in range(128)]
    oversized = data[:start] + b"".join(parts) + packer.flush()

    assert len(oversized) < 2**20
    assert "inflates to more than" in fault_of_header(oversized).detail


def fault_of_header(data: bytes) -> FileFault:
    with pytest.raises(FileFault) as raised:
        header(data)
    return raised.value


def test_a_fault_has_nothing_of_the_patient():
    for data in (dicom(PIXELS, Modality="4711", SOPClassUID=None), dicom(PIXELS, PhotometricInterpretation="4711")):
        with pytest.raises(FileFault) as raised:
            decode(data)
        assert "4711" not in str(raised.value)
        assert "Doe" not in str(raised.value)


def test_large_values_are_skipped_without_being_read():
    data = dicom(PIXELS, OverlayData=None)
    place = data.index(b"\x10\x00\x10\x00PN")
    large = b"\x09\x00\x01\x10OB\0\0" + (2**24).to_bytes(4, "little") + bytes(2**24)
    file = Counted(data[:place] + large + data[place:])

    assert read_header(file, None).study == "1.2.3"
    assert file.taken < 20_000


class Counted(io.BytesIO):
    """A file that counts the bytes that are read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(size)
        self.taken += len(part)
        return part


def test_every_modality_of_the_standards_context_groups_is_known() -> None:
    # Acquisition Modality and Modality (PS3.16), as pydicom has them.
    terms = {code.value for group in (codes.cid29, codes.cid33) for code in group.concepts.values()}
    assert "DX" in terms
    assert terms <= DEFINED_MODALITIES
