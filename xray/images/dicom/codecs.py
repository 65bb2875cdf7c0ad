"""Decoders of DICOM's compressed pixel data; a codestream's size is checked before its decoder is called.

================================  =============================  ===================================================
codestream                        decoder                        reason
================================  =============================  ===================================================
JPEG, DCT, 8 bits                 Pillow (libjpeg-turbo)         as for JPEG files: the same JPEG gives the same gray in
                                                                 DICOM and as a file
JPEG, DCT, 12 bits; lossless      GDCM (libjpeg 6b with patches) permissive licence (pylibjpeg-libjpeg's is the GPL)
JPEG-LS                           imagecodecs (CharLS)           releases the GIL, and refuses parameters for which
                                                                 GDCM's older CharLS never returns. Some damaged pixels
                                                                 keep both busy forever, hence ``worker.watchdog``
JPEG 2000                         pylibjpeg-openjpeg (OpenJPEG)  supports signed and 16-bit samples; refuses a truncated
                                                                 codestream
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
    j2k_codestream,
    j2k_damage,
    j2k_frame,
    jpeg_frame,
    strip_application_segments,
)
from xray.vocabulary import Reason

_JPEG = {f"1.2.840.10008.1.2.4.{end}" for end in (50, 51)}
_JPEG_LOSSLESS = {f"1.2.840.10008.1.2.4.{end}" for end in (57, 70)}
_JPEG_LS = {f"1.2.840.10008.1.2.4.{end}" for end in (80, 81)}
_J2K = {f"1.2.840.10008.1.2.4.{end}" for end in (90, 91)}
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = frozenset(_JPEG | _JPEG_LOSSLESS | _JPEG_LS | _J2K | {RLE})
"""Supported compressed transfer syntaxes (PS3.5 annex A.4)."""

LOSSY = frozenset(_JPEG | {"1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"})
"""Transfer syntaxes whose decoded samples may exceed the greatest value of the bits stored."""

_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_DCT = {_BASELINE, _EXTENDED, _PROGRESSIVE}
_SLICE = 2**22
_ONE_AT_A_TIME = threading.Lock()

# PyDLL keeps the GIL, as GDCM does, so that no other Python thread runs between the two.
_C = ctypes.PyDLL(None)
_C.fdopen.restype = ctypes.c_void_p
_UNBUFFERED = 2

# Otherwise GDCM prints warnings about damaged files.
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()
gdcm.Trace.DebugOff()


def decompress(
    data: bytes, syntax: str, rows: int, columns: int, samples: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a compressed image of any supported transfer syntax but RLE.

    Parameters
    ----------
    data : bytes
        The codestream.
    syntax : str
        UID of the transfer syntax, one of `COMPRESSED`.
    rows, columns, samples : int
        The image's size, from the header.

    Returns
    -------
    ndarray of uint8 or uint16, shape (rows, columns) or (rows, columns, samples)
        Signed samples are two's complement. Colour JPEG is converted to luma; JPEG 2000's YBR_RCT and YBR_ICT to RGB.

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
        raise FileFault(Reason.UNSUPPORTED, "the compressed image does not match its transfer syntax")
    if frame.kind == JPEG_LS:
        return _jpeg_ls(data)
    if frame.kind in _DCT and frame.bits == 8:
        return _jpeg(data)
    # GDCM ends the process for any other depth.
    if frame.kind in _DCT and (frame.kind, frame.bits) != (_EXTENDED, 12):
        raise FileFault(Reason.UNSUPPORTED, f"{frame.bits} bits a sample in a JPEG of this kind")
    return _gdcm(data, syntax, frame)


def unpack_rle(data: bytes, rows: int, columns: int, samples: int, size: int) -> NDArray[np.uint8]:
    """Decode RLE (PS3.5 annex G).

    Parameters
    ----------
    data : bytes
        The RLE header and segments.
    rows, columns, samples : int
        The image's size, from the header.
    size : int
        Bytes of a sample.

    Returns
    -------
    ndarray of uint8, shape (samples, rows, columns, size)
        Each sample's bytes, least significant first.

    Raises
    ------
    FileFault
        ``truncated`` or ``corrupt``.
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
            raise FileFault(Reason.TRUNCATED, "an RLE segment has too few bytes") from None
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
    return FileFault(Reason.TRUNCATED if cut else Reason.CORRUPT, "the JPEG cannot be decoded to its end")


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
    image = _gdcm_image(strip_application_segments(data), syntax, frame)
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
    # The codestream's own depth: with a different one, GDCM tries the wrong library first, or clips values.
    allocated = 8 if frame.bits <= 8 else 12 if frame.kind == _EXTENDED else 16
    image.SetPixelFormat(gdcm.PixelFormat(frame.samples, allocated, frame.bits, frame.bits - 1, 0))
    return image


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
