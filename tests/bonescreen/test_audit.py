"""`bonescreen audit`: a page with pictures, the same as JSON, and groups."""

import html
import json
import re
from pathlib import Path

import pytest

from tests.bonescreen.conftest import Bonescreen
from tests.training.audit.faulty_data import Row, write_faulty_data, write_labels
from xray.vocabulary import RESEARCH_NOTICE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_faulty_data(tmp_path / "data")
    return tmp_path / "data"


def test_problems_are_printed_and_written_as_a_page_and_as_json(
    bonescreen: Bonescreen, home: Path, data: Path, tmp_path: Path
) -> None:
    done = bonescreen("audit", data, "-o", tmp_path / "out")
    assert done.code == 0
    assert re.search(r"error +1 pair  Duplicates with different labels", done.out)
    assert "Not ready to train on: " in done.out
    assert str(tmp_path / "out" / "report.html") in done.out
    assert RESEARCH_NOTICE in done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["notice"], report["data"]["images"], report["data"]["readable"]) == (RESEARCH_NOTICE, 73, 72)
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    for text in (RESEARCH_NOTICE, "images/relabelled.jpg", *(problem["title"] for problem in report["problems"])):
        assert text in page
    assert page.count("data:image/jpeg;base64,") >= 20


def test_names_are_escaped_on_the_page_which_loads_nothing_from_elsewhere(
    bonescreen: Bonescreen, home: Path, data: Path, tmp_path: Path
) -> None:
    bonescreen("audit", data, "-o", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;other" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert set(re.findall(r'(?:src|href)="(.{1,5})', page)) <= {"data:", "#prob"}


def test_json_is_alone_on_standard_output(bonescreen: Bonescreen, home: Path, data: Path, tmp_path: Path) -> None:
    done = bonescreen("audit", data, "-o", tmp_path / "out", "--json")
    assert json.loads(done.out) == json.loads((tmp_path / "out" / "report.json").read_text())


def test_groups_are_suggested_for_the_body_parts_left_out_too(
    bonescreen: Bonescreen, home: Path, data: Path, tmp_path: Path
) -> None:
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("image00.png,1,1,0", "image00.png,1,0,1"))
    done = bonescreen("audit", data, "-o", tmp_path / "out", "--body-part", "hand", "--json")
    assert json.loads(done.out)["data"]["images"] == 72
    assert "images/image00.png,p00" in (tmp_path / "out" / "groups.csv").read_text()


def test_data_that_cannot_be_audited_are_an_error_in_one_line(
    bonescreen: Bonescreen, home: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "manifest.csv").write_text("study,image\na,a.png\n")
    (tmp_path / "split.csv").write_text("group,role\nnobody,train\n")
    for arguments, text in (
        ([tmp_path / "away"], "there is no folder"),
        ([tmp_path / "empty"], "is not a labelled data set"),
        ([tmp_path / "unlabelled"], "has no labels"),
        ([data, "--body-part", "SKULL"], "has no images of SKULL"),
        ([data, "--split", tmp_path / "split.csv"], "it was made for other data"),
        ([data, "--groups", tmp_path / "none.csv"], "cannot be read"),
    ):
        done = bonescreen("audit", *arguments, "-o", tmp_path / "out")
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert text in done.err
        assert not (tmp_path / "out" / "report.html").exists()


def test_data_without_a_fault_are_ready_to_train_on(
    bonescreen: Bonescreen, home: Path, data: Path, tmp_path: Path
) -> None:
    write_labels(data, [Row(f"image{seed:02d}.png", seed % 3 == 0, f"q{seed:02d}") for seed in range(60)])
    done = bonescreen("audit", data, "-o", tmp_path / "out")
    assert "Ready to train on: no errors and no warnings." in done.out
