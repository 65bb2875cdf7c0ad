"""Leakage: which images of a data set a model was trained on, and which part of it to evaluate the model on.

A model package lists the images it was trained with by the SHA-256 of their files, so renaming images or groups does
not hide them.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from training.data.dataset import OWN_DATA, Dataset, Role
from training.data.split import SPLIT_FILE, Split, read_split
from training.disk import read_table, table_text
from xray.errors import UsageError
from xray.network.package import ModelPackage, file_sha256
from xray.vocabulary import count

TRAINING_IMAGES_FILE = "training_images.csv"
"""Table ``sha256,role`` in a model package."""

EARLIER_NAME = "films.csv"
"""The table's name in packages of bonescreen's earlier versions."""

ALL = "all"
PREFERRED_ROLES = (Role.TEST, Role.VALIDATION, Role.TRAIN)
PARTS = (*(role.value for role in PREFERRED_ROLES), ALL)

_DIGITS = 32
_MEMORISATION_WARNING = "These metrics measure memorisation, not generalisation."


class LeakageVerdict(StrEnum):
    """How a model's training and the images to evaluate it on are related."""

    HELD_OUT = "held out"
    TUNED_ON = "tuned on"
    TRAINED_ON = "trained on"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Leakage:
    """Whether a model was trained on some images, with a sentence for the user."""

    verdict: LeakageVerdict
    text: str


def check_leakage(package: ModelPackage, dataset: Dataset) -> Leakage:
    """Check whether a model was trained on a data set's images.

    Decided by the images and groups listed in the package, or without such a list by the names of the training data on
    its card.

    Parameters
    ----------
    package : ModelPackage
        The model.
    dataset : Dataset
        N examples.
    """
    images = Counter(roles_in_training(package, dataset))
    name, total, has_list = dataset.terms.name, len(dataset), _table_name(package) is not None
    on_card = not has_list and name != OWN_DATA.name and any(data.name == name for data in package.card.training_data)
    if images[Role.TRAIN]:
        trained_on = "this image" if total == 1 else f"{images[Role.TRAIN]:,} of these {total:,} images"
        return Leakage(
            LeakageVerdict.TRAINED_ON,
            f"The model was trained on {trained_on}, or on images of the same groups. {_MEMORISATION_WARNING}",
        )
    if images[None] and on_card:
        return Leakage(
            LeakageVerdict.TRAINED_ON,
            f"The model was trained on {name}, and its package does not list which images, so it may have been trained "
            f"on any of these. {_MEMORISATION_WARNING}",
        )
    if images[Role.VALIDATION]:
        return Leakage(
            LeakageVerdict.TUNED_ON,
            f"The model was not trained on these images, but early stopping, calibration or thresholds were chosen on "
            f"{images[Role.VALIDATION]:,} of them, so the metrics are optimistic.",
        )
    if images[Role.TEST]:
        new = f", or not in its split ({count(images[None], 'image')})" if images[None] else ""
        return Leakage(
            LeakageVerdict.HELD_OUT,
            f"The model was not trained on these images: they are in the test part of its split{new}.",
        )
    return _unlisted(package, name, has_list)


def _unlisted(package: ModelPackage, name: str, has_list: bool) -> Leakage:
    if has_list:
        return Leakage(
            LeakageVerdict.UNKNOWN,
            "The model was not trained on any of these files. It is not known whether it was trained on copies of "
            "these images in other files, or on other images of these patients.",
        )
    trained = ", ".join(data.name for data in package.card.training_data) or "nothing"
    return Leakage(
        LeakageVerdict.UNKNOWN,
        f"The model's card lists as training data: {trained}. These data are called {name}, and the package has no "
        "split with their groups. It is not known whether the model was trained on these images under a different "
        "name.",
    )


