"""The README's first command prints what the README says."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.awaiting import PATIENCE

ROOT = Path(__file__).parent.parent
SCORE = re.compile(r"^[01]\.\d{3}(?= )", re.MULTILINE)


def scores(lines: Sequence[str]) -> list[float]:
    return [float(score) for score in SCORE.findall("\n".join(lines))]


def test_screening_the_example_archive_prints_what_the_readme_shows(tmp_path: Path) -> None:
    block = re.search(r"^```\n(Scanned .*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    promised = block[1].replace(".../", f"{ROOT}/", 1).splitlines()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")}

    done = subprocess.run(
        [sys.executable, "-m", "bonescreen", "screen", "examples/archive"],
        env={**environ, "BONESCREEN_HOME": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240 * PATIENCE,
    )

    # How often progress is said depends on the machine.
    printed = [line for line in done.stdout.splitlines() if not line.startswith("Screening ")]
    assert done.returncode == 0
    assert [SCORE.sub("", line) for line in printed] == [SCORE.sub("", line) for line in promised]
    assert scores(printed) == pytest.approx(scores(promised), abs=0.002)
    assert len(scores(promised)) == 10
