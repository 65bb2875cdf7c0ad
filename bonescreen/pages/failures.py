"""The page of images that could not be read: by reason, what to do about each, and read them again."""

from dataclasses import dataclass

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bonescreen.commands.failures import reason_text
from bonescreen.commands.runs import next_step, retry_failures
from bonescreen.pages.dependencies import Configured, Ledger, Run
from bonescreen.pages.rendering import render
from db.failures import ListedFailure, count_failures, page_of_failures
from xray.errors import UsageError
from xray.vocabulary import REASON_REMEDY, Reason

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
    after: int = 0,
    retried: int | None = None,
) -> Response:
    """Show the failures of a run, the most frequent reasons first; or the images of one reason, by pages."""
    return _show(request, run, settings, database, reason=reason, after=after, retried=retried)


@router.post("/runs/{run}/retry")
def retry(request: Request, run: Run, settings: Configured, database: Ledger) -> Response:
    """Let the failed images of a run be read again."""
