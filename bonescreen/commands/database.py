"""Maintain the database."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from sqlalchemy import make_url

from bonescreen.command_group import CommandGroup, PlainCommand
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import print_line
from db import migrate
from db.session import Database
from db.sqlite_file import back_up, erase_deleted, sqlite_path
from xray.errors import UsageError

app = typer.Typer(cls=CommandGroup, help="Maintain the database: upgrade, backup, vacuum.")


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


@app.command(cls=PlainCommand)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to write; it must not exist.")],
) -> None:
    """Copy the embedded database, or another SQLite file, into a file.

    Screening goes on meanwhile; the copy is of one moment, is checked, and only its owner can read it. It has all
    studies, results and class activation maps, and the paths of all images: protect it like the archive. How to restore
    it: docs/operations.md

    PostgreSQL has a tool of its own, pg_dump; then this command says how to call it, and its exit code is 2.

    Example: bonescreen db backup /backup/bonescreen-monday.db
    """
    settings = settings_here()
    if settings.database_url is not None and Database(settings.database_url).dialect != "sqlite":
        raise UsageError(f"PostgreSQL is backed up by its own tool: {_pg_dump(settings.database_url, file)}")
    with open_ledger(settings) as database:
        size = back_up(database, file)
        print_line(f"Copied {database.masked_url} to {file}: {size / 1e6:,.1f} MB, checked.")


def _pg_dump(url: str, file: Path) -> str:
    """Return the command that backs a PostgreSQL database up; it asks for the password, or reads ~/.pgpass."""
    shown = make_url(url).set(drivername="postgresql").difference_update_query(["password"])._replace(password=None)
    return f"pg_dump --format=custom --file={quote(str(file))} --dbname={quote(shown.render_as_string())}"


@app.command(cls=PlainCommand)
def vacuum() -> None:
    """Erase the bytes of deleted rows from the embedded database, or another SQLite file.

    `bonescreen forget` does it too; run this if it could not. It needs free space of twice the database's size.
    PostgreSQL does it by itself (autovacuum).

    Example: bonescreen db vacuum
    """
    with open_ledger(settings_here()) as database:
        if database.dialect != "sqlite":
            raise UsageError("PostgreSQL does this by itself; its administrator can also run: VACUUM FULL")
        erase_deleted(database)
        print_line(f"The bytes of deleted rows are gone from {sqlite_path(database)} and its write-ahead log.")
