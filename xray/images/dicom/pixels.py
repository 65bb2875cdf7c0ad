"""DICOM pixel data to gray: native or compressed, monochrome or colour, with square pixels."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import config
from pydicom.uid import UID

from xray.errors import FileFault
from xray.images.dicom import tags
from xray.images.dicom.codecs import CODESTREAMS, DEFLATED_FRAME, RLE, decompress, inflate, rle_segments, unpack_rle
from xray.images.dicom.codestream import is_codestream
from xray.images.dicom.data_set import ITEM, SEQUENCE_END, UNDEFINED_LENGTH, ByteReader, DataSet, InflatedStream
from xray.images.dicom.grayscale import grayscale_table
from xray.images.dicom.header import BIG_ENDIAN, DEFLATED, IMPLICIT, RadiographFile, open_radiograph
from xray.images.dicom.stored_values import PixelFormat, find_format
from xray.images.limits import check_limit
from xray.vocabulary import Reason, Repair

MAX_FRAGMENTS = 100_000
"""Fragments of an image. Usually a fragment has 64 kilobytes, or holds the whole image."""

MAX_ASPECT = 4.0
"""The largest ratio of a pixel's sides; a larger one is taken for a mistake and ignored."""

LEAST_ASPECT = 1.01
"""Pixels nearer to square are left unchanged: calibration alone makes the sides differ by 0.1 %."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_NATIVE = frozenset({"", IMPLICIT, BIG_ENDIAN, DEFLATED, "1.2.840.10008.1.2.1"})
_ENCAPSULATED_NATIVE = "1.2.840.10008.1.2.1.98"
_ITEM_HEAD = b"\xfe\xff\x00\xe0"
# Samples and bytes of a sample by the number of segments, where these contradict the header.
_RLE_LAYOUTS = {1: (1, 1), 2: (1, 2), 3: (3, 1), 6: (3, 2)}
_PALETTE = "PALETTE COLOR"
# The length of an element is even (PS3.5 7.1.1).
_EVEN_PADDING = (0, 1)
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
_COLOUR = ("RGB", "YBR_ICT", "YBR_RCT", *_LUMA_FIRST)
# Steps of chroma in the reading that is right, as a share of those in the other.
_LESS_CHROMA = 0.5
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


@dataclass(slots=True)
class _Stored:
    """The pixels as stored, decompressed.

    Attributes
    ----------
    pixels : ndarray of uint8 or uint16, shape (rows, columns, samples)
        Of colour JPEG and native YBR_FULL_422 only the luma.
    cells : bool
        The integers are pixel cells (PS3.5 8.1.1), which may hold other bits than the stored value's.
    lossy : bool
        Decoded values may exceed the greatest stored value.
    repairs : tuple of Repair
        In what the header is wrong.
    """

    pixels: Pixels
    cells: bool = True
    lossy: bool = False
    repairs: tuple[Repair, ...] = ()


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
    repairs : tuple of Repair
        What the header says wrongly about the pixels; known once `gray` has decoded them.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.repairs: tuple[Repair, ...] = ()
        with _faults():
            self._file = open_radiograph(io.BytesIO(data), tags.PIXEL_ELEMENTS)
            self._description = _describe(self._file)
        self.pixel_count = self._description.rows * self._description.columns

    @property
    def size(self) -> tuple[int, int]:
        """Height and width by the header, with square pixels."""
        with _faults():
            return _square_size(self._description.rows, self._description.columns, self._file.data_set)

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
            stored = _read_stored(file, description, self._data)
            if stored.pixels.dtype.itemsize == 2 and stored.pixels.shape[-1] == 3:
                raise FileFault(Reason.UNSUPPORTED, "colour of more than 8 bits a sample")
            if description.photometric == _PALETTE and stored.pixels.shape[-1] == 1:
                table = _palette_table(file.data_set, stored.pixels.dtype.itemsize * 8)
                gray = _apply(table, stored.pixels[..., 0])
            else:
                gray = _to_gray(file.data_set, description.photometric, stored)
            self.repairs = tuple(dict.fromkeys(stored.repairs))
            return _make_square(gray, file.data_set)


def _to_gray(data_set: DataSet, photometric: str, stored: _Stored) -> NDArray[np.uint8]:
    if stored.pixels.shape[-1] == 3:
        luma = _colour_to_gray(stored, photometric)
        if photometric in _COLOUR:
            return luma
        stored.pixels, stored.cells = luma[..., None], False
    elif photometric in _COLOUR and stored.pixels.dtype.itemsize == 1:
        return np.ascontiguousarray(stored.pixels[..., 0]).astype(np.uint8, copy=False)
    return _monochrome_to_gray(data_set, stored)


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
    rows, columns = data_set.integer(tags.ROWS) or 0, data_set.integer(tags.COLUMNS) or 0
    if not rows or not columns:
        raise FileFault(Reason.CORRUPT, "the header has no rows or columns")
    photometric = data_set.text(tags.PHOTOMETRIC_INTERPRETATION).upper()
    if photometric not in (*_MONOCHROME, *_COLOUR, _PALETTE):
        raise FileFault(Reason.UNSUPPORTED, "the photometric interpretation is not supported")
    samples = data_set.integer(tags.SAMPLES_PER_PIXEL) or (3 if photometric in _COLOUR else 1)
    allocated = data_set.integer(tags.BITS_ALLOCATED) or 0
    if samples not in (1, 3):
        raise FileFault(Reason.UNSUPPORTED, f"{samples} samples a pixel")
    if allocated not in (8, 16):
        raise FileFault(Reason.UNSUPPORTED, f"{allocated} bits allocated")
    return _PixelDescription(rows, columns, samples, allocated, photometric, file.transfer_syntax)


def _read_stored(file: RadiographFile, description: _PixelDescription, whole: bytes) -> _Stored:
    """Read and decompress the pixels, by what they are and not by what the transfer syntax says.

    Many files are labelled wrongly: the codestream names its own kind, and a defined length, or none, says whether
    there are items (PS3.5 annex A.4).
    """
    element, reader, syntax = file.pixel_element, file.reader, description.transfer_syntax
    if element.length == UNDEFINED_LENGTH:
        return _read_compressed(_read_fragments(reader, None), description, as_labelled=syntax not in _NATIVE)
    head = reader.peek(64)
    layout = _native_layout(element.length, description)
    is_native = layout is not None and element.length - layout.size(description) in _EVEN_PADDING
    if syntax not in _NATIVE or not is_native:
        if head.startswith(_ITEM_HEAD):
            data = _read_fragments(reader, reader.position + element.length)
            return _read_compressed(data, description, as_labelled=False)
        if is_codestream(head) or (not is_native and rle_segments(head)):
            return _read_compressed(reader.read(element.length), description, as_labelled=False)
    if layout is None:
        raise FileFault(Reason.TRUNCATED, "fewer pixels than rows x columns")
    if syntax not in _NATIVE and not is_native:
        raise _unknown_syntax(syntax)
    repairs = layout.repairs if syntax in _NATIVE else (Repair.SYNTAX, *layout.repairs)
    # In big-endian words of 16 bits, the bytes of two pixels are swapped (PS3.5 8.1.1, annex A.3).
    is_big_endian = file.data_set.encoding.byteorder == "big"
    is_swapped = is_big_endian and layout.bytes == 1 and element.vr == b"OW"
    size = layout.size(description)
    length = size + (size % 2 if is_swapped else 0)
    if isinstance(reader.stream, InflatedStream):
        reader.stream.allow(size)
        raw = np.frombuffer(reader.read(length), np.uint8)
    else:
        start = reader.position
        reader.skip(length)
        # In place: the pixels are most of the file.
        raw = np.frombuffer(whole, np.uint8, length, start)
    if is_swapped:
        raw = raw.reshape(-1, 2)[:, ::-1].reshape(-1)[:size]
    in_planes = file.data_set.integer(tags.PLANAR_CONFIGURATION) == 1
    if layout.samples == 3 and layout.bytes == 1 and not layout.subsampled and description.columns > 1:
        steps = _chroma_steps(raw, description.rows, description.columns)
        if steps[not in_planes] < _LESS_CHROMA * steps[in_planes]:
            in_planes = not in_planes
            repairs = (*repairs, Repair.SAMPLING)
    return _Stored(_arranged(raw, layout, description, is_big_endian, in_planes), repairs=repairs)


def _chroma_steps(raw: NDArray[np.uint8], rows: int, columns: int) -> tuple[float, float]:
    """Return how much chroma differs between neighbours in an image read pixel by pixel, and plane by plane.

    Of a radiograph it hardly does; read the wrong way, chroma is the difference of different pixels' gray.
    """
    step = max(1, rows // 64)
    by_pixel = raw.reshape(rows, columns, 3)[::step, :, 1:]
    by_plane = np.moveaxis(raw.reshape(3, rows, columns)[1:, ::step], 0, -1)
    one, other = (np.diff(np.diff(reading.astype(np.int16))[..., 0]) for reading in (by_pixel, by_plane))
    return float(np.abs(one).mean()), float(np.abs(other).mean())


def _read_compressed(data: bytes, description: _PixelDescription, as_labelled: bool) -> _Stored:
    rows, columns, syntax = description.rows, description.columns, description.transfer_syntax
    layout = _native_layout(len(data), description)
    # Items may hold pixels that are not compressed (PS3.5 A.4.11).
    is_native = layout is not None and len(data) - layout.size(description) in _EVEN_PADDING
    if is_codestream(data) or (syntax in CODESTREAMS and not rle_segments(data) and not is_native):
        pixels, frame = decompress(data, rows, columns)
        as_labelled &= frame.kind in CODESTREAMS.get(syntax, ())
        return _Stored(pixels, False, frame.lossy, _repairs(as_labelled, frame.samples == description.samples))
    if rle_segments(data) or (syntax == RLE and not is_native):
        segments = rle_segments(data)
        samples, size = description.samples, description.bits_allocated // 8
        if segments != samples * size:
            samples, size = _RLE_LAYOUTS.get(segments, (samples, size))
        planes = unpack_rle(data, rows, columns, samples, size)
        repairs = _repairs(as_labelled and syntax == RLE, samples == description.samples)
        return _Stored(np.moveaxis(planes.view(f"<u{size}")[..., 0], 0, -1), repairs=repairs)
    if syntax == DEFLATED_FRAME:
        data = inflate(data, rows * columns * description.samples * description.bits_allocated // 8)
        layout = _native_layout(len(data), description)
    if layout is None or not (is_native or syntax == DEFLATED_FRAME):
        raise _unknown_syntax(syntax)
    raw = np.frombuffer(data, np.uint8, layout.size(description))
    repairs = (*_repairs(syntax in (DEFLATED_FRAME, _ENCAPSULATED_NATIVE), True), *layout.repairs)
    return _Stored(_arranged(raw, layout, description, False, False), repairs=repairs)


def _repairs(as_labelled: bool, as_sampled: bool) -> tuple[Repair, ...]:
    return (() if as_labelled else (Repair.SYNTAX,)) + (() if as_sampled else (Repair.SAMPLING,))


def _unknown_syntax(syntax: str) -> FileFault:
    if syntax in _NATIVE:
        return FileFault(Reason.CORRUPT, "the pixel data does not match its transfer syntax")
    uid = UID(syntax, config.IGNORE)
    return FileFault(Reason.UNSUPPORTED, f"the transfer syntax {uid.name}" if uid.type else "a private transfer syntax")


def _read_fragments(reader: ByteReader, end: int | None) -> bytes:
    """Return the compressed bytes of a single frame: its fragments, joined (PS3.5 annex A.4).

    Parameters
    ----------
    reader : ByteReader
        At the first item.
    end : int or None
        Position at which the last item ends, if the pixel data have a defined length.

    Raises
    ------
    FileFault
        ``truncated``: a fragment is cut, or there is none.
    """
    parts: list[bytes] = []
    while (end is None or reader.position < end) and (head := reader.peek(8)) and len(head) == 8:
        tag = int.from_bytes(head[:2], "little") << 16 | int.from_bytes(head[2:4], "little")
        length = int.from_bytes(head[4:], "little")
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or length == UNDEFINED_LENGTH:
            raise FileFault(Reason.CORRUPT, "the compressed pixels contain an element that is not a fragment")
        check_limit(len(parts), MAX_FRAGMENTS, "fragments")
        reader.read(8)
        parts.append(reader.read(length))
    # The first item is the offset table, which a single frame does not need (PS3.5 A.4), and which some writers omit.
    if parts and not is_codestream(parts[0]) and not rle_segments(parts[0]):
        del parts[0]
    if not any(parts):
        raise FileFault(Reason.TRUNCATED, "the file ends before its compressed pixels")
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How pixels without compression are stored: samples of a pixel, bytes of a sample, half the chroma or all."""

    samples: int
    bytes: int
    subsampled: bool = False
    repairs: tuple[Repair, ...] = ()

    def size(self, description: _PixelDescription) -> int:
        """Return how many bytes the image has."""
        columns = description.columns
        if self.subsampled:
            return description.rows * -(-columns // 2) * 4
        return description.rows * columns * self.samples * self.bytes


def _native_layout(length: int, description: _PixelDescription) -> _Layout | None:
    """Return the layout that the header declares or, where the length contradicts it, the one that the length proves.

    None if neither has so many bytes.
    """
    declared = _Layout(description.samples, description.bits_allocated // 8)
    pixels = description.rows * description.columns
    in_bytes, subsampled = declared.bytes == 1, _Layout(3, 1, subsampled=True)
    if description.photometric == "YBR_FULL_422" and in_bytes:
        # PS3.3 C.7.6.3.1.2: the word is often left over where decompression restored full sampling.
        declared = subsampled if length < 3 * pixels else _Layout(3, 1, repairs=(Repair.SAMPLING,))
    excess = length - declared.size(description)
    if excess in _EVEN_PADDING or (excess > 0 and not declared.subsampled):
        return declared
    if description.transfer_syntax not in _NATIVE:
        return None
    others = [_Layout(1, 1), _Layout(1, 2)] if description.photometric not in _COLOUR else [_Layout(1, 1), subsampled]
    for other in others:
        if length - other.size(description) in _EVEN_PADDING:
            lie = Repair.SAMPLING if other.bytes == declared.bytes else Repair.BITS_STORED
            return replace(other, repairs=(lie,))
    return None


def _arranged(
    raw: NDArray[np.uint8], layout: _Layout, description: _PixelDescription, is_big_endian: bool, in_planes: bool
) -> Pixels:
    rows, columns = description.rows, description.columns
    if layout.subsampled:
        if in_planes:
            return raw[: rows * columns].reshape(rows, columns, 1)
        # PS3.3 C.7.6.3.1.2: two luma samples, then the two chroma samples that they share.
        return raw.reshape(rows, -1, 4)[..., :2].reshape(rows, -1, 1)[:, :columns]
    pixels = raw.view(f"{'>' if is_big_endian else '<'}u2") if layout.bytes == 2 else raw
    if layout.samples > 1 and in_planes:
        return np.moveaxis(pixels.reshape(layout.samples, rows, columns), 0, -1)
    return pixels.reshape(rows, columns, layout.samples)


def _monochrome_to_gray(data_set: DataSet, stored: _Stored) -> NDArray[np.uint8]:
    pixels = stored.pixels[..., 0]
    allocated = pixels.dtype.itemsize * 8
    bits = data_set.integer(tags.BITS_STORED) or allocated
    high_bit = data_set.integer(tags.HIGH_BIT)
    if bits == 1:
        raise FileFault(Reason.UNSUPPORTED, "1 bits stored")
    shift = 0 if high_bit is None else high_bit - (bits - 1)
    if not 2 <= bits <= 16 or not 0 <= shift <= max(allocated, data_set.integer(tags.BITS_ALLOCATED) or 0) - bits:
        # What cannot be is left to the pixels.
        bits, shift = min(max(bits, 2), 16), 0
        stored.repairs += (Repair.BITS_STORED,)
    # Other codecs than RLE hold the stored values themselves, without bits below them.
    pixel_format = PixelFormat(
        bits_allocated=allocated,
        bits_stored=bits,
        shift=shift if stored.cells else 0,
        signed=data_set.integer(tags.PIXEL_REPRESENTATION) == 1,
        lossy=stored.lossy,
    )

    pixel_format, swapped, repairs = find_format(pixel_format, data_set, pixels)
    if swapped:
        pixels = pixels.byteswap()
    table, more = grayscale_table(data_set, pixel_format, pixels)
    stored.repairs += repairs + more
    return _apply(table, pixels)


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


def _colour_to_gray(stored: _Stored, photometric: str) -> NDArray[np.uint8]:
    pixels = stored.pixels
    luma_first = photometric in _LUMA_FIRST
    # Of radiographs the chroma is little: the other two channels are all but 128, or all but equal to the first.
    first, *others = np.moveaxis(pixels[:: max(1, len(pixels) // 64)].astype(np.int16), -1, 0)
    from_grey = sum(float(np.abs(channel - 128).mean()) for channel in others)
    from_first = sum(float(np.abs(channel - first).mean()) for channel in others)
    likeliest = from_grey < from_first
    if likeliest != luma_first and max(from_grey, from_first) > 4 * min(from_grey, from_first) + 8:
        luma_first = likeliest
        stored.repairs += (Repair.SAMPLING,)
    if luma_first:
        return np.ascontiguousarray(pixels[..., 0]).astype(np.uint8, copy=False)
    return np.concatenate(
        [np.asarray(Image.fromarray(np.ascontiguousarray(band)).convert("L")) for band in _bands(pixels)]
    )


def _make_square(gray: NDArray[np.uint8], data_set: DataSet) -> NDArray[np.uint8]:
    height, width = _square_size(gray.shape[0], gray.shape[1], data_set)
    if (height, width) == gray.shape:
        return gray
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.BILINEAR))


def _square_size(height: int, width: int, data_set: DataSet) -> tuple[int, int]:
    """Return the size of an image with square pixels: the direction of the finer sampling is reduced."""
    aspect = _aspect_ratio(data_set)
    if not LEAST_ASPECT <= max(aspect, 1 / aspect) <= MAX_ASPECT:
        return height, width
    if aspect > 1:
        return height, max(1, round(width / aspect))
    return max(1, round(height * aspect)), width


def _aspect_ratio(data_set: DataSet) -> float:
    """Return a pixel's height divided by its width."""
    # PS3.3 C.7.6.3.1.7 and 10.7.1: the vertical value comes first in all three.
    for tag in (tags.PIXEL_ASPECT_RATIO, tags.IMAGER_PIXEL_SPACING, tags.PIXEL_SPACING):
        numbers = data_set.decimals(tag)
        if len(numbers) == 2 and all(math.isfinite(number) and 1e-6 < number < 1e6 for number in numbers):
            return numbers[0] / numbers[1]
    return 1.0
