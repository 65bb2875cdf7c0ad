"""DICOM pixel data to gray: native or compressed, monochrome or colour, with square pixels."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import config
from pydicom.uid import UID

from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.codecs import COMPRESSED, LOSSY, RLE, decompress, unpack_rle
from xray.images.dicom.data_set import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, ByteReader, DataSet, InflatedStream
from xray.images.dicom.grayscale import PixelFormat, grayscale_table
from xray.images.dicom.header import BIG_ENDIAN, DEFLATED, IMPLICIT, RadiographFile, open_radiograph
from xray.images.limits import check_limit
from xray.vocabulary import Reason

MAX_FRAGMENTS = 100_000
"""Fragments of an image. Usually a fragment has 64 kilobytes, or holds the whole image."""

MAX_ASPECT = 4.0
"""The largest ratio of a pixel's sides; a larger one is taken for a mistake and ignored."""

LEAST_ASPECT = 1.01
"""Pixels nearer to square are left unchanged: calibration alone makes the sides differ by 0.1 %."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_NATIVE = frozenset({"", IMPLICIT, BIG_ENDIAN, DEFLATED, "1.2.840.10008.1.2.1"})
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
_COLOUR = ("RGB", "YBR_ICT", "YBR_RCT", *_LUMA_FIRST)
# Pixels that are converted at a time, so that wide intermediate arrays stay small.
_BAND_PIXELS = 2**20


@dataclass(frozen=True, slots=True)
class _PixelDescription:
    """What the Image Pixel module (PS3.3 C.7.6.3) and the transfer syntax say about the pixel data."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    photometric: str
    transfer_syntax: str

    @property
    def native_bytes(self) -> int:
        """Length of the pixels without compression."""
        subsampled = self.photometric == "YBR_FULL_422" and self.transfer_syntax in _NATIVE
        return self.rows * self.columns * (2 if subsampled else self.samples) * self.bits_allocated // 8


