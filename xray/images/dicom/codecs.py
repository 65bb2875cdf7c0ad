"""Decoders of DICOM's compressed pixel data, chosen by the codestream; its size is checked before one is called.

================================  =============================  ===================================================
codestream                        decoder                        reason
================================  =============================  ===================================================
JPEG, DCT, 8 bits                 Pillow (libjpeg-turbo)         as for JPEG files: the same JPEG gives the same gray in
                                                                 DICOM and as a file
JPEG, DCT, 12 bits; lossless      GDCM (libjpeg 6b with patches) permissive licence (pylibjpeg-libjpeg's is the GPL)
JPEG-LS                           imagecodecs (CharLS)           releases the GIL, and refuses parameters for which
                                                                 GDCM's older CharLS never returns. Some damaged pixels
                                                                 keep both busy forever, hence ``worker.watchdog``
JPEG 2000, also high-throughput   pylibjpeg-openjpeg (OpenJPEG)  supports signed and 16-bit samples; refuses a truncated
                                                                 codestream
JPEG XL                           imagecodecs (libjxl)           the only one; releases the GIL
RLE                               Pillow (PackBits)              RLE is PackBits in planes of bytes (PS3.5 annex G).
                                                                 Written in C; never writes more bytes than the image
                                                                 has, unlike pydicom's decoder
================================  =============================  ===================================================

The wrappers of GDCM and OpenJPEG hold the GIL while they decode, so a process decodes one such image at a time.
"""

import ctypes
import io
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
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
    BASELINE,
    EXTENDED,
    JPEG_2000,
    JPEG_LS,
    JPEG_XL,
    LOSSLESS,
    PROGRESSIVE,
    Frame,
    j2k_codestream,
    j2k_damage,
    read_frame,
    strip_application_segments,
)
from xray.vocabulary import Reason

_DCT = frozenset({BASELINE, EXTENDED, PROGRESSIVE})
_NAMES: dict[frozenset[int], tuple[int, ...]] = {
    _DCT: (50, 51),
    frozenset({LOSSLESS}): (57, 70),
    frozenset({JPEG_LS}): (80, 81),
    frozenset({JPEG_2000}): (90, 91, 92, 93, 201, 202, 203),
    frozenset({JPEG_XL}): (110, 111, 112),
}
CODESTREAMS = {f"1.2.840.10008.1.2.4.{end}": kinds for kinds, ends in _NAMES.items() for end in ends}
"""Which kinds of codestream a transfer syntax stands for (PS3.5 annex A.4)."""

JPEG_EXTENDED, JPEG_LOSSLESS = "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57"
RLE, DEFLATED_FRAME = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"
"""Transfer syntaxes; compressed by RLE Lossless or Deflated Image Frame Compression, pixels are no codestream."""

_SLICE = 2**22
# The marker at the end of a JPEG or JPEG 2000 codestream, and those before its compressed pixels.
_END, _STARTS_OF_DATA, _ZEROS = b"\xff\xd9", (b"\xff\xda", b"\xff\x93"), bytes(16)
_ONE_AT_A_TIME = threading.Lock()

# PyDLL keeps the GIL, as GDCM does, so that no other Python thread runs between the two.
_C = ctypes.PyDLL(None)
_C.fdopen.restype = ctypes.c_void_p
_UNBUFFERED = 2

# Otherwise GDCM prints warnings about damaged files.
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()
gdcm.Trace.DebugOff()


