"""The web application: its routes, behind access checks, and how errors become answers."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import fastapi_offline
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from bonescreen.pages import sign_in
from bonescreen.pages.access import API, HEALTH, STATIC, Access, ResponseHeaders
from bonescreen.pages.rendering import render
from bonescreen.pages.sign_in import Sessions, session_key
from bonescreen.pages.users import Users
from db.session import Database
from xray.errors import Outage, UsageError
from xray.settings import Settings

log = logging.getLogger(__name__)

THREADS = 12
"""Requests that are worked on at once: fewer than the connections that a database's pool may open."""


def make_app(settings: Settings, database: Database, *, loopback: bool) -> FastAPI:
    """Make the web application.

    Parameters
    ----------
    settings : Settings
    database : Database
        Used by several threads, and not closed.
    loopback : bool
        Whether only this host can reach the server.

    Raises
    ------
    StorageOutage
        The key of the sessions cannot be read or written.
    """
    app = FastAPI(title="bonescreen", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)
    app.state.settings, app.state.database, app.state.users = settings, database, Users(settings.home)
    app.include_router(sign_in.router)
    app.add_api_route("/", _home, include_in_schema=False)
    app.add_api_route(HEALTH, _health, include_in_schema=False)
    app.mount(STATIC + "api-docs", StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))
    app.mount(STATIC.rstrip("/"), StaticFiles(packages=[("bonescreen.pages", "static")]))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UsageError, _usage_error)
    app.add_exception_handler(Outage, _outage)
    # The last added is the outermost.
    app.add_middleware(Access, users=app.state.users, loopback=loopback)
    app.add_middleware(Sessions, key=session_key(settings.home))
    app.add_middleware(ResponseHeaders)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


def _home(request: Request) -> Response:
    return render(request, "home.html")


def _health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


def _http_error(request: Request, error: Any) -> Response:
    return _problem(request, error.status_code, str(error.detail), dict(error.headers or {}))


def _usage_error(request: Request, error: Exception) -> Response:
    return _problem(request, 422, str(error))


def _outage(request: Request, error: Exception) -> Response:
    return _problem(request, 503, str(error), {"Retry-After": "10"})


def _problem(request: Request, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    if request.url.path.startswith(API):
        return JSONResponse({"detail": text}, status, headers)
    page = render(request, "problem.html", status, text=text)
    page.headers.update(headers or {})
    return page