class DicomImage:
    """A radiograph, opened and not yet decoded.

    Parameters
    ----------
    data : bytes
        A whole file.

    Raises
    ------
    FileFault
        As `xray.images.dicom.header.read_header`; also ``unsupported`` with what is not supported.

    Attributes
    ----------
    pixel_count : int
        Rows x columns.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        with _faults():
            self._file = open_radiograph(io.BytesIO(data), tags.PIXEL_ELEMENTS)
            self._description = _describe(self._file)
        self.pixel_count = self._description.rows * self._description.columns

    def gray(self, max_pixels: int) -> NDArray[np.uint8]:
        """Decode the image; once.

        Parameters
        ----------
        max_pixels : int
            Cap on rows x columns; checked before anything is decoded.

        Returns
        -------
        ndarray of uint8, shape (H, W)
            Bone bright, square pixels; may be read-only.

        Raises
        ------
        FileFault
            ``too_many_pixels``, ``truncated``, ``corrupt`` or ``unsupported``.
        """
        file, description = self._file, self._description
        if self.pixel_count > max_pixels:
            size = f"{description.columns} x {description.rows}"
            raise FileFault(Reason.TOO_MANY_PIXELS, f"{size}, the cap is {max_pixels:,}")
        with _faults():
            if description.photometric in _MONOCHROME:
                gray = _monochrome_to_gray(file, description, self._data)
            elif description.photometric == "PALETTE COLOR":
                table = _palette_table(file.data_set, description.bits_allocated)
                gray = _apply(table, _read_pixels(file, description, self._data)[..., 0])
            else:
                gray = _colour_to_gray(_read_pixels(file, description, self._data), description)
            return _make_square(gray, file.data_set)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except (FileFault, MemoryError):
        raise
    # Damaged files cause exceptions of every type. A library's text may quote the header, so only its type is kept.
    except Exception as error:
        raise FileFault(Reason.CORRUPT, f"decoding ended with {type(error).__name__}") from error


def _describe(file: RadiographFile) -> _PixelDescription:
    """Check and return the description of the pixel data.

    Raises
    ------
    FileFault
        ``unsupported`` or ``corrupt``.
    """
    data_set = file.data_set
    if file.pixel_element.tag != tags.PIXEL_DATA:
        raise FileFault(Reason.UNSUPPORTED, "floating-point pixels")
    if file.transfer_syntax not in COMPRESSED | _NATIVE:
        uid = UID(file.transfer_syntax, config.IGNORE)
        raise FileFault(
            Reason.UNSUPPORTED, f"the transfer syntax {uid.name}" if uid.type else "a private transfer syntax"
        )
    rows, columns = data_set.integer(tags.ROWS) or 0, data_set.integer(tags.COLUMNS) or 0
    if not rows or not columns:
        raise FileFault(Reason.CORRUPT, "the header has no rows or columns")
    photometric = data_set.text(tags.PHOTOMETRIC_INTERPRETATION).upper()
    samples = data_set.integer(tags.SAMPLES_PER_PIXEL) or 1
    allocated = data_set.integer(tags.BITS_ALLOCATED) or 0
    is_colour = photometric in _COLOUR
    if not is_colour and photometric not in (*_MONOCHROME, "PALETTE COLOR"):
        raise FileFault(Reason.UNSUPPORTED, "the photometric interpretation is not supported")
    if samples != (3 if is_colour else 1):
        raise FileFault(Reason.CORRUPT, "the samples per pixel do not fit the photometric interpretation")
    if allocated not in ((8,) if is_colour else (8, 16)):
        raise FileFault(Reason.UNSUPPORTED, f"{allocated} bits allocated{' in colour' if is_colour else ''}")
    return _PixelDescription(rows, columns, samples, allocated, photometric, file.transfer_syntax)


def _read_pixels(file: RadiographFile, description: _PixelDescription, whole: bytes) -> Pixels:
    """Return the pixels, shape (rows, columns, samples); of native YBR_FULL_422 only the luma."""
    encapsulated = file.pixel_element.length == UNDEFINED_LENGTH
    if encapsulated != (description.transfer_syntax in COMPRESSED):
        raise FileFault(Reason.CORRUPT, "the pixel data does not match its transfer syntax")
    if not encapsulated:
        return _read_native(file, description, whole)
    data = _read_fragments(file.reader)
    rows, columns, samples = description.rows, description.columns, description.samples
    if description.transfer_syntax != RLE:
        pixels = decompress(data, description.transfer_syntax, rows, columns, samples)
        return pixels.reshape(rows, columns, -1)
    planes = unpack_rle(data, rows, columns, samples, description.bits_allocated // 8)
    return np.moveaxis(planes.view(f"<u{description.bits_allocated // 8}")[..., 0], 0, -1)


def _read_fragments(reader: ByteReader) -> bytes:
    """Return the compressed bytes of a single frame: its fragments, joined (PS3.5 annex A.4).

    Raises
    ------
    FileFault
        ``truncated``: a fragment is cut, or there is none.
    """
    parts: list[bytes] = []
    while (head := reader.peek(8)) and len(head) == 8:
        tag = int.from_bytes(head[:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        length = int.from_bytes(head[4:], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or length == UNDEFINED_LENGTH:
            raise FileFault(Reason.CORRUPT, "the compressed pixels contain an element that is not a fragment")
        check_limit(len(parts), MAX_FRAGMENTS, "fragments")
        reader.read(8)
        parts.append(reader.read(length))
    # The first item is the offset table, which a single frame does not need (PS3.5 A.4).
    if not any(parts[1:]):
        raise FileFault(Reason.TRUNCATED, "the file ends before its compressed pixels")
    return b"".join(parts[1:])


def _read_native(file: RadiographFile, description: _PixelDescription, whole: bytes) -> Pixels:
    size = description.native_bytes
    if file.pixel_element.length < size:
        raise FileFault(Reason.TRUNCATED, "fewer pixels than rows x columns")
    # In big-endian words of 16 bits, the bytes of two pixels are swapped (PS3.5 8.1.1, annex A.3).
    is_big_endian = file.data_set.encoding.byteorder == "big"
    is_swapped = is_big_endian and description.bits_allocated == 8 and file.pixel_element.vr == b"OW"
    length = size + (size % 2 if is_swapped else 0)
    if isinstance(file.reader.stream, InflatedStream):
        file.reader.stream.allow(size)
        raw = np.frombuffer(file.reader.read(length), np.uint8)
    else:
        start = file.reader.position
        file.reader.skip(length)
        # In place: the pixels are most of the file.
        raw = np.frombuffer(whole, np.uint8, length, start)
    if is_swapped:
        raw = raw.reshape(-1, 2)[:, ::-1].reshape(-1)[:size]
    rows, columns, samples = description.rows, description.columns, description.samples
    if description.photometric == "YBR_FULL_422":
        if columns % 2:
            raise FileFault(Reason.CORRUPT, "YBR_FULL_422 with an odd number of columns")
        # PS3.3 C.7.6.3.1.2: two luma samples, then the two chroma samples that they share.
        return raw.reshape(-1, 4)[:, :2].reshape(rows, columns, 1)
    pixels = raw.view(f"{'>' if is_big_endian else '<'}u2") if description.bits_allocated == 16 else raw
    if samples > 1 and file.data_set.integer(tags.PLANAR_CONFIGURATION) == 1:
        return np.moveaxis(pixels.reshape(samples, rows, columns), 0, -1)
    return pixels.reshape(rows, columns, samples)


def _monochrome_to_gray(file: RadiographFile, description: _PixelDescription, whole: bytes) -> NDArray[np.uint8]:
    data_set, syntax = file.data_set, description.transfer_syntax
    allocated = description.bits_allocated
    stored = data_set.integer(tags.BITS_STORED) or allocated
    high_bit = data_set.integer(tags.HIGH_BIT)
    if not 2 <= stored <= allocated:
        raise FileFault(Reason.UNSUPPORTED if stored == 1 else Reason.CORRUPT, f"{stored} bits stored")
    shift = 0 if high_bit is None else high_bit - (stored - 1)
    if not 0 <= shift <= allocated - stored:
        raise FileFault(Reason.CORRUPT, "the high bit does not fit the bits stored and allocated")
    pixels = _read_pixels(file, description, whole)[..., 0]
    # Other codecs than RLE hold the stored values themselves, without bits below them.
    pixel_format = PixelFormat(
        bits_allocated=pixels.dtype.itemsize * 8,
        bits_stored=stored,
        shift=shift if syntax not in COMPRESSED or syntax == RLE else 0,
        signed=data_set.integer(tags.PIXEL_REPRESENTATION) == 1,
        lossy=syntax in LOSSY,
    )

    def count(pixels: Pixels) -> NDArray[np.int64]:
        counts = np.zeros(2**pixel_format.bits_allocated, np.int64)
        for band in _bands(pixels):
            counts += np.bincount(band.ravel(), minlength=counts.size)
        return counts

    return _apply(grayscale_table(data_set, pixel_format, pixels, count), pixels)


def _bands(pixels: Pixels) -> list[Pixels]:
    # NumPy converts pixels to indices of 8 bytes each, so it gets a band at a time.
    step = max(1, _BAND_PIXELS // pixels.shape[1])
    return [pixels[top : top + step] for top in range(0, pixels.shape[0], step)]


def _apply(table: NDArray[np.uint8], pixels: Pixels) -> NDArray[np.uint8]:
    gray = np.empty(pixels.shape, np.uint8)
    for band, gray_band in zip(_bands(pixels), _bands(gray), strict=True):
        np.take(table, band, out=gray_band, mode="clip")
    return gray


def _palette_table(data_set: DataSet, bits_allocated: int) -> NDArray[np.uint8]:
    """Return the luma of each pixel value's palette colour."""
    # PS3.3 C.7.9: red, green and blue tables of the same length, of 8 or 16 bits an entry.
    values = np.arange(2**bits_allocated)
    channels = []
    for descriptor_tag, data_tag in zip(tags.PALETTE_DESCRIPTORS, tags.PALETTE_DATA, strict=True):
        descriptor, data = data_set.integers(descriptor_tag), data_set.values.get(data_tag, b"")
        if len(descriptor) < 3 or not data:
            raise FileFault(Reason.UNSUPPORTED, "the palette is incomplete")
        count, first = descriptor[0] or 65536, descriptor[1]
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if data_set.encoding.byteorder == "little" else ">u2")
        entries = words[:count] >> 8 if len(data) >= 2 * count else np.frombuffer(data, np.uint8)[:count]
        if entries.size < count:
            raise FileFault(Reason.CORRUPT, "the palette has fewer entries than its descriptor declares")
        channels.append(entries[np.clip(values - first, 0, count - 1)].astype(np.uint8))
    return np.asarray(Image.fromarray(np.stack(channels, -1)[None]).convert("L")).reshape(-1)


