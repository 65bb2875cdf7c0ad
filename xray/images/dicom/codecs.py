"""DICOM's compressed pixels, one decoder for each form; none is called before the codestream has told its size.

================================  =============================  ===================================================
form                              decoder                        why this one
================================  =============================  ===================================================
JPEG, DCT, 8 bits                 Pillow (libjpeg-turbo)         the house's JPEG decoder: a film in DICOM comes out as
                                                                 the same JPEG in a file of its own
JPEG, DCT, 12 bits; lossless      GDCM (libjpeg 6b with patches) permissive, and the only one at hand
JPEG-LS                           imagecodecs (CharLS)           lets Python's lock go, and refuses numbers that keep
                                                                 GDCM's older CharLS busy for ever; made-up pixels keep
                                                                 both so: ``worker.watchdog``
JPEG 2000                         pylibjpeg-openjpeg (OpenJPEG)  gives signed and 16-bit samples; strict: refuses a cut
                                                                 codestream
RLE                               Pillow (PackBits)              RLE is PackBits in planes of bytes (PS3.5 annex G); in
                                                                 C, and never makes more bytes than the film has, where
                                                                 pydicom's makes whatever a segment says
================================  =============================  ===================================================

GDCM's and OpenJPEG's wrappers hold Python's lock while they decode, so one film is decoded at a time in each process.
"""

import ctypes
import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import gdcm
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import decode
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from xray.errors import FileFault
from xray.images.dicom.codestream import (
    JPEG_LS,
    LOSSLESS,
    Frame,
    bare_jpeg,
    j2k_codestream,
    j2k_damage,
    j2k_frame,
    jpeg_frame,
)
from xray.vocabulary import Reason

_JPEG = {f"1.2.840.10008.1.2.4.{end}" for end in (50, 51)}
_JPEG_LOSSLESS = {f"1.2.840.10008.1.2.4.{end}" for end in (57, 70)}
_JPEG_LS = {f"1.2.840.10008.1.2.4.{end}" for end in (80, 81)}
_J2K = {f"1.2.840.10008.1.2.4.{end}" for end in (90, 91)}
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = frozenset(_JPEG | _JPEG_LOSSLESS | _JPEG_LS | _J2K | {RLE})
"""Transfer syntaxes (PS3.5 annex A.4) that are decoded."""

LOSSY = frozenset(_JPEG | {"1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"})
"""Transfer syntaxes whose decoded samples may be over what the bits stored can hold."""

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_DCT = {_BASELINE, _EXTENDED, _PROGRESSIVE}
_SLICE = 2**22
_ONE_AT_A_TIME = threading.Lock()

# With Python's lock held, as by GDCM.
_C = ctypes.PyDLL(None)
_C.fdopen.restype = ctypes.c_void_p
_UNBUFFERED = 2

# Once, for the process: GDCM would print what it thinks of damaged files.
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()
gdcm.Trace.DebugOff()


