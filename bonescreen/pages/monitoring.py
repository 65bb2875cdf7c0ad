"""For those who watch the server: ``/healthz`` without credentials and details, ``/metrics`` with them."""

import asyncio
import time

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from bonescreen.metrics import metrics_text
from bonescreen.pages.access import HEALTH, METRICS
from bonescreen.pages.dependencies import Configured, Ledger
from db.session import Database
from xray.errors import Outage

KEPT_SECONDS = 1.0

router = APIRouter(include_in_schema=False)


class Health:
    """Whether the database answers; asked at most once a second, however many ask.

    Parameters
    ----------
    database : Database
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked_at = -KEPT_SECONDS
        self._well = False
        self._lock = asyncio.Lock()

    async def is_well(self) -> bool:
        """Tell whether the database answers."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= KEPT_SECONDS:
                self._well = await run_in_threadpool(self._is_there)
                self._asked_at = time.monotonic()
            return self._well

    def _is_there(self) -> bool:
        try:
            with self._database.read() as connection:
                connection.execute(select(1)).one()
        except Outage:
            return False
        return True


@router.get(HEALTH)
async def health(request: Request) -> Response:
    """Answer 200 if the server and the database answer, else 503, for a container's health check."""
    well: bool = await request.app.state.health.is_well()
    return PlainTextResponse("ok\n" if well else "the database does not answer\n", 200 if well else 503)


@router.get(METRICS)
def metrics(settings: Configured, database: Ledger) -> Response:
    """Return the metrics that `bonescreen metrics` prints, for Prometheus."""
    return Response(metrics_text(settings, database), media_type=CONTENT_TYPE_LATEST)
