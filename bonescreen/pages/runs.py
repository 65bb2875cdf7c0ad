"""The page of all runs, with live progress, and what is wrong and what to do about it."""

import threading
import time
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from bonescreen.pages.dependencies import Configured, Ledger
from bonescreen.pages.rendering import render
from bonescreen.problems import Problem, chosen_runs, find_problems, is_open, read_system_state
from db.run_queries import list_runs
from db.session import Database
from xray.settings import Settings

PROBLEMS_SECONDS = 20.0
"""How long problems are kept for all browsers: finding them asks archives and broker, which may take long to answer."""

router = APIRouter(include_in_schema=False)


class _Problems:
    """The problems as they were found last, by one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Sequence[Problem] = ()
        self._until = 0.0

    def find(self, settings: Settings, database: Database) -> Sequence[Problem]:
        with self._lock:
            if time.monotonic() >= self._until:
                state = read_system_state(settings, database, chosen_runs(database, None))
                self._found, self._until = find_problems(state), time.monotonic() + PROBLEMS_SECONDS
            return self._found


@router.get("/")
def runs_page(request: Request, database: Ledger) -> Response:
    """Show all runs, the newest first."""
    return _runs(request, database, "runs.html")


@router.get("/runs-list")
def runs_list(request: Request, database: Ledger) -> Response:
    """Show the list of runs alone, by which a page that is open counts progress again."""
    return _runs(request, database, "runs_list.html")


def _runs(request: Request, database: Database, template: str) -> Response:
    found = list_runs(database)
    return render(request, template, runs=found, any_open=any(map(is_open, found)))


@router.get("/problems")
def problems(request: Request, settings: Configured, database: Ledger) -> Response:
    """Show the problems of open runs, as ``bonescreen status`` does."""
    state = request.app.state
    if not hasattr(state, "problems"):
        state.problems = _Problems()
    return render(request, "problems.html", problems=state.problems.find(settings, database))
