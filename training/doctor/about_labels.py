"""Findings about labels, groups and parts of the split: what cannot be learnt from, or would be learnt wrongly."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from training.dataset import Dataset, Role
from training.doctor.examined import Examined
from training.doctor.finding import Finding, Severity

FEW = 0.1
"""Share of the rarer class below which to say so."""

FEW_GROUPS = 10
"""Groups below which a part stands for few patients."""

PARTING, CROSS_VALIDATING = ("seed", "humerus"), ("fracture",)
"""Recipes by what they do with the data: this module does without Keras, which they need."""

ENOUGH = 20
"""Images of a body part from which on one class alone is no chance."""


def about_labels(examined: Examined) -> Iterator[Finding]:
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


def _no_split(examined: Examined) -> Iterator[Finding]:
    """Say which recipes would stop at once; it is an error where none would go on."""
    severity = Severity.WARNING if examined.has_split or not examined.no_folds else Severity.ERROR
    for code, title, stopped, why in (
        ("no-split", "The data cannot be split", PARTING, "" if examined.has_split else examined.split),
        ("no-folds", "The data cannot be cross-validated", CROSS_VALIDATING, examined.no_folds),
    ):
        if why:
            yield Finding(
                code, severity, title, len(examined.dataset), "image",
                f"Training by the recipe {' or '.join(stopped)} would stop at once: {why}.",
            )  # fmt: skip


def _parts_of_one_class(examined: Examined) -> Iterator[Finding]:
    for role in Role:
        labels = examined.dataset.labels[examined.parts == role]
        if len(labels) and labels.all() == labels.any():
            only = "positive" if labels.all() else "negative"
            yield Finding(
                "part-of-one-class", Severity.ERROR, f"All images of the {role} part are {only}", len(labels), "image",
                "Nothing can be learnt from it or measured on it: choose another split.",
            )  # fmt: skip


def _parts_of_few_groups(examined: Examined) -> Iterator[Finding]:
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
