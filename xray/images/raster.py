"""Decode PNG, JPEG and TIFF to gray with Pillow, with the limits and checks that Pillow lacks."""

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageOps, PngImagePlugin
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from xray.errors import FileFault
from xray.images.deep import LowBytes, check_deep, is_deep
from xray.images.gray_range import GrayRange, coded, value_range
from xray.images.limits import check_jpeg_segments, check_png_chunks
from xray.images.png import decode_plain_png
from xray.images.tiff import TiffImage
from xray.vocabulary import Reason, Repair

MAX_EXIF = 2**20
"""Bytes of EXIF in which the orientation is read: Pillow makes objects of all numbers there."""

# Once at import: `warnings.catch_warnings` around each decode would race between the decode threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

_QUARTER_TURNS = (5, 6, 7, 8)
_EXIF_ERRORS = (SyntaxError, ValueError, LookupError, TypeError, EOFError, OSError, struct.error)
_MAY_ORIENT = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})

MAX_TEXT = 2**24
"""Bytes to which a compressed text or colour profile in a PNG may inflate. Pillow refuses images above 2**20, but some
programs store the whole history of an image there. Above this limit the image is ``corrupt``."""

# Pillow has this setting per process only, so it is set once, at import.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT


def _open_jpeg(data: bytes) -> ImageFile:
    check_jpeg_segments(data)
    return JpegImageFile(io.BytesIO(data))


def _open_png(data: bytes) -> ImageFile:
    check_png_chunks(data)
    return PngImageFile(io.BytesIO(data))


# Pillow's classes instead of `Image.open`: no other format is tried, and no process-wide pixel limit applies.
_OPENERS: tuple[tuple[bytes, Callable[[bytes], ImageFile]], ...] = (
    (b"\xff\xd8\xff", _open_jpeg),
    (b"\x89PNG\r\n\x1a\n", _open_png),
    (b"II\x2a\x00", TiffImage),
    (b"MM\x00\x2a", TiffImage),
    (b"II\x2b\x00", TiffImage),
    (b"MM\x00\x2b", TiffImage),
)


