"""The worklist's filter as an address holds it: read from a query, and written for links."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends
from starlette.requests import Request

from bonescreen.pages.dependencies import Run
from db.worklist_search import WorklistFilter
from xray.errors import UsageError
from xray.vocabulary import Label, StudyStatus

YES, NO = "true", "false"
FIELDS = (
    "text", "status", "label", "flagged", "body_part", "min_score", "max_score", "human_label", "reviewed", "since",
)  # fmt: skip
CURSOR = "cursor"
LONGEST_TEXT = 400


@dataclass(frozen=True)
class Listed:
    """A worklist as a person asked for it.

    Parameters
    ----------
    wanted : WorklistFilter
    cursor : str or None
        The page of the list.
    given : mapping of str to str
        The filter's fields that ask for something, as they were written.
    problem : str or None
        What is wrong with a field, which `wanted` then leaves out.
    """

    wanted: WorklistFilter
    cursor: str | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None

    def query(self, **more: str | int | None) -> str:
        """Write the filter, and more, for the end of an address: empty, or with its question mark."""
        asked = {**self.given, **{name: str(value) for name, value in more.items() if value is not None}}
        return f"?{urlencode(asked)}" if asked else ""

    @property
    def here(self) -> str:
        """The query of this page of the list."""
        return self.query(cursor=self.cursor)


def read_filter(run: int, query: Mapping[str, str]) -> Listed:
    """Read a filter from an address' query; fields that it does not know are ignored.

    Parameters
    ----------
    run : int
    query : mapping of str to str
    """
    given = {name: value for name in FIELDS if (value := query.get(name, "").strip())}
    values: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        try:
            values[name] = _READ[name](value)
        except (ValueError, OverflowError):
            problems.append(_PROBLEMS[name])
    return Listed(
        WorklistFilter(run, **values), query.get(CURSOR) or None, given, "; ".join(dict.fromkeys(problems)) or None
    )


def _score(text: str) -> float:
    # A decimal comma is what many keyboards have.
    score = float(text.replace(",", "."))
    if math.isnan(score) or not 0 <= score <= 1:
        raise ValueError
    return score


def _yes_or_no(text: str) -> bool:
    return {YES: True, NO: False}[text] if text in (YES, NO) else bool(int(text))


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _text(text: str) -> str:
    if len(text) > LONGEST_TEXT or "\0" in text:
        raise ValueError
    return text


_READ = {
    "text": _text,
    "status": StudyStatus,
    "label": Label,
    "flagged": _yes_or_no,
    "body_part": _text,
    "min_score": _score,
    "max_score": _score,
    "human_label": Label,
    "reviewed": _yes_or_no,
    "since": _time,
}
_ONE_OF = "must be one of the choices"
_PROBLEMS = {
    "text": f"The text to search for has at most {LONGEST_TEXT} characters",
    "status": f"Status {_ONE_OF}",
    "label": f"Model's label {_ONE_OF}",
    "flagged": "Flagged must be true or false",
    "body_part": f"Body part {_ONE_OF}",
    "min_score": "A score must be a number from 0 to 1",
    "max_score": "A score must be a number from 0 to 1",
    "human_label": f"Human label {_ONE_OF}",
    "reviewed": "Reviewed must be true or false",
    "since": "The time must be a date or time, such as 2026-11-30 or 2026-11-30T07:00",
}


def _listed(request: Request, run: Run) -> Listed:
    return read_filter(run.run, request.query_params)


Asked = Annotated[Listed, Depends(_listed)]
"""The worklist that the address asks for."""


def require_understood(listed: Listed) -> None:
    """Raise an error if a field of the filter cannot be read.

    Raises
    ------
    UsageError
        Says which.
    """
    if listed.problem:
        raise UsageError(listed.problem)
