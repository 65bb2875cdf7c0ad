"""Problems that an audit reports: how serious each is, what to do next, and which images show it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from training.audit.audited_dataset import AuditedDataset
from training.audit.near_duplicates import DuplicateKind, DuplicatePair
from training.audit.read_images import is_blank, looks_inverted, stack_small
from training.data.dataset import Dataset, Role
from training.recipes import RECIPES
from xray.vocabulary import REASON_TEXT, Label

FEW = 0.1
"""Share of the rarer class below which classes are imbalanced."""

FEW_GROUPS = 10
"""Groups below which a part stands for too few patients."""

ENOUGH_IMAGES = 20
"""Images of a body part from which it is no coincidence that all have one label."""

NETWORK_SIDE = 224
"""Side of the square input of the recipes' networks, pixels."""


class Severity(StrEnum):
    """How much a problem matters; the worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Problem:
    """One thing to know before training.

    Attributes
    ----------
    code : str
        Identifier for scripts.
    severity : Severity
        An error makes training fail or its results wrong.
    title : str
        What was found, in a few words.
    count : int
        How many times.
    unit : str
        What is counted, such as ``"image"`` or ``"pair"``, in the singular.
    advice : str
        What to do next, in one sentence.
    images : tuple of tuple of str
        The images that show it, those that belong together in one tuple; the most important first.
    captions : tuple of str
        A caption for each of `images`, or empty.
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
    def count_text(self) -> str:
        """The count with its unit: ``"2 images"``."""
        plural = "studies" if self.unit == "study" else f"{self.unit}s"
        return f"{self.count:,} {self.unit if self.count == 1 else plural}"

    @property
    def has_pictures(self) -> bool:
        """Whether the images can be shown."""
        return bool(self.images) and not self.code.startswith("unreadable")


def all_problems(audited: AuditedDataset) -> tuple[Problem, ...]:
    """Return the problems, errors before warnings before notes."""
    problems = [*duplicate_problems(audited), *label_problems(audited), *file_problems(audited)]
    return tuple(sorted(problems, key=lambda problem: list(Severity).index(problem.severity)))


def conclusion(problems: Sequence[Problem]) -> str:
    """Say in a sentence whether the data are ready to train on."""
    counts = Counter(problem.severity for problem in problems)
    errors, warnings = (
        f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}"
        for severity in (Severity.ERROR, Severity.WARNING)
    )
    if counts[Severity.ERROR]:
        return f"Not ready to train on: {errors} to correct first" + (
            f", {warnings} to look at." if counts[Severity.WARNING] else "."
        )
    if counts[Severity.WARNING]:
        return f"Ready to train on; look at {warnings} first."
    return "Ready to train on: no errors and no warnings."


# Pairs whose labels, parts of the split or groups differ.
_HARMFUL = (
    (
        "conflicting-labels", Severity.ERROR, "Duplicates with different labels",
        "One of the two labels is wrong: have an expert decide which one, and correct the table.",
    ),
    (
        "across-split", Severity.ERROR, "Duplicates in two parts of the split",
        "The model would be tested on images that it was trained on: train and evaluate with --groups groups.csv, "
        "which is beside this report, or remove one of the two.",
    ),
    (
        "across-groups", Severity.WARNING, "Duplicates in two groups",
        "A split by these groups may separate them: train and evaluate with --groups groups.csv, which is beside this "
        "report.",
    ),
)  # fmt: skip
_KEEP_ONE = "Each counts as a separate image in training and evaluation: keep one and remove the other."
_BRIGHT_BONE = "Check in which of the two bone is bright, and remove the other."
_BY_KIND = {
    DuplicateKind.BYTES: ("The same file twice", _KEEP_ONE),
    DuplicateKind.PIXELS: ("The same image in two files", _KEEP_ONE),
    DuplicateKind.NEAR: (
        "Nearly the same image",
        "Check whether they are one exposure; if so, keep one of them, or put both into one group.",
    ),
    DuplicateKind.MIRRORED: (
        "The same image, mirrored",
        "Check whether somebody has added mirrored images: remove them, as training mirrors images itself.",
    ),
    DuplicateKind.INVERTED: ("The same image, inverted", _BRIGHT_BONE),
    DuplicateKind.MIRRORED_INVERTED: ("The same image, mirrored and inverted", _BRIGHT_BONE),
}


