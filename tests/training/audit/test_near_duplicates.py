"""Duplicates: each kind is found, and similar images of different people are not."""

from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from tests.training.audit.conftest import audited_image
from tests.training.audit.faulty_data import limb
from training.audit.audited_dataset import AuditedDataset
from training.audit.near_duplicates import DuplicateKind, DuplicatePair, Fingerprints, find_duplicates, join_groups
from training.progress import Progress


def test_each_kind_of_duplicate_is_found_and_no_other_pair(audited: AuditedDataset) -> None:
    images = [Path(image).name for image in audited.dataset.images.tolist()]
    found = {(images[pair.first], images[pair.second]): pair.kind for pair in audited.pairs}
    hostile = next(image for image in images if "script" in image)
    assert found == {
        ("image01.png", "exact.png"): DuplicateKind.BYTES,
        ("image02.png", "tiff.tif"): DuplicateKind.PIXELS,
        ("image20.png", hostile): DuplicateKind.BYTES,
        ("image04.png", "jpeg.jpg"): DuplicateKind.NEAR,
        ("image07.png", "smaller.png"): DuplicateKind.NEAR,
        ("image08.png", "brighter.png"): DuplicateKind.NEAR,
        ("image13.png", "relabelled.jpg"): DuplicateKind.NEAR,
        ("image16.png", "elsewhere.jpg"): DuplicateKind.NEAR,
        ("image10.png", "mirrored.png"): DuplicateKind.MIRRORED,
        ("image11.png", "inverted.png"): DuplicateKind.INVERTED,
    }


def test_images_of_one_view_and_random_textures_are_not_duplicates() -> None:
    rng = np.random.default_rng(3)
    limbs = [audited_image(limb(seed), f"limb{seed}") for seed in range(300)]
    blurred = np.kron(rng.integers(0, 256, (100, 8, 8), np.uint8), np.ones((1, 16, 16), np.uint8))
    textures = [audited_image(texture, f"texture{place}") for place, texture in enumerate(blurred)]
    assert find_duplicates([*limbs, *textures], Progress()) == ()


def test_each_copy_of_a_file_makes_one_pair_with_the_first() -> None:
    images = [audited_image(limb(0), "same")] * 50
    pairs = find_duplicates(images, Progress())
    assert [(pair.first, pair.second) for pair in pairs] == [(0, place) for place in range(1, 50)]


def test_hashes_equal_those_of_imagehash() -> None:
    image = np.asarray(Image.fromarray(limb(5)).resize((64, 64)))
    (found,) = Fingerprints.of(image[None]).hashes.tolist()
    assert int(found).to_bytes(8, "little").hex() == str(imagehash.phash(Image.fromarray(image)))


def test_an_image_that_is_mirrored_and_inverted_is_found() -> None:
    images = [audited_image(limb(seed), str(seed)) for seed in range(20)]
    (pair,) = find_duplicates([*images, audited_image(255 - limb(7)[:, ::-1], "again")], Progress())
    assert (pair.first, pair.second, pair.kind) == (7, 20, DuplicateKind.MIRRORED_INVERTED)


def test_groups_are_joined_over_several_steps_under_the_first_name() -> None:
    pairs = [
        DuplicatePair(0, 2, DuplicateKind.NEAR, 1.0),
        DuplicatePair(4, 2, DuplicateKind.NEAR, 1.0),
        DuplicatePair(5, 4, DuplicateKind.NEAR, 1.0),
    ]
    joined = join_groups(["c", "x", "b", "y", "d", "a"], pairs)
    assert joined == {"c": "a", "b": "a", "d": "a", "a": "a", "x": "x", "y": "y"}
