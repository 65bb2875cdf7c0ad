"""Deletion and insertion: which maps show the evidence of a score."""

import numpy as np
import pytest

from training.explain.map_check import deletion_insertion


def brightness(images: np.ndarray) -> np.ndarray:
    """Score images by the brightness of their lower left corner alone."""
    return np.asarray(images[:, 48:, :16].mean(axis=(1, 2)) / 255)


def test_deletion_falls_and_insertion_rises_sooner_in_the_order_of_the_true_evidence() -> None:
    image = np.full((64, 64), 20, np.uint8)
    image[48:, :16] = 250
    truth = np.zeros((4, 4))
    truth[3, 0] = 1
    whole = (0, 0, 64, 64)
    right = deletion_insertion(image, truth, brightness, image_box=whole, seed=0)
    assert right.deletion[0] == right.insertion[-1] == pytest.approx(250 / 255)
    assert right.deletion_area < 0.5 * right.random_deletion_area
    assert right.insertion_area > right.random_insertion_area
    wrong = deletion_insertion(image, -truth, brightness, image_box=whole, seed=0)
    assert wrong.deletion_area > wrong.random_deletion_area


def test_padding_is_neither_deleted_nor_counted() -> None:
    shown: list[np.ndarray] = []

    def keep(images: np.ndarray) -> np.ndarray:
        shown.append(images)
        return np.zeros(len(images))

    image = np.zeros((64, 64), np.uint8)
    image[:, 16:48] = 200
    curves = deletion_insertion(image, np.zeros((4, 4)), keep, image_box=(0, 16, 64, 32), seed=0)
    assert len(curves.shares) == 9
    assert not shown[0][..., :16].any()
    assert not shown[0][..., 48:].any()
