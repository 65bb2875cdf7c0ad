"""What `bonescreen bench` is asked to measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xray.network.package import ModelPackage

SCHEMA = 1
"""The version of the JSON; a name that changes its meaning raises it."""

SCREENED_IMAGES = 256
DATABASE_IMAGES = 20_000


class Part(StrEnum):
    """What the benchmark can measure."""

    ENGINE = "engine"
    END_TO_END = "end-to-end"
    DECODE = "decode"
    SCAN = "scan"
    QUERIES = "queries"
    LEDGER = "ledger"
    FIRST_RESULT = "first-result"


@dataclass(frozen=True)
class Options:
    """What to measure, and on what.

    Parameters
    ----------
    package : ModelPackage
        The model that screens.
    parts : sequence of Part
    rounds : int
    data : Path or None
        A folder with radiographs.
    images : int
        Size of the scanned archive and of the database.
    screened : int
        How many images are screened in a round.
    database : str or None
        URL of a PostgreSQL server, to measure it besides SQLite.
    """

    package: "ModelPackage"
    parts: Sequence[Part]
    rounds: int
    data: Path | None
    images: int
    screened: int
    database: str | None
