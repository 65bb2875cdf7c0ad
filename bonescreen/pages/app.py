"""The web application: its routes, behind access checks, and how errors become answers."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from bonescreen.pages import api, api_docs, failures, images, model, monitoring, runs, sign_in, study, worklist
from bonescreen.pages.access import API, STATIC, Access, ResponseHeaders
from bonescreen.pages.images import Pictures
from bonescreen.pages.monitoring import Health
from bonescreen.pages.rendering import render
from bonescreen.pages.sign_in import Sessions, session_key
from bonescreen.pages.users import Users
from db.session import Database
from xray.errors import Outage, PackageError, UsageError
from xray.settings import Settings
from xray.vocabulary import RESEARCH_NOTICE

THREADS = 12
"""Requests that are worked on at once: fewer than the connections that a database's pool may open."""

NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI would report each request, with its path and query, to what OpenTelemetry is configured to send it to."""

DESCRIPTION = f"""\
What the pages show, for scripts, and reviews and retries. {RESEARCH_NOTICE}

Give name and password with each request (HTTP Basic). The pages themselves use their session, and send its token in
the header `X-CSRF-Token` with what changes something.
"""


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
    app = FastAPI(
        title="bonescreen",
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
        telemetry=NO_TELEMETRY,
    )
    app.state.settings, app.state.database, app.state.users = settings, database, Users(settings.home)
    app.state.pictures, app.state.health = Pictures(settings, database), Health(database)
    for part in (sign_in, runs, worklist, study, failures, model, api, images, api_docs, monitoring):
        app.include_router(part.router)
    app.mount(api_docs.ASSETS, api_docs.assets())
    app.mount(STATIC.rstrip("/"), StaticFiles(packages=[("bonescreen.pages", "static")]))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UsageError, _usage_error)
    app.add_exception_handler(PackageError, _package_error)
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


def _http_error(request: Request, error: Any) -> Response:
    return _problem(request, error.status_code, str(error.detail), error.headers)


def _usage_error(request: Request, error: Exception) -> Response:
    return _problem(request, 422, str(error))


def _package_error(request: Request, error: Exception) -> Response:
    return _problem(request, 404, str(error))


def _outage(request: Request, error: Exception) -> Response:
    return _problem(request, 503, str(error), {"Retry-After": "10"})


def _invalid(request: Request, error: Any) -> Response:
    if not request.url.path.startswith(API):
        return _problem(request, 404, "There is no such page.")
    # Not what was given, which JSON may hold and UTF-8 may not.
    wrong = [{name: each[name] for name in ("loc", "msg", "type")} for each in error.errors()]
    return Response(json.dumps({"detail": wrong}), 422, media_type="application/json")


def _problem(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    if request.url.path.startswith(API):
        return JSONResponse({"detail": text}, status, headers)
    page = render(request, "problem.html", status, text=text)
    page.headers.update(headers or {})
    return page
