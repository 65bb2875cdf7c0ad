"""The look of the reports that `audit`, `evaluate` and `layers` write: one page template, one style of figures."""

import base64
from collections.abc import Callable, Mapping
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from training.disk import write_atomically
from xray.vocabulary import RESEARCH_NOTICE

BLUE, ORANGE, LIGHT_BLUE, GRAY = "#0072B2", "#D55E00", "#56B4E9", "#6b6b6b"
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008), and that differ in a gray print."""

_STYLE: Any = {
    "figure.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    # Names of findings and body parts come from files, and may hold dollar signs.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}

P = ParamSpec("P")
T = TypeVar("T")


def in_report_style(draw: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that draws with matplotlib, so that it draws in the reports' style.

    Figures are objects of their own (:class:`matplotlib.figure.Figure`), without pyplot's state.
    """

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def figure_png(figure: Figure) -> bytes:
    """Return a matplotlib figure as PNG."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def encode_image(image: Image.Image, file_format: str, **options: int) -> bytes:
    """Return an image as a file of a format that Pillow writes, such as ``"PNG"``; `options` are the format's own."""
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def data_uri(content: bytes) -> str:
    """Return a PNG, JPEG or WebP file as a ``data:`` URI, so that a page needs no other file."""
    media_type = next(media_type for start, media_type in _MEDIA_TYPES.items() if content.startswith(start))
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def render_page(template: str, **values: object) -> str:
    """Render a page from a template in ``training/templates``.

    Parameters
    ----------
    template : str
        The template's file name.
    **values
        Its variables. Text in them is escaped; the research notice is added as ``notice``.

    Returns
    -------
    str
        HTML that loads nothing from elsewhere.
    """
    environment = Environment(
        loader=PackageLoader("training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, count="{:,}".format)
    return environment.get_template(template).render(notice=RESEARCH_NOTICE, **values)


def write_report(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write the files of a report, each of them whole or not at all; the folder is made if it is missing.

    Parameters
    ----------
    folder : Path
        Files of an earlier report in it are replaced.
    files : mapping of str to str or bytes
        Contents by file name, in the order in which they are written.

    Raises
    ------
    StorageOutage
        If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        # A file name that is not in the locale's encoding comes as lone surrogates, which UTF-8 has not.
        write_atomically(
            folder / name, content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
        )
