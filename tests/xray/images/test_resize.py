"""Resizing: within one gray level of Pillow's antialiased bilinear filter, at every size and for every pattern."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xray.images.resize import resize


def pillow(gray: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def patterns(height: int, width: int) -> list[np.ndarray]:
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width), np.uint8)
    checkerboard = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)
    return [noise, checkerboard, np.where(noise > 127, 255, 0).astype(np.uint8), np.full_like(noise, 255)]


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (640, 512),
        (454, 373),
        (512, 421),
        (2304, 2880),
        (200, 4000),
        (100, 120),
        (1, 1),
        (1, 3000),
        (3, 30_000),
        (30_000, 3),
    ],
)
def test_every_pattern_is_resized_within_one_level_of_pillow(height, width):
    for gray in patterns(height, width):
        difference = resize(gray, 224, 181).astype(int) - pillow(gray, 224, 181)

        assert np.abs(difference).max() <= 1


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 320), st.integers(1, 320))
def test_every_size_is_resized_within_one_level_of_pillow(height, width, new_height, new_width):
    for gray in patterns(height, width)[:2]:
        resized = resize(gray, new_height, new_width)

        assert resized.shape == (new_height, new_width)
        assert np.abs(resized.astype(int) - pillow(gray, new_height, new_width)).max() <= 1


def test_an_image_of_the_right_size_is_left_as_it_is():
    noise = patterns(224, 160)[0]

    assert np.array_equal(resize(noise, 224, 160), noise)


def test_the_band_that_is_converted_at_a_time_does_not_show(monkeypatch):
    noise = patterns(900, 1200)[0]
    whole = resize(noise, 100, 150)

    monkeypatch.setattr("xray.images.resize._BAND_BYTES", 4 * noise.size)

    assert np.array_equal(resize(noise, 100, 150), whole)


def megabytes(script: str, *arguments: object) -> int:
    """Run a script in a process of its own and return what it prints."""
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    return int(run.stdout)


LOAD = """
import re, sys
from pathlib import Path
from xray.images.decode import open_image
from xray.images.preprocessing import Preprocessing, load

load(open_image(Path(sys.argv[1]).read_bytes()), Preprocessing(224, "pad"))
# Not ru_maxrss, which counts the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


# Pillow alone needs 1,008 and 1,466 MB, nearly all of it to decode.
@pytest.mark.parametrize(("width", "height", "most"), [(60_000_000, 1, 1100), (1, 60_000_000, 1600)])
def test_a_line_of_60_million_pixels_takes_no_more_memory_than_with_pillow(tmp_path: Path, width, height, most):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * height))
    path = tmp_path / "line.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))

    assert megabytes(LOAD, path) <= most


RESIZE_MANY = """
import psutil
import numpy as np
from xray.images.resize import resize

def resize_all(number):
    for length in (4000, 19_000, 1_000_000):
        resize(np.zeros((1, length + number), np.uint8), 1, 224)
        resize(np.zeros((length + number, 1), np.uint8), 224, 1)

resize_all(0)
before = psutil.Process().memory_info().rss
for number in range(1, 90):
    resize_all(number)
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def test_images_of_many_long_sizes_leave_little_memory_behind():
    assert megabytes(RESIZE_MANY) < 30
