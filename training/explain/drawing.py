"""Pictures and plots of explanations: layers beside the radiograph, and the results of the map check."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.explain.input_images import InputImage
from training.explain.layers import Channels, to_unit_range
from training.explain.map_check import MapCheck
from training.explain.randomisation import RandomisationTest
from training.report_page import BLUE, GRAY, ORANGE, in_report_style
from xray.images.preprocessing import Preprocessing
from xray.network.heatmap import blend, cam_at_image_size, colour, wrap_text

GAP = 16
BAR = 14
LABEL = 20
FONT_SIZE = 14
LEAST_TILE = 36
MAP_SIDE = 150
INK, PAPER = (32, 32, 32), (255, 255, 255)
PLOT_SIZE = (6.4, 3.2)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def draw_layer(
    image: InputImage,
    cam: NDArray[np.floating],
    scale: float,
    channels: Channels,
    preprocessing: Preprocessing,
    caption: Sequence[str],
) -> Image.Image:
    """Draw an image, the image under a layer's Grad-CAM with a legend, and the layer's most active channels, numbered.

    Parameters
    ----------
    image : InputImage
        The radiograph.
    cam : ndarray of float, (h, w)
        Signed Grad-CAM; negative values are not drawn.
    scale : float
        The value that gets the top colour; 0 draws nothing.
    channels : Channels
        n channels; the colours of each reach from its minimum to its maximum.
    preprocessing : Preprocessing
        How the image became the network's input.
    caption : sequence of str
        Lines below the pictures.

    Returns
    -------
    PIL.Image.Image
        RGB, on white.
    """
    height, width = image.gray.shape
    font = ImageFont.load_default(FONT_SIZE)
    parts = [
        *_radiograph_and_map(image, "Grad-CAM", cam, scale, preprocessing, font),
        (
            f"the {len(channels.numbers)} most active channels",
            _channel_grid(channels, height, width, preprocessing, font),
        ),
    ]
    return _side_by_side(parts, caption, font)


def draw_map(
    image: InputImage, cam: NDArray[np.floating], scale: float, preprocessing: Preprocessing, caption: Sequence[str]
) -> Image.Image:
    """Draw an image, and the image under the network's own map with a legend.

    Parameters
    ----------
    image : InputImage
        The radiograph.
    cam : ndarray of float, (h, w)
        Signed class activation map; negative values are not drawn.
    scale : float
        The value that gets the top colour; from the model's card.
    preprocessing : Preprocessing
        How the image became the network's input.
    caption : sequence of str
        Lines below the pictures.

    Returns
    -------
    PIL.Image.Image
        RGB, on white.
    """
    font = ImageFont.load_default(FONT_SIZE)
    return _side_by_side(_radiograph_and_map(image, "the model's map", cam, scale, preprocessing, font), caption, font)


def overlay(
    image: InputImage, cam: NDArray[np.floating], scale: float, preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Colour an image by the positive part of a map.

    Parameters
    ----------
    image : InputImage
        The radiograph, ``(H, W)`` as drawn.
    cam : ndarray of float, (h, w)
        Signed.
    scale : float
        The value that gets the top colour; 0 draws nothing.
    preprocessing : Preprocessing
        How the image became the network's input.

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    height, width = image.gray.shape
    values = cam_at_image_size(cam, height, width, preprocessing)
    evidence = np.clip(values / scale, 0, 1) if scale > 0 else np.zeros(values.shape)
    return blend(np.repeat(image.gray[..., None], 3, axis=-1), evidence)


def draw_map_rows(
    images: Sequence[InputImage], maps: NDArray[np.floating], titles: Sequence[str], preprocessing: Preprocessing
) -> Image.Image:
    """Draw the maps of each image in a row, each from its minimum to its maximum, as ranks compare them.

    Parameters
    ----------
    images : sequence of InputImage
        N images.
    maps : ndarray of float, (S, N, h, w)
        Signed.
    titles : sequence of str
        S column titles.
    preprocessing : Preprocessing
        How the images became the network's input.

    Returns
    -------
    PIL.Image.Image
        RGB, on white, with one square of 150 pixels for each map.
    """
    step = MAP_SIDE + GAP // 2
    canvas = Image.new("RGB", (len(titles) * step, LABEL + len(images) * step), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for column, title in enumerate(titles):
        draw.text((column * step, 0), title, fill=INK, font=font)
        for row, image in enumerate(images):
            picture = Image.fromarray(overlay(image, to_unit_range(maps[column, row]), 1.0, preprocessing))
            picture.thumbnail((MAP_SIDE, MAP_SIDE))
            canvas.paste(picture, (column * step, LABEL + row * step))
    return canvas


def _radiograph_and_map(
    image: InputImage,
    title: str,
    cam: NDArray[np.floating],
    scale: float,
    preprocessing: Preprocessing,
    font: Font,
) -> list[tuple[str, Image.Image]]:
    return [
        ("radiograph", Image.fromarray(image.gray).convert("RGB")),
        (title, Image.fromarray(overlay(image, cam, scale, preprocessing))),
        ("", _legend(image.gray.shape[0], scale, font)),
    ]


def _channel_grid(channels: Channels, height: int, width: int, preprocessing: Preprocessing, font: Font) -> Image.Image:
    columns = int(np.ceil(np.sqrt(len(channels.numbers))))
    rows = -(-len(channels.numbers) // columns)
    tile_height = max(LEAST_TILE, height // rows - LABEL)
    tile_width = max(LEAST_TILE, round(tile_height * width / height))
    step_x, step_y = tile_width + GAP // 2, tile_height + LABEL
    grid = Image.new("RGB", (columns * step_x, rows * step_y), PAPER)
    draw = ImageDraw.Draw(grid)
    for position, (number, values) in enumerate(zip(channels.numbers, channels.grids, strict=True)):
        left, top = position % columns * step_x, position // columns * step_y
        tile = to_unit_range(cam_at_image_size(values, tile_height, tile_width, preprocessing))
        grid.paste(Image.fromarray(colour(tile)), (left, top))
        draw.text((left, top + tile_height + 1), str(number), fill=INK, font=font)
    return grid


def _legend(height: int, scale: float, font: Font) -> Image.Image:
    """Draw the bar with the colours as they look over mid-gray, from no evidence (bottom) to `scale` (top)."""
    top = f">= {scale:.3g}"
    legend = Image.new("RGB", (BAR + 8 + ceil(font.getlength(top)), height), PAPER)
    evidence = np.repeat(np.linspace(1, 0, height)[:, None], BAR, axis=1)
    legend.paste(Image.fromarray(blend(np.full((height, BAR, 3), 96, np.uint8), evidence)), (0, 0))
    draw = ImageDraw.Draw(legend)
    draw.text((BAR + 4, 0), top, fill=INK, font=font, anchor="lt")
    draw.text((BAR + 4, height), "0", fill=INK, font=font, anchor="lb")
    return legend


def _side_by_side(parts: Sequence[tuple[str, Image.Image]], caption: Sequence[str], font: Font) -> Image.Image:
    """Place titled pictures side by side, and the caption below all of them."""
    width = sum(picture.width for _, picture in parts) + GAP * (len(parts) + 1)
    height = max(picture.height for _, picture in parts)
    lines = [line for text in caption for line in wrap_text(text, width - 2 * GAP, font)]
    canvas = Image.new("RGB", (width, height + LABEL * len(lines) + LABEL + 3 * GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    left = GAP
    for title, picture in parts:
        draw.text((left, GAP), title, fill=INK, font=font)
        canvas.paste(picture, (left, GAP + LABEL))
        left += picture.width + GAP
    for number, line in enumerate(lines):
        draw.text((GAP, height + LABEL + 2 * GAP + number * LABEL), line, fill=INK, font=font)
    return canvas


@in_report_style
def randomisation_figure(test: RandomisationTest) -> Figure:
    """Draw rank correlation and SSIM against the stages randomised: the mean and the range over draws."""
    figure = Figure(figsize=PLOT_SIZE)
    axes = figure.subplots()
    positions = np.arange(len(test.stages) + 1)
    for name, values, ink in (
        ("rank correlation (Spearman)", test.rank_correlations, BLUE),
        ("SSIM", test.similarities, ORANGE),
    ):
        draws = np.pad(values.mean(axis=2), ((0, 0), (1, 0)), constant_values=1.0)
        axes.fill_between(positions, draws.min(axis=0), draws.max(axis=0), color=ink, alpha=0.15, linewidth=0)
        axes.plot(positions, draws.mean(axis=0), color=ink, marker="o", markersize=4, label=name)
    axes.axhline(0, color=GRAY, linewidth=0.8)
    axes.set_xticks(positions, ["as trained", *test.stages], fontsize=8)
    axes.set(xlabel="randomised down to and including this stage", ylabel="with the trained map", ylim=(-1, 1.05))
    axes.legend()
    return figure


@in_report_style
def deletion_insertion_figure(check: MapCheck) -> Figure:
    """Draw the mean deletion and insertion curves, and those of random orders."""
    figure = Figure(figsize=PLOT_SIZE)
    left, right = figure.subplots(1, 2, sharey=True)
    shares = np.linspace(0, 1, 41)
    for axes, title, own, random in (
        (left, "deletion", [c.deletion for c in check.curves], [c.random_deletion for c in check.curves]),
        (right, "insertion", [c.insertion for c in check.curves], [c.random_insertion for c in check.curves]),
    ):
        axes.plot(shares, _mean_curve(check, own, shares), color=BLUE, label="in the map's order")
        average = [each.mean(axis=0) for each in random]
        axes.plot(shares, _mean_curve(check, average, shares), color=ORANGE, linestyle="--", label="in random order")
        axes.set(xlabel="share of the image", title=title, ylim=(0, 1))
        axes.legend()
    left.set_ylabel("mean probability")
    return figure


def _mean_curve(check: MapCheck, curves: list[NDArray[np.float64]], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the curves of images with different numbers of cells."""
    sampled = [np.interp(shares, each.shares, curve) for each, curve in zip(check.curves, curves, strict=True)]
    return np.asarray(np.mean(sampled, axis=0), np.float64)
