"""Heat maps: pictures of a radiograph with its CAM drawn over it, on the model's colour scale or on the image's own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xray.images.preprocessing import Preprocessing
from xray.printable import escape_unprintable

PANEL_SIDE = 640
"""Long side of the drawn image, pixels."""
MARGIN = 16
FONT_SIZE = 18
BAR_WIDTH = 18
MAX_OPACITY = 0.6

DARK = 0.25
"""Share of the model's colour scale below which a whole map looks empty: its colours are dark there, and hardly opaque.

Chosen by eye on FracAtlas. With the model fracture 5, 3 % of the images that it calls positive are below, out of fold
(two folds)."""

LEGEND_TOP, LEGEND_BOTTOM = "high\nevidence", "low\nevidence"
"""What the ends of the colour scale mean. The number at its top is in the model's card."""

OWN_SCALE_TOP = "own scale:\nhighest\nhere"
"""What the top means where the scale is the image's own."""

DARK_NOTE = (
    "On the model's scale this map is dark: no single area raised the score much. "
    "On its own scale it shows more; that scale cannot be compared with other images'."
)
OWN_SCALE_NOTE = (
    "Own scale: the brightest colour is this image's highest value, however low. Do not compare it with other images."
)
NOTHING_NOTE = "No area raised the score."

# Lightness rises steadily from dark violet to yellow, so that larger values look larger in gray print and to
# colour-blind readers too.
COLOUR_STOPS = np.array(
    [(40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)],
    np.float64,
)


