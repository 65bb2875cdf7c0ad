"""Whether a model has seen the images it is measured on, as far as its package tells."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from training.dataset import Dataset, Role
from training.films import FILMS_FILE, film_digests, met_films
from training.sources.manifest import OWN
from training.split import SPLIT_FILE, Split, read_split
from xray.errors import UsageError
from xray.package import ModelPackage

ALL = "all"
DEFAULTS = (Role.TEST, Role.VALIDATION, Role.TRAIN)
PARTS = (*(role.value for role in DEFAULTS), ALL)

REMEMBERED = "What is measured here says how well it remembers, not how well it does on films that it has not seen."


class Verdict(StrEnum):
    """What the numbers are worth."""

    UNSEEN = "unseen"
    CHOSEN_ON = "chosen on"
    SEEN = "seen"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Seen:
    """Whether a model has seen some images, and a sentence that says so to a person."""

    verdict: Verdict
    text: str


def package_split(package: ModelPackage) -> Split | None:
    """Return the split that a package was trained with, or None where it does not hold one."""
    return read_split(package.path / SPLIT_FILE) if SPLIT_FILE in package.card.files else None


def choose_part(package: ModelPackage, dataset: Dataset, wanted: str | None) -> tuple[Dataset, str]:
    """Return the part of a data set to measure a model on, and its name, one of `PARTS`.

    Where the package's split knows the data, the test part is taken by default, or the validation part where there is
    none. Groups that the split does not know count as test: the model has not seen them.

    Parameters
    ----------
    package : ModelPackage
        The model.
    dataset : Dataset
        All of the data.
    wanted : str or None
        One of `PARTS`, or None for the default.

    Raises
    ------
    UsageError
        If a part is wanted that is not there; says which are.
    """
    own = roles_of(package, dataset)
    if wanted == ALL or (wanted is None and not any(own)):
        return dataset, ALL
    roles = own if any(own) else [example.role for example in dataset.examples]
    if not any(roles):
        raise UsageError(
            f"no split says what of {dataset.root} is for training and what for a test, neither the package's nor the "
            "publisher's: leave out --part"
        )
    present = Counter(role or Role.TEST for role in roles)
    part = wanted or next(role for role in DEFAULTS if present[role])
    if not present[Role(part)]:
        there = ", ".join(f"{role} ({count:,} images)" for role, count in present.most_common())
        raise UsageError(f"the data have no {part} part; they have: {there}")
    return dataset.select(np.array([(role or Role.TEST) == part for role in roles], np.bool_)), part


def roles_of(package: ModelPackage, dataset: Dataset) -> list[Role | None]:
    """Return what each of N images was for when a package was trained, or None where it was not there.

    By the file's content; for a file that is new, by its group, as a patient's other films give away a little of it.
    """
    films, split = met_films(package), package_split(package)
    groups = split.roles if split else {}
    digests = film_digests(dataset) if films else [""] * len(dataset)
    return [
        films.get(digest) or groups.get(group) for digest, group in zip(digests, dataset.groups.tolist(), strict=True)
    ]


def seen(package: ModelPackage, dataset: Dataset) -> Seen:
    """Say whether a model has seen a data set's images.

    By the films and groups that its package tells of; where it tells of none, by the names of the training data on its
    card.
    """
    known = Counter(roles_of(package, dataset))
    name, total, tells = dataset.terms.name, len(dataset), FILMS_FILE in package.card.files
    named = not tells and name != OWN.name and any(data.name == name for data in package.card.training_data)
    if known[Role.TRAIN]:
        return Seen(
            Verdict.SEEN,
            f"The model has learnt from {known[Role.TRAIN]:,} of these {total:,} images, or from others of their "
            f"groups. {REMEMBERED}",
        )
    if known[None] and named:
        return Seen(
            Verdict.SEEN,
            f"The model was trained on {name}, and its package does not tell these images' groups from those it learnt "
            f"from: take all as seen. {REMEMBERED}",
        )
    if known[Role.VALIDATION]:
        return Seen(
            Verdict.CHOSEN_ON,
            f"The model has not learnt from these images, but {known[Role.VALIDATION]:,} of them chose when its "
            "training stopped, its calibration or its thresholds, so the numbers flatter it.",
        )
    if known[Role.TEST]:
        strangers = f", or are not in it ({known[None]:,} images)" if known[None] else ""
        return Seen(
            Verdict.UNSEEN,
            f"These images are in the test part of the model's own split{strangers}: it has not seen them.",
        )
    return _stranger(package, name, tells)


def _stranger(package: ModelPackage, name: str, tells: bool) -> Seen:
    if tells:
        return Seen(
            Verdict.UNKNOWN,
            "None of these files is one that the model has learnt from. Whether it knows the same films from other "
            "files, or other films of these patients, cannot be told here.",
        )
    trained = ", ".join(data.name for data in package.card.training_data) or "nothing"
    return Seen(
        Verdict.UNKNOWN,
        f"The model's card names as training data: {trained}. These data are called {name}, and none of their groups "
        "is in a split that the package holds. Whether films of them are among the training data under another name "
        "cannot be told here.",
    )
