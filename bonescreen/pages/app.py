"""The web application: its routes, behind access checks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.staticfiles import StaticFiles

from bonescreen.pages import api, api_docs, compare, failures, images, model, monitoring, runs, sign_in, study, worklist
from bonescreen.pages.access import STATIC, Access, ResponseHeaders
from bonescreen.pages.errors import add_error_handlers
from bonescreen.pages.images import Pictures
from bonescreen.pages.monitoring import Health
from bonescreen.pages.sign_in import Sessions, session_key
from bonescreen.pages.users import Users
from db.session import Database
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
    for part in (sign_in, runs, worklist, study, failures, compare, model, api, images, api_docs, monitoring):
        app.include_router(part.router)
    app.mount(api_docs.ASSETS, api_docs.assets())
    app.mount(STATIC.rstrip("/"), StaticFiles(packages=[("bonescreen.pages", "static")]))
    add_error_handlers(app)
    # The last added is the outermost.
    app.add_middleware(Access, users=app.state.users, loopback=loopback)
    app.add_middleware(Sessions, key=session_key(settings.home))
    app.add_middleware(ResponseHeaders)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
