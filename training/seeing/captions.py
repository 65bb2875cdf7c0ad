"""What a report is made of, and the words that stand with its pictures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from training.seeing.check import Check
from training.seeing.layers import Kind
from training.seeing.look import FilmSight, LayerSight
from xray.package import ModelPackage
from xray.vocabulary import Label

LONGEST_STEM = 60


@dataclass(frozen=True)
class Report:
    """All that one call of ``layers`` has found.

    Attributes
    ----------
    package : ModelPackage
        The model.
    sights : tuple of FilmSight
        The films that could be read.
    unread : mapping of str to str
        The others, and why.
    check : Check or None
        The check of the map, where it was asked for.
    """

    package: ModelPackage
    sights: tuple[FilmSight, ...]
    unread: Mapping[str, str]
    check: Check | None


def said(sight: FilmSight, report: Report) -> str:
    """Say what the model says of a film, in its own wording."""
    card = report.package.card
    positive = sight.probability >= card.image_threshold.value
    return (
        f"{card.wording if positive else Label.NEGATIVE}, probability {sight.probability:.3f} (logit {sight.logit:.2f})"
    )


def described(seen: LayerSight) -> str:
    """Name a layer with its kind and its output's shape."""
    return f"{seen.layer.name}, {seen.layer.kind}, {seen.layer.shape}"


def scales(seen: LayerSight) -> str:
    """Say how Grad-CAM and channels of a picture are scaled."""
    of_cam = (
        "Grad-CAM on the model's fixed scale"
        if seen.layer.kind is Kind.FEATURE_MAP
        else "Grad-CAM up to its greatest value over the films drawn together: compare films, not layers"
    )
    return (
        f"{of_cam}. Channels are those that vary most over the film, the most active first, numbered from 0, "
        "each drawn from its own least (dark) to its own greatest value (bright)."
    )


def picture_name(number: int, sight: FilmSight, seen: LayerSight) -> str:
    """Name a picture's file: the film's place among the readable ones, its name and the layer's."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", sight.film.name)[-LONGEST_STEM:]
    return f"{number:03d}-{stem}.{seen.layer.name}.png"
