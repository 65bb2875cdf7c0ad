"""Names of zips that are not flagged as UTF-8 are decoded by the code page that they were written in."""

import struct
import zipfile
import zlib
from unicodedata import normalize

import pytest

from tests.containers import paths, tar_of, zip_of
from xray.archives.containers import read_member
from xray.archives.files import MAX_BYTES
from xray.archives.zip_names import decode_names

GERMAN = ["Hände", "Müller, Jörg", "Röntgen/Übersicht", "Füße groß", "Ödem", "Schön", "Schlüsselbein rechts", "ÄÖÜ"]
FRENCH = ["café", "poignet gauche - André", "épaule", "fémur/côté", "Hélène Lefèvre", "tête", "genou (opéré)", "œil"]
JAPANESE = ["右手/正面", "左手首", "山田太郎_20240501", "患者001", "レントゲン画像", "ひざ", "骨折 疑い", "検査結果"]
CHINESE = ["右手/正位", "左腕", "患者001_李明", "张伟", "膝关节侧位片", "骨折", "新建文件夹", "胸部正位"]
TAIWANESE = ["右手/正面", "患者001", "陳小明", "膝關節側位片", "骨折", "檢查影像", "手腕"]
KOREAN = ["오른손/정면", "환자001", "김철수", "무릎 측면", "손목", "검사영상", "새 폴더"]


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (GERMAN, "cp437"),
        (["café", "André", "Hélène", "tête", "épaule"], "cp437"),
        (GERMAN, "utf-8"),
        (FRENCH, "utf-8"),
        (JAPANESE, "cp932"),
        (JAPANESE, "utf-8"),
        (CHINESE, "gbk"),
        (CHINESE, "utf-8"),
        (TAIWANESE, "big5"),
        (KOREAN, "euc-kr"),
    ],
)
def test_each_name_alone_and_all_together_are_decoded(names, encoding):
    encoded = [name.encode(encoding) for name in names]

    assert decode_names(encoded) == names
    alone = [decode_names([name])[0] for name in encoded]
    assert sum(one != name for one, name in zip(alone, names, strict=True)) <= (encoding in ("big5", "euc-kr"))


def test_the_names_of_one_zip_are_decoded_together():
    assert decode_names(["脚".encode("cp932")]) != ["脚"]
    assert decode_names([name.encode("cp932") for name in ("脚", "右手")]) == ["脚", "右手"]


def test_utf8_names_beside_others_stay_right():
    assert decode_names(["Hände".encode(), "café".encode("cp437")]) == ["Hände", "café"]


def test_bytes_of_no_code_page_are_those_of_code_page_437():
    assert decode_names([b"a\x80\xff\xfe.png"]) == [b"a\x80\xff\xfe.png".decode("cp437")]


def without_flag(path, name, encoding):
    """Write a name in a code page, without the flag for UTF-8, in a zip of one member `XXXX`."""
    data = path.read_bytes().replace(b"X" * len(name.encode(encoding)), name.encode(encoding))
    path.write_bytes(data)
    return path


def test_a_japanese_name_in_a_zip_is_listed_and_read(tmp_path):
    name = "右手/正面.png"
    path = zip_of(tmp_path / "a.zip", {"X" * len(name.encode("cp932")): b"gray"})

    assert paths(without_flag(path, name, "cp932")) == [name]
    assert read_member(path, name, None, MAX_BYTES) == b"gray"


def test_the_unicode_path_of_a_member_has_precedence_if_it_is_of_this_name(tmp_path):
    name = "\u0416.png".encode("cp866")
    for checksum, expected in ((zlib.crc32(name), "\u0416.png"), (0, name.decode("cp437"))):
        field = struct.pack("<BI", 1, checksum) + "\u0416.png".encode()
        header = zipfile.ZipInfo("XXXXX")
        header.extra = struct.pack("<HH", 0x7075, len(field)) + field
        path = zip_of(tmp_path / "a.zip", [(header, b"gray")])
        path.write_bytes(path.read_bytes().replace(b"XXXXX", name))

        assert paths(path) == [expected]


NFC, NFD = (normalize(form, "H\xe4nde/\uac00.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", [NFC, NFD])
def test_a_members_name_is_composed_and_found_in_either_form(tmp_path, make, name):
    path = make(tmp_path / f"a.{make.__name__[:3]}", {name: b"gray"})

    assert paths(path) == [NFC]
    assert read_member(path, NFC, None, MAX_BYTES) == read_member(path, NFD, None, MAX_BYTES) == b"gray"


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("names", [(NFC, NFD), (NFD, NFC)])
def test_members_whose_names_differ_in_their_form_stay_two(tmp_path, make, names):
    path = make(tmp_path / f"a.{make.__name__[:3]}", {name: name.encode() for name in names})

    assert set(paths(path)) == {NFC, NFD}
    for name in names:
        assert read_member(path, name, None, MAX_BYTES) == name.encode()


@pytest.mark.parametrize(("name", "encoding"), [("ge\xeberd.png", "cp437"), ("\u96e8.png", "cp932")])
def test_a_letter_with_its_neighbour_is_a_character_only_where_no_word_is_written_like_that(name, encoding):
    # As Shift-JIS, the first would hold a character that is frequent in Japanese; as code page 437, the second is "ëJ".
    assert decode_names([name.encode(encoding)]) == [name]
