"""How the long commands show that they are at work: on a terminal of 80 columns, and in a log file."""

import os
import pty
import re
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.archives import flat_tree, png
from tests.awaiting import PATIENCE
from tests.bonescreen.processes import BONESCREEN, run
from tests.bonescreen.test_evaluate import radiographs  # noqa: F401
from tests.tiny import write_tiny_package
from xray.network.package import ModelPackage

COLUMNS = 80
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(environ: Mapping[str, str], *arguments: object) -> tuple[int, str]:
    """Run a command on a terminal of `COLUMNS` columns; return its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, COLUMNS))
    plain = {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [*BONESCREEN, *map(str, arguments)],
        env={**plain, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            # At the end, Linux reports an error.
            chunk = os.read(ours, 65536)
        except OSError:
            break
        written += chunk
    os.close(ours)
    return process.wait(60 * PATIENCE), written.decode()


def drawn(written: str, title: str) -> list[str]:
    """Return each state of the line that begins with a title, in the order in which it was drawn."""
    lines = re.split(r"[\r\n]+", CONTROL.sub("", written))
    return [line for line in lines if line.startswith(title)]


@pytest.fixture(scope="module")
def slow_to_load(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model package without a graph, which takes seconds to derive when the model is loaded."""
    return str(write_tiny_package(tmp_path_factory.mktemp("slow") / "tiny").path)


def test_a_terminal_shows_what_happens_before_the_first_image_and_then_how_far_the_run_is(
    tmp_path: Path, environ: dict[str, str], slow_to_load: str
) -> None:
    environ["BONESCREEN_MODEL"] = slow_to_load
    flat_tree(tmp_path / "archive", 3000)
    environ["BONESCREEN_BATCH_SIZE"] = "8"

    code, written = on_a_terminal(environ, "screen", tmp_path / "archive")

    assert code == 0, written
    frames = drawn(written, "Screening ")
    assert max(cell_len(frame) for frame in frames) < COLUMNS
    before = [frame for frame in frames if "  0/3,000  " in frame]
    assert any("  starting  " in frame for frame in before)
    assert any("  loading the model  " in frame for frame in before)
    moving = [frame for frame in frames if re.search(r"  [1-9][\d,]*/3,000  [\d.]+ images/s  \d:\d\d left  ", frame)]
    assert moving
    assert "  3,000/3,000  " in frames[-1]
    minutes, seconds = re.findall(r"(\d+):(\d\d) elapsed", frames[-1])[0]
    assert len(frames) >= 60 * int(minutes) + int(seconds), "it is drawn less than once a second"


def test_with_several_archives_the_bar_says_which(tmp_path: Path, environ: dict[str, str]) -> None:
    for name in ("first", "second"):
        flat_tree(tmp_path / name, 3)

    code, written = on_a_terminal(environ, "screen", tmp_path / "first", tmp_path / "second")

    assert code == 0, written
    assert "  3/3  " in drawn(written, "Screening first  ")[-1]
    assert "  3/3  " in drawn(written, "Screening second  ")[-1]


def test_a_log_file_gets_lines_when_the_model_is_loaded_and_when_the_first_images_are_done(
    tmp_path: Path, environ: dict[str, str], slow_to_load: str
) -> None:
    environ["BONESCREEN_MODEL"] = slow_to_load
    flat_tree(tmp_path / "archive", 40)

    done = run(environ, "screen", tmp_path / "archive")

    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Screening: ")]
    assert any(re.match(r"Screening: 0 of 40 images \(0 %\), loading the model, \d:\d\d elapsed", one) for one in lines)
    assert lines[-1].startswith("Screening: 40 of 40 images (100 %), ")
    assert "\x1b" not in done.stderr


def test_an_evaluation_shows_a_bar_for_reading_and_one_for_predicting(
    tmp_path: Path,
    environ: dict[str, str],
    tiny_package: ModelPackage,
    radiographs: Path,  # noqa: F811
) -> None:
    code, written = on_a_terminal(environ, "evaluate", tiny_package.path, "--data", radiographs, "-o", tmp_path / "out")

    assert code == 0, written
    assert drawn(written, "reading images  ")
    assert drawn(written, "predicting  ")


def test_an_audit_shows_a_bar_for_reading_and_one_for_its_search_for_duplicates(
    tmp_path: Path,
    environ: dict[str, str],
    radiographs: Path,  # noqa: F811
) -> None:
    code, written = on_a_terminal(environ, "audit", radiographs, "-o", tmp_path / "out")

    assert code == 0, written
    assert drawn(written, "reading images  ")
    assert drawn(written, "looking for duplicates  ")


def test_an_explanation_shows_a_bar_for_each_of_its_steps(
    tmp_path: Path, environ: dict[str, str], tiny_package: ModelPackage
) -> None:
    (tmp_path / "wrist.png").write_bytes(png(1))

    code, written = on_a_terminal(
        environ, "layers", tiny_package.path, tmp_path / "wrist.png", "-o", tmp_path / "out", "--check"
    )

    assert code == 0, written
    for step in ("explaining", "randomising the network", "deleting and inserting", "drawing"):
        assert drawn(written, f"{step}  "), step
