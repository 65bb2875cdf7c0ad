"""Progress of long work: how it is drawn on a terminal, written elsewhere, and which steps have it."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.training.conftest import SIZE
from tests.training.recipes import SMALL
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.fit.stages import TrainingIndices, fit, predict
from training.progress import ECHO, LINE_SECONDS, WINDOW_SECONDS, Bar, Progress, Rate, clock_text
from xray.images.preprocessing import Preprocessing


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _rate(*samples: tuple[float, int]) -> float | None:
    rate = Rate()
    for now, done in samples:
        rate.add(now, done)
    return rate.per_second


def test_the_rate_is_that_of_the_last_steps() -> None:
    assert _rate((0, 0), (5, 100), (10, 200)) == 20
    assert _rate((0, 0), (100, 100), (110, 300), (120, 500)) == 20


def test_a_standstill_has_no_rate() -> None:
    assert _rate((0, 0), (5, 100), (5 + WINDOW_SECONDS + 1, 100)) is None


def test_a_burst_that_takes_longer_than_the_window_is_not_a_standstill() -> None:
    assert _rate((0, 0), (100, 200), (190, 200)) == 2


def test_after_a_standstill_the_rate_is_that_of_the_new_steps() -> None:
    again = 1000.0
    assert _rate((0, 0), (5, 100), (again, 100), (again + 5, 150)) == 10


def test_a_hundred_thousand_quick_steps_are_kept_as_few_samples() -> None:
    rate = Rate()
    for step in range(100_000):
        rate.add(step / 1000, step)
    assert rate.per_second == pytest.approx(1000, rel=0.01)
    assert len(rate._samples) < 200


def test_where_there_is_no_terminal_long_work_writes_a_line_every_thirty_seconds_and_its_end() -> None:
    clock, log = Clock(), io.StringIO()
    with Bar(Console(file=log), "reading images", 2000, clock=clock) as bar:
        for second in range(1, 101):
            clock.now = second
            bar.advance(20)
    assert log.getvalue().splitlines() == [
        "reading images: 600 of 2,000 images (30 %), 20.0 images/s, 1:10 left, 0:30 elapsed",
        "reading images: 1,200 of 2,000 images (60 %), 20.0 images/s, 0:40 left, 1:00 elapsed",
        "reading images: 1,800 of 2,000 images (90 %), 20.0 images/s, 0:10 left, 1:30 elapsed",
        "reading images: 2,000 of 2,000 images (100 %), 20.0 images/s, 1:40 elapsed",
    ]


def test_where_there_is_no_terminal_short_work_writes_nothing() -> None:
    clock, log = Clock(), io.StringIO()
    with Bar(Console(file=log), "reading images", 100, clock=clock) as bar:
        clock.now = LINE_SECONDS - 1
        bar.advance(100)
    assert log.getvalue() == ""


def test_steps_that_an_interrupted_run_has_done_do_not_count_for_the_rate() -> None:
    clock, log = Clock(), io.StringIO()
    with Bar(Console(file=log), "frozen layers", 1000, done=900, unit="view", clock=clock) as bar:
        clock.now = 100
        bar.update(910, line=True)
    assert "910 of 1,000 views (91 %), 0.1 views/s, 15:00 left" in log.getvalue()


def test_work_that_waits_shows_why_and_its_rate_begins_anew_afterwards() -> None:
    clock, log = Clock(), io.StringIO()
    with Bar(Console(file=log), "Screening", 100, clock=clock) as bar:
        for clock.now, done, note in ((10.0, 0, "loading the model"), (20.0, 0, ""), (21.0, 20, "")):
            bar.update(done, note=note, line=True)
    loading, _, last = log.getvalue().splitlines()
    assert loading == "Screening: 0 of 100 images (0 %), loading the model, 0:10 elapsed"
    assert last == "Screening: 20 of 100 images (20 %), 20.0 images/s, 0:04 left, 0:21 elapsed"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("title", ["Screening", "Screening a-hospital-with-a-very-long-name-and-手首"])
@pytest.mark.parametrize("total", [300, 371_000, 40_000_000])
def test_a_bar_is_one_line_that_fits_with_what_a_terminal_shows_at_an_interrupt(
    width: int, title: str, total: int
) -> None:
    clock = Clock()
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = Bar(terminal, title, total, clock=clock)
    for clock.now, done in ((1500.0, total // 10), (3000.0, total // 3)):
        bar.update(done, extra="3 failed")
        with terminal.capture() as drawn:
            terminal.print(bar)
        line = drawn.get().removesuffix("\n")
        assert "\n" not in line
        assert cell_len(line) <= width - len(ECHO)
        assert f"{done:,}/{total:,}" in line
        if width >= 80:
            assert line.startswith("Screening")
            assert " left" in line


def test_at_eighty_columns_the_bar_has_everything() -> None:
    clock = Clock()
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    bar = Bar(terminal, "Screening", 371, clock=clock)
    clock.now = 10.0
    bar.update(182)
    with terminal.capture() as drawn:
        terminal.print(bar)
    assert drawn.get().startswith("Screening  ━━━━━━")
    assert drawn.get().endswith("━  182/371  18.2 images/s  0:10 left  0:10 elapsed\n")


def test_durations_read_like_a_clock() -> None:
    assert [clock_text(seconds) for seconds in (7.4, 59.6, 750, 11100)] == ["0:07", "1:00", "12:30", "3:05:00"]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_each_long_step_of_a_training_says_how_far_it_is(
    fracatlas: Path, backbone_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count(0, LINE_SECONDS + 1)
    progress = Progress(clock=lambda: next(seconds))
    dataset, images, _ = load_images(read_dataset(fracatlas), Preprocessing(SIZE, "squash"), tmp_path, progress)
    learner = Learner(SMALL, backbone_weights)
    inputs = TrainingInputs(dataset, images, learner, tmp_path, progress)
    indices = np.arange(len(dataset))
    fit(learner, inputs, TrainingIndices(indices[::2], indices[1::2]), tmp_path, "", progress)
    predict(learner, inputs, indices[1::2], progress)

    lines = capsys.readouterr().out.splitlines()
    for title, unit in (
        ("reading images", "60 images"),
        ("frozen layers", "118 views"),
        ("pooled features", "59 images"),
        ("stage 1, epoch 1", "4 steps"),
        ("stage 2, epoch 1", "4 steps"),
        ("validation after epoch 1", "29 images"),
        ("predicting held-out images", "29 images"),
    ):
        assert any(line.startswith(f"{title}: ") and f"of {unit} (100 %), " in line for line in lines), title
