"""Pictures: a layer's Grad-CAM and channels beside the film, and maps in a row as the network forgets."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.explain.grad_cam import InputImage
from training.explain.layers import Channels, to_unit_range
from training.explain.map_check import Check
from training.explain.randomisation import Cascade
from xray.images.preprocessing import Preprocessing
from xray.network.heatmap import blend, cam_at_image_size, colour, wrap_text

GAP = 16
BAR = 14
LABEL = 20
SMALL = 14
LEAST_TILE = 36
ROW_SIDE = 150
INK, PAPER = (32, 32, 32), (255, 255, 255)


def draw_layer(
    film: InputImage,
    cam: NDArray[np.floating],
    scale: float,
    channels: Channels,
    preprocessing: Preprocessing,
    caption: Sequence[str],
) -> Image.Image:
    """Draw a film, the film under a layer's Grad-CAM with a legend, and the layer's most active channels, numbered.

    Parameters
    ----------
    film : Film
        The radiograph.
    cam : ndarray of float, (h, w)
        Signed Grad-CAM; what is negative is not drawn.
    scale : float
        Its value at the colours' top; 0 draws nothing.
    channels : Channels
        n channels; each is drawn from its own least to its own greatest value over the film.
    preprocessing : Preprocessing
        How the film became the network's input.
    caption : sequence of str
        Lines below the pictures.

    Returns
    -------
    PIL.Image.Image
        RGB, on white.
    """
    height, width = film.gray.shape
    font = ImageFont.load_default(SMALL)
    grid = _channel_grid(channels, height, width, preprocessing, font)
    parts = [
        ("film", Image.fromarray(film.gray).convert("RGB")),
        ("Grad-CAM", Image.fromarray(overlay(film, cam, scale, preprocessing))),
        ("", _legend(height, scale, font)),
        (f"the {len(channels.numbers)} most active channels", grid),
    ]
    return _beside(parts, caption, font)


def overlay(
    film: InputImage, cam: NDArray[np.floating], scale: float, preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Colour a film by the positive part of a map.

    Parameters
    ----------
    film : Film
        The radiograph, ``(H, W)`` as drawn.
    cam : ndarray of float, (h, w)
        Signed.
    scale : float
        The value at the colours' top; 0 draws nothing.
    preprocessing : Preprocessing
        How the film became the network's input.

    Returns
    -------
    ndarray of uint8, (H, W, 3)
    """
    height, width = film.gray.shape
    values = cam_at_image_size(cam, height, width, preprocessing)
    evidence = np.clip(values / scale, 0, 1) if scale > 0 else np.zeros(values.shape)
    return blend(np.repeat(film.gray[..., None], 3, axis=-1), evidence)


