"""Reading manifests: valid rows, and problems with their line numbers."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray.archives.archive_file import Placement
from xray.archives.manifest import MAX_LINE_BYTES, ManifestProblem, ManifestRow, count_images, read_manifest
from xray.errors import UsageError
from xray.pseudonym import patient_mark, pseudonym
from xray.vocabulary import Label

KEY = b"a key of thirty-two characters.."


def read(text: str | bytes, key: bytes | None = None) -> list[ManifestRow | ManifestProblem]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_manifest(io.BytesIO(data), key))


def test_a_manifest_row_has_the_study_the_image_and_the_other_columns() -> None:
    text = "image,study,label,body_part,view,patient\na/1.png,s1,positive,hand,ap,Doe\n\n./b.png,s2,,,,\n"
    assert read(text, KEY) == [
        ManifestRow(
            2,
            "a/1.png",
            Placement(
                "s1",
                "HAND",
                Label.POSITIVE,
                "AP",
                patient_mark=patient_mark("s1", "Doe"),
                patient=pseudonym(KEY, "Doe"),
            ),
        ),
        ManifestRow(4, "b.png", Placement("s2")),
    ]


def test_a_patient_is_read_as_a_keyed_hash_or_dropped() -> None:
    text = "study,image,patient\ns,1.png,Doe\n"
    (without,) = read(text)
    (one,), (other,) = read(text, KEY), read(text, b"another key of many characters")
    assert isinstance(without, ManifestRow)
    assert without.placement.patient is None
    assert isinstance(one, ManifestRow)
    assert isinstance(other, ManifestRow)
    assert one.placement.patient is not None
    assert "Doe" not in one.placement.patient
    assert one.placement.patient != other.placement.patient


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfstudy,image\r\ns,1.png\r\n",
        b"Study;Image\ns;1.png\n",
        b' study , image \n"s","1.png"\n',
        b"study,image\ns,1.png",
        b"study,image,,\r\ns,1.png,,\r\n",
    ],
    ids=[
        "byte order mark and CR LF",
        "semicolons and capitals",
        "blanks and quotes",
        "no line break at the end",
        "empty columns",
    ],
)
def test_manifests_as_spreadsheets_write_them_are_read(data: bytes) -> None:
    assert read(data) == [ManifestRow(2, "1.png", Placement("s"))]


@pytest.mark.parametrize(
    ("written", "image"),
    [("2024\\a.png", "2024/a.png"), (".\\2024\\x/a.png", "2024/x/a.png"), ("2024\\\\a.png", "2024/a.png")],
)
def test_a_path_as_windows_writes_it_is_read(written: str, image: str) -> None:
    assert read(f"study,image\ns,{written}\n") == [ManifestRow(2, image, Placement("s"))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s,..\\a.png,", "is not below the archive's root"),
        ("s,\\a.png,", "is not below the archive's root"),
        (
            "s,C:\\2024\\a.png,",
            "write its path from the archive's folder on, such as '2024/a.png'",
        ),
        ("s,d:a.png,", "is on a drive or a server"),
        ("s,\\\\server\\share\\a.png,", "is on a drive or a server"),
        ("s,//server/share/a.png,", "is on a drive or a server"),
        ("s,,positive", "no image"),
        (",1.png,positive", "no study"),
        ("s,1.png", "2 fields where the first line names 3"),
        ("s,1.png,maybe", "'maybe' is neither positive nor negative"),
        ("s,/etc/passwd,", "'/etc/passwd' is not below the archive's root"),
        ("s,a/../../b.png,", "is not below the archive's root"),
        ('s,"1.png,', "unexpected end of data"),
        ("s\x07,1.png,", "no control characters"),
        (f"s,{'a' * 2000},", "at most 1,000 bytes"),
        (f"s,{'a' * MAX_LINE_BYTES},", "longer than 65,536 bytes"),
    ],
)
def test_a_wrong_line_is_reported_with_its_number_and_the_others_are_read(line: str, message: str) -> None:
    good, bad, *rest = read(f"study,image,label\nfirst,1.png,\n{line}\n")
    assert isinstance(good, ManifestRow)
    assert isinstance(bad, ManifestProblem)
    assert str(bad).startswith("line 3: ")
    assert message in bad.text
    assert rest == []


def test_a_line_that_is_not_utf_8_does_not_hide_those_after_it() -> None:
    rows = read(b"study,image\ns,\xff.png\ns,2.png\n")
    assert rows == [ManifestProblem(2, "not UTF-8; save it as CSV UTF-8"), ManifestRow(3, "2.png", Placement("s"))]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "no column 'study'"),
        ("study,file", "no column 'image'"),
        ("study,image,age", "no such column as 'age'"),
        ("study,image,image", "'image' is named twice"),
        ("study,image\rs,1.png", "new-line character"),
    ],
)
def test_a_first_line_that_does_not_name_the_columns_is_the_only_problem(header: str, message: str) -> None:
    (problem,) = read(f"{header}\ns,1.png\n")
    assert isinstance(problem, ManifestProblem)
    assert problem.line == 1
    assert message in problem.text


def test_one_error_names_several_wrong_lines_and_counts_the_others() -> None:
    with pytest.raises(UsageError) as caught:
        count_images(io.BytesIO(b"study,image\n" + b"s,\n" * 8))
    assert "line 2: no image; line 3: no image" in str(caught.value)
    assert "(and 3 more)" in str(caught.value)
    assert count_images(io.BytesIO(b"study,image\ns,1.png\n")) == 1


@given(
    st.lists(st.sampled_from([b"study,image,view\n", b"s,1.png,AP\n", b'"', b",", b"\n", b"\xff", b"\0", b";", b"\r"]))
)
def test_any_bytes_of_a_manifest_give_images_or_problems_with_line_numbers(pieces: list[bytes]) -> None:
    data = b"study,image,view\n" + b"".join(pieces)
    for row in read(data):
        assert isinstance(row, ManifestRow | ManifestProblem)
        assert 1 <= row.line <= data.count(b"\n") + data.count(b"\r") + 1
        if isinstance(row, ManifestRow):
            assert row.image
            assert row.placement.study