def decompress(data: bytes, rows: int, columns: int) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], Frame]:
    """Decode a codestream of any supported kind.

    Parameters
    ----------
    data : bytes
        The codestream, as `xray.images.dicom.codestream.is_codestream` knows it.
    rows, columns : int
        The image's size, from the header.

    Returns
    -------
    pixels : ndarray of uint8 or uint16, shape (rows, columns, samples)
        Signed samples are two's complement. Colour JPEG is converted to luma; JPEG 2000's YBR_RCT and YBR_ICT to RGB.
    frame : Frame
        The codestream's header.

    Raises
    ------
    FileFault
        ``truncated``, ``corrupt`` or ``unsupported``.
    """
    frame = read_frame(data)
    frame.check(rows, columns)
    if frame.kind != JPEG_XL and data.endswith(_ZEROS) and data.rfind(_END) < max(map(data.rfind, _STARTS_OF_DATA)):
        # Zeros in place of what was lost would be decoded to a picture.
        raise FileFault(Reason.TRUNCATED, "the compressed pixels end in zeros")
    pixels = _decoder(frame)(data, frame)
    if pixels.shape[:2] != (rows, columns):
        raise FileFault(Reason.CORRUPT, "the compressed image and the header differ in size")
    return pixels.reshape(rows, columns, -1), frame


def _decoder(frame: Frame) -> Callable[[bytes, Frame], NDArray[np.uint8] | NDArray[np.uint16]]:
    if frame.kind in _DECODERS:
        return _DECODERS[frame.kind]
    if frame.kind in _DCT and frame.bits == 8:
        return _jpeg
    if frame.kind not in _DCT | {LOSSLESS}:
        raise FileFault(Reason.UNSUPPORTED, "a JPEG of a kind that DICOM does not use")
    # GDCM ends the process for any other depth.
    if frame.kind in _DCT and (frame.kind, frame.bits) != (EXTENDED, 12):
        raise FileFault(Reason.UNSUPPORTED, f"{frame.bits} bits a sample in a JPEG of this kind")
    return _gdcm


def inflate(data: bytes, size: int) -> bytes:
    """Inflate a deflated frame (PS3.5 annex A.4.13, RFC 1951), of `size` bytes at most.

    Raises
    ------
    FileFault
        ``truncated`` or ``corrupt``.
    """
    try:
        pixels = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
    except zlib.error:
        raise FileFault(Reason.CORRUPT, "the deflated pixels cannot be inflated") from None
    if len(pixels) < size:
        raise FileFault(Reason.TRUNCATED, "fewer pixels than rows x columns")
    return pixels


def rle_segments(data: bytes) -> int:
    """Return how many segments an RLE header (PS3.5 annex G.5) declares; 0 if the bytes are no such header."""
    count, *starts = struct.unpack("<16I", data[:64].ljust(64, b"\0"))
    used = starts[: min(count, 15)]
    return len(used) if used and count <= 15 and used[0] == 64 and sorted(used) == used else 0