def draw_rows(
    films: Sequence[InputImage], maps: NDArray[np.floating], titles: Sequence[str], preprocessing: Preprocessing
) -> Image.Image:
    """Draw each film's maps in a row, each from its own least to its own greatest value, as rank correlation sees them.

    Parameters
    ----------
    films : sequence of Film
        N films.
    maps : ndarray of float, (S, N, h, w)
        Signed.
    titles : sequence of str
        S column titles.
    preprocessing : Preprocessing
        How films became the network's input.

    Returns
    -------
    PIL.Image.Image
        RGB, on white, one square cell of 150 pixels a map.
    """
    step = ROW_SIDE + GAP // 2
    canvas = Image.new("RGB", (len(titles) * step, LABEL + len(films) * step), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(SMALL)
    for column, title in enumerate(titles):
        draw.text((column * step, 0), title, fill=INK, font=font)
        for row, film in enumerate(films):
            picture = Image.fromarray(overlay(film, to_unit_range(maps[column, row]), 1.0, preprocessing))
            picture.thumbnail((ROW_SIDE, ROW_SIDE))
            canvas.paste(picture, (column * step, LABEL + row * step))
    return canvas


def _channel_grid(
    channels: Channels,
    height: int,
    width: int,
    preprocessing: Preprocessing,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Image.Image:
    columns = int(np.ceil(np.sqrt(len(channels.numbers))))
    rows = -(-len(channels.numbers) // columns)
    tile_height = max(LEAST_TILE, height // rows - LABEL)
    tile_width = max(LEAST_TILE, round(tile_height * width / height))
    step_x, step_y = tile_width + GAP // 2, tile_height + LABEL
    grid = Image.new("RGB", (columns * step_x, rows * step_y), PAPER)
    draw = ImageDraw.Draw(grid)
    for place, (number, values) in enumerate(zip(channels.numbers, channels.grids, strict=True)):
        left, top = place % columns * step_x, place // columns * step_y
        seen = to_unit_range(cam_at_image_size(values, tile_height, tile_width, preprocessing))
        grid.paste(Image.fromarray(colour(seen)), (left, top))
        draw.text((left, top + tile_height + 1), str(number), fill=INK, font=font)
    return grid


def _legend(height: int, scale: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> Image.Image:
    """Draw the bar as the colours look over mid-gray, from no evidence (bottom) to ``scale`` (top)."""
    legend = Image.new("RGB", (BAR + 5 * SMALL, height), PAPER)
    evidence = np.repeat(np.linspace(1, 0, height)[:, None], BAR, axis=1)
    legend.paste(Image.fromarray(blend(np.full((height, BAR, 3), 96, np.uint8), evidence)), (0, 0))
    draw = ImageDraw.Draw(legend)
    draw.text((BAR + 4, 0), f">= {scale:.2g}", fill=INK, font=font, anchor="lt")
    draw.text((BAR + 4, height), "0", fill=INK, font=font, anchor="lb")
    return legend


def _beside(
    parts: Sequence[tuple[str, Image.Image]],
    caption: Sequence[str],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> Image.Image:
    """Put titled pictures beside each other, and the caption below them all."""
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


ACCENT, SECOND, GRID = "#1f5f8b", "#b5651d", "#d9d9d9"
DPI = 160


def draw_forgetting(cascade: Cascade) -> bytes:
    """Draw rank correlation and SSIM against the stages randomised, mean and range over draws; PNG."""
    figure = Figure((6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(cascade.stages) + 1)
    for name, values, ink in (
        ("rank correlation (Spearman)", cascade.rank_correlations, ACCENT),
        ("SSIM", cascade.similarities, SECOND),
    ):
        draws = np.pad(values.mean(axis=2), ((0, 0), (1, 0)), constant_values=1.0)
        axes.fill_between(places, draws.min(axis=0), draws.max(axis=0), color=ink, alpha=0.15, linewidth=0)
        axes.plot(places, draws.mean(axis=0), color=ink, marker="o", markersize=4, label=name)
    axes.axhline(0, color="#202020", linewidth=0.8)
    axes.set_xticks(places, ["as trained", *cascade.stages], fontsize=8)
    axes.set(xlabel="randomised down to, layers of this size included", ylabel="with the trained map", ylim=(-1, 1.05))
    _finish(axes)
    return _png(figure)


def draw_areas(check: Check) -> bytes:
    """Draw the mean deletion and insertion curves, and those of random orders; PNG."""
    figure = Figure((6.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, own, chance in (
        (left, "deletion", [c.deletion for c in check.curves], [c.random_deletion for c in check.curves]),
        (right, "insertion", [c.insertion for c in check.curves], [c.random_insertion for c in check.curves]),
    ):
        shares = np.linspace(0, 1, 41)
        axes.plot(shares, _mean_curve(check, own, shares), color=ACCENT, label="in the map's order")
        average = [each.mean(axis=0) for each in chance]
        axes.plot(shares, _mean_curve(check, average, shares), color=SECOND, linestyle="--", label="in random order")
        axes.set(xlabel="share of the film", title=title, ylim=(0, 1))
        _finish(axes)
    left.set_ylabel("mean probability")
    return _png(figure)


def _mean_curve(check: Check, curves: list[NDArray[np.float64]], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average curves whose films have different numbers of cells."""
    sampled = [np.interp(shares, each.shares, curve) for each, curve in zip(check.curves, curves, strict=True)]
    return np.asarray(np.mean(sampled, axis=0), np.float64)


def _finish(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()
