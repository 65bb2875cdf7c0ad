"""Pictures of explanations."""

import numpy as np
import pytest

from training.explain.drawing import GAP, LABEL, draw_map
from training.explain.input_images import InputImage
from xray.images.preprocessing import Preprocessing


@pytest.mark.parametrize("scale", [475.38751220703125, 1.2345e-05, 0.0])
def test_the_number_at_the_top_of_the_legend_is_not_cut_off(scale: float) -> None:
    gray = np.full((480, 300), 128, np.uint8)
    image = InputImage("a.png", gray, np.zeros((64, 64), np.uint8), (0, 0, 64, 64))
    drawn = np.asarray(draw_map(image, np.zeros((4, 4)), scale, Preprocessing(64, "squash"), []))
    legend = drawn[GAP + LABEL : GAP + LABEL + 20, 3 * GAP + 600 : -GAP]
    assert (legend[:, 16:] < 128).any()
    # Each letter ends before the picture does.
    assert (legend[:, -1] == 255).all()
