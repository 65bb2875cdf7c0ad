"""Check that a database can be written, by writing to it: another process may lock it, or its disk may be full."""

import os
from uuid import uuid4

from sqlalchemy import delete, insert

from db.session import Database
from db.tables import heartbeats
from xray.errors import DatabaseOutage, StorageOutage

WAIT_MILLISECONDS = 2000
"""How long the check waits for SQLite's write lock."""

WRITTEN_BYTES = 128 * 1024
"""More than a database has left in the files that it has on a full disk."""


def write_fault(database: Database) -> str | None:
    """Return why a database cannot be written now, after waiting two seconds for SQLite's lock; None if it can be."""
    name = f"check:{uuid4().hex}"
    # Not compressible. If the row cannot be deleted, it is too old to be listed, and the next heartbeat deletes it.
    row = {"name": name, "role": "check", "seen_at": 0.0, "problem": os.urandom(WRITTEN_BYTES // 2).hex()}
    try:
        with database.impatient(WAIT_MILLISECONDS):
            with database.write() as connection:
                connection.execute(insert(heartbeats).values(row))
            database.checkpoint()
            with database.write() as connection:
                connection.execute(delete(heartbeats).where(heartbeats.c.name == name))
    except (DatabaseOutage, StorageOutage) as outage:
        return str(outage)
    return None
