"""Two runs of one archive beside each other: a scatter plot of their scores, and the studies they label differently."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Path
from starlette.requests import Request
from starlette.responses import Response

from bonescreen.pages.dependencies import Ledger, Run
from bonescreen.pages.rendering import render
from db.comparison import ScorePair, compare_runs, count_labels, score_pairs
from db.queries import LARGEST_NUMBER
from db.run_queries import RunSummary, list_runs, run_summary
from db.session import Database
from xray.errors import UsageError
from xray.thresholds import is_positive

PAGE_ROWS = 50

MOST_POINTS = 2_000
"""Of the plot: more would hide each other."""

PLOT_SIDE = 300
"""In the plot's own units."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Point:
    """A study's point in the plot, from its upper left corner, and whether the labels of the two runs differ."""

    x: float
    y: float
    differs: bool


@router.get("/runs/{run}/compare")
def comparisons_page(request: Request, run: Run, database: Ledger) -> Response:
    """List the other runs of a run's archive."""
    others = [other for other in list_runs(database) if other.archive == run.archive and other.run != run.run]
    return render(request, "comparisons.html", run=run, others=others)


@router.get("/runs/{run}/compare/{other}")
def comparison_page(
    request: Request,
    run: Run,
    other: Annotated[int, Path(ge=1, le=LARGEST_NUMBER)],
    database: Ledger,
    cursor: str | None = None,
) -> Response:
    """Show two runs beside each other."""
    second = _other(database, other)
    page = compare_runs(database, run.run, other, PAGE_ROWS, cursor)
    counts = count_labels(database, run.run, other)
    pairs = score_pairs(database, run.run, other, MOST_POINTS)
    return render(
        request,
        "compare.html",
        run=run,
        other=second,
        side=PLOT_SIDE,
        points=[_point(pair, run, second) for pair in pairs],
        counts=counts,
        comparable=counts.both_positive + counts.only_first + counts.only_second + counts.both_negative,
        rows=page.rows,
        next=page.next and f"/runs/{run.run}/compare/{other}?{urlencode({'cursor': page.next})}",
        is_first=cursor is None,
    )


def _other(database: Database, number: int) -> RunSummary:
    try:
        return run_summary(database, number)
    except UsageError:
        raise HTTPException(404, f"there is no run {number}") from None


def _point(pair: ScorePair, first: RunSummary, second: RunSummary) -> Point:
    # Of an incomplete study that is not flagged, neither run gives a label, and it is no pair.
    differs = is_positive(pair.first, first.study_threshold) != is_positive(pair.second, second.study_threshold)
    return Point(PLOT_SIDE * pair.first, PLOT_SIDE * (1 - pair.second), differs)
