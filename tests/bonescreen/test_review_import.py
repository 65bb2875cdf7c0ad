"""`bonescreen review import`: what a colleague ticked in a report, checked line by line before any of it is stored."""

import csv
import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bonescreen.report.review_table import COLUMNS
from db.reviews import Review, add_review, stream_reviews
from tests.bonescreen.conftest import Bonescreen, Done
from tests.ledgers import INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, POSITIVE, embedded, screened
from tests.seeding import MODEL
from xray.vocabulary import Decision

Write = Callable[..., Path]


def line(study: str, decision: str = "agree", note: str = "", **changed: str) -> dict[str, str]:
    """Write a line as the report does."""
    said = {
        POSITIVE: ("scored", "positive", "0.85"),
        NEGATIVE: ("scored", "negative", "0.1"),
        INCOMPLETE: ("incomplete", "", "0.2"),
        NOT_ASSESSABLE: ("not assessable", "", ""),
    }
    status, label, score = said.get(study, said[POSITIVE])
    record = dict(zip(COLUMNS, ("1", "clinic", study, "tiny 1", MODEL.digest, status, label, score), strict=False))
    return {**record, "decision": decision, "note": note, **changed}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(*lines: dict[str, str], delimiter: str = ",", mark: str = "") -> Path:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(lines)
        file = tmp_path / "reviews.csv"
        file.write_text(mark + text.getvalue(), "utf-8", newline="")
        return file

    return written


def stored(home: Path) -> list[Review]:
    database = embedded(home)
    with closing(stream_reviews(database, 1)) as reviews:
        found = list(reviews)
    database.close()
    return found


def put(bonescreen: Bonescreen, file: Path, reviewer: str = "Ada") -> Done:
    return bonescreen("review", "import", file, "--reviewer", reviewer)


def test_decisions_are_stored_with_what_their_reviewer_saw(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    file = write(
        line(POSITIVE, "disagree", "an old fracture,\nhealed"), line(NEGATIVE), line(NOT_ASSESSABLE, "unsure", "=no")
    )
    done = put(bonescreen, file, " Ada Lovelace ")
    assert (done.code, done.err) == (0, "")
    assert done.out == "Stored 3 reviews by Ada Lovelace in run 1: 1 agree, 1 disagree, 1 unsure\n"
    by_study = {review.study: review for review in stored(home)}
    of = by_study[POSITIVE]
    assert (of.decision, of.note, of.reviewer) == ("disagree", "an old fracture,\nhealed", "Ada Lovelace")
    assert (of.status, of.label, of.score) == ("scored", "positive", 0.85)
    assert (by_study[NOT_ASSESSABLE].note, by_study[NOT_ASSESSABLE].score) == ("=no", None)


def test_a_second_import_of_the_same_file_stores_nothing_and_says_so(
    bonescreen: Bonescreen, home: Path, write: Write
) -> None:
    screened(home)
    file = write(line(POSITIVE, "disagree", "cast"), line(NEGATIVE))
    put(bonescreen, file)
    before = stored(home)
    done = put(bonescreen, file)
    assert (done.code, done.out) == (0, "Nothing to store: run 1 has all these reviews by Ada\n")
    assert stored(home) == before
    assert "Stored 2 reviews by Grace" in put(bonescreen, file, "Grace").out
    more = put(bonescreen, write(line(POSITIVE, "disagree", "cast"), line(NEGATIVE, "unsure")))
    assert more.out == "Stored 1 review by Ada in run 1: 1 unsure\n1 review stored before, not again\n"


def test_an_old_file_does_not_undo_a_newer_decision(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    file = write(line(POSITIVE))
    put(bonescreen, file)
    database = embedded(home)
    add_review(database, 1, stored(home)[0].study_id, "Ada", Decision.DISAGREE)
    database.close()
    done = put(bonescreen, file)
    assert "1 review followed by a newer one by Ada, which counts" in done.out
    assert [review.decision for review in stored(home)] == ["agree", "disagree"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"decision": "maybe"}, "line 3, column decision: 'maybe' is none of agree, disagree, unsure"),
        ({"run": "one"}, "line 3, column run: 'one' is not a run's number"),
        ({"run": "2"}, "line 3, column run: line 2 is of run 1, and this one of run 2"),
        ({"archive": "other"}, "line 3, column archive: run 1 of this database is of the archive clinic, not 'other'"),
        ({"model_digest": "cd" * 32}, "line 3, column model_digest: run 1 of this database is of tiny 1"),
        ({"study": "XR_HAND/nobody"}, "line 3, column study: run 1 has no study 'XR_HAND/nobody'"),
        ({"study": POSITIVE}, f"line 3, column study: '{POSITIVE}' is in line 2 already"),
        ({"status": "fine"}, "line 3, column status: 'fine' is none of pending, scored"),
        ({"label": "broken"}, "line 3, column label: 'broken' is none of positive, negative"),
        ({"score": "1.5"}, "line 3, column score: must be a number from 0 to 1"),
        ({"score": "high"}, "line 3, column score: 'high' is not a number"),
        ({"note": "x" * 2001}, "line 3, column note: a note has at most 2,000 characters"),
        ({"note": "\x1b[31m"}, "line 3, column note: a note has printable characters"),
    ],
)
def test_one_wrong_line_is_named_and_nothing_is_stored(
    bonescreen: Bonescreen, home: Path, write: Write, changed: dict[str, str], said: str
) -> None:
    screened(home)
    file = write(line(POSITIVE), {**line(NEGATIVE), **changed})
    done = put(bonescreen, file)
    assert (done.code, done.out) == (2, "")
    assert f"{file}, {said}" in done.err
    assert f"error: 1 line of {file} is wrong, so nothing is stored" in done.err
    assert stored(home) == []


