"""The README's first command prints what the README says, and its Python lines run."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.awaiting import PATIENCE

ROOT = Path(__file__).parent.parent
SCORE = re.compile(r"^[01]\.\d{3}(?= )", re.MULTILINE)
SPEED = re.compile(r"in \d+ s, [\d.]+ images/s$")


def scores(lines: Sequence[str]) -> list[float]:
    return [float(score) for score in SCORE.findall("\n".join(lines))]


def without_numbers(line: str) -> str:
    """Return a line without its score or its speed."""
    return SPEED.sub("", SCORE.sub("", line))


def block(pattern: str) -> str:
    """Return the only block of the README that matches."""
    (text,) = re.findall(pattern, (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


def run(arguments: Sequence[str], cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with this home, in float32 as the README's scores are, else default settings; stderr is in stdout."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environ, "BONESCREEN_HOME": str(home), "BONESCREEN_PRECISION": "fp32", "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240 * PATIENCE,
    )


def test_the_example_archive_is_screened_and_the_python_lines_run_as_the_readme_shows(tmp_path: Path) -> None:
    promised = block(r"^```\n(Scanned .*?)^```").replace(".../", f"{ROOT}/", 1).splitlines()
    done = run(["-m", "bonescreen", "screen", "examples/archive"], ROOT, tmp_path / "home")

    # How often progress is said depends on the machine, and the speed does.
    printed = [line for line in done.stdout.splitlines() if not line.startswith("Screening: ")]
    assert done.returncode == 0
    assert [without_numbers(line) for line in printed] == [without_numbers(line) for line in promised]
    assert scores(printed) == pytest.approx(scores(promised), abs=0.002)
    assert len(scores(promised)) == 10

    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shown = "print(prediction.label, gray.shape, gray.dtype, *[study.label for study in studies])"
    done = run(["-c", block(r"^```python\n(.*?)^```") + shown], tmp_path, tmp_path / "home")
    with Image.open(ROOT / "examples/archive/XR_HAND/patient00001/study1_positive/image1.jpg") as image:
        width, height = image.size
    assert done.stdout == f"positive ({height}, {width}) uint8" + " positive" * 4 + "\n"
    assert (tmp_path / "heatmap.png").stat().st_size > 10_000
