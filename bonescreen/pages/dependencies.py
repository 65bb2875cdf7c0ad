"""What routes ask FastAPI for: the database, the settings, and the name of who asks."""

from typing import Annotated

from fastapi import Depends, HTTPException, Path
from starlette.requests import Request

from db.queries import LARGEST_NUMBER
from db.run_queries import RunSummary, run_summary
from db.session import Database
from xray.errors import UsageError
from xray.settings import Settings


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _reviewer(request: Request) -> str | None:
    reviewer: str | None = request.state.reviewer
    return reviewer


Ledger = Annotated[Database, Depends(_database)]
Configured = Annotated[Settings, Depends(_settings)]
Reviewer = Annotated[str | None, Depends(_reviewer)]
"""The name of who is signed in; without users, the name that was given, or None before."""

Number = Annotated[int, Path(ge=1, le=LARGEST_NUMBER)]


def _run(run: Number, database: Ledger) -> RunSummary:
    try:
        return run_summary(database, run)
    except UsageError:
        raise HTTPException(404, f"there is no run {run}") from None


Run = Annotated[RunSummary, Depends(_run)]
"""The run whose number is in the path as ``{run}``; 404 if there is none."""
