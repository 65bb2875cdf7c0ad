"""The pointing game and the map's mass: what counts as a hit, what chance gives, and their intervals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.annotations import Annotation
from training.data.dataset import OWN_DATA, Dataset, Example
from training.evaluate.pointing import find_point, measure_pointing
from training.evaluate.predictions import NetworkOutputs
from xray.images.preprocessing import Preprocessing

SQUARE, PADDED = Preprocessing(224, "squash"), Preprocessing(224, "pad")
CENTRE = Annotation((0.45, 0.45, 0.1, 0.1))


def example(*annotations: Annotation, size: tuple[int, int] = (448, 448), number: int = 0) -> Example:
    return Example(f"{number}.png", "s", f"g{number // 2}", True, "HAND", annotations=annotations, size=size)


def map_of(row: int, column: int, side: int = 7) -> NDArray[np.float64]:
    """Return a map with evidence in one cell, and much against the finding in the others."""
    cam = np.full((side, side), -5.0)
    cam[row, column] = 2.0
    return cam


def is_hit(cam: NDArray[np.float64], marked: Example, preprocessing: Preprocessing = SQUARE) -> bool:
    return find_point(marked, cam, preprocessing).is_hit


def test_the_greatest_cell_is_a_hit_where_it_touches_a_box() -> None:
    # The cells of a 7 x 7 map around the middle one end at 3/7 = 0.429 and 4/7 = 0.571.
    assert is_hit(map_of(3, 3), example(CENTRE))
    assert not is_hit(map_of(3, 4), example(CENTRE))
    assert is_hit(map_of(3, 4), example(Annotation((0.45, 0.45, 0.13, 0.1))))
    assert not is_hit(map_of(2, 3), example(CENTRE))
    assert is_hit(map_of(2, 3), example(Annotation((0.0, 0.0, 0.1, 0.1)), Annotation((0.45, 0.42, 0.1, 0.1))))


def test_a_finer_map_has_the_same_tolerance() -> None:
    # From 0.45 - 1/14 = 0.379 to 0.55 + 1/14 = 0.621; the centre of column c is at (c + 0.5) / 28.
    hits = [column for column in range(28) if is_hit(map_of(14, column, 28), example(CENTRE))]
    assert hits == [11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("value", [-1.0, 0.0, 3.0])
def test_a_map_that_is_the_same_everywhere_points_nowhere(value: float) -> None:
    corner = example(Annotation((0.0, 0.0, 0.2, 0.2)))
    assert not is_hit(np.full((28, 28), value), corner)
    assert is_hit(map_of(0, 0, 28), corner)


def test_padding_is_no_part_of_the_image() -> None:
    # 224 pixels high and 112 wide in the square: 0.25 to 0.75 across.
    left_edge = example(Annotation((0.0, 0.4, 0.1, 0.2)), size=(400, 200))
    assert is_hit(map_of(3, 2), left_edge, PADDED)
    assert not is_hit(map_of(3, 0), left_edge, PADDED)
    found = find_point(left_edge, map_of(3, 2), PADDED)
    assert found.finding_area == pytest.approx(0.1 * 0.2, rel=0.02)
    assert found.hit_area == pytest.approx((0.1 + 1 / 7) * (0.2 + 1 / 7), rel=0.02)


@pytest.mark.parametrize(
    ("preprocessing", "size"), [(Preprocessing(28, "squash"), (448, 448)), (Preprocessing(28, "pad"), (448, 224))]
)
def test_the_chance_level_is_what_points_anywhere_on_the_image_reach(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    marked = example(Annotation((0.05, 0.1, 0.3, 0.2)), Annotation((0.2, 0.25, 0.3, 0.3)), size=size)
    side = 28
    left = 0 if size[0] == size[1] else side // 4
    cells = [(row, column) for row in range(side) for column in range(left, side - left)]
    hits = [is_hit(map_of(row, column, side), marked, preprocessing) for row, column in cells]
    chance = find_point(marked, map_of(0, 0), preprocessing).hit_area
    assert np.mean(hits) == pytest.approx(chance, abs=0.03)
    assert 0.2 < chance < 0.6


def test_the_mass_is_the_share_of_the_positive_values_on_the_boxes() -> None:
    quarter = example(Annotation((0.0, 0.0, 0.5, 0.5)))
    assert find_point(quarter, map_of(1, 1, 8), SQUARE).mass == pytest.approx(1)
    assert find_point(quarter, map_of(1, 6, 8), SQUARE).mass == 0
    assert find_point(quarter, np.full((7, 7), 0.1), SQUARE).mass == pytest.approx(0.25)
    assert find_point(quarter, np.full((7, 7), -0.1), SQUARE).mass == 0
    # Two cells in two, of which one lies on the box to a half.
    assert find_point(quarter, np.array([[-1.0, 3.0, 1.0]]), SQUARE).mass == pytest.approx(0.25 * 0.75)
    outlined = replace(quarter.annotations[0], polygons=((0.0, 0.0, 0.1, 0.0, 0.0, 0.1),))
    assert find_point(example(outlined), map_of(2, 2, 8), SQUARE).mass == pytest.approx(1)


def dataset(number: int = 40) -> Dataset:
    marked = [example(CENTRE, number=i) for i in range(number)]
    marked[::4] = [replace(each, body_part="LEG") for each in marked[::4]]
    negatives = [Example(f"n{i}.png", "s", f"n{i}", False, "HAND", size=(448, 448)) for i in range(5)]
    unmarked = [example(number=100 + i) for i in range(5)]
    return Dataset(Path(), OWN_DATA, "fracture", (*marked, *negatives, *unmarked))


def test_marked_positive_images_are_measured_with_intervals_of_whole_groups() -> None:
    # Both images of a group point at the centre, or neither, and every other group does.
    cams = np.stack([map_of(3, 3 if i // 2 % 2 else 0) for i in range(50)])
    everyone, upper_limb = measure_pointing(dataset(), cams, SQUARE)
    assert (everyone.name, everyone.n, everyone.groups, everyone.game.value) == ("all", 40, 20, 0.5)
    assert (upper_limb.name, upper_limb.n) == ("upper limb", 30)
    low, high = everyone.game.low, everyone.game.high
    assert low is not None
    assert high is not None
    # Of 20 independent groups the standard error is 0.112, of 40 images it would be 0.079.
    assert 0.38 < high - low <= 0.5
    assert everyone.mass_by_chance == pytest.approx(0.01, rel=0.05)


def test_few_groups_have_no_interval_and_without_marks_nothing_is_measured() -> None:
    few = dataset(6)
    everyone, _ = measure_pointing(few, np.stack([map_of(3, 3)] * len(few)), SQUARE)
    assert (everyone.game.value, everyone.game.low) == (1.0, None)
    assert everyone.missing == "no intervals: 3 groups, and 5 are needed"
    without = few.select(np.array([not each.annotations for each in few.examples]))
    assert measure_pointing(without, np.stack([map_of(3, 3)] * len(without)), SQUARE) == ()


def test_outputs_of_folds_are_joined_in_the_order_of_the_images() -> None:
    maps = np.arange(5 * 4, dtype=np.float16).reshape(5, 2, 2)
    whole = NetworkOutputs(np.arange(5.0), np.arange(5.0) + 10, maps, np.arange(5.0) + 20)
    parts = [
        (places, NetworkOutputs(*(part[places] for part in (whole.logits, whole.cam_maxima, maps, whole.distances))))
        for places in (np.array([1, 4]), np.array([0, 3]), np.array([2]))
    ]
    joined = NetworkOutputs.join(parts)
    for name in ("logits", "cam_maxima", "cams", "distances"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