def decompress(
    data: bytes, syntax: str, rows: int, columns: int, samples: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a compressed film, not RLE.

    Parameters
    ----------
    data : bytes
        The codestream.
    syntax : str
        UID of its transfer syntax, of `COMPRESSED`.
    rows, columns, samples : int
        Its size by the header.

    Returns
    -------
    ndarray of uint8 or uint16, shape (rows, columns) or (rows, columns, samples)
        The samples' bits; signed ones as two's complement. YBR is made RGB only within JPEG 2000.

    Raises
    ------
    FileFault
        ``truncated``, ``corrupt`` or ``unsupported``.
    """
    if syntax in _J2K:
        return _j2k(j2k_codestream(data), rows, columns, samples)
    frame = jpeg_frame(data)
    frame.check(rows, columns, samples)
    kinds = {JPEG_LS} if syntax in _JPEG_LS else {LOSSLESS} if syntax in _JPEG_LOSSLESS else _DCT
    if frame.kind not in kinds:
        raise FileFault(Reason.UNSUPPORTED, "the compressed image is not of the kind that its transfer syntax says")
    if frame.kind == JPEG_LS:
        return _jpeg_ls(data)
    if frame.kind in _DCT and frame.bits == 8:
        return _jpeg(data)
    # Told any other depth, GDCM ends the process.
    if frame.kind in _DCT and (frame.kind, frame.bits) != (_EXTENDED, 12):
        raise FileFault(Reason.UNSUPPORTED, f"{frame.bits} bits a sample in a JPEG of this kind")
    return _gdcm(data, syntax, frame)


def unpack_rle(data: bytes, rows: int, columns: int, samples: int, size: int) -> NDArray[np.uint8]:
    """Unpack RLE (PS3.5 annex G) of `samples` a pixel, each of `size` bytes.

    Returns
    -------
    ndarray of uint8, shape (samples, rows, columns, size)
        Each sample's bytes, least significant first.
    """
    offsets = list(struct.unpack("<16I", data[:64].ljust(64, b"\0")))
    count, starts = offsets[0], offsets[1 : 1 + samples * size]
    if count != samples * size or sorted(starts) != starts or starts[0] < 64:
        raise FileFault(Reason.CORRUPT, "the RLE header does not fit the image")
    planes = np.empty((samples, rows, columns, size), np.uint8)
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(data)], strict=True)):
        try:
            plane = Image.frombytes("L", (rows * columns, 1), data[start:end], "packbits", "L")
        except ValueError:
            raise FileFault(Reason.TRUNCATED, "an RLE segment holds too few bytes") from None
        planes[number // size, :, :, size - 1 - number % size] = np.asarray(plane).reshape(rows, columns)
    return planes


def _jpeg(data: bytes) -> NDArray[np.uint8]:
    with JpegImageFile(io.BytesIO(data)) as image:
        image.draft("L", None)
        try:
            image.load()
        except OSError:
            raise FileFault(Reason.TRUNCATED, "the JPEG ends before its last pixels") from None
        return np.asarray(image if image.mode == "L" else image.convert("L"))


def _jpeg_ls(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    try:
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = imagecodecs.jpegls_decode(data)
    except imagecodecs.JpeglsError:
        raise _damage(data) from None
    return pixels


def _damage(data: bytes) -> FileFault:
    cut = b"\xff\xd9" not in data[-16:]
    return FileFault(Reason.TRUNCATED if cut else Reason.CORRUPT, "the JPEG does not decode, or not to its end")


def _j2k(data: bytes, rows: int, columns: int, samples: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    frame = j2k_frame(data)
    frame.check(rows, columns, samples)
    try:
        pixels = decode(data, j2k_format=0)
    except RuntimeError:
        raise j2k_damage(data) from None
    return pixels.view(np.uint8) if frame.bits <= 8 else pixels.view(np.uint16)


def _gdcm(data: bytes, syntax: str, frame: Frame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    size = 1 if frame.bits <= 8 else 2
    image = _gdcm_image(bare_jpeg(data), syntax, frame)
    with _ONE_AT_A_TIME, _errors_caught() as messages:
        text = image.GetBuffer()
    pixels = np.empty(frame.rows * frame.columns * frame.samples * size, np.uint8)
    # GDCM's wrapper gives bytes as a text, and as many as it likes.
    if not isinstance(text, str) or len(text) > pixels.size or b"Corrupt" in messages or b"Premature" in messages:
        raise _damage(data)
    place = 0
    for start in range(0, len(text), _SLICE):
        part = np.frombuffer(text[start : start + _SLICE].encode("utf-8", "surrogateescape"), np.uint8)
        pixels[place : place + part.size] = part[: pixels.size - place]
        place += part.size
    if place != pixels.size:
        raise FileFault(Reason.CORRUPT, "the JPEG holds another number of pixels than it says")
    shape = (frame.rows, frame.columns, frame.samples)[: 2 if frame.samples == 1 else 3]
    return pixels.view("<u2" if size == 2 else np.uint8).reshape(shape)


def _gdcm_image(data: bytes, syntax: str, frame: Frame) -> gdcm.Image:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((frame.columns, frame.rows, 1))
    image.SetDataElement(element)
    name = "MONOCHROME2" if frame.samples == 1 else "RGB"
    kind = gdcm.PhotometricInterpretation.GetPIType(name)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    # The codestream's own depth: told another, GDCM decodes with the wrong library first, or clips.
    allocated = 8 if frame.bits <= 8 else 12 if frame.kind == _EXTENDED else 16
    image.SetPixelFormat(gdcm.PixelFormat(frame.samples, allocated, frame.bits, frame.bits - 1, 0))
    return image


@cache
def _messages(process: int) -> tuple[int, int]:
    # A file of its own for each process that was forked, never closed: others may be about to print.
    descriptor = os.memfd_create(f"libjpeg of {process}")
    file = _C.fdopen(descriptor, b"w")
    _C.setvbuf(ctypes.c_void_p(file), None, _UNBUFFERED, 0)
    return descriptor, file


@contextmanager
def _errors_caught() -> Iterator[bytearray]:
    # libjpeg within GDCM prints to C's standard error, and says only there that it has made up pixels. So that is what
    # it gets another one of, and not the process, whose other threads may print.
    caught = bytearray()
    descriptor, file = _messages(os.getpid())
    stderr = ctypes.c_void_p.in_dll(_C, "stderr")
    saved, stderr.value = stderr.value, file
    try:
        yield caught
    finally:
        stderr.value = saved
        caught += os.pread(descriptor, 2**16, 0)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