def duplicate_problems(audited: AuditedDataset) -> Iterator[Problem]:
    """Report images that are there more than once, and the harm that this does."""
    dataset = audited.dataset
    for (code, severity, title, advice), values in zip(
        _HARMFUL, (dataset.labels, audited.parts, dataset.groups), strict=True
    ):
        pairs = [pair for pair in audited.pairs if values[pair.first] != values[pair.second]]
        yield from _pairs_problem(dataset, code, severity, title, advice, pairs)
    for kind, (title, advice) in _BY_KIND.items():
        severity = Severity.WARNING if _is_exact(kind) else Severity.NOTE
        pairs = [pair for pair in audited.pairs if pair.kind is kind]
        code = f"duplicates-{kind.name.lower().replace('_', '-')}"
        yield from _pairs_problem(dataset, code, severity, title, advice, pairs)


def _is_exact(kind: DuplicateKind) -> bool:
    return kind in (DuplicateKind.BYTES, DuplicateKind.PIXELS)


def _pairs_problem(
    dataset: Dataset, code: str, severity: Severity, title: str, advice: str, pairs: Sequence[DuplicatePair]
) -> Iterator[Problem]:
    if pairs:
        names = dataset.images
        images = tuple((str(names[pair.first]), str(names[pair.second])) for pair in pairs)
        captions = tuple(
            str(pair.kind) if _is_exact(pair.kind) else f"{pair.kind}, correlation {pair.correlation:.3f}"
            for pair in pairs
        )
        yield Problem(code, severity, title, len(pairs), "pair", advice, images, captions)


def label_problems(audited: AuditedDataset) -> Iterator[Problem]:
    """Report labels and groups that training or evaluation would suffer from."""
    dataset = audited.dataset
    yield from _no_split(audited)
    if audited.has_split:
        yield from _parts_of_one_class(audited)
        yield from _parts_of_few_groups(audited)
    if len(dataset):
        yield from _one_group(dataset)
        yield from _mixed_studies(dataset)
        yield from _imbalance(dataset)
        yield from _body_parts_of_one_class(dataset)
    for note in dataset.notes:
        yield Problem(
            "reader", Severity.NOTE, "Remark on the list of images", 1, "note", f"{note[:1].upper()}{note[1:]}."
        )


def _no_split(audited: AuditedDataset) -> Iterator[Problem]:
    """Report which recipes would fail immediately; it is an error where all would."""
    severity = Severity.WARNING if audited.has_split or not audited.no_folds else Severity.ERROR
    for code, title, cross_validates, why in (
        ("no-split", "The data cannot be split", False, "" if audited.has_split else audited.split),
        ("no-folds", "The data cannot be cross-validated", True, audited.no_folds),
    ):
        if why:
            recipes = " or ".join(name for name, recipe in RECIPES.items() if bool(recipe.folds) is cross_validates)
            yield Problem(
                code, severity, title, len(audited.dataset), "image",
                f"Training with the recipe {recipes} would fail immediately: {why}.",
            )  # fmt: skip


def _only_label(labels: NDArray[np.bool_]) -> Label | None:
    """Return the label that all of N images ``(N,)`` bool have; None where they differ, or there are none."""
    if not len(labels) or labels.all() != labels.any():
        return None
    return Label.POSITIVE if labels.all() else Label.NEGATIVE


def _parts_of_one_class(audited: AuditedDataset) -> Iterator[Problem]:
    for role in Role:
        labels = audited.dataset.labels[audited.parts == role]
        if only := _only_label(labels):
            yield Problem(
                "part-of-one-class", Severity.ERROR, f"All images of the {role} part are {only}", len(labels), "image",
                "Nothing can be trained or measured on one class alone: choose a different split.",
            )  # fmt: skip


def _parts_of_few_groups(audited: AuditedDataset) -> Iterator[Problem]:
    for role in (Role.VALIDATION, Role.TEST):
        groups = len(np.unique(audited.dataset.groups[audited.parts == role]))
        if 0 < groups < FEW_GROUPS:
            yield Problem(
                "few-groups", Severity.NOTE, f"Few groups in the {role} part", groups, "group",
                "Images of one group are alike, so metrics of this part may not hold for other patients: use a larger "
                "share, finer groups, or cross-validation.",
            )  # fmt: skip


def _one_group(dataset: Dataset) -> Iterator[Problem]:
    group, size = Counter(dataset.groups.tolist()).most_common(1)[0]
    if size > len(dataset) / 2 and len(dataset) > 1:
        yield Problem(
            "huge-group", Severity.WARNING, f"More than half of the images are in one group, {group!r}", size, "image",
            "A group stays in one part, so the parts will not have the intended sizes: check whether the name of the "
            "group is a default value.",
        )  # fmt: skip


