"""The studies that a command works on, with their images: those that are named, or a run's in the worklist's order."""

from collections.abc import Iterator, Sequence

from db.queries import Study, find_runs, find_study
from db.session import Database
from db.worklist import WorklistRow, study_by_id, worklist
from db.worklist_search import WorklistFilter
from xray.errors import UsageError

PAGE = 100


def find_named(database: Database, keys: Sequence[str], run: int | None) -> dict[str, Study]:
    """Find studies by their keys, each once, all before any is worked on, so that a wrong name is said at once.

    Parameters
    ----------
    database : Database
    keys : sequence of str
        Their keys, or unambiguous ends of them.
    run : int or None
        The run; by default the last that each was scanned in.

    Raises
    ------
    UsageError
        No study, or more than one, has a key; or more than one archive has it.
    """
    return {study.row.study: study for study in (_chosen(find_study(database, key, run)) for key in keys)}


def _chosen(found: list[Study]) -> Study:
    places = {image.archive: study.row.run for study in reversed(found) for image in study.images}
    if len(places) > 1:
        where = ", ".join(f"--run {number} ({name})" for name, number in sorted(places.items()))
        raise UsageError(f"{found[0].row.study!r} is in more than one archive; choose one with: {where}")
    return found[0]


def find_studies(
    database: Database, run: int | None, *, flagged: bool, limit: int | None = None
) -> tuple[int, Iterator[Study]]:
    """Count and stream the studies of a run, by default of the only archive's newest, the highest score first.

    Parameters
    ----------
    database : Database
    run : int or None
    flagged : bool
        Only those that are flagged.
    limit : int or None
        At most so many.

    Raises
    ------
    UsageError
        There is no such run; or there are several archives, and no run was given.
    """
    runs = find_runs(database, run)
    if len(runs) > 1:
        where = ", ".join(f"--run {summary.run} ({summary.archive})" for summary in runs)
        raise UsageError(f"there is more than one archive; choose one with: {where}")
    (summary,) = runs
    total = summary.flagged if flagged else summary.studies
    wanted = WorklistFilter(summary.run, flagged=flagged)
    studies = (study for _, study in stream_studies(database, wanted, limit))
    return total if limit is None else min(limit, total), studies


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
