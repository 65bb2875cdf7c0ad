"""Heat maps: pictures of a radiograph with its CAM drawn over it, all on one fixed colour scale."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xray.images.preprocessing import Preprocessing

PANEL_SIDE = 640
"""Long side of the drawn image, pixels."""
MARGIN = 16
FONT_SIZE = 18
BAR_WIDTH = 18
MAX_OPACITY = 0.6

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


def render_heat_map(
    gray: NDArray[np.uint8],
    cam: NDArray[np.floating],
    *,
    preprocessing: Preprocessing,
    scale: float,
    caption: Sequence[str],
) -> Image.Image:
    """Draw an image beside the same image with its heat map, with a legend and a caption.

    Only areas that raised the logit (positive CAM) are coloured. The colour scale is the same for all images, so an
    image without such areas stays gray.

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

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    long_side = max(gray.shape)
    height, width = (max(1, round(side * PANEL_SIDE / long_side)) for side in gray.shape)
    image = np.asarray(Image.fromarray(gray).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    evidence = np.clip(cam_at_image_size(cam, height, width, preprocessing) / scale, 0, 1)
    overlay = blend(image, evidence)
    font = ImageFont.load_default(FONT_SIZE)
    legend_width = BAR_WIDTH + 4 * FONT_SIZE
    line = round(FONT_SIZE * 1.4)
    lines = [wrapped for text in caption for wrapped in wrap_text(text, 2 * width + legend_width + MARGIN, font)]
    canvas = Image.new(
        "RGB", (2 * width + legend_width + 4 * MARGIN, height + line * len(lines) + 3 * MARGIN), (16, 16, 16)
    )
    canvas.paste(Image.fromarray(image), (MARGIN, MARGIN))
    canvas.paste(Image.fromarray(overlay), (2 * MARGIN + width, MARGIN))
    draw = ImageDraw.Draw(canvas)
    _draw_legend(canvas, draw, (3 * MARGIN + 2 * width, MARGIN), height, scale, font)
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


def overlay(
    cam: NDArray[np.floating], height: int, width: int, *, preprocessing: Preprocessing, scale: float
) -> Image.Image:
    """Draw only the heat map, to be laid over its image: `blend` draws the same, to within two gray levels.

    Parameters
    ----------
    cam : ndarray of float, (h, w)
        The image's class activation map, in units of the logit.
    height, width : int
        The size of the picture that it is laid over, pixels.
    preprocessing : Preprocessing
        The preprocessing that made the network's input from the image.
    scale : float
        The CAM value at the top of the colour scale, in units of the logit.

    Returns
    -------
    PIL.Image.Image
        A palette of 256 colours, each with its opacity; transparent where the evidence is 0.
    """
    evidence = np.clip(cam_at_image_size(cam, height, width, preprocessing) / scale, 0, 1)
    # The opacity grows with the square root, so steps of it are even where steps of the evidence would show.
    steps = np.linspace(0, 1, 256)
    drawn = Image.fromarray(_to_uint8(255 * np.sqrt(evidence)))
    drawn.putpalette(np.column_stack([colour(steps**2), _to_uint8(255 * MAX_OPACITY * steps)]).tobytes(), "RGBA")
    return drawn


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
    """Draw the colour scale over mid-gray, from a CAM of 0 (bottom) to ``scale`` and more (top)."""
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
