"""How many images of each label there are: over all, of each body part, in each part of the split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.dataset import Dataset, Role
from training.doctor.examined import Examined

ALL = "all images"


@dataclass(frozen=True)
class Share:
    """One row of the table.

    Attributes
    ----------
    of : str
        ``"data"``, ``"body part"`` or ``"part of the split"``.
    name : str
        Which one.
    images, positives, studies, groups : int
        How many it has that can be read.
    """

    of: str
    name: str
    images: int
    positives: int
    studies: int
    groups: int

    @property
    def share(self) -> float:
        """Positive images among all, in [0, 1]; 0 where there are none."""
        return self.positives / self.images if self.images else 0.0


def balance(examined: Examined) -> tuple[Share, ...]:
    """Count the images that can be read."""
    dataset = examined.dataset
    rows = [_share(dataset, "data", ALL, np.ones(len(dataset), np.bool_))]
    for part in sorted(set(dataset.body_parts.tolist())):
        rows.append(_share(dataset, "body part", part or "unknown", dataset.body_parts == part))
    if examined.has_split:
        rows.extend(_share(dataset, "part of the split", role, examined.parts == role) for role in Role)
    return tuple(rows)


def _share(dataset: Dataset, of: str, name: str, chosen: NDArray[np.bool_]) -> Share:
    return Share(
        of,
        str(name),
        int(chosen.sum()),
        int(dataset.labels[chosen].sum()),
        len(np.unique(dataset.studies[chosen])),
        len(np.unique(dataset.groups[chosen])),
    )
