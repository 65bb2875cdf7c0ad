"""DICOM files for tests, written with pydicom, with codestreams from imagecodecs."""

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite

NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}


def phantom(levels: int = 3000, start: int = 200, dtype: type = np.uint16) -> np.ndarray:
    """Return a limb with two bones on a dark background, with noise: values from `start`, over so many levels."""
    y, x = np.mgrid[:160, :128] / 128.0
    picture = 0.05 + 0.05 * y + 0.35 * np.exp(-(((x - 0.5) / 0.25) ** 4))
    for center in (0.42, 0.58):
        thickness = np.clip(1 - ((x - center - 0.03 * np.sin(4 * y)) / 0.05) ** 2, 0, 1)
        picture += 0.45 * np.sqrt(thickness)
    picture += np.random.default_rng(7).normal(0, 0.004, picture.shape)
    return np.rint(start + np.clip(picture, 0, 1) * levels).astype(dtype)


def packed(pixels: np.ndarray) -> bytes:
    """Compress an image as RLE, each row on its own, as PS3.5 annex G requires."""
    planes = [pixels.astype("<u2" if pixels.dtype.itemsize == 2 else np.uint8).view(np.uint8)]
    size = pixels.dtype.itemsize
    channels = planes[0].reshape(pixels.shape[0], pixels.shape[1], -1, size)
    segments = []
    for sample in range(channels.shape[2]):
        for byte in reversed(range(size)):
            rows = (imagecodecs.packbits_encode(row.tobytes()) for row in channels[:, :, sample, byte])
            segment = b"".join(rows)
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.zeros(16, "<u4")
    offsets[0] = len(segments)
    offsets[1 : len(segments) + 1] = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return offsets.tobytes() + b"".join(segments)


def lossless_jpeg(pixels: np.ndarray, predictor: int) -> bytes:
    """Compress an image as lossless JPEG, with as many bits a sample as its dtype has."""
    bits = pixels.dtype.itemsize * 8
    return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)


LOSSLESS: dict[str, tuple[uid.UID, Callable[[np.ndarray], bytes]]] = {
    "rle": (uid.RLELossless, packed),
    "jpeg lossless": (uid.JPEGLosslessSV1, lambda pixels: lossless_jpeg(pixels, 1)),
    "jpeg lossless, any predictor": (uid.JPEGLossless, lambda pixels: lossless_jpeg(pixels, 4)),
    "jpeg-ls": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "jpeg 2000": (
        uid.JPEG2000Lossless,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True),
    ),
    "high-throughput jpeg 2000": (
        uid.HTJ2KLossless,
        lambda pixels: imagecodecs.htj2k_encode(pixels, reversible=True),
    ),
    "jpeg xl": (
        uid.UID("1.2.840.10008.1.2.4.110"),
        lambda pixels: imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=False),
    ),
}

CODECS_OF_ALL_BITS = {name: codec for name, codec in LOSSLESS.items() if name != "jpeg xl"}
"""Those that do not know how many of the bits are stored."""

LOSSY: dict[str, tuple[uid.UID, Callable[[np.ndarray], bytes]]] = {
    "jpeg baseline": (uid.JPEGBaseline8Bit, lambda pixels: imagecodecs.jpeg8_encode(pixels, level=95)),
    "jpeg extended": (
        uid.JPEGExtended12Bit,
        lambda pixels: imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12),
    ),
    "jpeg-ls near-lossless": (uid.JPEGLSNearLossless, lambda pixels: imagecodecs.jpegls_encode(pixels, level=2)),
    "jpeg 2000 lossy": (
        uid.JPEG2000,
        lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=90, reversible=False),
    ),
}


def data_set(pixels: np.ndarray, **elements: Any) -> Dataset:
    """Make a CR data set for pixels; an element whose value is None is omitted."""
    described = Dataset()
    bits = pixels.dtype.itemsize * 8
    defaults = {
        "SOPClassUID": uid.ComputedRadiographyImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "CR",
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1",
        "SamplesPerPixel": 1 if pixels.ndim == 2 else pixels.shape[2],
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": elements.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PlanarConfiguration": None if pixels.ndim == 2 else 0,
    }
    for keyword, value in {**defaults, **elements}.items():
        if value is not None:
            setattr(described, keyword, value)
    return described


def dicom(
    pixels: np.ndarray,
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    *,
    stream: bytes | None = None,
    raw: bytes | None = None,
    **elements: Any,
) -> bytes:
    """Write an image as a DICOM file: native pixels, the given codestream, or raw bytes of a defined length."""
    described = data_set(pixels, **elements)
    if stream is not None:
        described.PixelData = encapsulate([stream])
        described["PixelData"].is_undefined_length = True
    elif raw is not None:
        # pydicom writes no compressed pixels of a defined length.
        head = b"\xe0\x7f\x10\x00" + (b"" if syntax == NATIVE["implicit"] else b"OW\0\0")
        return written(described, syntax) + head + len(raw).to_bytes(4, "little") + raw
    else:
        raw = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == uid.ExplicitVRBigEndian else "<")).tobytes()
        described.PixelData = raw + b"\0" * (len(raw) % 2)
    described["PixelData"].VR = "OB" if stream is not None or pixels.dtype.itemsize == 1 else "OW"
    return written(described, syntax)


def written(described: Dataset, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> bytes:
    """Write a data set as a DICOM file."""
    described.file_meta = FileMetaDataset()
    # pydicom writes no standard transfer syntax that it does not know, so a private one takes its place.
    is_known = syntax.is_private or syntax in uid.AllTransferSyntaxes
    written_syntax = syntax if is_known else uid.UID(f"2{syntax[1:]}")
    described.file_meta.TransferSyntaxUID = written_syntax
    described.file_meta.MediaStorageSOPClassUID = described.get("SOPClassUID", "1.2.3.4.5")
    described.file_meta.MediaStorageSOPInstanceUID = described.get("SOPInstanceUID", "1.2.3.4")
    file = io.BytesIO()
    encoding = {} if syntax in uid.AllTransferSyntaxes else {"implicit_vr": False, "little_endian": True}
    dcmwrite(file, described, enforce_file_format=True, **encoding)
    return file.getvalue().replace(written_syntax.encode(), syntax.encode(), 1)


def bare(data: bytes) -> bytes:
    """Return a file without its preamble and file meta information."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]
