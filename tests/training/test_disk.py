"""Files of a long run: written atomically, with disk space reserved in advance."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.training.evaluate.predicted import predicted
from training.disk import mapped_array
from training.evaluate.predictions import Predictions
from xray.errors import StorageOutage


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file of this process grow over 4 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_reported_with_free_and_needed_space_and_advice(tmp_path: Path) -> None:
    with pytest.raises(StorageOutage, match=r"[GM]B free and 4,500,000\.0 GB are needed .*choose a different folder"):
        mapped_array(tmp_path / "file", np.uint8, (4_500_000, 10**9))
    assert not list(tmp_path.iterdir())


def test_disk_space_is_reserved_before_a_mapping_is_written(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(StorageOutage, match=r"5\.0 MB are needed"):
        mapped_array(tmp_path / "file", np.float16, (5, 500_000))
    mapped_array(tmp_path / "small", np.uint8, (100,))[:] = 7
    assert (np.load(tmp_path / "small") == 7).all()
    # The file is not sparse.
    assert (tmp_path / "small").stat().st_blocks * 512 >= (tmp_path / "small").stat().st_size


def test_predictions_that_do_not_fit_on_the_disk_leave_the_previous_table(tmp_path: Path, full_disk: None) -> None:
    table = tmp_path / "predictions.csv"
    predicted(groups=4).write(table)
    with pytest.raises(StorageOutage, match="cannot be written"):
        predicted().write(table)
    assert len(Predictions.read(table)) == 16
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]
