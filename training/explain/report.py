"""What a report is made of, and the words that stand with its pictures."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from training.disk import write_atomically
from training.explain.drawing import draw_areas, draw_forgetting, draw_layer, draw_rows
from training.explain.grad_cam import ImageExplanation, LayerExplanation, grad_cam_scale
from training.explain.layers import LayerKind
from training.explain.map_check import Check
from xray.images.preprocessing import Preprocessing
from xray.network.package import ModelPackage
from xray.vocabulary import RESEARCH_NOTICE, Label

LONGEST_STEM = 60


@dataclass(frozen=True)
class ExplainReport:
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
    sights: tuple[ImageExplanation, ...]
    unread: Mapping[str, str]
    check: Check | None


def said(sight: ImageExplanation, report: ExplainReport) -> str:
    """Say what the model says of a film, in its own wording."""
    card = report.package.card
    positive = sight.probability >= card.image_threshold.value
    return (
        f"{card.wording if positive else Label.NEGATIVE}, probability {sight.probability:.3f} (logit {sight.logit:.2f})"
    )


def described(seen: LayerExplanation) -> str:
    """Name a layer with its kind and its output's shape."""
    return f"{seen.layer.name}, {seen.layer.kind}, {seen.layer.shape}"


def scales(seen: LayerExplanation) -> str:
    """Say how Grad-CAM and channels of a picture are scaled."""
    of_cam = (
        "Grad-CAM on the model's fixed scale"
        if seen.layer.kind is LayerKind.FEATURE_MAP
        else "Grad-CAM up to its greatest value over the films drawn together: compare films, not layers"
    )
    return (
        f"{of_cam}. Channels are those that vary most over the film, the most active first, numbered from 0, "
        "each drawn from its own least (dark) to its own greatest value (bright)."
    )


