"""An archive as this host reads it, and how long to wait for files that may still be written."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from db.scan_cache import HeaderMarks
from producer.selection import ALL, Selection
from xray.archive_root import Root
from xray.dicomweb import DicomWebService
from xray.images.dicom.header import ACCESSION, HEADER_VERSION, STUDY_DATE
from xray.pseudonym import key_mark
from xray.settings import Settings
from xray.vocabulary import Layout

WAIT_SECONDS = 0.5
"""The longest single wait, after which a scan renews its lease."""

Wait = Callable[[float], None]
"""Waits this many seconds."""


@dataclass(frozen=True)
class Source:
    """An archive as this host reads it.

    Parameters
    ----------
    root : Path or DicomWebService
        A folder, a container (zip or tar), a single image, or a DICOMweb service.
    layout : Layout
        How its files are grouped in studies.
    quiet_seconds : float
        A file modified within this many seconds may still be being written.
    pseudonym_key : bytes or None
        Turns patients into keyed hashes.
    site_terms : mapping of str to str
        The site's own terms for body parts.
    keep : frozenset of str
        What is stored of headers only if it is asked for, see `xray.settings.Settings`.
    selection : Selection
        Which studies of a service are looked for.
    """

    root: Root
    layout: Layout = Layout.AUTO
    quiet_seconds: float = 0.0
    pseudonym_key: bytes | None = field(default=None, repr=False)
    site_terms: Mapping[str, str] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()
    selection: Selection = ALL

    @classmethod
    def configured(
        cls, root: Root, settings: Settings, layout: Layout = Layout.AUTO, selection: Selection = ALL
    ) -> "Source":
        """Return the archive at a root, to be read as the settings say."""
        return cls(
            root,
            layout,
            settings.quiet_seconds,
            settings.pseudonym_key,
            settings.site_terms,
            settings.keep,
            selection,
        )

    @property
    def path(self) -> Path:
        """The root of an archive that is no service."""
        if isinstance(self.root, DicomWebService):
            raise TypeError("a DICOMweb service has no path on this host")
        return self.root

    @property
    def header_mark(self) -> str:
        """Sixteen hexadecimal digits that identify what is read of headers: if they differ, they are read again."""
        kept = sorted(self.keep & {ACCESSION, STUDY_DATE})
        read = repr((HEADER_VERSION, kept, sorted(self.site_terms.items())))
        return hashlib.sha256(read.encode()).hexdigest()[:16]

    @property
    def read_mark(self) -> str:
        """Identifies how the headers of a service's study are read, with the pseudonym key."""
        return f"{self.header_mark} {'' if self.pseudonym_key is None else key_mark(self.pseudonym_key)}"

    def reads_like(self, marks: HeaderMarks) -> bool:
        """Tell whether headers that were read with these marks would be read the same now."""
        same_key = self.pseudonym_key is None or marks.pseudonym_key == key_mark(self.pseudonym_key)
        return same_key and marks.headers == self.header_mark

    def seconds_until_quiet(self, mtime_ns: int) -> float:
        """Return how long to wait for a file that changed at this time (ns since 1970), 0 if it is not recent.

        A time far in the future is ignored; for one that is slightly ahead the wait is at most `quiet_seconds`.
        """
        age = time.time() - mtime_ns / 1e9
        return min(self.quiet_seconds - age, self.quiet_seconds) if abs(age) < self.quiet_seconds else 0.0

    def wait_until_quiet(self, mtime_ns: int, wait: Wait) -> None:
        """Wait, in steps of `WAIT_SECONDS`, until a change at this time is no longer recent."""
        deadline = time.monotonic() + self.seconds_until_quiet(mtime_ns)
        while (left := deadline - time.monotonic()) > 0:
            wait(min(left, WAIT_SECONDS))