def _colour_to_gray(pixels: Pixels, description: _PixelDescription) -> NDArray[np.uint8]:
    if pixels.shape[-1] == 1 or description.photometric in _LUMA_FIRST:
        return np.ascontiguousarray(pixels[..., 0]).astype(np.uint8, copy=False)
    return np.concatenate(
        [np.asarray(Image.fromarray(np.ascontiguousarray(band)).convert("L")) for band in _bands(pixels)]
    )


def _make_square(gray: NDArray[np.uint8], data_set: DataSet) -> NDArray[np.uint8]:
    """Resize an image to square pixels, by reducing the direction of the finer sampling."""
    aspect = _aspect_ratio(data_set)
    if not LEAST_ASPECT <= max(aspect, 1 / aspect) <= MAX_ASPECT:
        return gray
    height, width = gray.shape
    if aspect > 1:
        width = max(1, round(width / aspect))
    else:
        height = max(1, round(height * aspect))
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def _aspect_ratio(data_set: DataSet) -> float:
    """Return a pixel's height divided by its width."""
    # PS3.3 C.7.6.3.1.7 and 10.7.1: the vertical value comes first in all three.
    for tag in (tags.PIXEL_ASPECT_RATIO, tags.IMAGER_PIXEL_SPACING, tags.PIXEL_SPACING):
        numbers = data_set.decimals(tag)
        if len(numbers) == 2 and all(math.isfinite(number) and 1e-6 < number < 1e6 for number in numbers):
            return numbers[0] / numbers[1]
    return 1.0
