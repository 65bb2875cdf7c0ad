"""The database itself."""

import typer

from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import say
from db import migrate
from db.session import Database

app = typer.Typer(name="db", help="Look after the database: upgrade.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    # Typer would make a lone command the group itself.
    pass


@app.command()
def upgrade() -> None:
    """Bring the configured database to this version's tables; an embedded one needs no such care.

    Example: bonescreen db upgrade
    """
    settings = settings_here()
    if settings.database_url is None:
        with open_ledger(settings) as database:
            say(f"The embedded database {database.masked_url} is up to date; that happens by itself.")
        return
    database = Database(settings.database_url)
    try:
        before, after = migrate.upgrade(database)
    finally:
        database.close()
    if before == after:
        say(f"The database {database.masked_url} is up to date (revision {after}).")
    else:
        say(f"The database {database.masked_url} is at revision {after} now (before: {before or 'empty'}).")
