"""What the doctor has found: how bad it is, what to do next, and which images show it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from training.audit.examination import Examination
from training.audit.near_duplicates import DuplicateKind, Pair
from training.audit.survey import blank, looks_inverted, stack_small
from training.data.dataset import Dataset, Role
from training.recipes import RECIPES
from xray.vocabulary import REASON_TEXT


class Severity(StrEnum):
    """How much a finding matters; the worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know before training.

    Attributes
    ----------
    code : str
        What a script knows it by.
    severity : Severity
        An error makes training mislead or fail.
    title : str
        What was found, in some words.
    count : int
        How many times.
    unit : str
        Of what, such as ``"image"`` or ``"pair"``, in the singular.
    advice : str
        What to do next, in one sentence.
    images : tuple of tuple of str
        The images that show it, those that belong together in one; those to look at first come first.
    captions : tuple of str
        What to say beneath each of `images`, or empty.
    """

    code: str
    severity: Severity
    title: str
    count: int
    unit: str
    advice: str
    images: tuple[tuple[str, ...], ...] = ()
    captions: tuple[str, ...] = ()

    @property
    def counted(self) -> str:
        """The number with its noun."""
        plural = "studies" if self.unit == "study" else f"{self.unit}s"
        return f"{self.count:,} {self.unit if self.count == 1 else plural}"

    @property
    def has_pictures(self) -> bool:
        """Whether the images can be shown."""
        return bool(self.images) and not self.code.startswith("unreadable")


# Of pairs that differ by label, by part of the split, by group.
_HARM = (
    (
        "conflicting-labels", Severity.ERROR, "Copies of one film with different labels",
        "One of the two labels is wrong: let somebody who reads films say which, and correct the table.",
    ),
    (
        "across-split", Severity.ERROR, "Copies in two parts of the split",
        "The model would be measured on films it has learnt: train and evaluate with --groups groups.csv, which is "
        "beside this report, or drop one of the two.",
    ),
    (
        "across-groups", Severity.WARNING, "Copies in two groups",
        "A split by these groups may part them: train and evaluate with --groups groups.csv, which is beside this "
        "report.",
    ),
)  # fmt: skip
_ADVICE = {
    DuplicateKind.BYTES: "Each counts as an image of its own in training and evaluation: keep one and drop the other.",
    DuplicateKind.PIXELS: "Each counts as an image of its own in training and evaluation: keep one and drop the other.",
    DuplicateKind.NEAR: "Look whether they are one exposure; if so, keep one, or keep them in one group.",
    DuplicateKind.MIRRORED: "Look whether somebody has added mirrored films: training mirrors by itself, so drop them.",
    DuplicateKind.INVERTED: "Look which of the two shows bone bright, and drop the other.",
    DuplicateKind.MIRRORED_INVERTED: "Look which of the two shows bone bright, and drop the other.",
}
_TITLE = {
    DuplicateKind.BYTES: "The same file twice",
    DuplicateKind.PIXELS: "The same picture in two files",
    DuplicateKind.NEAR: "Nearly the same picture",
    DuplicateKind.MIRRORED: "The same picture, mirrored",
    DuplicateKind.INVERTED: "The same picture, inverted",
    DuplicateKind.MIRRORED_INVERTED: "The same picture, mirrored and inverted",
}


def about_copies(examined: Examination) -> Iterator[Finding]:
    """Say which films are there more than once, and what harm that does."""
    for (code, severity, title, advice), of in zip(
        _HARM, (examined.dataset.labels, examined.parts, examined.dataset.groups), strict=True
    ):
        pairs = [pair for pair in examined.pairs if of[pair.first] != of[pair.second]]
        yield from _copies_finding(examined, code, severity, title, advice, pairs)
    for kind in DuplicateKind:
        severity = Severity.WARNING if kind in (DuplicateKind.BYTES, DuplicateKind.PIXELS) else Severity.NOTE
        pairs = [pair for pair in examined.pairs if pair.kind is kind]
        yield from _copies_finding(
            examined, f"copies-{kind.name.lower().replace('_', '-')}", severity, _TITLE[kind], _ADVICE[kind], pairs
        )


def _copies_finding(
    examined: Examination, code: str, severity: Severity, title: str, advice: str, pairs: Sequence[Pair]
) -> Iterator[Finding]:
    if pairs:
        images = examined.dataset.images
        named = tuple((str(images[pair.first]), str(images[pair.second])) for pair in pairs)
        yield Finding(code, severity, title, len(pairs), "pair", advice, named, tuple(_caption(pair) for pair in pairs))


def _caption(pair: Pair) -> str:
    if pair.kind in (DuplicateKind.BYTES, DuplicateKind.PIXELS):
        return str(pair.kind)
    return f"{pair.kind}, correlation {pair.correlation:.3f}"


FEW = 0.1
"""Share of the rarer class below which to say so."""

FEW_GROUPS = 10
"""Groups below which a part stands for few patients."""

ENOUGH = 20
"""Images of a body part from which on one class alone is no chance."""


def about_labels(examined: Examination) -> Iterator[Finding]:
    """Say where labels and groups stand in the way of training."""
    dataset = examined.dataset
    yield from _no_split(examined)
    if examined.has_split:
        yield from _parts_of_one_class(examined)
        yield from _parts_of_few_groups(examined)
    if len(dataset):
        yield from _one_group(dataset)
        yield from _mixed_studies(dataset)
        yield from _one_class(dataset)
    for note in dataset.notes:
        yield Finding("reader", Severity.NOTE, "Noticed while reading the list", 1, "note", f"{note}.")


def _no_split(examined: Examination) -> Iterator[Finding]:
    """Say which recipes would stop at once; it is an error where none would go on."""
    severity = Severity.WARNING if examined.has_split or not examined.no_folds else Severity.ERROR
    for code, title, cross_validates, why in (
        ("no-split", "The data cannot be split", False, "" if examined.has_split else examined.split),
        ("no-folds", "The data cannot be cross-validated", True, examined.no_folds),
    ):
        if why:
            stopped = [name for name, recipe in RECIPES.items() if bool(recipe.folds) is cross_validates]
            yield Finding(
                code, severity, title, len(examined.dataset), "image",
                f"Training by the recipe {' or '.join(stopped)} would stop at once: {why}.",
            )  # fmt: skip


def _parts_of_one_class(examined: Examination) -> Iterator[Finding]:
    for role in Role:
        labels = examined.dataset.labels[examined.parts == role]
        if len(labels) and labels.all() == labels.any():
            only = "positive" if labels.all() else "negative"
            yield Finding(
                "part-of-one-class", Severity.ERROR, f"All images of the {role} part are {only}", len(labels), "image",
                "Nothing can be learnt from it or measured on it: choose another split.",
            )  # fmt: skip


def _parts_of_few_groups(examined: Examination) -> Iterator[Finding]:
    for role in (Role.VALIDATION, Role.TEST):
        groups = len(np.unique(examined.dataset.groups[examined.parts == role]))
        if 0 < groups < FEW_GROUPS:
            yield Finding(
                "few-groups", Severity.NOTE, f"Few groups in the {role} part", groups, "group",
                "Films of one group are alike, so what is measured on them may not hold for others: use a larger "
                "share, finer groups, or cross-validation.",
            )  # fmt: skip


def _one_group(dataset: Dataset) -> Iterator[Finding]:
    group, size = Counter(dataset.groups.tolist()).most_common(1)[0]
    if size > len(dataset) / 2 and len(dataset) > 1:
        yield Finding(
            "huge-group", Severity.WARNING, f"More than half of the images are of one group, {group!r}", size, "image",
            "No split can part it, so the parts will be out of proportion: see whether its name is a default value.",
        )  # fmt: skip


def _mixed_studies(dataset: Dataset) -> Iterator[Finding]:
    _, study = np.unique(dataset.studies, return_inverse=True)
    positives, images = np.bincount(study, dataset.labels), np.bincount(study)
    mixed = np.flatnonzero((positives > 0) & (positives < images))
    if len(mixed):
        yield Finding(
            "mixed-studies", Severity.NOTE, "Studies with images of both labels", len(mixed), "study",
            "A study counts as positive when one of its images is: see whether that is what the labels mean.",
            tuple(tuple(dataset.images[study == one].tolist()) for one in mixed),
        )  # fmt: skip


def _one_class(dataset: Dataset) -> Iterator[Finding]:
    share = float(dataset.labels.mean())
    if min(share, 1 - share) < FEW:
        rare = "positive" if share < 0.5 else "negative"
        yield Finding(
            "imbalance", Severity.NOTE, f"Few {rare} images: {min(share, 1 - share):.1%}",
            int(dataset.labels.sum() if share < 0.5 else (~dataset.labels).sum()), "image",
            "Accuracy says nothing here: look at sensitivity and specificity, and expect wide intervals.",
        )  # fmt: skip
    for part in sorted(set(dataset.body_parts.tolist())):
        labels = dataset.labels[dataset.body_parts == part]
        if len(labels) >= ENOUGH and labels.all() == labels.any():
            only = "positive" if labels.all() else "negative"
            yield Finding(
                "body-part-of-one-class", Severity.WARNING, f"All images of {part or 'unknown body part'} are {only}",
                len(labels), "image",
                "A model learns to tell the body part instead of the finding: leave it out with --body-part, or add "
                "images of the other label.",
            )  # fmt: skip


NETWORK_SIDE = 224
"""Side of the square that the usual recipes feed to the network, pixels."""


def about_files(examined: Examination) -> Iterator[Finding]:
    """Say what is wrong with files on their own."""
    for reason, images in examined.unreadable.items():
        yield Finding(
            f"unreadable-{reason}", Severity.WARNING, f"Unreadable: {REASON_TEXT[reason]}", len(images), "image",
            "They are left out of training and of every measurement: get whole copies, or take them off the list.",
            tuple((image,) for image in images),
        )  # fmt: skip
    if not examined.films:
        return
    small = stack_small(examined.films)
    empty, inverted = blank(small), looks_inverted(small)
    tiny = np.array([max(film.height, film.width) < NETWORK_SIDE for film in examined.films], np.bool_)
    if empty.any():
        yield Finding(
            "blank", Severity.WARNING, "Blank or nearly constant", int(empty.sum()), "image",
            "There is no bone to learn from: take them off the list, and see why they were exported.",
            _named(examined, empty),
        )  # fmt: skip
    if inverted.any():
        yield Finding(
            "maybe-inverted", Severity.WARNING, "May be inverted: a bright border around a dark middle",
            int(inverted.sum()), "image",
            "Look at them, as this is a hint only: where bone is dark and air is white, export them again the right "
            "way round.",
            _named(examined, inverted),
        )  # fmt: skip
    if tiny.any():
        yield Finding(
            "tiny", Severity.WARNING, f"Smaller than the network's input of {NETWORK_SIDE} pixels", int(tiny.sum()),
            "image",
            "They are enlarged, and a hairline fracture cannot be seen on them: look for larger originals.",
            _named(examined, tiny),
            tuple(f"{film.width} x {film.height}" for film, small in zip(examined.films, tiny, strict=True) if small),
        )  # fmt: skip


def _named(examined: Examination, chosen: NDArray[np.bool_]) -> tuple[tuple[str, ...], ...]:
    return tuple((image,) for image in examined.dataset.images[chosen].tolist())


def all_findings(examined: Examination) -> tuple[Finding, ...]:
    """Return the findings, errors before warnings before notes."""
    found = [*about_copies(examined), *about_labels(examined), *about_files(examined)]
    return tuple(sorted(found, key=lambda finding: list(Severity).index(finding.severity)))


def verdict(findings: Sequence[Finding]) -> str:
    """Say in a sentence whether it is safe to train."""
    counts = Counter(finding.severity for finding in findings)
    errors, warnings = (_counted(counts[s], s) for s in (Severity.ERROR, Severity.WARNING))
    if counts[Severity.ERROR]:
        return f"Not ready to train on: {errors} to mend first" + (
            f", {warnings} to look at." if counts[Severity.WARNING] else "."
        )
    if counts[Severity.WARNING]:
        return f"Can be trained on; look at {warnings} first."
    return "Nothing was found that speaks against training."


def _counted(number: int, severity: Severity) -> str:
    return f"{number} {severity}" + ("" if number == 1 else "s")
