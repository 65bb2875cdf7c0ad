"""The page of images that could not be read: by reason, what to do about each, and read them again."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bonescreen.continue_run import next_step, retry_failures
from bonescreen.pages.dependencies import Configured, Ledger, Run
from bonescreen.pages.rendering import render
from db.failures import ListedFailure, count_failures, page_of_failures
from db.queries import LARGEST_NUMBER
from db.run_queries import RunSummary
from db.session import Database
from xray.errors import UsageError
from xray.settings import Settings
from xray.vocabulary import REASON_REMEDY, Reason, reason_text

FIRST_ROWS = 10
PAGE_ROWS = 100

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Group:
    """The failures of one reason, or a page of them; `after` is where the next page begins."""

    reason: str
    number: int
    text: str
    remedy: str
    rows: list[ListedFailure]
    after: int | None


@router.get("/runs/{run}/failures")
def failures_page(
    request: Request,
    run: Run,
    settings: Configured,
    database: Ledger,
    reason: str | None = None,
    after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER)] = 0,
    retried: int | None = None,
) -> Response:
    """Show the failures of a run, the most frequent reasons first; or the images of one reason, by pages."""
    return _show(request, run, settings, database, reason=reason, after=after, retried=retried)


@router.post("/runs/{run}/retry")
def retry(request: Request, run: Run, settings: Configured, database: Ledger) -> Response:
    """Let the failed images of a run be read again."""
    try:
        retried = retry_failures(database, run)
    except UsageError as error:
        return _show(request, run, settings, database, problem=str(error), status=422)
    return RedirectResponse(f"/runs/{run.run}/failures?retried={retried}", 303)


def _show(
    request: Request,
    run: RunSummary,
    settings: Settings,
    database: Database,
    *,
    reason: str | None = None,
    after: int = 0,
    retried: int | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    counts = count_failures(database, run.run)
    asked = counts if reason is None else {reason: counts[reason]} if reason in counts else {}
    limit = FIRST_ROWS if reason is None else PAGE_ROWS
    return render(
        request,
        "failures.html",
        status,
        run=run,
        total=sum(counts.values()),
        groups=[_group(database, run.run, each, number, after, limit) for each, number in asked.items()],
        chosen=reason,
        retried=retried,
        next_step=next_step(settings, run),
        problem=problem,
    )


def _group(database: Database, run_id: int, reason: str, number: int, after: int, limit: int) -> Group:
    rows = page_of_failures(database, run_id, reason, after, limit + 1)
    more = rows[limit - 1].image_id if len(rows) > limit else None
    known = Reason(reason) if reason in set(Reason) else None
    return Group(
        reason=reason,
        number=number,
        text=reason_text(reason),
        remedy=REASON_REMEDY[known] if known else "Read it with the version of bonescreen that screened it.",
        rows=rows[:limit],
        after=more,
    )
