"""Findings about single files: unreadable, blank, small, inverted."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from training.doctor.examined import Examined
from training.doctor.exposure import blank, looks_inverted
from training.doctor.finding import Finding, Severity
from training.doctor.survey import stack_small
from xray.vocabulary import REASON_TEXT

NETWORK_SIDE = 224
"""Side of the square that the usual recipes feed to the network, pixels."""


def about_files(examined: Examined) -> Iterator[Finding]:
    """Say what is wrong with files on their own."""
    for reason, images in examined.unreadable.items():
        yield Finding(
            f"unreadable-{reason}", Severity.WARNING, f"Unreadable: {REASON_TEXT[reason]}", len(images), "image",
            "They are left out of training and of every measurement: get whole copies, or take them off the list.",
            tuple((image,) for image in images),
        )  # fmt: skip
    if not examined.films:
        return
    small = stack_small(examined.films)
    empty, inverted = blank(small), looks_inverted(small)
    tiny = np.array([max(film.height, film.width) < NETWORK_SIDE for film in examined.films], np.bool_)
    if empty.any():
        yield Finding(
            "blank", Severity.WARNING, "Blank or nearly constant", int(empty.sum()), "image",
            "There is no bone to learn from: take them off the list, and see why they were exported.",
            _named(examined, empty),
        )  # fmt: skip
    if inverted.any():
        yield Finding(
            "maybe-inverted", Severity.WARNING, "May be inverted: a bright border around a dark middle",
            int(inverted.sum()), "image",
            "Look at them, as this is a hint only: where bone is dark and air is white, export them again the right "
            "way round.",
            _named(examined, inverted),
        )  # fmt: skip
    if tiny.any():
        yield Finding(
            "tiny", Severity.WARNING, f"Smaller than the network's input of {NETWORK_SIDE} pixels", int(tiny.sum()),
            "image",
            "They are enlarged, and a hairline fracture cannot be seen on them: look for larger originals.",
            _named(examined, tiny),
            tuple(f"{film.width} x {film.height}" for film, small in zip(examined.films, tiny, strict=True) if small),
        )  # fmt: skip


def _named(examined: Examined, chosen: NDArray[np.bool_]) -> tuple[tuple[str, ...], ...]:
    return tuple((image,) for image in examined.dataset.images[chosen].tolist())