def unpack_rle(data: bytes, rows: int, columns: int, samples: int, size: int) -> NDArray[np.uint8]:
    """Decode RLE (PS3.5 annex G).

    Parameters
    ----------
    data : bytes
        The RLE header and segments.
    rows, columns : int
        The image's size, from the header.
    samples : int
        Samples of a pixel.
    size : int
        Bytes of a sample. There are samples x size segments.

    Returns
    -------
    ndarray of uint8, shape (samples, rows, columns, size)
        Each sample's bytes, least significant first.

    Raises
    ------
    FileFault
        ``truncated`` or ``corrupt``.
    """
    if rle_segments(data) != samples * size:
        raise FileFault(Reason.CORRUPT, "the RLE header does not fit the image")
    starts = struct.unpack("<16I", data[:64])[1 : 1 + samples * size]
    planes = np.empty((samples, rows, columns, size), np.uint8)
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(data)], strict=True)):
        try:
            plane = Image.frombytes("L", (rows * columns, 1), data[start:end], "packbits", "L")
        except ValueError:
            raise FileFault(Reason.TRUNCATED, "an RLE segment has too few bytes") from None
        planes[number // size, :, :, size - 1 - number % size] = np.asarray(plane).reshape(rows, columns)
    return planes


def _jpeg(data: bytes, _: Frame) -> NDArray[np.uint8]:
    with JpegImageFile(io.BytesIO(data)) as image:
        image.draft("L", None)
        try:
            image.load()
        except OSError:
            raise FileFault(Reason.TRUNCATED, "the JPEG ends before its last pixels") from None
        return np.asarray(image if image.mode == "L" else image.convert("L"))


def _jpeg_ls(data: bytes, _: Frame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    try:
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = imagecodecs.jpegls_decode(data)
    except imagecodecs.JpeglsError:
        raise _damage(data) from None
    return pixels


def _damage(data: bytes) -> FileFault:
    cut = b"\xff\xd9" not in data[-16:]
    return FileFault(Reason.TRUNCATED if cut else Reason.CORRUPT, "the JPEG cannot be decoded to its end")


def _j2k(data: bytes, frame: Frame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    codestream = j2k_codestream(data)
    try:
        pixels = decode(codestream, j2k_format=0)
    except RuntimeError:
        raise j2k_damage(codestream) from None
    return pixels.view(np.uint8) if frame.bits <= 8 else pixels.view(np.uint16)


def _jxl(data: bytes, frame: Frame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    try:
        pixels: NDArray[np.uint8] | NDArray[np.uint16] = imagecodecs.jpegxl_decode(data)
    except imagecodecs.JpegxlError as error:
        # libjxl asks for more bytes until it has the whole image.
        cut = "NEED_MORE_INPUT" in str(error)
        raise FileFault(
            Reason.TRUNCATED if cut else Reason.CORRUPT, "the JPEG XL image cannot be decoded to its end"
        ) from None
    if pixels.dtype != (np.uint8 if frame.bits <= 8 else np.uint16):
        raise FileFault(Reason.CORRUPT, "the JPEG XL image has other samples than its header declares")
    return pixels


def _gdcm(data: bytes, frame: Frame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    size = 1 if frame.bits <= 8 else 2
    image = _gdcm_image(strip_application_segments(data), frame)
    with _ONE_AT_A_TIME, _errors_caught() as messages:
        text = image.GetBuffer()
    pixels = np.empty(frame.rows * frame.columns * frame.samples * size, np.uint8)
    # GDCM's wrapper returns the bytes as a string, of any length.
    if not isinstance(text, str) or len(text) > pixels.size or b"Corrupt" in messages or b"Premature" in messages:
        raise _damage(data)
    position = 0
    for start in range(0, len(text), _SLICE):
        part = np.frombuffer(text[start : start + _SLICE].encode("utf-8", "surrogateescape"), np.uint8)
        pixels[position : position + part.size] = part[: pixels.size - position]
        position += part.size
    if position != pixels.size:
        raise FileFault(Reason.CORRUPT, "the JPEG has fewer pixels than its header declares")
    shape = (frame.rows, frame.columns, frame.samples)[: 2 if frame.samples == 1 else 3]
    return pixels.view("<u2" if size == 2 else np.uint8).reshape(shape)


def _gdcm_image(data: bytes, frame: Frame) -> gdcm.Image:
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
    syntax = JPEG_EXTENDED if frame.kind == EXTENDED else JPEG_LOSSLESS
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    # The codestream's own depth: with a different one, GDCM tries the wrong library first, or clips values.
    allocated = 8 if frame.bits <= 8 else 12 if frame.kind == EXTENDED else 16
    image.SetPixelFormat(gdcm.PixelFormat(frame.samples, allocated, frame.bits, frame.bits - 1, 0))
    return image


_DECODERS: dict[int, Callable[[bytes, Frame], NDArray[np.uint8] | NDArray[np.uint16]]] = {
    JPEG_LS: _jpeg_ls,
    JPEG_2000: _j2k,
    JPEG_XL: _jxl,
}


@cache
def _messages(process: int) -> tuple[int, int]:
    # One file for each forked process, never closed, as another thread may be about to write to it.
    descriptor = os.memfd_create(f"libjpeg of {process}")
    file = _C.fdopen(descriptor, b"w")
    _C.setvbuf(ctypes.c_void_p(file), None, _UNBUFFERED, 0)
    return descriptor, file


@contextmanager
def _errors_caught() -> Iterator[bytearray]:
    # GDCM's libjpeg reports only on C's standard error that it has invented pixels. So C's `stderr` is replaced and not
    # the process's file descriptor 2, which other threads may write to.
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
