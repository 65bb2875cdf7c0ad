"""Loading a batch's files: in threads, but of large films one at a time."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from db.ledger import WorkItem
from tests.archives import image_pixels, png, png_of
from worker import load
from xray.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(32, "pad")


@pytest.mark.parametrize("large", [True, False])
def test_of_large_films_one_is_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    items = [some_item(number, tmp_path, png(number)) for number in range(8)]
    monkeypatch.setattr(load, "LARGE_FILM", image_pixels(0).size - 1 if large else image_pixels(0).size)
    most = watch_decoding(monkeypatch)
    (loaded,) = load.load_images(tmp_path, items, PREPROCESSING, group=8)
    assert (most() == 1) is large
    assert [each.item for each in loaded] == items
    for number, each in enumerate(loaded):
        np.testing.assert_array_equal(each.pixels, PREPROCESSING.apply(image_pixels(number)))


def test_a_large_film_that_is_damaged_lets_the_next_one_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "LARGE_FILM", 1000)
    whole = png_of(image_pixels(1, 100, 100), bits=8)
    items = [some_item(0, tmp_path, whole[:-40]), some_item(1, tmp_path, whole)]
    (loaded,) = load.load_images(tmp_path, items, PREPROCESSING, group=2)
    assert [each.fault is None for each in loaded] == [False, True]


def some_item(number: int, root: Path, data: bytes) -> WorkItem:
    file = root / f"{number}.png"
    file.write_bytes(data)
    return WorkItem(number, file.name, len(data), file.stat().st_mtime_ns)


def watch_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Make decoding slow enough to overlap, and count how many threads do it at once."""
    counting, now, most, decode = threading.Lock(), 0, 0, load.load

    def watched(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        try:
            return decode(data, preprocessing)
        finally:
            with counting:
                now -= 1

    monkeypatch.setattr(load, "load", watched)
    return lambda: most
