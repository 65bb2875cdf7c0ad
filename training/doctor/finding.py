"""What the doctor has found: how bad it is, what to do next, and which images show it."""

from dataclasses import dataclass
from enum import StrEnum


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
