"""Copies of a picture in other bytes: exported twice, recompressed, or with another header.

A picture is reduced to 16 x 16 gray levels, which are compared. Measured on FracAtlas (150 images, reduced from
224 x 224 pixels): recompression as JPEG of quality 20 and halving the size change no level by more than 2, an export in
8 bits, whose tails are not cut, by 5; of 3,696 pairs of neighbouring exposures, the most similar ones differ by 20 in
some level.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The database compares pictures, and needs no NumPy.
    import numpy as np
    from numpy.typing import NDArray

SIDE = 16
MAX_DIFFERENCE = 6
"""Gray levels by which copies may differ anywhere."""


def reduced_picture(square: "NDArray[np.uint8]") -> bytes:
    """Reduce a preprocessed image, ``uint8 (N, N)`` with N of at least `SIDE`, to its means in `SIDE` x `SIDE` squares.

    Returns
    -------
    bytes
        Gray levels, row-major.
    """
    step = square.shape[0] // SIDE
    kept = square[: SIDE * step, : SIDE * step].reshape(SIDE, step, SIDE, step)
    levels: bytes = kept.mean(axis=(1, 3)).round().astype("uint8").tobytes()
    return levels


def find_copies(pictures: Sequence[bytes | None]) -> list[bool]:
    """Tell which of some pictures are copies of one before them.

    Parameters
    ----------
    pictures : sequence of (bytes or None)
        As `reduced_picture` returns them; None is no copy of anything.

    Returns
    -------
    list of bool
        In the same order.
    """
    copies = [False] * len(pictures)
    # Copies have nearly the same sum, so that only neighbours by sum are compared.
    ordered = sorted((sum(picture), index) for index, picture in enumerate(pictures) if picture is not None)
    first = 0
    for position, (total, index) in enumerate(ordered):
        while ordered[first][0] < total - MAX_DIFFERENCE * SIDE * SIDE:
            first += 1
        for _, other in ordered[first:position]:
            earlier, later = sorted((other, index))
            if not copies[earlier] and not copies[later] and _is_same(pictures[earlier], pictures[later]):
                copies[later] = True
    return copies


def _is_same(one: bytes | None, other: bytes | None) -> bool:
    return one == other or (
        one is not None
        and other is not None
        and len(one) == len(other)
        and all(abs(a - b) <= MAX_DIFFERENCE for a, b in zip(one, other, strict=True))
    )
