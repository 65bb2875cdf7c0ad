"""FracAtlas's table: read strictly, and unreadable films counted."""

from pathlib import Path

import numpy as np
import pytest

from training.dataset import load_images, read_fracatlas
from xray.errors import UsageError
from xray.pixels import Preprocessing
from xray.vocabulary import Reason


def test_labels_groups_and_limbs_are_as_published(fracatlas: Path) -> None:
    dataset = read_fracatlas(fracatlas)
    assert len(dataset.rows) == 60
    assert dataset.labels.sum() == 20
    assert len(np.unique(dataset.groups)) == 12
    assert dataset.upper_limb.sum() == 30


def test_unreadable_films_are_left_out_and_counted_by_reason(fracatlas: Path) -> None:
    (fracatlas / "images" / "IMG0010.png").unlink()
    dataset, images, skipped = load_images(read_fracatlas(fracatlas), Preprocessing(64, "pad"))
    assert images.shape == (58, 64, 64)
    assert images.dtype == np.uint8
    assert [row.image for row in dataset.rows].count("IMG0010.png") == 0
    assert skipped == {Reason.VANISHED: 1, Reason.TRUNCATED: 1}


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"labels\.csv"):
        read_fracatlas(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,fractured,hand,leg,hip,shoulder\n", "has no column group"),
        ("", "has no column image"),
        ("image,fractured,hand,leg,hip,shoulder,group\n", "has no rows"),
        ("image,fractured,hand,leg,hip,shoulder,group\na.jpg,2,0,0,0,0,1\n", "line 2: fractured is neither 0 nor 1"),
        ("image,fractured,hand,leg,hip,shoulder,group\n../a.jpg,1,0,0,0,0,1\n", "line 2: image is not a file name"),
        ("image,fractured,hand,leg,hip,shoulder,group\na.jpg,1,0,0\n", "line 2: hip is neither 0 nor 1"),
        ("image,fractured,hand,leg,hip,shoulder,group\na.jpg,1,0,0,0,0,1\nb.jpg,1,0,0,0,0,2\n", "one class only"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UsageError, match=message):
        read_fracatlas(tmp_path)


def test_a_folder_with_no_readable_film_is_refused(fracatlas: Path) -> None:
    for image in (fracatlas / "images").iterdir():
        image.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="none of the 60 images"):
        load_images(read_fracatlas(fracatlas), Preprocessing(64, "pad"))
