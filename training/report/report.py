"""What an evaluation's page and its JSON say, as plain values."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from training.compare import Difference
from training.evaluate import Evaluation
from training.mistakes import Mistake
from training.seen import Seen
from xray.card import Calibration
from xray.vocabulary import RESEARCH_NOTICE

SCHEMA = 1


@dataclass(frozen=True)
class Model:
    """The model that was measured; see :class:`xray.card.Card` for the fields."""

    name: str
    version: str
    digest: str
    finding: str
    wording: str
    body_parts: tuple[str, ...]
    calibration: Calibration
    engine: str


@dataclass(frozen=True)
class Data:
    """What it was measured on.

    Attributes
    ----------
    name, folder : str
        The data set's, and where it lies.
    part : str
        One of :data:`training.seen.PARTS`.
    listed, measured : int
        Images of that part, and those of them that could be read.
    unreadable : mapping of str to int
        Images left out, by reason code.
    notes : tuple of str
        What the reader of the data noticed.
    """

    name: str
    folder: str
    part: str
    listed: int
    measured: int
    unreadable: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The model against another on the same images, in scope of both.

    Attributes
    ----------
    name : str
        The other model's name and version, or its table's name.
    digest : str or None
        The other model's; None where only its table is known.
    seen : Seen or None
        Whether it has seen the images; None where only its table is known.
    images, studies : tuple of Difference
        Empty where nothing could be compared, or studies are single images.
    lacks : str or None
        Why something is missing.
    """

    name: str
    digest: str | None
    seen: Seen | None
    images: tuple[Difference, ...]
    studies: tuple[Difference, ...]
    lacks: str | None


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes
    ----------
    aim : str or None
        What thresholds were also chosen for on these data: the last ones of `evaluation`, which flatter.
    """

    model: Model
    data: Data
    seen: Seen
    evaluation: Evaluation
    aim: str | None
    mistakes: tuple[Mistake, ...]
    comparison: Comparison | None

    @property
    def names(self) -> tuple[str, str]:
        """The model and the one it is compared with, told apart by their digests where they are called alike."""
        name = f"{self.model.name} {self.model.version}"
        if self.comparison is None or self.comparison.name != name:
            return name, "" if self.comparison is None else self.comparison.name
        first, second = self.model.digest[:12], (self.comparison.digest or "not known")[:12]
        return f"{name} ({first})", f"{name} ({second})"

    def to_json(self) -> str:
        """Return the report as JSON text, in ASCII, with the research notice."""
        return json.dumps({"schema": SCHEMA, "notice": RESEARCH_NOTICE, **asdict(self)}, indent=2, allow_nan=False)
