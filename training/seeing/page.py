"""The report as one page: self-contained, without scripts, fit to be printed."""

import base64
from collections.abc import Mapping
from io import BytesIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from training.seeing.captions import Report, described, picture_name, said, scales
from xray.vocabulary import RESEARCH_NOTICE

ROWS_DRAWN = 5


def report_page(report: Report, pictures: Mapping[str, bytes]) -> str:
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
