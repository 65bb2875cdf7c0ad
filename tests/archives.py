"""Archives of small generated images, and damaged files of every kind."""

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NOBODY = 65534
PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
LONG_TAGS = frozenset({256, 257, 273, 279, 322, 323, 324, 325, 34665})


def image_pixels(seed: int, height: int = 24, width: int = 20) -> NDArray[np.uint8]:
    """Return an image that differs from that of every other seed, uint8 (height, width)."""
    pixels = np.add.outer(np.arange(height) * 96 // height, np.arange(width) * 100 // width).astype(np.uint8)
    pixels[0, :4] = np.frombuffer(struct.pack("<I", seed), np.uint8)
    return pixels


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    """Return a small PNG, different for each seed."""
    return png_of(image_pixels(seed), bits=8)


def png_of(pixels: NDArray[np.uint8] | NDArray[np.uint16], *, bits: int) -> bytes:
    """Write a PNG of 8 or 16 bits by hand, gray or of two to four channels: thousands a second."""
    height, width = pixels.shape[:2]
    colour = PNG_COLOURS[pixels.shape[2] if pixels.ndim == 3 else 1]
    rows = pixels.astype(">u2" if bits == 16 else np.uint8).view(np.uint8).reshape(height, -1)
    lines = np.pad(rows, ((0, 0), (1, 0))).tobytes()
    return png_file(width, height, zlib.compress(lines, 1), bits=bits, colour=colour)


def png_file(width: int, height: int, compressed: bytes, *, bits: int = 8, colour: int = 0) -> bytes:
    """Write a PNG with a header of this size, and any compressed data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", compressed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks)


def png_of_ten_gigapixels() -> bytes:
    """Return a PNG of two kilobytes whose header claims ten gigapixels."""
    return png_file(100_000, 100_000, zlib.compress(bytes(1_000_000), 9))


def tiff_file(fields: Mapping[int, int]) -> bytes:
    """Write a TIFF of only a header and these fields, by tag."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + entries + bytes(4)


def tiff_of(
    pixels: NDArray[np.generic],
    fields: Mapping[int, Sequence[int]] = MappingProxyType({}),
    *,
    byte_order: str = "<",
    deflated: bool = False,
    big: bool = False,
    exif: Mapping[int, Sequence[int]] | None = None,
) -> bytes:
    """Write a TIFF by hand, with the fields that its pixels need and those given; empty fields are left out."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    body = pixels.astype(pixels.dtype.newbyteorder(byte_order)).tobytes()
    body = zlib.compress(body) if deflated else body
    start = 16 if big else 8
    own = {256: [width], 257: [height], 258: [8 * pixels.itemsize] * samples, 259: [8 if deflated else 1]}
    own |= {262: [2 if samples > 1 else 1], 273: [start], 277: [samples], 278: [height], 279: [len(body)]}
    own |= {339: [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * samples}
    if exif is not None:
        own[34665] = [start + len(body)]
        body += _directory(start + len(body), exif, byte_order, big)
    mark = b"II" if byte_order == "<" else b"MM"
    tail = (43, 8, 0, start + len(body)) if big else (42, start + len(body))
    head = struct.pack(f"{byte_order}2s{'HHHQ' if big else 'HI'}", mark, *tail)
    return head + body + _directory(start + len(body), {**own, **fields}, byte_order, big)


def _directory(place: int, fields: Mapping[int, Sequence[int]], byte_order: str, big: bool) -> bytes:
    given = sorted((tag, numbers) for tag, numbers in fields.items() if len(numbers))
    width, counts = (8, "QQ") if big else (4, "HI")
    behind = place + struct.calcsize(f"<{counts[0]}") + len(given) * (4 + 2 * width) + width
    entries, apart = b"", b""
    for tag, numbers in given:
        short = tag not in LONG_TAGS
        value = np.asarray(numbers).astype(f"{byte_order}u{2 if short else 4}").tobytes()
        if len(value) > width:
            value, apart = struct.pack(f"{byte_order}{counts[1]}", behind + len(apart)), apart + value
        entries += struct.pack(f"{byte_order}HH{counts[1]}", tag, 3 if short else 4, len(numbers)) + value.ljust(
            width, b"\0"
        )
    return struct.pack(f"{byte_order}{counts[0]}", len(given)) + entries + bytes(width) + apart


def jpeg(seed: int) -> bytes:
    """Return a small JPEG, different for most seeds."""
    return encoded(Image.fromarray(image_pixels(seed)), "JPEG", quality=95)


def jpeg_scanned_again(seed: int, times: int) -> bytes:
    """Return a small progressive JPEG whose last scan is repeated."""
    data = encoded(Image.fromarray(image_pixels(seed)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * times + data[-2:]


def truncated(data: bytes) -> bytes:
    """Return the first half of a file."""
    return data[: len(data) // 2]


def mura_tree(root: Path, images: int, *, images_per_study: int = 2, parts: Sequence[str] = ("HUMERUS", "HAND")) -> int:
    """Make an archive like MURA as published, with files of macOS; return the number of its studies.

    Of each ten studies three are positive; one suffix in seven is in upper case.
    """
    studies = 0
    for first in range(0, images, images_per_study):
        label = "positive" if studies % 10 < 3 else "negative"
        part = parts[studies % len(parts)]
        study = root / f"XR_{part}" / f"patient{studies:05}" / f"study1_{label}"
        study.mkdir(parents=True)
        for number in range(first, min(first + images_per_study, images)):
            suffix = ".PNG" if number % 7 == 6 else ".png"
            (study / f"image{number - first + 1}{suffix}").write_bytes(png(number))
        studies += 1
    system = root / f"XR_{parts[0]}" / "patient00000" / "study1_positive"
    (system / "._image1.png").write_bytes(b"\x00\x05\x16\x07")
    (root / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    (root / "train_image_paths.csv").write_text("path\n")
    (root / f"XR_{parts[0]}" / "patient99999" / "study1_negative").mkdir(parents=True)
    return studies


def folder_tree(root: Path, studies: int, *, images_per_study: int = 2) -> None:
    """Make an archive with one folder for each study."""
    for study in range(studies):
        folder = root / f"case{study:05}"
        folder.mkdir(parents=True)
        for number in range(images_per_study):
            (folder / f"{number}.png").write_bytes(png(study * images_per_study + number))


def flat_tree(root: Path, images: int) -> None:
    """Make an archive with all images in the root."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (root / f"image{number:06}.png").write_bytes(png(number))


@contextmanager
def folder_for_others() -> Iterator[Path]:
    """Make a temporary folder that other users can read, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Drop the rights of root, who may open any file."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Write a chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
