"""Decoding a data set's images, and their cache."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.progress import Progress
from xray.archives.files import MAX_BYTES
from xray.errors import ArchiveOutage, UsageError
from xray.images.preprocessing import Preprocessing
from xray.vocabulary import Reason


def test_unreadable_images_are_counted_by_reason_and_the_others_are_cached(fracatlas: Path, tmp_path: Path) -> None:
    (fracatlas / "images" / "IMG0010.png").unlink()
    Image.new("L", (200, 200), 255).save(fracatlas / "images" / "IMG0011.png")
    preprocessing, cache = Preprocessing(64, "pad"), tmp_path / "cache"
    dataset, images, unreadable = load_images(read_dataset(fracatlas), preprocessing, cache, Progress())
    assert images.shape == (57, 64, 64)
    assert images.dtype == np.uint8
    assert "images/IMG0010.png" not in dataset.images
    assert unreadable == {Reason.VANISHED: 1, Reason.TRUNCATED: 1, Reason.IMPLAUSIBLE: 1}
    cached = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = load_images(read_dataset(fracatlas), preprocessing, cache, Progress())
    np.testing.assert_array_equal(again[1], images)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == cached


def test_failing_storage_is_an_outage_and_marks_no_image_unreadable(fracatlas: Path, tmp_path: Path) -> None:
    dataset = read_dataset(fracatlas)
    fracatlas.rename(tmp_path / "away")
    with pytest.raises(ArchiveOutage):
        load_images(dataset, Preprocessing(64, "pad"), tmp_path / "cache", Progress())
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_images_are_read_with_the_same_size_limits_as_in_screening(fracatlas: Path, tmp_path: Path) -> None:
    with (fracatlas / "images" / "IMG0020.png").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    _, _, unreadable = load_images(read_dataset(fracatlas), Preprocessing(64, "pad"), tmp_path / "cache", Progress())
    assert unreadable[Reason.TOO_LARGE] == 1


def test_a_folder_without_a_readable_image_is_refused(fracatlas: Path, tmp_path: Path) -> None:
    for image in (fracatlas / "images").iterdir():
        image.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="can be read: not_an_image 60"):
        load_images(read_dataset(fracatlas), Preprocessing(64, "pad"), tmp_path / "cache", Progress())