def select_part(package: ModelPackage, dataset: Dataset, part: str | None) -> tuple[Dataset, str]:
    """Select the part of a data set to evaluate a model on.

    If the data set's images are in the package's split, the default is the test part, or the validation part if there
    is no test part. Groups that are not in the split belong to the test part, as the model was not trained on them.

    Parameters
    ----------
    package : ModelPackage
        The model.
    dataset : Dataset
        All of the data.
    part : str or None
        One of `PARTS`, or None for the default.

    Returns
    -------
    dataset : Dataset
        The examples of the part.
    part : str
        One of `PARTS`.

    Raises
    ------
    UsageError
        If the data have no such part; the message lists the parts they have.
    """
    roles = roles_in_training(package, dataset)
    if part == ALL or (part is None and not any(roles)):
        return dataset, ALL
    if not any(roles):
        roles = [example.role for example in dataset.examples]
    if not any(roles):
        raise UsageError(
            f"neither the package nor the publisher of {dataset.root} has a split with training and test parts: leave "
            "out --part"
        )
    present = Counter(role or Role.TEST for role in roles)
    selected = part or next(role for role in PREFERRED_ROLES if present[role])
    if not present[Role(selected)]:
        there = ", ".join(f"{role} ({count(number, 'image')})" for role, number in present.most_common())
        raise UsageError(f"the data have no {selected} part; they have: {there}")
    return dataset.select(np.array([(role or Role.TEST) == selected for role in roles], np.bool_)), selected


def roles_in_training(package: ModelPackage, dataset: Dataset) -> list[Role | None]:
    """Return the role of each of N images when a package was trained, or None if it was not used.

    Found by the digest of its file, or for other files by its group, because images of one patient are alike.
    """
    by_digest, split = read_training_images(package), read_package_split(package)
    by_group = split.roles if split else {}
    digests = image_digests(dataset) if by_digest else [""] * len(dataset)
    return [
        by_digest.get(digest) or by_group.get(group)
        for digest, group in zip(digests, dataset.groups.tolist(), strict=True)
    ]


def read_package_split(package: ModelPackage) -> Split | None:
    """Return the split that a package was trained with, or None if it has none."""
    return read_split(package.path / SPLIT_FILE) if SPLIT_FILE in package.card.files else None


def read_training_images(package: ModelPackage) -> Mapping[str, Role]:
    """Return the role of each image that a package was trained with, by digest; empty if the package has no list.

    Raises
    ------
    UsageError
        If the list is invalid.
    """
    listed = _table_name(package)
    if listed is None:
        return {}
    table = package.path / listed
    try:
        return {record["sha256"]: Role(record["role"]) for _, record in read_table(table, ("sha256", "role"))}
    except ValueError as error:
        raise UsageError(f"{table}: {error}") from error


def _table_name(package: ModelPackage) -> str | None:
    return next((name for name in (TRAINING_IMAGES_FILE, EARLIER_NAME) if name in package.card.files), None)


def training_images_table(roles: Iterable[tuple[str, Role]], initial: ModelPackage | None) -> bytes:
    """Return a package's list of training images as CSV.

    Parameters
    ----------
    roles : iterable of tuple of str and Role
        Digest and role of each image. An image with several roles counts as a training image, or else as a validation
        image.
    initial : ModelPackage or None
        The package whose weights the training started from. Its training and validation images count as training
        images.
    """
    inherited = (
        {digest: Role.TRAIN for digest, role in read_training_images(initial).items() if role is not Role.TEST}
        if initial
        else {}
    )
    # The last entry of a digest wins.
    own = {digest: role for digest, role in sorted(roles, key=lambda row: PREFERRED_ROLES.index(row[1])) if digest}
    return table_text(("sha256", "role"), sorted((own | inherited).items())).encode()


def image_digests(dataset: Dataset) -> list[str]:
    """Return the first 32 hexadecimal digits of the SHA-256 of each of N files, or an empty string if it is missing."""
    return [_file_digest(dataset.root / example.image) for example in dataset.examples]


def _file_digest(path: Path) -> str:
    try:
        status = path.stat()
        return _cached_digest(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return ""


@functools.cache
def _cached_digest(path: Path, size: int, modified: int) -> str:
    """Return the digest of a file; size and time of modification are part of the cache's key."""
    return file_sha256(path)[:_DIGITS]
