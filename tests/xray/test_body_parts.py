"""Body parts as people write them, and a site's own terms."""

from pathlib import Path

import pytest

from xray.body_parts import MAX_TERM, body_part_of, read_site_terms
from xray.errors import UsageError


@pytest.mark.parametrize(
    ("bone", "part"),
    [
        ("METACARPUS", "HAND"),
        ("THUMB", "FINGER"),
        ("SCAPHOID", "WRIST"),
        ("ULNA", "FOREARM"),
        ("RADIUSULNA", "FOREARM"),
        ("OLECRANON", "ELBOW"),
        ("ARM", "HUMERUS"),
        ("SCAPULA", "SHOULDER"),
        ("ACJOINT", "SHOULDER"),
        ("SIJOINT", "PELVIS"),
        ("ACETABULUM", "HIP"),
        ("THIGH", "FEMUR"),
        ("PATELLA", "KNEE"),
        ("FIBULA", "LEG"),
        ("TALUS", "ANKLE"),
        ("CALCANEUS", "FOOT"),
        ("HALLUX", "TOE"),
    ],
)
def test_a_bone_is_the_part_that_holds_it(bone: str, part: str) -> None:
    assert body_part_of(bone) == (part, None)


@pytest.mark.parametrize(
    ("text", "part", "side"),
    [
        ("Hand RE", "HAND", "R"),
        ("HAND LINKS", "HAND", "L"),
        ("hand pa", "HAND", None),
        ("WRIST_LEFT_2V", "WRIST", "L"),
        ("XR ANKLE RT 3+ VIEWS", "ANKLE", "R"),
        ("2ND FINGER", "FINGER", None),
        ("FINGER(S) LT", "FINGER", "L"),
        ("HUMERUS PROX", "HUMERUS", None),
        ("Right distal radius", "FOREARM", "R"),
        ("TIB/FIB AP & LAT", "LEG", None),
        ("FEMORAL NECK", "HIP", None),
        ("UPPER EXTREMITY HAND", "HAND", None),
        ("PELVIS HIP BOTH", "PELVIS", "B"),
        ("KNEE L/R", "KNEE", "B"),
    ],
)
def test_a_part_beside_words_for_side_view_place_or_number_is_that_part(text: str, part: str, side: str | None) -> None:
    assert body_part_of(text) == (part, side)


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("CHEST", "CHEST"),
        ("CHEST PA", "CHEST"),
        ("C-SPINE LAT", "C SPINE"),
        ("HEAD", "HEAD"),
        ("NECK", "NECK"),
        ("THORACIC SPINE AP LAT", "THORACIC SPINE"),
        ("HAND CHEST", "HAND CHEST"),
        ("HANDGELENK", "HANDGELENK"),
        ("MÂCHOIRE", "MÂCHOIRE"),
    ],
)
def test_a_term_with_any_other_word_is_kept_so_that_it_is_shown_as_out_of_scope(text: str, term: str) -> None:
    assert body_part_of(text)[0] == term


def test_a_long_term_is_cut_to_what_is_stored() -> None:
    term, _ = body_part_of("ABDOMEN " * 20)

    assert term is not None
    assert len(term) <= MAX_TERM


@pytest.mark.parametrize(
    ("text", "side"), [("", None), ("EXTREMITY", None), ("R EXTREMITY", "R"), ("LOWER LIMB", None), ("UP_EXM", None)]
)
def test_a_term_that_names_no_part_has_none(text: str, side: str | None) -> None:
    assert body_part_of(text) == (None, side)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_site_s_own_terms_come_first_with_and_without_side(tmp_path: Path, delimiter: str) -> None:
    file = tmp_path / "terms.csv"
    rows = ["Term,Part", "Handgelenk,wrist", "OS SCAPHOIDEUM,WRIST", "ARM,FOREARM", "Schulter_Y,SHOULDER", ""]
    file.write_text("\ufeff" + "\n".join(rows).replace(",", delimiter), encoding="utf-8")

    site = read_site_terms(file)

    assert body_part_of("HANDGELENK", site) == ("WRIST", None)
    assert body_part_of("Handgelenk li", site) == ("WRIST", "L")
    assert body_part_of("os scaphoideum", site) == ("WRIST", None)
    assert body_part_of("ARM", site) == ("FOREARM", None)
    assert body_part_of("SCHULTER Y", site) == ("SHOULDER", None)
    assert body_part_of("HAND", site) == ("HAND", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first line of .* must be: term,part"),
        (b"HANDGELENK,WRIST\n", "the first line of .* must be: term,part"),
        (b"term,part\nHANDGELENK,TAIL\n", "line 2 of .* must be a term and one of: ELBOW"),
        (b"term,part\n,WRIST\n", "line 2"),
        (b"term,part\nHANDGELENK\n", "line 2"),
        (b"term,part\nA,WRIST\na,HAND\n", "line 3 of .* gives the term 'A' a second part"),
        (b"term,part\nH\xe4nde,HAND\n", "it is not UTF-8"),
    ],
)
def test_a_wrong_file_of_terms_is_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "terms.csv"
    file.write_bytes(content)

    with pytest.raises(UsageError, match=f"BONESCREEN_BODY_PARTS: .*{message}"):
        read_site_terms(file)


def test_a_missing_file_of_terms_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.csv cannot be read: No such file"):
        read_site_terms(tmp_path / "missing.csv")
