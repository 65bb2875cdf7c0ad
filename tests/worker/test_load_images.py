"""Images are loaded in threads, but large ones one at a time."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from db.ledger import BatchImage
from tests.archives import image_pixels, png, png_of
from worker import load_images as loading
from xray.images.decode import OpenedImage
from xray.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(32, "pad")


@pytest.mark.parametrize("large", [True, False])
def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    images = [batch_image(number, tmp_path, png(number)) for number in range(8)]
    monkeypatch.setattr(loading, "LARGE_IMAGE_PIXELS", image_pixels(0).size - 1 if large else image_pixels(0).size)
    most_at_once = count_decoding_threads(monkeypatch)
    loaded = load_in_threads(tmp_path, images)
    assert (most_at_once() == 1) is large
    assert [each.image for each in loaded] == images
    for number, each in enumerate(loaded):
        np.testing.assert_array_equal(each.pixels, PREPROCESSING.apply(image_pixels(number)))


def test_a_damaged_large_image_does_not_block_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LARGE_IMAGE_PIXELS", 1000)
    whole = png_of(image_pixels(1, 100, 100), bits=8)
    images = [batch_image(0, tmp_path, whole[:-40]), batch_image(1, tmp_path, whole)]
    loaded = load_in_threads(tmp_path, images)
    assert [each.fault is None for each in loaded] == [False, True]


def load_in_threads(root: Path, images: Sequence[BatchImage]) -> list[loading.LoadedImage]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda image: loading.load_image(root, image, PREPROCESSING), images))


def batch_image(number: int, root: Path, data: bytes) -> BatchImage:
    file = root / f"{number}.png"
    file.write_bytes(data)
    return BatchImage(number, file.name, len(data), file.stat().st_mtime_ns)


def count_decoding_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Slow decoding down so that it overlaps, and return a function that tells the most threads in it at once."""
    counting, now, most, decode = threading.Lock(), 0, 0, loading.load

    def watched(opened: OpenedImage, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        try:
            return decode(opened, preprocessing)
        finally:
            with counting:
                now -= 1

    monkeypatch.setattr(loading, "load", watched)
    return lambda: most
