"""The database itself."""

import typer

from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import print_line
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
            print_line(f"The embedded database {database.shown_url} is up to date; that happens by itself.")
        return
    database = Database(settings.database_url)
    try:
        before, after = migrate.upgrade(database)
    finally:
        database.close()
    if before == after:
        print_line(f"The database {database.shown_url} is up to date (revision {after}).")
    else:
        print_line(f"The database {database.shown_url} is at revision {after} now (before: {before or 'empty'}).")
