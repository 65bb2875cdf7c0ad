"""What a manifest may say, and how it is told what is wrong with it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray.archives.archive_file import Placement
from xray.archives.manifest import MAX_LINE_BYTES, ManifestProblem, ManifestRow, count_images, read_manifest
from xray.errors import UsageError
from xray.pseudonym import pseudonym
from xray.vocabulary import Label

KEY = b"a key of thirty-two characters.."


def read(text: str | bytes, key: bytes | None = None) -> list[ManifestRow | ManifestProblem]:
    data = text if isinstance(text, bytes) else text.encode()
    return list(read_manifest(io.BytesIO(data), key))


def test_a_manifest_tells_study_image_and_what_else_its_columns_name() -> None:
    text = "image,study,label,body_part,view,patient\na/1.png,s1,positive,hand,ap,Doe\n\n./b.png,s2,,,,\n"
    assert read(text, KEY) == [
        ManifestRow(2, "a/1.png", Placement("s1", "HAND", Label.POSITIVE, "AP", patient=pseudonym(KEY, "Doe"))),
        ManifestRow(4, "b.png", Placement("s2")),
    ]


def test_a_patient_is_kept_as_a_keyed_hash_or_not_at_all() -> None:
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
def test_what_spreadsheets_write_is_read(data: bytes) -> None:
    assert read(data) == [ManifestRow(2, "1.png", Placement("s"))]


@pytest.mark.parametrize(
    ("line", "told"),
    [
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
def test_a_wrong_line_is_told_by_its_number_and_the_others_are_read(line: str, told: str) -> None:
    good, bad, *rest = read(f"study,image,label\nfirst,1.png,\n{line}\n")
    assert isinstance(good, ManifestRow)
    assert isinstance(bad, ManifestProblem)
    assert str(bad).startswith("line 3: ")
    assert told in bad.text
    assert rest == []


def test_a_line_that_is_not_utf_8_does_not_hide_those_after_it() -> None:
    seen = read(b"study,image\ns,\xff.png\ns,2.png\n")
    assert seen == [ManifestProblem(2, "not UTF-8; save it as CSV UTF-8"), ManifestRow(3, "2.png", Placement("s"))]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", "no column 'study'"),
        ("study,file", "no column 'image'"),
        ("study,image,age", "no such column as 'age'"),
        ("study,image,image", "'image' is named twice"),
        ("study,image\rs,1.png", "new-line character"),
    ],
)
def test_a_first_line_that_does_not_name_the_columns_is_the_only_thing_told(header: str, told: str) -> None:
    (problem,) = read(f"{header}\ns,1.png\n")
    assert isinstance(problem, ManifestProblem)
    assert problem.line == 1
    assert told in problem.text


def test_several_wrong_lines_are_told_in_one_error_and_the_rest_counted() -> None:
    with pytest.raises(UsageError) as caught:
        count_images(io.BytesIO(b"study,image\n" + b"s,\n" * 8))
    assert "line 2: no image; line 3: no image" in str(caught.value)
    assert "(and 3 more)" in str(caught.value)
    assert count_images(io.BytesIO(b"study,image\ns,1.png\n")) == 1


@given(
    st.lists(st.sampled_from([b"study,image,view\n", b"s,1.png,AP\n", b'"', b",", b"\n", b"\xff", b"\0", b";", b"\r"]))
)
def test_whatever_bytes_a_manifest_holds_each_is_an_image_or_a_problem_with_its_line(pieces: list[bytes]) -> None:
    data = b"study,image,view\n" + b"".join(pieces)
    for seen in read(data):
        assert isinstance(seen, ManifestRow | ManifestProblem)
        assert 1 <= seen.line <= data.count(b"\n") + data.count(b"\r") + 1
        if isinstance(seen, ManifestRow):
            assert seen.image
            assert seen.placement.study
