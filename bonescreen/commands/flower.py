"""Flower, Celery's monitor, on this broker."""

from typing import Annotated

import typer

from bonescreen.broker import answers, broker_socket
from bonescreen.broker import broker_url as embedded_broker_url
from bonescreen.context import settings_here
from bonescreen.health import broker_fault
from bonescreen.listen import require_credentials
from xray.errors import BrokerOutage, UsageError
from xray.settings import Settings


def flower(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 5555,
) -> None:
    """Serve Flower's pages: the workers on this broker and their batches, until stopped.

    They only show; steer with `cancel`, `resume` and `retry`. Whoever opens them is asked for the credentials in
    BONESCREEN_FLOWER_USER and BONESCREEN_FLOWER_PASSWORD, without which Flower stays on this host and has no API.

    Example: BONESCREEN_BROKER_URL=redis://queue/0 bonescreen flower
    """
    settings = settings_here()
    credentials = require_credentials(
        host,
        settings.flower_user,
        settings.flower_password,
        "BONESCREEN_FLOWER_USER and BONESCREEN_FLOWER_PASSWORD",
    )
    url = _broker_url(settings)
    if (fault := broker_fault(url)) is not None:
        raise BrokerOutage(fault)
    # Flower takes a second to import, which the other commands need not wait for.
    from bonescreen.monitor import run_flower

    run_flower(url, settings.home, host, port, credentials)


def _broker_url(settings: Settings) -> str:
    if settings.broker_url is not None:
        return settings.broker_url
    if not answers(broker_socket(settings)):
        raise UsageError(
            f"set BONESCREEN_BROKER_URL; no `bonescreen screen`, whose broker could be shown, runs in {settings.home}"
        )
    return embedded_broker_url(settings)
