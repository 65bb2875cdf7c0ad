"""Labelled radiographs: which images there are, what they are called positive for, and which must stay together."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xray.errors import UsageError
from xray.network.card import TrainingData

ALL = "all"
"""Said in place of a body part."""

UPPER_LIMB = frozenset({"CLAVICLE", "ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"})


class Role(StrEnum):
    """What a group's images are for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled radiograph.

    Attributes
    ----------
    image : str
        Path below the data set's root, POSIX.
    study : str
        The examination it belongs to.
    group : str
        The patient, or whatever else a split must not part: near-duplicates, a series of films.
    label : bool
        The human label, true for positive.
    body_part : str or None
        DICOM Body Part Examined term.
    role : Role or None
        What the publisher's own split uses it for.
    """

    image: str
    study: str
    group: str
    label: bool
    body_part: str | None = None
    role: Role | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled radiographs below one folder.

    Attributes
    ----------
    root : Path
        Where the examples' paths begin.
    terms : TrainingData
        Name, licence and terms, as a card says them.
    finding : str
        What a positive label means, such as ``"fracture"``.
    examples : tuple of Example
        N of them, no image twice.
    notes : tuple of str
        What the reader noticed and a person should know.
    """

    root: Path
    terms: TrainingData
    finding: str
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an image that is listed twice: it could be on both sides of a split."""
        image, count = (
            Counter(example.image for example in self.examples).most_common(1)[0] if self.examples else ("", 0)
        )
        if count > 1:
            raise UsageError(f"{self.root}: the image {image!r} is listed {count} times")

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def images(self) -> NDArray[np.str_]:
        """Paths below the root, ``(N,)``."""
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
        """Return the examples that show one of these body parts; all for none, or where one is ``all`` in any case.

        Raises
        ------
        UsageError
            If there is no image of one of them; says which there are.
        """
        if not wanted or any(part.lower() == ALL for part in wanted):
            return self
        there = Counter(self.body_parts.tolist())
        for part in wanted:
            if not there[part]:
                known = ", ".join(f"{name or 'unknown'} ({count:,})" for name, count in there.most_common())
                raise UsageError(
                    f"{self.root} has no images of {part}, but of {known}: choose with --body-part, or say {ALL!r}"
                )
        return self.select(np.isin(self.body_parts, list(wanted)))

    def require_both_classes(self, where: str) -> None:
        """Refuse data from which nothing can be learnt or measured.

        Parameters
        ----------
        where : str
            Which part of the data this is, for the error.

        Raises
        ------
        UsageError
            If there are no images, or only of one class.
        """
        positives = int(self.labels.sum())
        if not len(self):
            raise UsageError(
                f"{where} has no images: the split names no group of {self.root} for it, or there are too few"
            )
        if positives in (0, len(self)):
            only = "positive" if positives else "negative"
            raise UsageError(f"{where} has one class only: all {len(self):,} images are {only}; both are needed")
