"""The studies that somebody chose, by name or as a run's, with their images: for pictures, reports and exports."""

from collections.abc import Iterator

from db.queries import Study
from db.session import Database
from db.worklist import WorklistFilter, WorklistRow, study_by_id, worklist
from xray.errors import UsageError

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


def in_one_archive(found: list[Study]) -> Study:
    """Return a study in the newest of the runs that screened it, as `db.queries.find_study` finds them.

    Raises
    ------
    UsageError
        Several archives hold it.
    """
    places = {image.archive: study.row.run for study in reversed(found) for image in study.images}
    if len(places) > 1:
        where = ", ".join(f"--run {number} ({name})" for name, number in sorted(places.items()))
        raise UsageError(f"{found[0].row.study!r} is in more than one archive; choose one with: {where}")
    return found[0]