class RasterImage:
    """A PNG, JPEG or TIFF, opened and not yet decoded.

    Parameters
    ----------
    data : bytes
        A whole file.

    Raises
    ------
    FileFault
        The format is not supported, or the header is damaged.

    Attributes
    ----------
    pixel_count : int
        How many pixels decoding holds in memory. Colour with 16 bits a channel is decoded twice and counts double.
    repairs : tuple of Repair
        None: what a header of these formats says about the pixels is what decides.
    """

    def __init__(self, data: bytes) -> None:
        opener = _opener(data)
        if opener is None:
            raise FileFault(Reason.NOT_AN_IMAGE)
        self._data, self._opener = data, opener
        self.repairs: tuple[Repair, ...] = ()
        with _faults_of(data):
            self._image = opener(data)
            self._is_deep = is_deep(self._image)
        width, height = _decoded_size(self._image)
        self.pixel_count = width * height * (2 if self._is_deep else 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width by the header, after its EXIF orientation, pixels."""
        width, height = self._image.size
        return (width, height) if _is_turned(self._image) else (height, width)

    def gray(self, max_pixels: int) -> NDArray[np.uint8]:
        """Decode the image; once. Parameters, result and errors are as in `xray.images.decode.decode`."""
        with _faults_of(self._data), self._image as image:
            _check_header(image, len(self._data), max_pixels)
            if self._is_deep:
                return _stretch(_deep_luma(image, self._opener(self._data)))
            if isinstance(image, PngImageFile) and (gray := decode_plain_png(self._data)) is not None:
                return gray
            if isinstance(image, JpegImageFile):
                image.draft("L", None)
            _load(image)
            return _gray(image)


@contextmanager
def _faults_of(data: bytes) -> Iterator[None]:
    try:
        yield
    except (FileFault, MemoryError):
        # Running out of memory is not the file's fault: what it needs is limited.
        raise
    # Hostile bytes raise nearly any exception, and none may affect the other images.
    except Exception as error:
        raise _fault(data, error) from error


def is_raster(head: bytes) -> bool:
    """Tell from a file's first bytes whether it claims to be a PNG, JPEG or TIFF."""
    return _opener(head) is not None


def _opener(data: bytes) -> Callable[[bytes], ImageFile] | None:
    return next((opener for magic, opener in _OPENERS if data.startswith(magic)), None)


def _decoded_size(image: ImageFile) -> tuple[int, int]:
    return image.decoded_size if isinstance(image, TiffImage) else image.size


def _check_header(image: ImageFile, length: int, max_pixels: int) -> None:
    width, height = _decoded_size(image)
    if width * height > max_pixels:
        raise FileFault(Reason.TOO_MANY_PIXELS, f"{width} x {height}, the cap is {max_pixels:,}")
    if getattr(image, "is_animated", False):
        raise FileFault(Reason.MULTI_FRAME)
    if is_deep(image):
        check_deep(image)
    if isinstance(image, TiffImage):
        image.check_strips(length)


def _load(image: ImageFile) -> None:
    image.load()
    _orient(image)


def _may_orient(image: ImageFile) -> bool:
    # Most files have no block that could hold an orientation, and Pillow takes a while to find that out.
    if not isinstance(image, TiffImage) and _MAY_ORIENT.isdisjoint(image.info):
        return False
    return all(len(image.info.get(key, "")) <= MAX_EXIF for key in ("exif", "Raw profile type exif"))


def _orient(image: ImageFile) -> None:
    if not _may_orient(image):
        return
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _EXIF_ERRORS:
        # The pixels are decoded by now: a damaged EXIF block is no reason to lose the image.
        return


def _is_turned(image: ImageFile) -> bool:
    # Pillow gives a TIFF's size as it is shown.
    if isinstance(image, TiffImage) or not _may_orient(image):
        return False
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    except _EXIF_ERRORS:
        return False


def _deep_luma(image: ImageFile, again: ImageFile) -> NDArray[np.uint16]:
    with again:
        low = LowBytes(again)
        _load(image)
        _load(again)
        return low.luma(image)


def _gray(image: ImageFile) -> NDArray[np.uint8]:
    if isinstance(image, TiffImage) and image.has_own_range:
        gray = _stretch(image.values)
        return np.invert(gray) if image.inverted else gray
    if image.mode == "I;16":
        return _stretch(np.asarray(image))
    if image.has_transparency_data:
        layers = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        return np.asarray(ImageChops.multiply(layers.convert("L"), layers.getchannel("A")))
    return _pixels(image if image.mode == "L" else image.convert("L"))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    # In one call: `Image.tobytes`, and so `np.asarray`, copies the image in parts and then joins them.
    encoder = Image._getencoder("L", "raw", "L")
    try:
        encoder.setimage(image.im, (0, 0, *image.size))
        _, _, data = encoder.encode(image.width * image.height)
    finally:
        encoder.cleanup()
    return np.frombuffer(data, np.uint8).reshape(image.height, image.width)


def _stretch(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise FileFault(Reason.CORRUPT, "values are not finite numbers")
    found = value_range(*coded(values))
    gray = np.empty(values.shape, np.uint8)
    # NumPy finds a table's entry faster than it computes one.
    table = None
    if values.dtype.itemsize == 2:
        levels = np.arange(2**16, dtype=np.uint16)
        table = _to_bytes(levels.view(values.dtype).astype(np.float64), found)
        values = values.view(np.uint16)
    # In bands: NumPy's intermediate values take eight bytes a pixel.
    for band, gray_band in zip(np.array_split(values, 64), np.array_split(gray, 64), strict=True):
        if table is None:
            gray_band[:] = _to_bytes(band.astype(np.float64), found)
        else:
            np.take(table, band, out=gray_band, mode="clip")
    return gray


def _to_bytes(values: NDArray[np.float64], found: GrayRange) -> NDArray[np.uint8]:
    return np.where(found.boxed(values), 0, np.rint(found.gray(values) * 255)).astype(np.uint8)


def _fault(data: bytes, error: Exception) -> FileFault:
    # Only printable ASCII: the text is stored, and may quote the file's bytes.
    detail = " ".join(re.sub(r"[^ -~]+", " ", str(error)).split())[:200] or type(error).__name__
    if re.search(r"unknown pixel mode|unknown data organization|cannot handle|not supported|not available", detail):
        return FileFault(Reason.UNSUPPORTED, detail)
    return FileFault(Reason.TRUNCATED if _is_cut(data, detail.lower()) else Reason.CORRUPT, detail)


def _is_cut(data: bytes, detail: str) -> bool:
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    return re.search("truncated|not enough|requires a buffer|not identified|missing dimensions", detail) is not None
