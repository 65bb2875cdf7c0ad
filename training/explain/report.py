"""The report of `layers`: a page, the pictures on it, and the numbers as JSON."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from training.explain.drawing import (
    deletion_insertion_figure,
    draw_layer,
    draw_map,
    draw_map_rows,
    randomisation_figure,
)
from training.explain.grad_cam import ImageExplanation, LayerExplanation, grad_cam_scale, has_fixed_scale
from training.explain.map_check import MapCheck
from training.progress import Progress
from training.report_page import encode_image, figure_png, render_page, write_report
from xray.images.preprocessing import Preprocessing
from xray.network.card import Card
from xray.network.heatmap import scale_note
from xray.network.package import ModelPackage
from xray.thresholds import is_positive, label_of
from xray.vocabulary import RESEARCH_NOTICE

PAGE_FILE, JSON_FILE = "layers.html", "layers.json"
MAPS_FILE, RANDOMISATION_FILE, DELETION_FILE = "check-maps.png", "check-randomised.png", "check-deletion.png"
LONGEST_STEM = 60
ROWS_DRAWN = 5
"""Images whose maps are drawn as the network is randomised."""

_WEBP_QUALITY = 88


@dataclass(frozen=True)
class ExplainReport:
    """All that the page and the JSON file hold.

    Attributes
    ----------
    package : ModelPackage
        The model.
    explanations : tuple of ImageExplanation
        One for each image that could be read.
    unreadable : mapping of str to str
        The other images, and why they could not be read.
    check : MapCheck or None
        The check of the map, where it was asked for.
    """

    package: ModelPackage
    explanations: tuple[ImageExplanation, ...]
    unreadable: Mapping[str, str]
    check: MapCheck | None

    def write(self, folder: Path, progress: Progress) -> Path:
        """Write the pictures, ``layers.json`` and ``layers.html``, and return the path of the page.

        Parameters
        ----------
        folder : Path
            Made if it is missing; files of an earlier report are replaced.
        progress : Progress
            Shows a progress bar.

        Raises
        ------
        StorageOutage
            If a file cannot be written.
        """
        pictures = _image_pictures(self, progress) | _check_pictures(self)
        numbers = json.dumps(report_numbers(self), indent=2) + "\n"
        write_report(folder, {**pictures, JSON_FILE: numbers, PAGE_FILE: report_page(self, pictures)})
        return folder / PAGE_FILE


def prediction_text(explanation: ImageExplanation, report: ExplainReport) -> str:
    """Return the model's prediction for an image, in the wording of its card."""
    card = report.package.card
    label = card.worded(label_of(explanation.probability, card.image_threshold.value))
    return f"{label}, probability {explanation.probability:.3f} (logit {explanation.logit:.2f})"


def layer_title(explained: LayerExplanation) -> str:
    """Return a layer's name with its kind and the shape of its output."""
    return f"{explained.layer.name}, {explained.layer.kind}, {explained.layer.shape}"


def scale_text(explained: LayerExplanation, card: Card) -> str:
    """Describe the scales of Grad-CAM and of the channels in a picture."""
    cam = (
        "Grad-CAM is on the model's fixed scale"
        if has_fixed_scale(explained.layer, card)
        else "The Grad-CAM scale ends at the largest value over the images of this report: compare images, not layers"
    )
    return (
        f"{cam}. Channels are those that vary most over the image, the most active first, numbered from 0, each drawn "
        "from its minimum (dark) to its maximum (bright)."
    )


def map_title(explanation: ImageExplanation) -> str:
    """Return what the model's own map is called, with its cells."""
    height, width = explanation.cam.shape
    return f"the model's map, {height} x {width} cells"


def map_text(explanation: ImageExplanation, card: Card) -> str:
    """Say what the picture of the model's own map shows."""
    positive = is_positive(explanation.probability, card.image_threshold.value)
    note = scale_note(explanation.cam, card.heat_map_scale, positive=positive, own_scale=False)
    meaning = (
        "This is the heat map that screening shows, on the same fixed scale. Coloured areas raised the score; areas "
        "that lowered it are not coloured. The logit is the mean of all cells, plus a term that has no place in the "
        "image."
    )
    return f"{meaning} {note}" if note else meaning


def map_file(number: int, explanation: ImageExplanation) -> str:
    """Return the file name of the picture of the model's own map, as of :func:`picture_file`."""
    return _file_name(number, explanation, "map")


def picture_file(number: int, explanation: ImageExplanation, explained: LayerExplanation) -> str:
    """Return the file name of a picture: the image's number among the readable ones, its name and the layer's."""
    return _file_name(number, explanation, explained.layer.name)


