"""The UIDs of objects: the same at each export, and others as soon as anything else is in them."""

import hashlib
import uuid
from dataclasses import dataclass
from enum import StrEnum

from db.queries import Study

LAYOUT = 2
"""Raised whenever something else is written into the objects, as they are then other objects, with other UIDs."""


class Kind(StrEnum):
    """A kind of object; each has a series of its own."""

    REPORT = "report"
    HEAT_MAP = "heat map"
    OUTLINE = "outline"


@dataclass(frozen=True)
class Identity:
    """The model version and the DICOM study that objects are of."""

    study: str
    digest: str
    precision: str

    @classmethod
    def of(cls, study: Study, study_uid: str) -> "Identity":
        """Return that of a screened study in its DICOM study."""
        return cls(study_uid, study.digest, study.row.precision)

    def series(self, kind: Kind) -> str:
        """Return the Series Instance UID of a kind of objects."""
        return self._uid("series", kind)

    def instance(self, kind: Kind, *content: str) -> str:
        """Return the SOP Instance UID of an object with this content."""
        return self._uid("instance", kind, *content)

    def tracking(self, *content: str) -> str:
        """Return the UID under which a report lists an image's result, or the study's."""
        return self._uid("tracking", *content)

    def _uid(self, *parts: str) -> str:
        return derived_uid(str(LAYOUT), self.study, self.digest, self.precision, *parts)


def derived_uid(*parts: str) -> str:
    """Return the UID that stands for these texts: a UUID of their hash (PS3.5 B.2)."""
    # With its length in front, no text runs into the next.
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode(errors="surrogateescape")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
