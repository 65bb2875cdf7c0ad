"""Heat maps: a CAM drawn over its radiograph, on one fixed scale, for a person to look at."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xray.images.preprocessing import Preprocessing

PANEL_SIDE = 640
"""Long side of the film as drawn, pixels."""
MARGIN = 16
FONT_SIZE = 18
BAR_WIDTH = 18
MAX_OPACITY = 0.6

# Lightness and redness rise steadily from dark violet to yellow, so more is seen as more, in gray print and by
# colour-blind readers too.
COLOUR_STOPS = np.array(
    [(40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)],
    np.float64,
)


def cam_at_image_size(
    cam: NDArray[np.floating], height: int, width: int, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Sample a CAM at every pixel of its film, bilinearly.

    Parameters
    ----------
    cam : ndarray of float, (h, w)
        Over the network's square input.
    height, width : int
        The film's size, pixels.
    preprocessing : Preprocessing
        How the film was put into the square; its padding is cut off again.

    Returns
    -------
    ndarray of float32, (height, width)
        Signed, in units of the logit.
    """
    top, left, inner_height, inner_width = preprocessing.placement(height, width)
    rows, columns = cam.shape
    box = (
        left * columns / preprocessing.size,
        top * rows / preprocessing.size,
        (left + inner_width) * columns / preprocessing.size,
        (top + inner_height) * rows / preprocessing.size,
    )
    grid = Image.fromarray(np.ascontiguousarray(cam, np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BILINEAR, box=box))


def colour(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Map values in [0, 1], any shape, to RGB, one axis more."""
    position = np.linspace(0, 1, len(COLOUR_STOPS))
    channels = [np.interp(values, position, COLOUR_STOPS[:, channel]) for channel in range(3)]
    return _to_uint8(np.stack(channels, axis=-1))


def render_heat_map(
    gray: NDArray[np.uint8],
    cam: NDArray[np.floating],
    *,
    preprocessing: Preprocessing,
    scale: float,
    caption: Sequence[str],
) -> Image.Image:
    """Draw a film, and beside it the same film under its heat map, with a legend and a caption.

    What speaks against the finding (negative CAM) is not drawn, and the scale does not adapt to the film: a film
    without evidence shows none.

    Parameters
    ----------
    gray : ndarray of uint8, (H, W)
        The film as decoded.
    cam : ndarray of float, (h, w)
        Its class activation map.
    preprocessing : Preprocessing
        How the film became the network's input.
    scale : float
        The CAM value, logit units, of the colour map's top, from the model's card.
    caption : sequence of str
        Lines below the pictures.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    long_side = max(gray.shape)
    height, width = (max(1, round(side * PANEL_SIDE / long_side)) for side in gray.shape)
    film = np.asarray(Image.fromarray(gray).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    evidence = np.clip(cam_at_image_size(cam, height, width, preprocessing) / scale, 0, 1)
    overlay = blend(film, evidence)
    font = ImageFont.load_default(FONT_SIZE)
    legend_width = BAR_WIDTH + 4 * FONT_SIZE
    line = round(FONT_SIZE * 1.4)
    lines = [wrapped for text in caption for wrapped in wrap_text(text, 2 * width + legend_width + MARGIN, font)]
    canvas = Image.new(
        "RGB", (2 * width + legend_width + 4 * MARGIN, height + line * len(lines) + 3 * MARGIN), (16, 16, 16)
    )
    canvas.paste(Image.fromarray(film), (MARGIN, MARGIN))
    canvas.paste(Image.fromarray(overlay), (2 * MARGIN + width, MARGIN))
    draw = ImageDraw.Draw(canvas)
    _draw_legend(canvas, draw, (3 * MARGIN + 2 * width, MARGIN), height, scale, font)
    for number, text in enumerate(lines):
        draw.text((MARGIN, height + 2 * MARGIN + number * line), text, fill=(230, 230, 230), font=font)
    return canvas


def blend(film: NDArray[np.uint8], evidence: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour a film by evidence; where there is none the film stays as it is.

    Parameters
    ----------
    film : ndarray of uint8, (H, W, 3)
        RGB.
    evidence : ndarray of float, (H, W)
        In [0, 1].

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    opacity = MAX_OPACITY * np.sqrt(evidence)[..., None]
    return _to_uint8(film * (1 - opacity) + colour(evidence) * opacity)


def _to_uint8(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return rounded


def _draw_legend(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    scale: float,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """Draw the bar as the colours look over mid-gray, from no evidence (bottom) to ``scale`` and more (top)."""
    left, top = corner
    evidence = np.repeat(np.linspace(1, 0, height)[:, None], BAR_WIDTH, axis=1)
    bar = blend(np.full((height, BAR_WIDTH, 3), 96, np.uint8), evidence)
    canvas.paste(Image.fromarray(bar), corner)
    for share, text in ((0.0, f">= {scale:.3g}"), (0.5, f"{scale / 2:.3g}"), (1.0, "0")):
        anchor = {0.0: "lt", 0.5: "lm", 1.0: "lb"}[share]
        draw.text((left + BAR_WIDTH + 6, top + share * height), text, fill=(230, 230, 230), font=font, anchor=anchor)


def wrap_text(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Break a line at spaces so that it fits into `width` pixels of a font."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
