"""`bonescreen bench`: what its JSON says, and the page that is made from it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bonescreen.bench.report import performance_page, sections
from tests.archives import png
from tests.bonescreen.conftest import Bonescreen
from tests.tiny import write_tiny_package
from xray.network.package import ModelPackage

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tiny(home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> ModelPackage:
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    return tiny_package


def _measure(bonescreen: Bonescreen, tmp_path: Path, *arguments: object) -> dict[str, Any]:
    found = bonescreen(
        "bench", "--rounds", 1, "--screened", 8, "--images", 300, "--json", tmp_path / "b.json", *arguments
    )
    assert "Machine" in found.out
    report: dict[str, Any] = json.loads((tmp_path / "b.json").read_text())
    return report


def test_screening_is_measured_beside_the_bare_engine_and_two_keras_scripts(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The model that comes with bonescreen has a finer map too.
    tiny = write_tiny_package(tmp_path / "finer", graph=True, finer_map=True)
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny.path))
    report = _measure(bonescreen, tmp_path, "--only", "end-to-end", "--only", "engine", "--only", "first-result")
    found = report["end_to_end"]
    ways = found["ways"]
    assert ways.keys() == {"bonescreen, fp32", "bare engine, fp32", "notebook way", "tf.data + predict"}
    assert all(way["images_per_second"]["median"] > 0 and way["images"] == 8 for way in ways.values())
    assert all(0 < way["busy_percent"]["median"] <= 120 for way in ways.values())
    assert [each["to"] for each in found["ratios"]] == ["bare engine, fp32", "tf.data + predict", "notebook way"]
    one, other = (ways[name]["images_per_second"]["median"] for name in ("bonescreen, fp32", "notebook way"))
    assert found["ratios"][2]["rate"]["median"] == pytest.approx(one / other, rel=0.05)
    beside = found["beside_inference"]["fp32"]["other_threads"]["median"]
    assert 0 < beside < ways["bonescreen, fp32"]["core_milliseconds"]["median"]
    assert found["not_measured"] == {}
    # Those of the temporary home: the command itself screened all images.
    assert found["command"]["images_per_second"]["median"] > 0
    assert set(report["engine"]["precisions"]) == {"fp32"}
    assert report["engine"]["precisions"]["fp32"]["cam_percent"]["median"] < 100
    assert len(report["engine"]["batches"]) >= 3
    assert 0 < report["first_result"]["seconds_to_result"]["median"] < report["first_result"]["seconds"]["median"]
    page = performance_page([report], tiny)
    assert "| bonescreen, fp32 |" in page
    assert "### The network alone" in page


def test_decoding_scans_and_the_database_are_measured_and_make_a_page(
    bonescreen: Bonescreen, tiny: ModelPackage, tmp_path: Path, postgres_url: str
) -> None:
    parts = ("decode", "scan", "queries", "ledger")
    options = [word for part in parts for word in ("--only", part)]
    report = _measure(bonescreen, tmp_path, *options, "--database", postgres_url, "--screened", 2)
    assert report.keys() & {"decode", "scan", "queries", "ledger", "engine"} == {"decode", "scan", "queries", "ledger"}
    decode = report["decode"]
    assert decode["DICOM, JPEG 2000"]["total"] > decode["JPEG, 640 px"]["total"] > 0
    for dialect in ("sqlite", "postgresql"):
        first, again = report["scan"][dialect]["first scan"], report["scan"][dialect]["rescan"]
        assert (first["images"], again["images"], again["batches"]) == (300, 300, 0)
        assert 20 < first["peak_rss_mb"] < 250
        size = report["queries"][dialect]
        assert 200 < size["bytes_per_image"] < 20_000
        assert all(0 < each["median"] <= each["p95"] for each in size["operations"])
        rates = report["ledger"][dialect]["batches_per_second"]
        assert list(rates) == ["1", "2", "4", "8"]
        # On a fast machine, one worker is done with the few batches of so small a database.
        assert rates["1"] > 0
    assert report["ledger"]["sqlite"]["engine"] == "stub"
    made = subprocess.run(
        [sys.executable, "-m", "bonescreen.bench.report", tmp_path / "b.json"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "| DICOM, JPEG 2000 |" in made.stdout
    assert "| PostgreSQL |" in made.stdout
    assert sections(report)[0].title == "Machine"


def test_options_that_cannot_be_measured_exit_2_with_a_clear_line(
    bonescreen: Bonescreen, tiny: ModelPackage, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for options, said in (
        (["--only", "everything"], "--only must be engine, end-to-end, decode, scan, queries, ledger or first-result"),
        (["--rounds", "0"], "--rounds must be a whole number from 1 to 100"),
        (["--data", tmp_path / "gone"], f"--data {tmp_path}/gone is not a folder"),
        (["--only", "decode", "--data", tmp_path / "empty"], "no JPEG or PNG file that can be read"),
        (["--json", tmp_path / "gone" / "b.json"], "there is no folder"),
        (["--database", "sqlite:///x.db"], "--database is not the URL of a PostgreSQL server"),
    ):
        found = bonescreen("bench", *options)
        assert found.code == 2
        assert found.err.startswith("error: ")
        assert said in found.err


def test_radiographs_of_a_folder_are_screened_as_they_are_and_more_are_made_from_them(
    bonescreen: Bonescreen, tiny: ModelPackage, tmp_path: Path
) -> None:
    folder = tmp_path / "radiographs"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(png(number))
    report = _measure(bonescreen, tmp_path, "--only", "decode", "--data", folder, "--screened", 3)
    assert report["data"] == "2 images of the folder and 1 made from 2 images of the folder"
