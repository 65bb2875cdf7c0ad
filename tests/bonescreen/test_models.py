"""`bonescreen models`: packages and their cards."""

import json
import shutil
from pathlib import Path

import pytest

from tests.bonescreen.conftest import Bonescreen
from xray.package import ModelPackage
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


def test_a_whole_package_is_verified_down_to_its_golden_outputs(
    bonescreen: Bonescreen, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_ENGINE", "openvino")
    done = bonescreen("models", "verify", tiny_package.path)
    assert done.code == 0
    assert "The openvino engine gives the golden outputs: tiny 1 is good." in done.out


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