def picture_name(number: int, sight: ImageExplanation, seen: LayerExplanation) -> str:
    """Name a picture's file: the film's place among the readable ones, its name and the layer's."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", sight.film.name)[-LONGEST_STEM:]
    return f"{number:03d}-{stem}.{seen.layer.name}.png"


def report_numbers(report: ExplainReport) -> dict[str, Any]:
    """Return all numbers of a report, ready for JSON."""
    card = report.package.card
    return {
        "notice": RESEARCH_NOTICE,
        "model": {"name": card.name, "version": card.version, "digest": report.package.digest},
        "films": [_film_numbers(number, sight, report) for number, sight in enumerate(report.sights, start=1)],
        "unread": dict(report.unread),
        "check": _check_numbers(report.check, report.sights) if report.check else None,
    }


def _film_numbers(number: int, sight: ImageExplanation, report: ExplainReport) -> dict[str, Any]:
    layers = [
        {
            "layer": seen.layer.name,
            "kind": seen.layer.kind,
            "shape": [seen.layer.height, seen.layer.width, seen.layer.channels],
            "picture": picture_name(number, sight, seen),
            "grad_cam": {"least": float(seen.grad_cam.min()), "greatest": float(seen.grad_cam.max())},
            "grad_cam_scale": grad_cam_scale(seen.layer, report.sights, report.package.card),
            "channels": [
                {"channel": int(channel), "standard_deviation": float(spread)}
                for channel, spread in zip(seen.channels.numbers, seen.channels.spreads, strict=True)
            ],
        }
        for seen in sight.layers
    ]
    return {"image": sight.film.name, "logit": sight.logit, "probability": sight.probability, "layers": layers}


def _check_numbers(check: Check, sights: Sequence[ImageExplanation]) -> dict[str, Any]:
    cascade = check.cascade
    names = ("deletion", "deletion_random", "insertion", "insertion_random")
    return {
        "seed": check.seed,
        "randomised": {
            "verdict": cascade.verdict,
            "draws": cascade.draws,
            "films_with_a_map": int(cascade.mapped.sum()),
            "left": cascade.left,
            "stages": [
                {
                    "randomised_down_to": stage,
                    "rank_correlation": correlation,
                    "rank_correlation_of_draws": cascade.rank_correlations[:, place].mean(axis=1).tolist(),
                    "ssim": ssim,
                }
                for place, (stage, correlation, ssim) in enumerate(cascade.means)
            ],
        },
        "deletion_insertion": {
            "verdict": check.verdict,
            "mean_areas": dict(zip(names, check.areas.mean(axis=0).tolist(), strict=True)),
            "films": [
                {"image": sight.film.name, **dict(zip(names, areas, strict=True))}
                for sight, areas in zip(sights, check.areas.tolist(), strict=True)
            ],
        },
    }


ROWS_DRAWN = 5


def report_page(report: ExplainReport, pictures: Mapping[str, bytes]) -> str:
    """Return the page, HTML.

    Parameters
    ----------
    report : Report
        What to show.
    pictures : mapping of str to bytes
        Its pictures as PNG, by file name; they are inlined.
    """
    environment = Environment(
        loader=PackageLoader("training.seeing", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    films = [
        {
            "name": sight.film.name,
            "said": said(sight, report),
            "layers": [
                {
                    "title": described(seen),
                    "scales": scales(seen),
                    "picture": _data_uri(pictures[picture_name(number, sight, seen)]),
                }
                for seen in sight.layers
            ],
        }
        for number, sight in enumerate(report.sights, start=1)
    ]
    return environment.get_template("layers.html").render(
        notice=RESEARCH_NOTICE,
        package=report.package,
        films=films,
        unread=report.unread,
        check=report.check,
        stages=report.check.cascade.means if report.check else (),
        areas=zip(report.sights, report.check.areas.tolist(), strict=True) if report.check else (),
        rows_drawn=min(ROWS_DRAWN, len(report.sights)),
        figures={name: _data_uri(picture) for name, picture in pictures.items() if name.startswith("check-")},
    )


def _data_uri(picture: bytes) -> str:
    """Inline a picture as WebP, a quarter of its PNG's size."""
    file = BytesIO()
    Image.open(BytesIO(picture)).convert("RGB").save(file, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


PAGE, NUMBERS = "layers.html", "layers.json"


def write_report(report: ExplainReport, folder: Path) -> Path:
    """Write the pictures, ``layers.json`` and ``layers.html``; returns the page's path.

    Parameters
    ----------
    report : Report
        What to show.
    folder : Path
        Made if missing; files of an earlier report are replaced.

    Raises
    ------
    StorageOutage
        If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _film_pictures(report) | _check_pictures(report)
    texts = {NUMBERS: json.dumps(report_numbers(report), indent=2) + "\n", PAGE: report_page(report, pictures)}
    for name, content in {**pictures, **{name: text.encode() for name, text in texts.items()}}.items():
        write_atomically(folder / name, partial(_write, content))
    return folder / PAGE


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _film_pictures(report: ExplainReport) -> dict[str, bytes]:
    card = report.package.card
    preprocessing = Preprocessing.from_id(card.preprocessing)
    pictures = {}
    for number, sight in enumerate(report.sights, start=1):
        for seen in sight.layers:
            scale = grad_cam_scale(seen.layer, report.sights, card)
            caption = [
                f"{sight.film.name}: {said(sight, report)}",
                f"{described(seen)} of {card.name} {card.version}. {scales(seen)}",
                RESEARCH_NOTICE,
            ]
            drawn = draw_layer(sight.film, seen.grad_cam, scale, seen.channels, preprocessing, caption)
            pictures[picture_name(number, sight, seen)] = _png(drawn)
    return pictures


def _check_pictures(report: ExplainReport) -> dict[str, bytes]:
    if report.check is None:
        return {}
    cascade = report.check.cascade
    films = [sight.film for sight in report.sights[:ROWS_DRAWN]]
    preprocessing = Preprocessing.from_id(report.package.card.preprocessing)
    rows = draw_rows(films, cascade.maps[:, : len(films)], ["as trained", *cascade.stages], preprocessing)
    return {
        "check-maps.png": _png(rows),
        "check-randomised.png": draw_forgetting(cascade),
        "check-deletion.png": draw_areas(report.check),
    }


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
