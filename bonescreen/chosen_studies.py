"""The studies of a run with their images, in the worklist's order, for pictures and reports."""

from collections.abc import Iterator

from db.queries import Study
from db.session import Database
from db.worklist import WorklistFilter, WorklistRow, study_by_id, worklist

PAGE = 100


def stream_studies(
    database: Database, wanted: WorklistFilter, limit: int | None, keep: frozenset[str] = frozenset()
) -> Iterator[tuple[WorklistRow, Study]]:
    """Yield a run's studies, the highest score first; no transaction is open while they are drawn.

    Parameters
    ----------
    database : Database
    wanted : WorklistFilter
        Which studies of which run.
    limit : int or None
        At most so many.
    keep : frozenset of str
        As `db.queries.ResultFilter.keep`.
    """
    cursor, left = None, limit
    while left is None or left > 0:
        page = worklist(database, wanted, cursor, PAGE if left is None else min(PAGE, left), keep)
        for row in page.rows:
            yield row, study_by_id(database, wanted.run, row.study_id)
        left = None if left is None else left - len(page.rows)
        cursor = page.next
        if cursor is None:
            return
