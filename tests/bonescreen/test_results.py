"""`bonescreen results`: which studies are listed, with which labels, and how other programs read them."""

import csv
import io
import json
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from bonescreen.cli import main
from tests.bonescreen.conftest import Bonescreen, Done
from tests.ledgers import INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, OUT_OF_SCOPE, POSITIVE, screened
from xray.vocabulary import RESEARCH_NOTICE

COLUMNS = (
    "run,study,body_part,human_label,status,score,label,flagged,images,failed,model,precision,highest,patients,"
    "accession,study_date,modality,path,changed_at"
)


def _line(done: Done, study: str) -> str:
    return next(line for line in done.out.splitlines() if study in line)


def _csv_text(value: object) -> str:
    """Write a JSON value as CSV has it: scores with four decimals."""
    words = {None: "", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _studies(done: Done) -> list[str]:
    return [row["study"] for row in json.loads(done.out)]


def test_the_csv_columns_are_the_documented_ones_and_nothing_else_is_on_standard_output(
    bonescreen: Bonescreen, home: Path
) -> None:
    screened(home)
    done = bonescreen("results", "--format", "csv")
    assert done.out.splitlines()[0] == COLUMNS
    assert len(done.out.splitlines()) == 6
    assert RESEARCH_NOTICE in done.err
    assert "tiny 1 (fp32), study threshold 0.500" in done.err
    assert {row["precision"] for row in csv.DictReader(io.StringIO(done.out))} == {"fp32"}


def test_csv_and_json_say_the_same(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    as_json = json.loads(bonescreen("results", "--format", "json").out)
    as_csv = list(csv.DictReader(io.StringIO(bonescreen("results", "--format", "csv").out)))
    assert as_csv == [{name: _csv_text(value) for name, value in row.items()} for row in as_json]
    assert [row["score"] for row in as_csv[:3]] == ["0.8500", "0.2000", "0.1000"]


def test_studies_come_with_the_highest_score_first_and_those_without_one_last(
    bonescreen: Bonescreen, home: Path
) -> None:
    screened(home)
    listed = _studies(bonescreen("results", "--format", "json"))
    assert listed[:3] == [POSITIVE, INCOMPLETE, NEGATIVE]
    assert set(listed[3:]) == {NOT_ASSESSABLE, OUT_OF_SCOPE}


def test_only_a_study_that_was_scored_whole_is_called_negative(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("results", "--threshold", 1)
    assert " negative " in _line(done, NEGATIVE).replace(NEGATIVE, "")
    for study, word in ((INCOMPLETE, "incomplete"), (NOT_ASSESSABLE, "not assessable"), (OUT_OF_SCOPE, "out of scope")):
        said = _line(done, study).replace(study, "")
        assert word in said
        assert said.count("negative") == (study == INCOMPLETE)  # its human label
    assert "3 studies have no result: 1 incomplete, 1 not assessable, 1 out of scope; review them yourself" in done.out


def test_a_positive_study_is_named_with_the_finding(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("results")
    assert "positive: fracture" in _line(done, POSITIVE)
    assert RESEARCH_NOTICE in done.out


def test_a_positive_study_with_an_unreadable_image_has_a_result(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    out = bonescreen("results", "--threshold", 0.15).out
    assert "2 studies have no result: 1 not assessable, 1 out of scope; review them yourself" in out


def test_a_body_part_that_no_study_shows_is_refused_or_noted_with_those_there_are(
    bonescreen: Bonescreen, home: Path
) -> None:
    screened(home)
    done = bonescreen("results", "--body-part", "wirst")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --body-part 'wirst' is not known; body parts in these results: HAND, HUMERUS, KNEE\n"
    done = bonescreen("results", "--body-part", "wrist", "--format", "json")
    assert (done.code, json.loads(done.out)) == (0, [])
    assert "No image shows WRIST; body parts in these results: HAND, HUMERUS, KNEE." in done.err


def test_another_threshold_is_applied_and_printed(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("results", "--flagged", "--threshold", 0.15)
    assert "study threshold 0.150 (the model's own: 0.500)" in done.out
    assert "positive: fracture (incomplete)" in _line(done, INCOMPLETE)
    assert NEGATIVE not in done.out
    assert OUT_OF_SCOPE not in done.out


@pytest.mark.parametrize(
    ("options", "studies"),
    [
        (["--flagged"], [POSITIVE]),
        (["--min-score", "0.2"], [POSITIVE, INCOMPLETE]),
        (["--body-part", "humerus"], [POSITIVE, NEGATIVE]),
        (["--label", "negative"], [NEGATIVE]),
        (["--label", "positive", "--threshold", "0.05"], [POSITIVE, INCOMPLETE, NEGATIVE]),
        (["--limit", "2"], [POSITIVE, INCOMPLETE]),
        (["--flagged", "--body-part", "WRIST"], []),
    ],
)
def test_options_choose_studies(bonescreen: Bonescreen, home: Path, options: list[str], studies: list[str]) -> None:
    screened(home)
    assert _studies(bonescreen("results", "--format", "json", *options)) == studies


def test_by_default_each_archive_is_listed_once_by_its_newest_run(bonescreen: Bonescreen, home: Path) -> None:
    from dataclasses import replace

    from tests.seeding import MODEL

    screened(home, {"a": [0.1]}, archive="first")
    screened(home, {"b": [0.2]}, archive="second")
    newer = screened(home, {"a": [0.9]}, archive="first", model=replace(MODEL, version="2", digest="cd" * 32))
    rows = json.loads(bonescreen("results", "--format", "json").out)
    assert [(row["study"], row["run"]) for row in rows] == [("a", newer), ("b", 2)]
    assert _studies(bonescreen("results", "--format", "json", "--run", 1)) == ["a"]


def test_a_long_table_stops_and_says_how_many_more(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {f"study{n:03}": [0.5] for n in range(53)})
    assert "... and 3 more" in bonescreen("results").out
    assert "more" not in bonescreen("results", "--limit", 53).out


def test_an_unknown_run_is_refused(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    done = bonescreen("results", "--run", 9)
    assert (done.code, done.err) == (2, "error: there is no run 9; see: bonescreen runs\n")


def test_the_highest_image_is_shown_beside_the_mean(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    assert "0.850    0.900  positive" in _line(bonescreen("results"), POSITIVE)
    (study,) = [row for row in json.loads(bonescreen("results", "--format", "json").out) if row["study"] == POSITIVE]
    assert (study["score"], study["highest"]) == (pytest.approx(0.85), 0.9)


def test_images_are_listed_with_file_probability_and_reason(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    rows = list(csv.DictReader(io.StringIO(bonescreen("results", "--images", "--format", "csv").out)))
    assert [(row["image"], row["state"], row["probability"], row["reason"]) for row in rows] == [
        (f"{POSITIVE}/image1.png", "scored", "0.9000", ""),
        (f"{POSITIVE}/image2.png", "scored", "0.8000", ""),
        (f"{INCOMPLETE}/image1.png", "scored", "0.2000", ""),
        (f"{INCOMPLETE}/image2.png", "failed", "", "truncated"),
        (f"{NEGATIVE}/image1.png", "scored", "0.1000", ""),
        (f"{NOT_ASSESSABLE}/image1.png", "failed", "", "empty"),
        (f"{OUT_OF_SCOPE}/image1.png", "out of scope", "0.9500", ""),
    ]
    assert [(row["study_status"], row["study_score"]) for row in rows[2:4]] == [("incomplete", "0.2000")] * 2
    table = bonescreen("results", "--images", "--limit", "3").out
    assert table.count(".png") == 3
    assert "... and more: bonescreen results --images" in table
    assert RESEARCH_NOTICE in table


def test_images_are_those_of_the_studies_that_the_other_options_choose(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    listed = json.loads(bonescreen("results", "--images", "--flagged", "--format", "json").out)
    assert [row["image"] for row in listed] == [f"{POSITIVE}/image1.png", f"{POSITIVE}/image2.png"]


def test_only_results_since_a_time_are_listed(bonescreen: Bonescreen, home: Path) -> None:
    screened(home)
    assert len(_studies(bonescreen("results", "--since", "2020-01-01", "--format", "json"))) == 5
    assert _studies(bonescreen("results", "--since", "2999-01-01T07:00", "--format", "json")) == []
    refused = bonescreen("results", "--since", "yesterday")
    assert refused.code == 2
    assert "2026-11-30T07:00" in refused.err


def test_what_is_kept_is_shown_only_if_it_is_asked_for(
    bonescreen: Bonescreen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screened(home, {POSITIVE: [0.9, 0.8]})
    (study,) = json.loads(bonescreen("results", "--format", "json").out)
    assert (study["path"], study["modality"]) == (None, None)
    monkeypatch.setenv("BONESCREEN_KEEP", "path, modality")
    (study,) = json.loads(bonescreen("results", "--format", "json").out)
    assert (study["path"], study["modality"], study["accession"]) == (f"{POSITIVE}/image1.png", None, None)
    assert f"{POSITIVE}/image1.png" in bonescreen("results").out
    monkeypatch.setenv("BONESCREEN_KEEP", "name")
    refused = bonescreen("results")
    assert (refused.code, "accession, date, modality, path" in refused.err) == (2, True)


def test_a_run_that_is_not_finished_is_marked(bonescreen: Bonescreen, home: Path) -> None:
    screened(home, {"read": [0.5], "waiting": [None]})
    done = bonescreen("results")
    assert "(running, 50 % processed)" in done.out
    assert "1 study not screened yet" in done.out
    assert "pending" in _line(done, "waiting")


@pytest.mark.parametrize("key", ["=1+1", "+1", "-1", "@SUM(A1)", "'quoted"])
def test_csv_gives_no_spreadsheet_a_formula_and_loses_no_key(bonescreen: Bonescreen, home: Path, key: str) -> None:
    screened(home, {key: [0.5]})
    (row,) = csv.DictReader(io.StringIO(bonescreen("results", "--format", "csv").out))
    assert row["study"] == "'" + key
    assert _studies(bonescreen("results", "--format", "json")) == [key]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_exports_are_streamed(home: Path, form: str) -> None:
    screened(home, {f"{n:04}" + "x" * 3000: [None] for n in range(5_000)})

    class Sink(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    with redirect_stdout(Sink()), redirect_stderr(Sink()):
        with pytest.raises(SystemExit):
            main(["results", "--limit", "1", "--format", form])
        tracemalloc.start()
        with pytest.raises(SystemExit):
            main(["results", "--format", form])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # The keys alone are 15 MB; two fetches of 1000 rows are 6 MB.
    assert peak < 10_000_000
