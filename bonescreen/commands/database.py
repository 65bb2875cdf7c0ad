"""Maintain the database."""

import typer

from bonescreen.command_group import CommandGroup, PlainCommand
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import print_line
from db import migrate
from db.session import Database

app = typer.Typer(cls=CommandGroup, help="Maintain the database: upgrade.")


@app.callback()
def _db() -> None:
    # Typer would turn a group of one command into that command.
    pass


@app.command(cls=PlainCommand)
def upgrade() -> None:
    """Upgrade the tables of the configured database to this version.

    Run it once after installing a new version. The embedded database is upgraded automatically.

    Example: bonescreen db upgrade
    """
    settings = settings_here()
    if settings.database_url is None:
        with open_ledger(settings) as database:
            print_line(f"The embedded database {database.masked_url} is up to date; it is upgraded automatically.")
        return
    database = Database(settings.database_url)
    try:
        before, after = migrate.upgrade(database)
    finally:
        database.close()
    if before == after:
        print_line(f"The database {database.masked_url} is up to date (revision {after}).")
    else:
        print_line(f"The database {database.masked_url} is at revision {after} now (before: {before or 'empty'}).")
