"""Which films a model has met, by their content: names and groups change, a file's bytes do not."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from training.data.dataset import Dataset, Role
from training.data.manifest import OWN
from training.data.split import SPLIT_FILE, Split, read_split
from training.disk import read_table, table_text
from xray.errors import UsageError
from xray.network.package import ModelPackage, file_sha256

FILMS_FILE = "films.csv"
_DIGITS = 32


def film_digests(dataset: Dataset) -> list[str]:
    """Return the first 32 hexadecimal digits of the SHA-256 of each example's file, empty where there is none."""
    return [_file_digest(dataset.root / example.image) for example in dataset.examples]


def met_films(package: ModelPackage) -> Mapping[str, Role]:
    """Return what each film was for when a package was trained, by its digest; empty where the package does not tell.

    Raises
    ------
    UsageError
        If the package's table is wrong.
    """
    if FILMS_FILE not in package.card.files:
        return {}
    table = package.path / FILMS_FILE
    try:
        return {record["sha256"]: Role(record["role"]) for _, record in read_table(table, ("sha256", "role"))}
    except ValueError as error:
        raise UsageError(f"{table}: {error}") from error


def films_table(roles: Iterable[tuple[str, Role]], ancestor: ModelPackage | None) -> bytes:
    """Write the table of a package.

    Parameters
    ----------
    roles : iterable of tuple of str and Role
        Digest and role of the films that it was trained with; a film in two parts counts as learnt from, or else as
        chosen on.
    ancestor : ModelPackage or None
        The package that it began as: what that has learnt, or was chosen on, this one has too.
    """
    learnt = (
        {digest: Role.TRAIN for digest, role in met_films(ancestor).items() if role is not Role.TEST}
        if ancestor
        else {}
    )
    met = {digest: role for digest, role in sorted(roles, key=_weight) if digest}
    return table_text(("sha256", "role"), sorted((met | learnt).items())).encode()


def _weight(film: tuple[str, Role]) -> int:
    return (Role.TEST, Role.VALIDATION, Role.TRAIN).index(film[1])


def _file_digest(path: Path) -> str:
    try:
        found = path.stat()
        return _digest(path, found.st_size, found.st_mtime_ns)
    except OSError:
        return ""


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Read a file once, as long as it stays as it is."""
    return file_sha256(path)[:_DIGITS]


ALL = "all"
DEFAULTS = (Role.TEST, Role.VALIDATION, Role.TRAIN)
PARTS = (*(role.value for role in DEFAULTS), ALL)

REMEMBERED = "What is measured here says how well it remembers, not how well it does on films that it has not seen."


class LeakageVerdict(StrEnum):
    """What the numbers are worth."""

    UNSEEN = "unseen"
    CHOSEN_ON = "chosen on"
    SEEN = "seen"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Leakage:
    """Whether a model has seen some images, and a sentence that says so to a person."""

    verdict: LeakageVerdict
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


def check_leakage(package: ModelPackage, dataset: Dataset) -> Leakage:
    """Say whether a model has seen a data set's images.

    By the films and groups that its package tells of; where it tells of none, by the names of the training data on its
    card.
    """
    known = Counter(roles_of(package, dataset))
    name, total, tells = dataset.terms.name, len(dataset), FILMS_FILE in package.card.files
    named = not tells and name != OWN.name and any(data.name == name for data in package.card.training_data)
    if known[Role.TRAIN]:
        return Leakage(
            LeakageVerdict.SEEN,
            f"The model has learnt from {known[Role.TRAIN]:,} of these {total:,} images, or from others of their "
            f"groups. {REMEMBERED}",
        )
    if known[None] and named:
        return Leakage(
            LeakageVerdict.SEEN,
            f"The model was trained on {name}, and its package does not tell these images' groups from those it learnt "
            f"from: take all as seen. {REMEMBERED}",
        )
    if known[Role.VALIDATION]:
        return Leakage(
            LeakageVerdict.CHOSEN_ON,
            f"The model has not learnt from these images, but {known[Role.VALIDATION]:,} of them chose when its "
            "training stopped, its calibration or its thresholds, so the numbers flatter it.",
        )
    if known[Role.TEST]:
        strangers = f", or are not in it ({known[None]:,} images)" if known[None] else ""
        return Leakage(
            LeakageVerdict.UNSEEN,
            f"These images are in the test part of the model's own split{strangers}: it has not seen them.",
        )
    return _stranger(package, name, tells)


def _stranger(package: ModelPackage, name: str, tells: bool) -> Leakage:
    if tells:
        return Leakage(
            LeakageVerdict.UNKNOWN,
            "None of these files is one that the model has learnt from. Whether it knows the same films from other "
            "files, or other films of these patients, cannot be told here.",
        )
    trained = ", ".join(data.name for data in package.card.training_data) or "nothing"
    return Leakage(
        LeakageVerdict.UNKNOWN,
        f"The model's card names as training data: {trained}. These data are called {name}, and none of their groups "
        "is in a split that the package holds. Whether films of them are among the training data under another name "
        "cannot be told here.",
    )
