"""Heat maps: colour is drawn where the CAM is positive, and nowhere else."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from xray.images.preprocessing import Geometry, Preprocessing
from xray.network.engine import stored_cams
from xray.network.heatmap import (
    DARK,
    DARK_NOTE,
    FONT_SIZE,
    MARGIN,
    NOTHING_NOTE,
    OWN_SCALE_NOTE,
    cam_at_image_size,
    colour,
    render_heat_map,
    scale_note,
    wrap_text,
)


def panels(image: Image.Image, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop the image and the overlay from a rendered heat map."""
    pixels = np.asarray(image).astype(int)
    rows = slice(MARGIN, MARGIN + height)
    return pixels[rows, MARGIN : MARGIN + width], pixels[rows, 2 * MARGIN + width : 2 * MARGIN + 2 * width]


def render(gray: np.ndarray, cam: np.ndarray, geometry: Geometry = "pad", caption: str = "a caption") -> Image.Image:
    return render_heat_map(gray, cam, preprocessing=Preprocessing(64, geometry), scale=2.0, caption=[caption])


@pytest.mark.parametrize("geometry", ["pad", "squash"])
@pytest.mark.parametrize("shape", [(640, 320), (320, 640), (640, 640)])
def test_evidence_is_drawn_where_it_is_in_the_image(geometry: Geometry, shape: tuple[int, int]) -> None:
    preprocessing = Preprocessing(64, geometry)
    gray = np.zeros(shape, np.uint8)
    height, width = shape
    gray[height // 4 : height // 2, width // 2 : 3 * width // 4] = 255
    # the map of a network that detects brightness: the preprocessed image, reduced to 8 x 8
    cam = preprocessing.apply(gray).reshape(8, 8, 8, 8).mean(axis=(1, 3)) / 255
    resized = cam_at_image_size(cam, height, width, preprocessing)
    assert resized.shape == shape
    centre = np.array([np.average(axis, weights=resized) for axis in np.indices(shape)])
    np.testing.assert_allclose(centre / shape, [0.375, 0.625], atol=0.02)


def test_evidence_beyond_what_the_database_can_hold_is_drawn_where_it_is() -> None:
    cam = np.zeros((4, 4), np.float32)
    cam[1, 1], cam[2, 2] = 1e6, -1e6
    kept = cam_at_image_size(stored_cams(cam), 64, 64, Preprocessing(64, "pad"))
    assert np.isfinite(kept).all()
    assert np.unravel_index(np.argmax(kept), kept.shape) == pytest.approx((23.5, 23.5), abs=4)
    assert stored_cams(np.float32([0.1, -3.5])).tolist() == np.float16([0.1, -3.5]).tolist()


def test_an_image_without_evidence_is_drawn_unchanged() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (640, 400), np.uint8)
    image, overlay = panels(render(gray, np.full((7, 7), -3.0)), 640, 400)
    np.testing.assert_array_equal(overlay, image)
    np.testing.assert_array_equal(image[..., 0], gray)


def test_the_scale_is_the_cards_and_does_not_adapt_to_the_image() -> None:
    gray = np.full((640, 640), 96, np.uint8)
    changes = []
    for top in (0.02, 0.2, 2.0, 4.0):
        image, overlay = panels(render(gray, np.full((7, 7), top)), 640, 640)
        changes.append(np.abs(overlay - image).sum())
    assert changes[0] < changes[1] < changes[2] == changes[3]
    assert changes[0] < 0.15 * changes[2]


def test_colours_grow_steadily_lighter() -> None:
    lightness = colour(np.linspace(0, 1, 256)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) >= -0.5).all()
    assert lightness[-1] - lightness[0] > 200


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (64, 64), (2880, 2304)])
def test_images_of_any_shape_are_drawn(shape: tuple[int, int]) -> None:
    image = render(np.zeros(shape, np.uint8), np.ones((7, 7)))
    assert image.mode == "RGB"
    assert max(image.size) < 1500


def test_a_name_longer_than_a_line_is_broken_within() -> None:
    font = ImageFont.load_default(FONT_SIZE)
    name = "1.2.840.113619.2.55/" * 20
    lines = wrap_text(f"{name} short words", 300, font)
    assert max(font.getlength(each) for each in lines) <= 300
    assert "".join(lines).replace(" ", "") == f"{name}shortwords"


@pytest.mark.parametrize(("name", "drawn"), [("Jos\u00e9", "Jos\\xe9"), ("\u05e9", "\\u05e9"), ("a\x1bb", "a\\x1bb")])
def test_characters_that_the_font_lacks_are_drawn_as_escape_sequences(name: str, drawn: str) -> None:
    gray, cam = np.zeros((64, 64), np.uint8), np.ones((2, 2))
    assert render(gray, cam, caption=name).tobytes() == render(gray, cam, caption=drawn).tobytes()


def test_a_long_caption_is_broken_into_lines() -> None:
    gray = np.zeros((64, 64), np.uint8)
    short, long = (render(gray, np.ones((2, 2)), caption="word " * count) for count in (2, 200))
    assert long.width == short.width
    assert long.height > short.height


def test_an_own_scale_ends_at_the_images_highest_value_and_its_legend_says_so() -> None:
    gray = np.full((640, 640), 96, np.uint8)
    pictures = {}
    for top in (0.02, 4.0):
        for own in (False, True):
            cam = np.zeros((7, 7))
            cam[3, 3] = top
            pictures[top, own] = np.asarray(
                render_heat_map(
                    gray, cam, preprocessing=Preprocessing(64, "pad"), scale=2.0, caption=["a"], own_scale=own
                )
            )
    np.testing.assert_array_equal(pictures[0.02, True], pictures[4.0, True])
    legend = slice(2 * 640 + 3 * MARGIN, None)
    assert (pictures[0.02, False][:, legend] == pictures[4.0, False][:, legend]).all()
    assert (pictures[0.02, False][:, legend] != pictures[0.02, True][:, legend]).any()


def test_without_evidence_an_own_scale_draws_nothing_either() -> None:
    gray = np.full((640, 640), 96, np.uint8)
    cam = np.full((7, 7), -1.0)
    drawn = render_heat_map(gray, cam, preprocessing=Preprocessing(64, "pad"), scale=2.0, caption=["a"], own_scale=True)
    image, overlay = panels(drawn, 640, 640)
    np.testing.assert_array_equal(overlay, image)


@pytest.mark.parametrize(
    ("highest", "positive", "own_scale", "note"),
    [
        (DARK * 2 - 0.01, True, False, DARK_NOTE),
        (DARK * 2 - 0.01, False, False, None),
        (DARK * 2 + 0.01, True, False, None),
        (1.9, True, True, OWN_SCALE_NOTE),
        (-0.1, True, False, NOTHING_NOTE),
        (-0.1, False, True, NOTHING_NOTE),
    ],
)
def test_a_reader_is_told_when_colours_mean_less_than_they_seem_to(
    highest: float, positive: bool, own_scale: bool, note: str | None
) -> None:
    cam = np.array([[-3.0, highest]])
    assert scale_note(cam, 2.0, positive=positive, own_scale=own_scale) == note
