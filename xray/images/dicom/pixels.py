"""A DICOM film's compressed bytes, put together from their fragments (PS3.5 annex A.4)."""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import config
from pydicom.uid import UID

from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.codecs import COMPRESSED, LOSSY, RLE, decompress, unpack_rle
from xray.images.dicom.data_set import ITEM, SEQUENCE_END, UNDEFINED, DataSet, Inflated, Source
from xray.images.dicom.grayscale import Cells, gray_table
from xray.images.dicom.header import BIG_ENDIAN, DEFLATED, IMPLICIT, Opened, open_radiograph
from xray.images.limits import check_limit
from xray.vocabulary import Reason

MAX_FRAGMENTS = 100_000
"""Of one film. Usual ones have 64 kilobytes, or hold the whole film."""


def read_fragments(source: Source) -> bytes:
    """Return the bytes of all fragments of a single frame; the source stands at the pixels' value.

    Raises
    ------
    FileFault
        ``truncated``: a fragment is cut, or there is none.
    """
    parts: list[bytes] = []
    while (head := source.peek(8)) and len(head) == 8:
        tag = int.from_bytes(head[:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        length = int.from_bytes(head[4:], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or length == UNDEFINED:
            raise FileFault(Reason.CORRUPT, "the compressed pixels hold something else than fragments")
        check_limit(len(parts), MAX_FRAGMENTS, "fragments")
        source.read(8)
        parts.append(source.read(length))
    # The first item is the offset table, which a single frame does not need (PS3.5 A.4).
    if not any(parts[1:]):
        raise FileFault(Reason.TRUNCATED, "the file ends before its compressed pixels")
    return b"".join(parts[1:])


MAX_ASPECT = 4.0
"""How much longer than wide a pixel may be; what is beyond is taken for a mistake and passed over."""

LEAST_ASPECT = 1.01
"""Pixels that are square but for this are left as they are: calibration makes 0.1 % of it."""

_NATIVE = frozenset({"", IMPLICIT, BIG_ENDIAN, DEFLATED, "1.2.840.10008.1.2.1"})
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
_COLOURS = ("RGB", "YBR_ICT", "YBR_RCT", *_LUMA_FIRST)
_BAND = 2**20


@dataclass(frozen=True, slots=True)
class _Form:
    rows: int
    columns: int
    samples: int
    allocated: int
    photometric: str
    syntax: str

    @property
    def bytes(self) -> int:
        samples = 2 if self.photometric == "YBR_FULL_422" and self.syntax in _NATIVE else self.samples
        return self.rows * self.columns * samples * self.allocated // 8


def decode_dicom(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a radiograph to gray.

    Parameters
    ----------
    data : bytes
        A whole file.
    max_pixels : int
        Cap on rows x columns, held against the header before anything is decoded.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        Square pixels; may be read-only.

    Raises
    ------
    FileFault
        As of `xray.images.dicom.header.read_header`; and ``too_many_pixels``; ``unsupported``, with what is.
    """
    try:
        return _decode(data, max_pixels)
    except (FileFault, MemoryError):
        raise
    # As with pictures. What a library says may quote the header, so only the kind of its error is kept.
    except Exception as error:
        raise FileFault(Reason.CORRUPT, f"decoding ended with {type(error).__name__}") from error


def _decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    opened = open_radiograph(io.BytesIO(data), tags.PIXELS)
    form = _form(opened, max_pixels)
    if form.photometric in _GRAY:
        gray = _monochrome(opened, form)
    elif form.photometric == "PALETTE COLOR":
        gray = _apply(_palette(opened.data_set, form.allocated), _cells(opened, form)[..., 0])
    else:
        gray = _luma(_cells(opened, form), form)
    return _square(gray, opened.data_set)


def dicom_room(data: bytes) -> int:
    """Say from a film's header for how many pixels its decoding makes room; 0 for what is not decoded."""
    try:
        form = _form(open_radiograph(io.BytesIO(data), tags.PIXELS), max_pixels=2**32)
    except FileFault:
        return 0
    return form.rows * form.columns


def _form(opened: Opened, max_pixels: int) -> _Form:
    found = opened.data_set
    if opened.pixels.tag != tags.PIXEL_DATA:
        raise FileFault(Reason.UNSUPPORTED, "floating-point pixels")
    if opened.syntax not in COMPRESSED | _NATIVE:
        uid = UID(opened.syntax, config.IGNORE)
        raise FileFault(Reason.UNSUPPORTED, f"the transfer syntax {uid.name if uid.type else 'of a vendor'}")
    rows, columns = found.integer(tags.ROWS) or 0, found.integer(tags.COLUMNS) or 0
    if not rows or not columns:
        raise FileFault(Reason.CORRUPT, "the header gives no rows or columns")
    if rows * columns > max_pixels:
        raise FileFault(Reason.TOO_MANY_PIXELS, f"{columns} x {rows}, the cap is {max_pixels:,}")
    photometric = found.text(tags.PHOTOMETRIC).upper()
    samples = found.integer(tags.SAMPLES_PER_PIXEL) or 1
    allocated = found.integer(tags.BITS_ALLOCATED) or 0
    colour = photometric in _COLOURS
    if not colour and photometric not in (*_GRAY, "PALETTE COLOR"):
        raise FileFault(Reason.UNSUPPORTED, "a photometric interpretation that is not read")
    if samples != (3 if colour else 1):
        raise FileFault(Reason.CORRUPT, "the samples per pixel do not fit the photometric interpretation")
    if allocated not in ((8,) if colour else (8, 16)):
        raise FileFault(Reason.UNSUPPORTED, f"{allocated} bits allocated{' in colour' if colour else ''}")
    return _Form(rows, columns, samples, allocated, photometric, opened.syntax)


def _cells(opened: Opened, form: _Form) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the film's cells, shape (rows, columns, samples); only the first sample of YBR_FULL_422."""
    encapsulated = opened.pixels.length == UNDEFINED
    if encapsulated != (form.syntax in COMPRESSED):
        raise FileFault(Reason.CORRUPT, "the pixels are not stored as their transfer syntax says")
    if not encapsulated:
        return _native(opened, form)
    data = read_fragments(opened.source)
    if form.syntax != RLE:
        pixels = decompress(data, form.syntax, form.rows, form.columns, form.samples)
        return pixels.reshape(form.rows, form.columns, -1)
    planes = unpack_rle(data, form.rows, form.columns, form.samples, form.allocated // 8)
    return np.moveaxis(planes.view(f"<u{form.allocated // 8}")[..., 0], 0, -1)


def _native(opened: Opened, form: _Form) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if opened.pixels.length < form.bytes:
        raise FileFault(Reason.TRUNCATED, "the pixels are fewer than rows and columns say")
    if isinstance(opened.source.stream, Inflated):
        opened.source.stream.room += form.bytes
    # In words of 16 bits the bytes of two pixels change places with the byte order (PS3.5 8.1.1, annex A.3).
    big = opened.data_set.encoding.byteorder == "big"
    swapped = big and form.allocated == 8 and opened.pixels.vr == b"OW"
    raw = np.frombuffer(opened.source.read(form.bytes + (form.bytes % 2 if swapped else 0)), np.uint8)
    if swapped:
        raw = raw.reshape(-1, 2)[:, ::-1].reshape(-1)[: form.bytes]
    if form.photometric == "YBR_FULL_422":
        if form.columns % 2:
            raise FileFault(Reason.CORRUPT, "an odd number of columns, where two share their colour")
        # PS3.3 C.7.6.3.1.2: two luma samples, then the colour that they share.
        return raw.reshape(-1, 4)[:, :2].reshape(form.rows, form.columns, 1)
    cells = raw.view(f"{'>' if big else '<'}u2") if form.allocated == 16 else raw
    if form.samples > 1 and opened.data_set.integer(tags.PLANAR_CONFIGURATION) == 1:
        return np.moveaxis(cells.reshape(form.samples, form.rows, form.columns), 0, -1)
    return cells.reshape(form.rows, form.columns, form.samples)


def _monochrome(opened: Opened, form: _Form) -> NDArray[np.uint8]:
    found = opened.data_set
    stored = found.integer(tags.BITS_STORED) or form.allocated
    high = found.integer(tags.HIGH_BIT)
    if not 2 <= stored <= form.allocated:
        raise FileFault(Reason.UNSUPPORTED if stored == 1 else Reason.CORRUPT, f"{stored} bits stored")
    shift = stored - 1 if high is None else high
    shift -= stored - 1
    if not 0 <= shift <= form.allocated - stored:
        raise FileFault(Reason.CORRUPT, "the high bit does not fit the bits stored and allocated")
    pixels = _cells(opened, form)[..., 0]
    # Codestreams hold the values themselves, so there is nothing below them.
    moved = shift if form.syntax not in COMPRESSED or form.syntax == RLE else 0
    signed = found.integer(tags.PIXEL_REPRESENTATION) == 1
    cells = Cells(pixels.dtype.itemsize * 8, stored, moved, signed, form.syntax in LOSSY)
    counts = np.zeros(2**cells.size, np.int64)
    for band in _bands(pixels):
        counts += np.bincount(band.ravel(), minlength=counts.size)
    return _apply(gray_table(found, cells, counts), pixels)


def _bands(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> list[NDArray[np.uint8] | NDArray[np.uint16]]:
    # NumPy makes indices of eight bytes of each pixel.
    step = max(1, _BAND // pixels.shape[1])
    return [pixels[top : top + step] for top in range(0, pixels.shape[0], step)]


def _apply(table: NDArray[np.uint8], pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8]:
    gray = np.empty(pixels.shape, np.uint8)
    for band, part in zip(_bands(pixels), _bands(gray), strict=True):
        np.take(table, band, out=part, mode="clip")
    return gray


def _palette(found: DataSet, allocated: int) -> NDArray[np.uint8]:
    # PS3.3 C.7.9: red, green and blue tables of the same length, of 8 or 16 bits an entry.
    cells = np.arange(2**allocated)
    channels = []
    for descriptor_tag, data_tag in zip(tags.PALETTES, tags.PALETTE_DATA, strict=True):
        descriptor, data = found.integers(descriptor_tag), found.values.get(data_tag, b"")
        if len(descriptor) < 3 or not data:
            raise FileFault(Reason.UNSUPPORTED, "a palette that is not given in full")
        count, first = descriptor[0] or 65536, descriptor[1]
        entries = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if found.encoding.byteorder == "little" else ">u2")
        entries = entries[:count] >> 8 if len(data) >= 2 * count else np.frombuffer(data, np.uint8)[:count]
        if entries.size < count:
            raise FileFault(Reason.CORRUPT, "a palette is shorter than it says")
        channels.append(entries[np.clip(cells - first, 0, count - 1)].astype(np.uint8))
    return np.asarray(Image.fromarray(np.stack(channels, -1)[None]).convert("L")).reshape(-1)


def _luma(cells: NDArray[np.uint8] | NDArray[np.uint16], form: _Form) -> NDArray[np.uint8]:
    if cells.shape[-1] == 1 or (form.photometric in _LUMA_FIRST):
        return np.ascontiguousarray(cells[..., 0]).astype(np.uint8, copy=False)
    return np.concatenate(
        [np.asarray(Image.fromarray(np.ascontiguousarray(band)).convert("L")) for band in _bands(cells)]
    )


def _square(gray: NDArray[np.uint8], found: DataSet) -> NDArray[np.uint8]:
    aspect = _aspect(found)
    if not LEAST_ASPECT <= max(aspect, 1 / aspect) <= MAX_ASPECT:
        return gray
    # The finer direction is reduced to the coarser one: nothing is made up, and nothing grows.
    height, width = gray.shape
    if aspect > 1:
        width = max(1, round(width / aspect))
    else:
        height = max(1, round(height * aspect))
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def _aspect(found: DataSet) -> float:
    """Return how much higher than wide a pixel is."""
    # PS3.3 C.7.6.3.1.7 and 10.7.1: row spacing, the vertical one, comes first in all three.
    for tag in (tags.PIXEL_ASPECT_RATIO, tags.IMAGER_PIXEL_SPACING, tags.PIXEL_SPACING):
        numbers = found.decimals(tag)
        if len(numbers) == 2 and all(math.isfinite(number) and 1e-6 < number < 1e6 for number in numbers):
            return numbers[0] / numbers[1]
    return 1.0
