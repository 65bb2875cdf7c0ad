"""Labelled radiographs: images, human labels, and the groups that a split must keep together."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.annotations import Annotation
from xray.errors import UsageError
from xray.network.card import TrainingData
from xray.vocabulary import count

ALL = "all"
"""Selects every body part."""

OWN_DATA = TrainingData(
    name="own data",
    role="training, thresholds, calibration and metrics",
    licence="not known: the data's owner decides",
    terms="not known: ask the data's owner before passing on a model trained on them",
    attribution="none given",
)
"""Terms of data that are not a known data set."""

UPPER_LIMB = frozenset({"CLAVICLE", "ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"})


class Role(StrEnum):
    """Part of a split: what a group's images are used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled radiograph.

    Attributes
    ----------
    image : str
        Path relative to the data set's root, POSIX.
    study : str
        The examination it belongs to.
    group : str
        The patient, or another set of images that a split must keep together: near duplicates, a series.
    label : bool
        The human label, true for positive.
    body_part : str or None
        DICOM Body Part Examined term.
    role : Role or None
        Its part in the publisher's split, if there is one.
    annotations : tuple of Annotation
        Where the finding lies; empty where it is not there, or where nobody has marked it.
    size : tuple of int or None
        Height and width of the decoded image, pixels; None until it has been read.
    """

    image: str
    study: str
    group: str
    label: bool
    body_part: str | None = None
    role: Role | None = None
    annotations: tuple[Annotation, ...] = ()
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled radiographs in one folder.

    Attributes
    ----------
    root : Path
        The folder that the examples' paths are relative to.
    terms : TrainingData
        Name, licence and terms, as they appear on a model card.
    finding : str
        What a positive label means, such as ``"fracture"``.
    examples : tuple of Example
        N examples; no image appears twice.
    notes : tuple of str
        Remarks for the user from reading the data set.
    """

    root: Path
    terms: TrainingData
    finding: str
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an image that is listed twice, as it could be in two parts of a split."""
        image, times = (
            Counter(example.image for example in self.examples).most_common(1)[0] if self.examples else ("", 0)
        )
        if times > 1:
            raise UsageError(f"{self.root}: the image {image!r} is listed {times} times")

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def images(self) -> NDArray[np.str_]:
        """Paths relative to the root, ``(N,)``."""
        return np.array([example.image for example in self.examples], np.str_)

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Human labels, ``(N,)`` bool, true for positive."""
        return np.array([example.label for example in self.examples], np.bool_)

    @property
    def groups(self) -> NDArray[np.str_]:
        """Group keys, ``(N,)``."""
        return np.array([example.group for example in self.examples], np.str_)

    @property
    def studies(self) -> NDArray[np.str_]:
        """Study keys, ``(N,)``."""
        return np.array([example.study for example in self.examples], np.str_)

    @property
    def body_parts(self) -> NDArray[np.str_]:
        """Body parts, ``(N,)``, empty where unknown."""
        return np.array([example.body_part or "" for example in self.examples], np.str_)

    def select(self, keep: NDArray[np.bool_]) -> "Dataset":
        """Return the data set of the examples where ``keep (N,)`` is true."""
        return replace(self, examples=tuple(e for e, kept in zip(self.examples, keep, strict=True) if kept))

    def of_body_parts(self, wanted: Collection[str]) -> "Dataset":
        """Return the examples of these body parts; all examples if there are none, or if one of them is ``all``.

        Raises
        ------
        UsageError
            If one of them has no images; the message lists the body parts in the data.
        """
        if not wanted or any(part.lower() == ALL for part in wanted):
            return self
        there = Counter(self.body_parts.tolist())
        for part in wanted:
            if not there[part]:
                known = ", ".join(f"{name or 'unknown'} ({number:,})" for name, number in there.most_common())
                raise UsageError(
                    f"{self.root} has no images of {part}. It has {known}: choose with --body-part, or use "
                    f"--body-part {ALL}"
                )
        return self.select(np.isin(self.body_parts, list(wanted)))

    def require_both_classes(self, where: str) -> None:
        """Refuse data without images of both classes, on which nothing can be trained or measured.

        Parameters
        ----------
        where : str
            What these data are, for the message.

        Raises
        ------
        UsageError
            If there are no images, or only of one class.
        """
        positives = int(self.labels.sum())
        if not len(self):
            raise UsageError(
                f"{where} has no images: the split assigns no group of {self.root} to it, or there are too few groups"
            )
        if positives in (0, len(self)):
            only = "positive" if positives else "negative"
            raise UsageError(f"{where} has one class only: {only} ({count(len(self), 'image')}); both are needed")


def unlabelled_note(number: int) -> str:
    """Return the note on images without a label."""
    return f"left out {count(number, 'image')} without a label"
