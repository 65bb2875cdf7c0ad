"""Serve the web pages and the JSON API."""

from typing import Annotated

import typer

from bonescreen.commands.arguments import as_port
from bonescreen.context import open_ledger, settings_here
from xray.errors import UsageError
from xray.log_lines import configure_logging


def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", callback=as_port, help="The port to listen on.")] = 8000,
) -> None:
    """Serve the web pages: runs, worklists, studies with their heat maps, and reviews; and a JSON API.

    As long as there is no user, they are reached from this machine only and are open to all of its users. Add one
    with: bonescreen users add NAME. Stop it with Ctrl-C.

    Example: bonescreen serve
    """
    # FastAPI takes half a second to import, which the other commands need not wait for.
    from bonescreen.listening import is_loopback
    from bonescreen.pages.app import make_app
    from bonescreen.pages.server import run_server
    from bonescreen.pages.users import read_users

    settings = settings_here()
    loopback, users = is_loopback(host), read_users(settings.home)
    if not loopback and not users:
        raise UsageError(
            f"other hosts can reach {host}; add a user with: bonescreen users add NAME, or listen on 127.0.0.1"
        )
    with open_ledger(settings) as database:
        app = make_app(settings, database, loopback=loopback)
        configure_logging(settings, "pages")
        run_server(app, host, port, "asks for a password" if users else "only from this machine, without passwords")
