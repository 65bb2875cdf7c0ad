"""Files of a long run: whole or not at all."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.predicted import predicted
from training.disk import require_room
from training.predictions import Predictions
from xray.errors import StorageOutage


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file of this process grow over 4 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_room_is_told_in_units_that_show_it_and_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(StorageOutage, match=r"[GM]B free and 5,000,000\.0 GB are needed: .*choose another folder"):
        require_room(tmp_path / "file", 5_000_000 * 10**9)
    require_room(tmp_path / "file", 1)


def test_little_room_is_told_in_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2_500_000}))
    with pytest.raises(StorageOutage, match=r"has 2\.5 MB free and 3\.1 MB are needed"):
        require_room(tmp_path / "file", 3_110_000)


def test_predictions_that_do_not_fit_on_the_disk_leave_the_earlier_table(tmp_path: Path, full_disk: None) -> None:
    table = tmp_path / "predictions.csv"
    predicted(groups=4).write(table)
    with pytest.raises(StorageOutage, match="cannot be written"):
        predicted().write(table)
    assert len(Predictions.read(table)) == 16
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]