def test_every_wrong_line_is_named_also_after_notes_of_several_lines(
    bonescreen: Bonescreen, home: Path, write: Write
) -> None:
    screened(home)
    done = put(bonescreen, write(line(POSITIVE, note="one\ntwo"), line(NEGATIVE, "no"), line("nobody")))
    assert "line 4, column decision" in done.err
    assert "line 5, column study" in done.err
    assert "2 lines of" in done.err


def test_a_run_of_another_database_is_refused(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    done = put(bonescreen, write(line(POSITIVE, run="7")))
    assert done.code == 2
    assert "line 2, column run: there is no run 7" in done.err


def test_what_a_spreadsheet_saves_again_is_read(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home, {"=1+1": [0.5], "'quoted": [0.5]})
    lines = [
        line("'=1+1", "Agree", label="", score="", status="out of scope"),
        line("''quoted", "unsure ", label="", score="", status="out of scope"),
    ]
    done = put(bonescreen, write(*lines, delimiter=";", mark="\ufeff"))
    assert done.code == 0, done.err
    assert {review.study for review in stored(home)} == {"=1+1", "'quoted"}
    scored = write(line(POSITIVE, score="0,85"), delimiter=";")
    screened(home)
    assert "no study" not in put(bonescreen, scored).err


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        # The note would end at the comma; then it would take the next line in; then another column would decide.
        (b"plain", b"healed, old", "line 2, column note: 'old' is after the last column; a text with a comma"),
        (b"plain", b'"healed', "reviews.csv is not CSV: unexpected end of data; is a quotation mark missing"),
        (b"decision,note", b"decision,decision", "has no column note"),
        (b"decision,note", b"decision,note,decision", "has the column decision more than once"),
        (b"1,clinic", b"1" * 5000 + b",clinic", "line 2, column run: '1111"),
    ],
)
def test_what_an_editor_breaks_is_not_stored_in_part(
    bonescreen: Bonescreen, home: Path, write: Write, before: bytes, after: bytes, said: str
) -> None:
    screened(home)
    file = write(line(POSITIVE, note="plain"), line(NEGATIVE))
    file.write_bytes(file.read_bytes().replace(before, after, 1))
    done = put(bonescreen, file)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert stored(home) == []


@pytest.mark.parametrize("ending", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_empty_lines_tabs_and_any_line_ending_are_read(
    bonescreen: Bonescreen, home: Path, write: Write, delimiter: str, ending: str
) -> None:
    screened(home)
    file = write(line(POSITIVE, note="a, b; c"), line(NEGATIVE), line("nobody"), delimiter=delimiter)
    lines = file.read_text("utf-8").splitlines()
    file.write_text(ending.join(["", *lines[:2], "", *lines[2:], ""]), "utf-8", newline="")
    assert f"{file}, line 6, column study: run 1 has no study 'nobody'" in put(bonescreen, file).err
    file.write_text(ending.join(["", *lines[:2], "", *lines[2:-1], "", ""]), "utf-8", newline="")
    assert "Stored 2 reviews" in put(bonescreen, file).out
    assert {review.note for review in stored(home)} == {"a, b; c", None}


def test_a_note_without_a_decision_is_named(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    done = put(
        bonescreen, write(line(POSITIVE, note="one\ntwo"), line(NEGATIVE, "", "look again"), line(INCOMPLETE, ""))
    )
    assert (done.code, done.out.splitlines()[1:]) == (0, ["Left out, as there is a note but no decision: line 4"])


def test_lines_without_a_decision_are_left_out(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    assert "Stored 1 review" in put(bonescreen, write(line(POSITIVE), line(NEGATIVE, " "))).out
    done = put(bonescreen, write(line(NEGATIVE, "")))
    assert (done.code, "has no decision; tick some in the report" in done.err) == (2, True)


def test_a_result_that_has_changed_since_the_report_is_said(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    done = put(bonescreen, write(line(POSITIVE, score="0.7")))
    assert (done.code, "1 study with another result now than in the report" in done.out) == (0, True)
    assert stored(home)[0].score == 0.7


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"study,decision\na,agree\n", "has no column run, archive"),
        (b"\xff\xfe\x00", "is not UTF-8; save it as CSV in UTF-8"),
        (b"", "has no column"),
        (",".join(COLUMNS).encode() + b'\n"\x00', "is not CSV: unexpected end of data"),
    ],
)
def test_a_file_that_no_report_saved_is_refused(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    screened(home)
    (tmp_path / "x.csv").write_bytes(content)
    done = put(bonescreen, tmp_path / "x.csv")
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_missing_file_and_a_nameless_reviewer_are_said(bonescreen: Bonescreen, home: Path, write: Write) -> None:
    screened(home)
    assert "nowhere.csv cannot be read: No such file" in put(bonescreen, Path("nowhere.csv")).err
    assert "a review needs its reviewer's name" in put(bonescreen, write(line(POSITIVE)), " ").err
    assert bonescreen("review", "import", write(line(POSITIVE))).code == 2