def cam_at_image_size(
    cam: NDArray[np.floating], height: int, width: int, preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Interpolate a CAM to the size of its image, bilinearly.

    Parameters
    ----------
    cam : ndarray of float, (h, w)
        Class activation map of the network's square input.
    height, width : int
        The image's size, pixels.
    preprocessing : Preprocessing
        The preprocessing that made the input from the image; its padding is cropped.

    Returns
    -------
    ndarray of float32, (height, width)
        Signed, in units of the logit.
    """
    top, left, inner_height, inner_width = preprocessing.image_box(height, width)
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
    """Map values to the heat map's colours.

    Parameters
    ----------
    values : ndarray of float, (...)
        In [0, 1].

    Returns
    -------
    ndarray of uint8, (..., 3)
        RGB.
    """
    position = np.linspace(0, 1, len(COLOUR_STOPS))
    channels = [np.interp(values, position, COLOUR_STOPS[:, channel]) for channel in range(3)]
    return _to_uint8(np.stack(channels, axis=-1))


def is_dark(cam: NDArray[np.floating], scale: float) -> bool:
    """Tell whether a map looks empty on a scale, although the image may be positive."""
    return bool(cam.max(initial=0.0) < DARK * scale)


def scale_note(cam: NDArray[np.floating], scale: float, *, positive: bool, own_scale: bool) -> str | None:
    """Say what a reader of a heat map has to know of its colours; None if there is nothing.

    Parameters
    ----------
    cam : ndarray of float, (h, w)
        Class activation map, in units of the logit.
    scale : float
        The top of the model's colour scale.
    positive : bool
        Whether the image, or its study, is called positive.
    own_scale : bool
        Whether it is drawn on its own scale.
    """
    if cam.max(initial=0.0) <= 0:
        return NOTHING_NOTE
    if own_scale:
        return OWN_SCALE_NOTE
    return DARK_NOTE if positive and is_dark(cam, scale) else None


def evidence_at_image_size(
    cam: NDArray[np.floating],
    height: int,
    width: int,
    *,
    preprocessing: Preprocessing,
    scale: float,
    own_scale: bool = False,
) -> NDArray[np.float32]:
    """Interpolate a CAM to the size of its image, as shares of a colour scale.

    Parameters
    ----------
    cam : ndarray of float, (h, w)
        Class activation map of the network's square input, in units of the logit.
    height, width : int
        The image's size, pixels.
    preprocessing : Preprocessing
        The preprocessing that made the input from the image.
    scale : float
        The CAM value at the top of the model's colour scale; from its card.
    own_scale : bool
        Use the image's highest value instead, if any is positive.

    Returns
    -------
    ndarray of float32, (height, width)
        In [0, 1].
    """
    values = cam_at_image_size(cam, height, width, preprocessing)
    highest = float(values.max(initial=0.0))
    shares: NDArray[np.float32] = np.clip(values / (highest if own_scale and highest > 0 else scale), 0, 1)
    return shares


def render_heat_map(
    gray: NDArray[np.uint8],
    cam: NDArray[np.floating],
    *,
    preprocessing: Preprocessing,
    scale: float,
    caption: Sequence[str],
    own_scale: bool = False,
) -> Image.Image:
    """Draw an image beside the same image with its heat map, with a legend and a caption.

    Only areas that raised the logit (positive CAM) are coloured. The colour scale is the same for all images, so an
    image without such areas stays gray; unless the image's own is asked for, which the legend then says.

    Parameters
    ----------
    gray : ndarray of uint8, (H, W)
        The decoded image.
    cam : ndarray of float, (h, w)
        Its class activation map, in units of the logit.
    preprocessing : Preprocessing
        The preprocessing that made the network's input from the image.
    scale : float
        The CAM value, in units of the logit, at the top of the colour scale; from the model's card.
    caption : sequence of str
        Lines of text below the images.
    own_scale : bool
        Let the scale end at the image's highest value.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    long_side = max(gray.shape)
    height, width = (max(1, round(side * PANEL_SIDE / long_side)) for side in gray.shape)
    image = np.asarray(Image.fromarray(gray).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    overlay = blend(
        image,
        evidence_at_image_size(cam, height, width, preprocessing=preprocessing, scale=scale, own_scale=own_scale),
    )
    font = ImageFont.load_default(FONT_SIZE)
    legend_width = BAR_WIDTH + 6 * FONT_SIZE
    line = round(FONT_SIZE * 1.4)
    lines = [wrapped for text in caption for wrapped in wrap_text(text, 2 * width + legend_width + MARGIN, font)]
    canvas = Image.new(
        "RGB", (2 * width + legend_width + 4 * MARGIN, height + line * len(lines) + 3 * MARGIN), (16, 16, 16)
    )
    canvas.paste(Image.fromarray(image), (MARGIN, MARGIN))
    canvas.paste(Image.fromarray(overlay), (2 * MARGIN + width, MARGIN))
    draw = ImageDraw.Draw(canvas)
    draw_legend(canvas, draw, (3 * MARGIN + 2 * width, MARGIN), height, font, own_scale=own_scale)
    for number, text in enumerate(lines):
        draw.text((MARGIN, height + 2 * MARGIN + number * line), text, fill=(230, 230, 230), font=font)
    return canvas


def blend(image: NDArray[np.uint8], evidence: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw the heat map's colours over an image; where the evidence is 0, the image is unchanged.

    Parameters
    ----------
    image : ndarray of uint8, (H, W, 3)
        RGB.
    evidence : ndarray of float, (H, W)
        In [0, 1]; the opacity grows with its square root.

    Returns
    -------
    ndarray of uint8, (H, W, 3)
        RGB.
    """
    opacity = MAX_OPACITY * np.sqrt(evidence)[..., None]
    return _to_uint8(image * (1 - opacity) + colour(evidence) * opacity)


def overlay(evidence: NDArray[np.floating]) -> Image.Image:
    """Draw only the heat map, to be laid over its image: `blend` draws the same, to within three gray levels.

    Parameters
    ----------
    evidence : ndarray of float, (H, W)
        In [0, 1], as of `evidence_at_image_size`.

    Returns
    -------
    PIL.Image.Image
        A palette of 256 colours, each with its opacity; transparent where the evidence is 0.
    """
    # The opacity grows with the square root, so steps of it are even where steps of the evidence would show.
    steps = np.linspace(0, 1, 256)
    shares = np.sqrt(evidence)
    shares *= 255
    drawn = Image.fromarray(_to_uint8(shares))
    drawn.putpalette(np.column_stack([colour(steps**2), _to_uint8(255 * MAX_OPACITY * steps)]).tobytes(), "RGBA")
    return drawn


def _to_uint8(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return rounded


def draw_legend(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    *,
    own_scale: bool,
) -> None:
    """Draw the colour scale over mid-gray, from no evidence (bottom) to the top of the scale."""
    left, top = corner
    evidence = np.repeat(np.linspace(1, 0, height)[:, None], BAR_WIDTH, axis=1)
    bar = blend(np.full((height, BAR_WIDTH, 3), 96, np.uint8), evidence)
    canvas.paste(Image.fromarray(bar), corner)
    beside = left + BAR_WIDTH + 6
    for end, anchor, words in (
        (top, "la", OWN_SCALE_TOP if own_scale else LEGEND_TOP),
        (top + height, "ld", LEGEND_BOTTOM),
    ):
        draw.multiline_text((beside, end), words, fill=(230, 230, 230), font=font, anchor=anchor)


def wrap_text(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Break a line at spaces, and words longer than a line within, so that it fits into `width` pixels of a font.

    The font that comes with Pillow has ASCII only, and draws one and the same box for any other character: these become
    escape sequences.
    """
    lines = [""]
    for word in escape_unprintable(text).encode("ascii", "backslashreplace").decode().split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
