"""Recipes refuse settings that contradict each other."""

import dataclasses

import pytest

from tests.training.recipes import SMALL
from training.recipes import Stage
from xray.errors import UsageError


def test_a_stage_that_trains_nothing_and_a_recipe_that_never_trains_the_head_are_refused() -> None:
    with pytest.raises(UsageError, match="must train the head, layers of the backbone, or both"):
        Stage(trainable_layers=0, epochs=1, learning_rate=1e-3, head=False)
    with pytest.raises(UsageError, match="negative images per positive image cannot be -1"):
        Stage(trainable_layers=0, epochs=1, learning_rate=1e-3, negatives=-1)
    for stages, why in (
        ((Stage(6, 1, 1e-3, head=False),), "no stage trains the head"),
        ((Stage(6, 1, 1e-3), Stage(0, 1, 1e-3)), "cannot follow one that trains backbone layers"),
    ):
        with pytest.raises(UsageError, match=why):
            dataclasses.replace(SMALL, stages=stages)


def test_one_epoch_is_written_in_the_singular() -> None:
    assert str(Stage(0, 1, 1e-3)) == "train the head, 1 epoch, initial learning rate 0.001"
    assert "top 6 backbone layers and the head, 2 epochs" in str(Stage(6, 2, 1e-3))
