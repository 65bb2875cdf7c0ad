"""The report: pictures, one page that holds them all, and the numbers as JSON."""

import json
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from training.disk import write_whole
from training.seeing.captions import Report, described, picture_name, said, scales
from training.seeing.charts import draw_areas, draw_forgetting
from training.seeing.drawing import draw_layer, draw_rows
from training.seeing.look import grad_cam_scale
from training.seeing.numbers import report_numbers
from training.seeing.page import ROWS_DRAWN, report_page
from xray.pixels import Preprocessing
from xray.vocabulary import RESEARCH_NOTICE

PAGE, NUMBERS = "layers.html", "layers.json"


def write_report(report: Report, folder: Path) -> Path:
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
        write_whole(folder / name, partial(_write, content))
    return folder / PAGE


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _film_pictures(report: Report) -> dict[str, bytes]:
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


def _check_pictures(report: Report) -> dict[str, bytes]:
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
