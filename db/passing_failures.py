"""Failures that pass, as they say nothing of a file's content: a scan that can read the file again forgets them."""

from collections.abc import Callable

from sqlalchemy import select

from db.runs import lock_run
from db.scans import Scan, renew_lease
from db.session import Database, one_of
from db.store import delete_outcomes
from db.tables import images, outcomes
from xray.vocabulary import Reason

PASSING = (Reason.VANISHED, Reason.CHANGED, Reason.BROKEN_LINK, Reason.UNREADABLE)
"""Failures of a file that was missing, changed or unreadable when a worker wanted to read it."""

FAILURES_AT_ONCE = 500
"""Failed files that are looked at between two renewals of the scan's lease."""


IsReadable = Callable[[str, tuple[int, int]], bool]
"""Tells of a path whether its file can be opened and has a version (`ArchiveFile.version`)."""


def forget_passing_failures(database: Database, scan: Scan, is_readable: IsReadable) -> int:
    """Delete the passing failures of a scan's run whose files can be read again, with the size and time they had.

    Parameters
    ----------
    database : Database
    scan : Scan
        A scan whose files are merged; closing it makes batches of these images.
    is_readable : callable

    Returns
    -------
    int
        How many images.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    total = last = 0
    failed = outcomes.c.run_id == scan.run_id, outcomes.c.reason.in_(PASSING)
    while True:
        with database.read() as connection:
            rows = connection.execute(
                select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns)
                .join(outcomes, outcomes.c.image_id == images.c.id)
                .where(*failed, images.c.current, outcomes.c.image_id > last)
                .order_by(outcomes.c.image_id)
                .limit(FAILURES_AT_ONCE)
            ).all()
        if not rows:
            return total
        # Files are not opened while a transaction locks the run.
        readable = [row.id for row in rows if is_readable(row.path, (row.size, row.mtime_ns))]
        with database.write() as connection:
            renew_lease(connection, scan)
            lock_run(connection, scan.run_id)
            # `bonescreen retry` may have been faster.
            these = select(outcomes.c.image_id).where(*failed, one_of(connection, outcomes.c.image_id, readable))
            image_ids = list(connection.execute(these).scalars()) if readable else []
            delete_outcomes(connection, scan.run_id, image_ids)
        total, last = total + len(image_ids), rows[-1].id
