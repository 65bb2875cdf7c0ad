"""Data augmentation: reproducible, and geometrically exact."""

import numpy as np

from training.fit.augment import augment
from training.recipes import Augmentation

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 96, 96), np.uint8)


def test_images_are_changed_the_same_way_for_the_same_seed_and_not_at_all_without_augmentation() -> None:
    indices = np.arange(3)
    everything = Augmentation(flip=True, rotation=10, scale=0.1, shift=0.1, gain=0.2, gamma=0.2)
    np.testing.assert_array_equal(augment(IMAGES, indices, Augmentation(), (1,)), IMAGES)
    changed = augment(IMAGES, indices, everything, (1,))
    np.testing.assert_array_equal(augment(IMAGES, indices, everything, (1,)), changed)
    np.testing.assert_array_equal(augment(IMAGES, indices[1:], everything, (1,)), changed[1:])
    assert (augment(IMAGES, indices, everything, (2,)) != changed).mean() > 0.5


def test_a_flipped_image_is_mirrored_and_a_rotated_one_is_rotated_about_its_centre() -> None:
    many = np.repeat(IMAGES[:1], 32, axis=0)
    flipped = augment(many, np.arange(32), Augmentation(flip=True), (0,))
    mirrored = [bool((image == IMAGES[0, :, ::-1]).all()) for image in flipped]
    assert 8 < sum(mirrored) < 24
    assert all(m or (image == IMAGES[0]).all() for m, image in zip(mirrored, flipped, strict=True))
    disc = np.hypot(*(np.indices((65, 65)) - 32)) < 20
    rotated = augment((255 * disc[None]).astype(np.uint8), np.arange(1), Augmentation(rotation=90), (0,))[0]
    assert ((rotated > 127) != disc).mean() < 0.01
