"""Which studies of a DICOMweb service a scan looks for; a feeder that finishes the scan reads it from the database."""

import json
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Selection:
    """Studies by their date and modality; all by default.

    Parameters
    ----------
    since : date or None
        The earliest Study Date (0008,0020). A study without a date is not found with it.
    modalities : tuple of str
        Terms of Modality (0008,0060), of which a study has at least one. Such a study is read whole.
    """

    since: date | None = None
    modalities: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Write it as the database keeps it; empty if it selects all."""
        found = {"since": self.since and self.since.isoformat(), "modalities": self.modalities}
        filled = {name: value for name, value in found.items() if value}
        return json.dumps(filled) if filled else ""

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """Read what `__str__` wrote."""
        found = json.loads(text) if text else {}
        since = found.get("since")
        return cls(date.fromisoformat(since) if since else None, tuple(found.get("modalities", ())))


ALL = Selection()
