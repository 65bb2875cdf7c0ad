"""Films as small pictures that lie inside a page."""

import io
from base64 import b64encode
from pathlib import Path

from PIL import Image

from xray.errors import FileFault
from xray.pixels import decode

LONG_SIDE = 240
"""Pixels; twice what a page shows, for sharp screens and print."""


def thumbnail(file: Path) -> str | None:
    """Return a film as a JPEG ``data:`` URI, or None when it cannot be read."""
    try:
        film = Image.fromarray(decode(file.read_bytes()))
    except (FileFault, OSError):
        return None
    film.thumbnail((LONG_SIDE, LONG_SIDE))
    jpeg = io.BytesIO()
    film.save(jpeg, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode()}"
