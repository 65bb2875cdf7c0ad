"""`bonescreen models`: packages and their cards."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bonescreen.conftest import Bonescreen
from xray.network.card import Metric, TrainingData
from xray.network.package import CARD_FILE, ModelPackage
from xray.vocabulary import RESEARCH_NOTICE


def test_the_package_in_use_is_listed_and_starred(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    (used,) = [package for package in json.loads(bonescreen("models", "list", "--json").out) if package["in_use"]]
    assert (used["digest"], used["finding"], used["problem"]) == (tiny_package.digest, "fracture", None)
    assert f"*  {tiny_package.path}" in bonescreen("models", "list").out


def test_a_card_is_shown_with_its_limits(bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage) -> None:
    out = bonescreen("models", "show", tiny_package.path).out
    for text in (tiny_package.digest, "positive: fracture", "random weights: for tests only", RESEARCH_NOTICE):
        assert text in out
    card = json.loads(bonescreen("models", "show", tiny_package.path, "--json").out)
    assert (card["digest"], card["study_threshold"]["value"]) == (tiny_package.digest, 0.5)


@pytest.fixture
def perfect(tiny_package: ModelPackage, tmp_path: Path) -> Path:
    """Write a package with a perfect number, and terms longer than a line."""
    folder = tmp_path / "perfect"
    shutil.copytree(tiny_package.path, folder)
    data = TrainingData("Radiographs", "all weights", "a licence", f"ask first{' and again' * 20}", "Somebody 2024")
    card = replace(
        tiny_package.card,
        training_data=(data,),
        metrics=(Metric("AUROC", "images", 1.0, None, None),),
        limits=(f"{RESEARCH_NOTICE} It errs.",),
    )
    (folder / CARD_FILE).write_text(card.to_json())
    return folder


def test_the_terms_of_the_training_data_and_numbers_without_an_interval_are_shown(
    bonescreen: Bonescreen, home: Path, perfect: Path
) -> None:
    lines = bonescreen("models", "show", perfect).out.splitlines()
    start = lines.index("  trained on      Radiographs: all weights")
    assert [line.split(maxsplit=1) for line in lines[start + 1 : start + 4]] == [
        ["licence", "a licence"], ["terms", f"ask first{' and again' * 20}"], ["attribution", "Somebody 2024"],
    ]  # fmt: skip
    assert lines[lines.index("  On images") + 1].split(maxsplit=2) == ["AUROC", "1.000", "no interval"]
    assert sum(RESEARCH_NOTICE in line for line in lines) == 1


def test_a_card_is_folded_between_words_in_a_terminal(
    bonescreen: Bonescreen, home: Path, perfect: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TTY_COMPATIBLE", "1"), ("TERM", "dumb"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    lines = bonescreen("models", "show", perfect).out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    terms"))
    assert all(len(line) <= 80 for line in lines[start : start + 3])
    assert lines[start + 1].startswith(" " * 18 + "and again")


def test_a_whole_package_is_verified_down_to_its_golden_outputs(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_ENGINE", "openvino")
    done = bonescreen("models", "verify", tiny_package.path)
    assert done.code == 0
    assert "The openvino engine gives the golden outputs in fp32.\ntiny 1 is OK." in done.out


def test_a_damaged_package_is_refused_and_named(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_package.path, damaged)
    (damaged / "weights.h5").write_bytes(b"other weights")
    for command in ("show", "verify"):
        done = bonescreen("models", command, damaged)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "weights.h5" in done.err
    monkeypatch.setenv("BONESCREEN_MODEL", str(damaged))
    listed = bonescreen("models", "list")
    assert listed.code == 0
    assert "PROBLEM" in listed.out


def test_a_package_of_an_earlier_version_whose_ranking_is_turned_round_is_refused(
    bonescreen: Bonescreen, home: Path, perfect: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = json.loads((perfect / CARD_FILE).read_text())
    card["calibration"]["slope"] = -0.17
    (perfect / CARD_FILE).write_text(json.dumps(card))
    monkeypatch.setenv("BONESCREEN_MODEL", str(perfect))
    for arguments in (("models", "show", perfect), ("screen", perfect)):
        done = bonescreen(*arguments)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "the calibration's slope is -0.17, and must be above 0" in done.err
    assert "the calibration's slope is -0.17" in bonescreen("models", "list").out