def _mixed_studies(dataset: Dataset) -> Iterator[Problem]:
    _, study = np.unique(dataset.studies, return_inverse=True)
    positives, images = np.bincount(study, dataset.labels), np.bincount(study)
    mixed = np.flatnonzero((positives > 0) & (positives < images))
    if len(mixed):
        yield Problem(
            "mixed-studies", Severity.NOTE, "Studies with images of both labels", len(mixed), "study",
            "A study counts as positive if any of its images is: check whether the labels mean that.",
            tuple(tuple(dataset.images[study == one].tolist()) for one in mixed),
        )  # fmt: skip


def _imbalance(dataset: Dataset) -> Iterator[Problem]:
    share = float(dataset.labels.mean())
    if min(share, 1 - share) < FEW:
        rare = Label.POSITIVE if share < 0.5 else Label.NEGATIVE
        yield Problem(
            "imbalance", Severity.NOTE, f"Few {rare} images: {min(share, 1 - share):.1%}",
            int((dataset.labels == (rare is Label.POSITIVE)).sum()), "image",
            "Accuracy says little here: look at sensitivity and specificity, and expect wide intervals.",
        )  # fmt: skip


def _body_parts_of_one_class(dataset: Dataset) -> Iterator[Problem]:
    for part in sorted(set(dataset.body_parts.tolist())):
        labels = dataset.labels[dataset.body_parts == part]
        only = _only_label(labels)
        if only and len(labels) >= ENOUGH_IMAGES:
            yield Problem(
                "body-part-of-one-class", Severity.WARNING, f"All images of {part or 'unknown body part'} are {only}",
                len(labels), "image",
                "A model would learn to recognise the body part instead of the finding: leave it out with --body-part, "
                "or add images of the other label.",
            )  # fmt: skip


def file_problems(audited: AuditedDataset) -> Iterator[Problem]:
    """Report files that are unreadable, blank, perhaps inverted, or small."""
    for reason, images in audited.unreadable.items():
        yield Problem(
            f"unreadable-{reason}", Severity.WARNING, f"Unreadable: {REASON_TEXT[reason]}", len(images), "image",
            "They are left out of training and evaluation: get intact copies, or remove them from the list.",
            tuple((image,) for image in images),
        )  # fmt: skip
    if not audited.images:
        return
    small = stack_small(audited.images)
    blank, inverted = is_blank(small), looks_inverted(small)
    tiny = np.array([max(image.height, image.width) < NETWORK_SIDE for image in audited.images], np.bool_)
    implausible = np.array([bool(image.implausible) for image in audited.images], np.bool_)
    if implausible.any():
        yield Problem(
            "implausible", Severity.WARNING, "Cannot be a radiograph", int(implausible.sum()), "image",
            "Training and screening leave them out: look at them, and export them again from the original.",
            _chosen(audited, implausible),
            tuple(image.implausible for image in audited.images if image.implausible),
        )  # fmt: skip
    if blank.any():
        yield Problem(
            "blank", Severity.WARNING, "Blank or nearly constant", int(blank.sum()), "image",
            "They show no bone: remove them from the list, and find out why they were exported.",
            _chosen(audited, blank),
        )  # fmt: skip
    if inverted.any():
        yield Problem(
            "maybe-inverted", Severity.WARNING, "May be inverted: a bright border around a dark middle",
            int(inverted.sum()), "image",
            "Look at them, as this is only a hint: where bone is dark and air is white, export them again without "
            "inversion.",
            _chosen(audited, inverted),
        )  # fmt: skip
    if tiny.any():
        yield Problem(
            "tiny", Severity.WARNING, f"Smaller than the network's input of {NETWORK_SIDE} pixels", int(tiny.sum()),
            "image",
            "They are enlarged, and a hairline fracture cannot be seen on them: look for larger originals.",
            _chosen(audited, tiny),
            tuple(
                f"{image.width} x {image.height}"
                for image, is_tiny in zip(audited.images, tiny, strict=True)
                if is_tiny
            ),
        )  # fmt: skip


def _chosen(audited: AuditedDataset, chosen: NDArray[np.bool_]) -> tuple[tuple[str, ...], ...]:
    return tuple((image,) for image in audited.dataset.images[chosen].tolist())