def _file_name(number: int, explanation: ImageExplanation, part: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", explanation.image.name)[-LONGEST_STEM:]
    return f"{number:03d}-{stem}.{part}.png"


def report_numbers(report: ExplainReport) -> dict[str, Any]:
    """Return all numbers of a report as values that JSON can hold."""
    card = report.package.card
    return {
        "notice": RESEARCH_NOTICE,
        "model": {"name": card.name, "version": card.version, "digest": report.package.digest},
        "images": [_image_numbers(number, each, report) for number, each in enumerate(report.explanations, start=1)],
        "unreadable": dict(report.unreadable),
        "check": _check_numbers(report.check, report.explanations) if report.check else None,
    }


def _image_numbers(number: int, explanation: ImageExplanation, report: ExplainReport) -> dict[str, Any]:
    layers = [
        {
            "layer": explained.layer.name,
            "kind": explained.layer.kind,
            "shape": [explained.layer.height, explained.layer.width, explained.layer.channels],
            "picture": picture_file(number, explanation, explained),
            "grad_cam": {"least": float(explained.grad_cam.min()), "greatest": float(explained.grad_cam.max())},
            "grad_cam_scale": grad_cam_scale(explained.layer, report.explanations, report.package.card),
            "channels": [
                {"channel": int(channel), "standard_deviation": float(spread)}
                for channel, spread in zip(explained.channels.numbers, explained.channels.spreads, strict=True)
            ],
        }
        for explained in explanation.layers
    ]
    return {
        "image": explanation.image.name,
        "logit": explanation.logit,
        "probability": explanation.probability,
        "map": {
            "shape": list(explanation.cam.shape),
            "picture": map_file(number, explanation),
            "least": float(explanation.cam.min()),
            "greatest": float(explanation.cam.max()),
            "scale": report.package.card.heat_map_scale,
        },
        "layers": layers,
    }


def _check_numbers(check: MapCheck, explanations: Sequence[ImageExplanation]) -> dict[str, Any]:
    test = check.randomisation
    names = ("deletion", "deletion_random", "insertion", "insertion_random")
    return {
        "seed": check.seed,
        "randomised": {
            "conclusion": test.conclusion,
            "draws": test.draws,
            "images_with_a_map": int(test.has_map.sum()),
            "remaining_correlation": test.remaining_correlation,
            "stages": [
                {
                    "randomised_down_to": stage,
                    "rank_correlation": correlation,
                    "rank_correlation_of_draws": test.rank_correlations[:, position].mean(axis=1).tolist(),
                    "ssim": ssim,
                }
                for position, (stage, correlation, ssim) in enumerate(test.means)
            ],
        },
        "deletion_insertion": {
            "conclusion": check.conclusion,
            "mean_areas": dict(zip(names, check.areas.mean(axis=0).tolist(), strict=True)),
            "images": [
                {"image": explanation.image.name, **dict(zip(names, areas, strict=True))}
                for explanation, areas in zip(explanations, check.areas.tolist(), strict=True)
            ],
        },
    }


def report_page(report: ExplainReport, pictures: Mapping[str, bytes]) -> str:
    """Return the page, HTML.

    Parameters
    ----------
    report : ExplainReport
        What to show.
    pictures : mapping of str to bytes
        Its pictures as PNG, by file name; they are embedded.
    """
    images = [
        {
            "name": explanation.image.name,
            "prediction": prediction_text(explanation, report),
            "pictures": [
                {
                    "title": map_title(explanation).capitalize(),
                    "text": map_text(explanation, report.package.card),
                    "picture": _webp(pictures[map_file(number, explanation)]),
                },
                *(
                    {
                        "title": layer_title(explained),
                        "text": scale_text(explained, report.package.card),
                        "picture": _webp(pictures[picture_file(number, explanation, explained)]),
                    }
                    for explained in explanation.layers
                ),
            ],
        }
        for number, explanation in enumerate(report.explanations, start=1)
    ]
    check = report.check
    return render_page(
        "layers.html.j2",
        package=report.package,
        images=images,
        unreadable=report.unreadable,
        check=check,
        areas=list(zip(report.explanations, check.areas.tolist(), strict=True)) if check else (),
        rows_drawn=min(ROWS_DRAWN, len(report.explanations)),
        maps=_webp(pictures[MAPS_FILE]) if check else None,
        randomisation_plot=pictures[RANDOMISATION_FILE] if check else None,
        deletion_plot=pictures[DELETION_FILE] if check else None,
    )


def _webp(png: bytes) -> bytes:
    """Convert a picture to WebP, a quarter of its size as PNG."""
    return encode_image(Image.open(BytesIO(png)).convert("RGB"), "WEBP", quality=_WEBP_QUALITY)


def _image_pictures(report: ExplainReport, progress: Progress) -> dict[str, bytes]:
    card = report.package.card
    preprocessing = Preprocessing.from_id(card.preprocessing)
    pictures = {}
    total = sum(1 + len(explanation.layers) for explanation in report.explanations)
    with progress.bar("drawing", total, unit="picture") as advance:
        for number, explanation in enumerate(report.explanations, start=1):
            prediction = f"{explanation.image.name}: {prediction_text(explanation, report)}"
            caption = [
                prediction,
                f"{card.name} {card.version}: {map_title(explanation)}. {map_text(explanation, card)}",
                RESEARCH_NOTICE,
            ]
            drawn = draw_map(explanation.image, explanation.cam, card.heat_map_scale, preprocessing, caption)
            pictures[map_file(number, explanation)] = encode_image(drawn, "PNG")
            advance(1)
            for explained in explanation.layers:
                scale = grad_cam_scale(explained.layer, report.explanations, card)
                caption = [
                    prediction,
                    f"{layer_title(explained)} of {card.name} {card.version}. {scale_text(explained, card)}",
                    RESEARCH_NOTICE,
                ]
                drawn = draw_layer(
                    explanation.image, explained.grad_cam, scale, explained.channels, preprocessing, caption
                )
                pictures[picture_file(number, explanation, explained)] = encode_image(drawn, "PNG")
                advance(1)
    return pictures


def _check_pictures(report: ExplainReport) -> dict[str, bytes]:
    if report.check is None:
        return {}
    test = report.check.randomisation
    images = [explanation.image for explanation in report.explanations[:ROWS_DRAWN]]
    preprocessing = Preprocessing.from_id(report.package.card.preprocessing)
    rows = draw_map_rows(images, test.maps[:, : len(images)], ["as trained", *test.stages], preprocessing)
    return {
        MAPS_FILE: encode_image(rows, "PNG"),
        RANDOMISATION_FILE: figure_png(randomisation_figure(test)),
        DELETION_FILE: figure_png(deletion_insertion_figure(report.check)),
    }
