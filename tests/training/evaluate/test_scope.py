"""How unlike the training images an image may be: the threshold, its false alarms, and what else lies beyond it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.dataset import Dataset
from training.data.read_dataset import read_dataset
from training.evaluate.scope import (
    FALSE_ALARMS,
    MARGIN,
    caught,
    choose_distance,
    drawn_pictures,
    false_alarms,
    other_pictures,
    read_pictures,
)
from xray.errors import UsageError
from xray.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(64, "pad")


@pytest.mark.parametrize("number", [1, 10, 99, 100, 101, 1000, 2999])
def test_no_more_held_out_images_than_allowed_are_beyond_the_threshold_without_its_margin(number: int) -> None:
    distances = np.random.default_rng(number).gamma(9, 0.1, number)
    chosen = choose_distance(distances, 64, "10 images of FracAtlas, out of fold")
    assert (distances > chosen.threshold / MARGIN * (1 + 1e-9)).mean() <= FALSE_ALARMS
    assert (distances >= chosen.threshold / MARGIN * (1 - 1e-9)).mean() > FALSE_ALARMS
    assert chosen.chosen == "1.5 times the least that at most 1 % exceed of 10 images of FracAtlas, out of fold"


def test_a_network_to_which_all_images_are_alike_still_gets_a_threshold() -> None:
    assert choose_distance(np.zeros(5), 64, "").threshold > 0


def test_false_alarms_are_given_of_all_of_positive_images_and_of_each_body_part(fracatlas: Path) -> None:
    dataset: Dataset = read_dataset(fracatlas)
    distances = np.where(dataset.labels & (dataset.body_parts == "HAND"), 3.0, 1.0)
    shares = {each.population: each.value for each in false_alarms(distances, dataset, 2.0, "out of fold")}
    assert shares == {
        "FracAtlas, images (n=60), out of fold: false alarms": 0.1667,
        "FracAtlas, positive images (n=20), out of fold: false alarms": 0.5,
        "FracAtlas, images of HAND (n=30), out of fold: false alarms": 0.3333,
        "FracAtlas, images of LEG (n=30), out of fold: false alarms": 0.0,
    }


def test_pictures_of_a_folder_are_read_as_in_screening_each_once_and_others_are_left_out(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 200, (80, 60), np.uint8)
    for name, rows in (("a.png", gray), ("below/copy.png", gray), ("b.jpg", gray[::-1])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rows).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    # Root may read any file, but nobody this one from its beginning.
    (tmp_path / "unreadable.png").symlink_to("/proc/self/mem")
    found = read_pictures(tmp_path, PREPROCESSING)
    assert found.shape == (2, 64, 64)
    np.testing.assert_array_equal(found[0], PREPROCESSING.apply(gray))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"{name} is no folder with pictures that can be read"):
        read_pictures(tmp_path / name, PREPROCESSING)


def test_folders_of_one_name_are_refused_as_one_would_replace_the_other(tmp_path: Path) -> None:
    folders = [tmp_path / "one/chest", tmp_path / "other/chest"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 200, (80, 60), np.uint8)).save(folder / "a.png")
    with pytest.raises(UsageError, match="2 folders of pictures are named 'chest'"):
        other_pictures(folders, PREPROCESSING)


def test_drawn_pictures_differ_and_are_the_same_each_time() -> None:
    drawn = drawn_pictures(64)
    assert len({each.tobytes() for pictures in drawn.values() for each in pictures}) == sum(map(len, drawn.values()))
    for kind, pictures in drawn_pictures(64).items():
        np.testing.assert_array_equal(pictures, drawn[kind])


def test_the_share_beyond_is_that_of_each_kind_of_picture(tmp_path: Path) -> None:
    bright = np.random.default_rng(0).integers(140, 250, (70, 70), np.uint8)
    Image.fromarray(bright).save(tmp_path / "bright.png")
    pictures = other_pictures([tmp_path], PREPROCESSING)
    shares = caught(lambda some: some.mean(axis=(1, 2), dtype=np.float32), pictures, 127.0)
    assert shares[0].population == f"pictures in {tmp_path.name} (n=1)"
    assert shares[0].value == 1
    assert {share.population for share in shares[1:]} == {
        f"drawn pictures, {kind} (n=20)" for kind in ("noise", "blank", "gradients", "shapes", "pages of text")
    }
    noise = next(share for share in shares if "noise" in share.population)
    assert noise.value == round(float((pictures["drawn pictures, noise"].mean(axis=(1, 2)) > 127).mean()), 4)
