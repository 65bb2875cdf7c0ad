"""The radiographs that the benchmark screens: all different, as the same content is inferred only once."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.errors import FileFault, UsageError
from xray.images.decode import decode

LONG_SIDE = 640
SUFFIXES = (".jpg", ".jpeg", ".png")

_EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "archive"


def make_radiographs(data: Path | None, target: Path, count: int) -> tuple[list[Path], str]:
    """Put so many radiographs, all different, into an empty folder.

    Parameters
    ----------
    data : Path or None
        A folder with JPEG and PNG files, which are copied as they are, as often as `count` allows. Where it has fewer,
        and where none is given, others are made from them: turned, mirrored and darkened, at most `LONG_SIDE` pixels
        long, as JPEG. Without the example archive (in an installation without it) they are made from noise.
    target : Path
    count : int

    Returns
    -------
    paths : list of Path
    described : str
        What they are, in a sentence's words.

    Raises
    ------
    UsageError
        The folder holds no JPEG or PNG file that can be read.
    """
    folder = data or _EXAMPLES
    paths: list[Path] = []
    if data is not None:
        for source in _files(folder):
            if len(paths) < count and _read(source) is not None:
                paths.append(target / f"{len(paths):05}{source.suffix.lower()}")
                paths[-1].write_bytes(source.read_bytes())
        if not paths:
            raise UsageError(f"no JPEG or PNG file that can be read in {data}")
    own = len(paths)
    sources = [gray for path in (paths or _files(folder)) if (gray := _read(path)) is not None]
    kind = "images of the folder" if data else "example images" if sources else "images of noise"
    sources = sources or list(_noise(20))
    for number in range(count - own):
        gray = sources[number % len(sources)]
        paths.append(target / f"{own + number:05}.jpg")
        paths[-1].write_bytes(_variant(gray, number // len(sources)))
    made = f"{count - own} made from {len(sources)} {kind}" if count > own else ""
    return paths, " and ".join(filter(None, [f"{own} images of the folder" if own else "", made]))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _read(path: Path) -> NDArray[np.uint8] | None:
    try:
        return decode(path.read_bytes())
    except FileFault:
        return None


def _variant(gray: NDArray[np.uint8], number: int) -> bytes:
    """Return the JPEG of an image that looks different for each number."""
    turned = np.rot90(gray[:, ::-1] if number & 1 else gray, number >> 1 & 3)
    darkened = (turned * (1 - 0.01 * (number >> 3))).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(darkened))
    scale = LONG_SIDE / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _noise(count: int) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 12), np.uint8))
        yield np.asarray(coarse.resize((480, LONG_SIDE), Image.Resampling.BICUBIC))
