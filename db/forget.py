"""Forget a study, a run or an archive: delete what every table has of it, some rows in each transaction.

Each transaction leaves the counts right, and the row by which a target is found goes last: if the process is killed in
between, forgetting it again does the rest. Contents and predictions that others still use are kept. What the bytes of
deleted rows leave in an SQLite file is for `db.sqlite_file.erase_deleted`.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from shlex import quote
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    delete,
    exists,
    false,
    func,
    or_,
    select,
    text,
    true,
    update,
)

from db.batching import is_open
from db.counts import Changes, add, change_archive_counts, change_run_counts, tally
from db.runs import lock_run
from db.scans import open_scans, renew_lease, take_over
from db.session import Database, Now, chunks, one_of
from db.study_results import delete_study_results
from db.tables import (
    archive_counts,
    archives,
    batches,
    contents,
    heartbeats,
    images,
    outcomes,
    predictions,
    read_studies,
    reviews,
    run_counts,
    runs,
    scans,
    skipped_files,
    studies,
    study_results,
)
from xray.errors import UsageError

ROWS_AT_ONCE = 1_000
"""Images, outcomes or batches that one transaction deletes: few enough that workers on SQLite do not wait long."""

STUDIES_AT_ONCE = 200


class Kind(StrEnum):
    """What can be forgotten."""

    STUDY = "study"
    RUN = "run"
    ARCHIVE = "archive"


@dataclass(frozen=True)
class Target:
    """A study, run or archive that is stored.

    Parameters
    ----------
    id : int
        Of its row in the table of its kind.
    name : str
        The study's key, the run's number or the archive's name.
    root : str
        Where the archive was scanned last.
    """

    kind: Kind
    id: int
    name: str
    archive_id: int
    archive: str
    root: str


@dataclass(frozen=True)
class Stored:
    """How much is stored of a target: `images` with those that are no longer current; `outcomes`, which `runs` have."""

    runs: int
    studies: int
    images: int
    outcomes: int


def find_targets(database: Database, name: str, kind: Kind | None = None, archive: str | None = None) -> list[Target]:
    """Find the run of this number, the archives and studies of this name; else studies whose key ends with it.

    Parameters
    ----------
    database : Database
    name : str
    kind : Kind, optional
        Of targets of this kind only: a study whose key ends with a number is found although there is a run of it.
    archive : str, optional
        In the archive of this name only.
    """
    key = studies.c.key
    exact: list[tuple[Kind, Select[Any]]] = [
        (Kind.ARCHIVE, select(archives.c.id, archives.c.name.label("text")).where(archives.c.name == name)),
        (Kind.STUDY, _select_studies(key == name)),
    ]
    if name.isascii() and name.isdigit() and len(name) < 19:
        numbered = select(runs.c.id, runs.c.id.label("text")).join(archives, archives.c.id == runs.c.archive_id)
        exact.append((Kind.RUN, numbered.where(runs.c.id == int(name))))
    ending = [(Kind.STUDY, _select_studies(key.endswith(f"/{name}", autoescape=True)).limit(6))]
    with database.read() as connection:
        for queries in (exact, ending):
            found = [
                Target(of_kind, row.id, str(row.text), row.archive_id, row.archive, row.root)
                for of_kind, query in queries
                if kind in (None, of_kind)
                for row in connection.execute(
                    query.where(true() if archive is None else archives.c.name == archive).add_columns(
                        archives.c.id.label("archive_id"), archives.c.name.label("archive"), archives.c.root
                    )
                )
            ]
            if found:
                return found
    return []


def _select_studies(condition: ColumnElement[bool]) -> Select[Any]:
    joined = select(studies.c.id, studies.c.key.label("text")).join(archives, archives.c.id == studies.c.archive_id)
    return joined.where(condition).order_by(archives.c.name, studies.c.key)


def count_stored(database: Database, target: Target) -> Stored:
    """Count what is stored of a target.

    Raises
    ------
    UsageError
        A run of it is open, or its archive is being scanned; the text says what to do first.
    """
    in_scope = _scope(target)
    with_outcomes = select(outcomes.c.run_id).where(in_scope["outcomes"])
    if target.kind is not Kind.STUDY:
        with_outcomes = select(runs.c.id).where(_runs_of(target))
    queries = {
        "runs": select(func.count()).select_from(runs).where(runs.c.id.in_(with_outcomes)),
        "studies": select(func.count()).select_from(studies).where(in_scope["studies"]),
        "images": select(func.count()).select_from(images).where(in_scope["images"]),
        "outcomes": select(func.count()).select_from(outcomes).where(in_scope["outcomes"]),
    }
    with database.read() as connection:
        _refuse_if_open(connection, target, abandoned_too=target.kind is Kind.STUDY)
        return Stored(**{name: connection.execute(query).scalar_one() for name, query in queries.items()})


def _scope(target: Target) -> Mapping[str, ColumnElement[bool]]:
    """Say which studies, images and outcomes go with a target: with a run no studies and images."""
    if target.kind is Kind.STUDY:
        of_study = images.c.study_id == target.id
        of_images = outcomes.c.image_id.in_(select(images.c.id).where(of_study))
        return {"studies": studies.c.id == target.id, "images": of_study, "outcomes": of_images}
    of_runs = outcomes.c.run_id.in_(select(runs.c.id).where(_runs_of(target)))
    if target.kind is Kind.RUN:
        return {"studies": false(), "images": false(), "outcomes": of_runs}
    of_archive = (table.c.archive_id == target.archive_id for table in (studies, images))
    return {**dict(zip(("studies", "images"), of_archive, strict=True)), "outcomes": of_runs}


def _runs_of(target: Target) -> ColumnElement[bool]:
    """Select the run that is the target, or the runs of its archive."""
    return runs.c.id == target.id if target.kind is Kind.RUN else runs.c.archive_id == target.archive_id


def forget(database: Database, target: Target, progress: Callable[[int], object] = lambda rows: None) -> None:
    """Delete everything that is stored of a target.

    Parameters
    ----------
    database : Database
    target : Target
        As `find_targets` found it.
    progress : callable, optional
        Called with the number of images or outcomes after each transaction that deleted some.

    Raises
    ------
    UsageError
        A run of it is open, or its archive is being scanned; what was deleted until then is deleted.
    """
    _delete_problems(database)
    if target.kind is Kind.STUDY:
        _forget_studies(database, target, progress)
        return
    _close_abandoned_scans(database, target)
    with database.read() as connection:
        run_ids = connection.execute(select(runs.c.id).where(_runs_of(target)).order_by(runs.c.id)).scalars().all()
    for run_id in run_ids:
        _forget_run(database, target, run_id, progress)
    if target.kind is Kind.ARCHIVE:
        _forget_studies(database, target, progress)
        _forget_archive(database, target)


def _delete_problems(database: Database) -> None:
    """Delete the heartbeats with a problem, which may name a file or a folder of the target.

    The process that reported it may be gone; a living one reports what it waits for again within seconds.
    """
    with database.write() as connection:
        connection.execute(delete(heartbeats).where(heartbeats.c.problem.is_not(None)))


# -- locks -------------------------------------------------------------------------------------------------------


@contextmanager
def _locked(database: Database, target: Target) -> Iterator[Connection]:
    """Open a transaction in which nobody scans the archive or works on the runs."""
    with database.write() as connection:
        # The runs first, as a merge locks them first too.
        for run_id in connection.execute(select(runs.c.id).where(_runs_of(target)).order_by(runs.c.id)).scalars().all():
            lock_run(connection, run_id)
        # A scan that begins, and a new run, wait for this row, which they refer to.
        connection.execute(select(archives.c.id).where(archives.c.id == target.archive_id).with_for_update())
        _refuse_if_open(connection, target, abandoned_too=True)
        yield connection


def _refuse_if_open(connection: Connection, target: Target, *, abandoned_too: bool) -> None:
    of_target = batches.c.run_id.in_(select(runs.c.id).where(_runs_of(target)))
    run_id = connection.execute(select(batches.c.run_id).where(of_target, is_open()).limit(1)).scalar_one_or_none()
    if run_id is not None:
        raise UsageError(f"run {run_id} is open; first: bonescreen cancel {run_id}")
    expired = (scans.c.lease_expires_at < Now()).label("expired")
    scan = connection.execute(
        select(scans.c.run_id, scans.c.holder, expired).where(
            scans.c.archive_id == target.archive_id, scans.c.finished_at.is_(None)
        )
    ).one_or_none()
    if scan is not None and not scan.expired:
        raise UsageError(
            f"the archive {target.archive} is being scanned by {scan.holder}; stop that scan (Ctrl-C) or let it end"
        )
    if scan is not None and (abandoned_too or (target.kind is Kind.RUN and scan.run_id != target.id)):
        raise UsageError(
            f"a scan of the archive {target.archive} for run {scan.run_id} was interrupted; first let it end: "
            f"bonescreen screen {quote(target.root)}"
        )


def _close_abandoned_scans(database: Database, target: Target) -> None:
    """Close a scan of the target that nobody goes on with, and delete its staging rows."""
    for scan in open_scans(database, target.archive_id):
        if not scan.expired or (target.kind is Kind.RUN and scan.run_id != target.id):
            continue
        taken = take_over(database, scan.scan_id, f"{socket.gethostname()}:{os.getpid()}")
        if taken is not None:
            with database.write() as connection:
                renew_lease(connection, taken)
                connection.execute(update(scans).where(scans.c.id == taken.scan_id).values(finished_at=Now()))


# -- studies -----------------------------------------------------------------------------------------------------


def _forget_studies(database: Database, target: Target, progress: Callable[[int], object]) -> None:
    query = select(studies.c.id).where(_scope(target)["studies"]).order_by(studies.c.key).limit(STUDIES_AT_ONCE)
    while True:
        with _locked(database, target) as connection:
            study_ids = connection.execute(query).scalars().all()
            if not study_ids:
                return
            if target.kind is Kind.STUDY:
                of_study = read_studies.c.archive_id == target.archive_id, read_studies.c.key == target.name
                connection.execute(delete(read_studies).where(*of_study))
                _delete_skipped_beside(connection, target)
            deleted = _delete_studies(connection, target.archive_id, study_ids)
        progress(deleted)


def _delete_studies(connection: Connection, archive_id: int, study_ids: Sequence[int]) -> int:
    """Delete up to `ROWS_AT_ONCE` images of studies, and the studies if no image is left; return how many images."""
    run_ids = connection.execute(select(runs.c.id).where(runs.c.archive_id == archive_id).order_by(runs.c.id)).scalars()
    for run_id in run_ids.all():
        change_run_counts(connection, run_id, delete_study_results(connection, run_id, study_ids))
    connection.execute(delete(reviews).where(one_of(connection, reviews.c.study_id, study_ids)))
    of_studies = one_of(connection, images.c.study_id, study_ids)
    rows = connection.execute(
        select(images.c.id, images.c.current).where(of_studies).order_by(images.c.id).limit(ROWS_AT_ONCE)
    ).all()
    shown = select(images.c.study_id).where(of_studies, images.c.current).distinct()
    before = set(connection.execute(shown).scalars())
    for chunk in chunks([row.id for row in rows]):
        _delete_outcomes(connection, one_of(connection, outcomes.c.image_id, chunk))
        connection.execute(delete(images).where(one_of(connection, images.c.id, chunk)))
    gone = before - set(connection.execute(shown).scalars())
    counted = add(tally((row.id for row in rows if row.current), "images", -1), tally(gone, "studies", -1))
    change_archive_counts(connection, archive_id, counted)
    if len(rows) < ROWS_AT_ONCE:
        connection.execute(delete(studies).where(one_of(connection, studies.c.id, study_ids)))
    return len(rows)


def _delete_skipped_beside(connection: Connection, target: Target) -> None:
    """Delete what is stored of skipped files in a study's folders, whose paths may name the patient.

    Also of its images' own paths, which are skipped if they are no images any more, and of the folders themselves and
    those above, which may have been found empty. The next scan looks at those again that belong to others.
    """
    paths = set(connection.execute(select(images.c.path).where(images.c.study_id == target.id)).scalars())
    inner = {str(PurePosixPath(path).parent) for path in paths} - {"."} | {target.name}
    above = {str(folder) for path in paths for folder in PurePosixPath(path).parents} - {"."}
    of_archive, path = skipped_files.c.archive_id == target.archive_id, skipped_files.c.path
    for chunk in chunks(sorted(inner)):
        inside = or_(*(path.startswith(f"{folder}/", autoescape=True) for folder in chunk))
        connection.execute(delete(skipped_files).where(of_archive, inside))
    for chunk in chunks(sorted(paths | inner | above)):
        connection.execute(delete(skipped_files).where(of_archive, one_of(connection, path, chunk)))


# -- outcomes ----------------------------------------------------------------------------------------------------


def _delete_outcomes(connection: Connection, *conditions: ColumnElement[bool]) -> None:
    """Delete outcomes, and the contents and predictions that no other outcome refers to; change the runs' counts."""
    if connection.dialect.name == "postgresql":
        # Workers insert contents before the outcomes that refer to them; here none is between the two.
        connection.execute(text("LOCK TABLE contents IN SHARE ROW EXCLUSIVE MODE"))
    query = select(outcomes, images.c.current).join(images, images.c.id == outcomes.c.image_id).where(*conditions)
    rows = connection.execute(query).all()
    connection.execute(delete(outcomes).where(*conditions))
    by_run: dict[int, list[Row[Any]]] = {}
    for row in rows:
        by_run.setdefault(row.run_id, []).append(row)
    for run_id, of_run in by_run.items():
        changes = tally((row.image_id for row in of_run if row.current), "processed", -1)
        failed = tally((row.image_id for row in of_run if row.current and row.reason is not None), "failed", -1)
        change_run_counts(
            connection, run_id, add(add(changes, failed), _no_longer_inferred(connection, run_id, of_run))
        )
    _delete_unused(connection, sorted({row.content_id for row in rows if row.content_id is not None}))


def _no_longer_inferred(connection: Connection, run_id: int, deleted: Sequence[Row[Any]]) -> Changes:
    """Count the contents of deleted outcomes that have no other outcome in the run."""
    content_ids = {row.content_id for row in deleted if row.content_id is not None}
    left: set[int] = set()
    for chunk in chunks(sorted(content_ids)):
        of_run = outcomes.c.run_id == run_id, one_of(connection, outcomes.c.content_id, chunk)
        left.update(connection.execute(select(outcomes.c.content_id).where(*of_run)).scalars())
    return tally(content_ids - left, "inferred", -1)


def _delete_unused(connection: Connection, content_ids: Sequence[int]) -> None:
    same_model = runs.c.id == outcomes.c.run_id, runs.c.model_id == predictions.c.model_id
    shown = exists().where(outcomes.c.content_id == predictions.c.content_id, *same_model).correlate(predictions)
    used = exists().where(outcomes.c.content_id == contents.c.id).correlate(contents)
    for chunk in chunks(content_ids):
        connection.execute(delete(predictions).where(one_of(connection, predictions.c.content_id, chunk), ~shown))
        connection.execute(delete(contents).where(one_of(connection, contents.c.id, chunk), ~used))


# -- runs and archives -------------------------------------------------------------------------------------------


def _forget_run(database: Database, target: Target, run_id: int, progress: Callable[[int], object]) -> None:
    for step in (_delete_some_reviews, _delete_some_results, _delete_some_outcomes, _delete_some_batches):
        deleted = 1
        while deleted:
            with _locked(database, target) as connection:
                deleted = step(connection, run_id)
            progress(deleted if step is _delete_some_outcomes else 0)
    with _locked(database, target) as connection:
        connection.execute(delete(scans).where(scans.c.run_id == run_id))
        connection.execute(delete(run_counts).where(run_counts.c.run_id == run_id))
        connection.execute(delete(runs).where(runs.c.id == run_id))


def _delete_some_reviews(connection: Connection, run_id: int) -> int:
    of_run = select(reviews.c.id).where(reviews.c.run_id == run_id)
    review_ids = connection.execute(of_run.limit(ROWS_AT_ONCE)).scalars().all()
    for chunk in chunks(review_ids):
        connection.execute(delete(reviews).where(one_of(connection, reviews.c.id, chunk)))
    return len(review_ids)


def _delete_some_results(connection: Connection, run_id: int) -> int:
    of_run = select(study_results.c.study_id).where(study_results.c.run_id == run_id)
    study_ids = connection.execute(of_run.order_by(study_results.c.study_id).limit(ROWS_AT_ONCE)).scalars().all()
    change_run_counts(connection, run_id, delete_study_results(connection, run_id, study_ids))
    return len(study_ids)


def _delete_some_outcomes(connection: Connection, run_id: int) -> int:
    of_run = select(outcomes.c.image_id).where(outcomes.c.run_id == run_id)
    image_ids = connection.execute(of_run.order_by(outcomes.c.image_id).limit(ROWS_AT_ONCE)).scalars().all()
    for chunk in chunks(image_ids):
        _delete_outcomes(connection, outcomes.c.run_id == run_id, one_of(connection, outcomes.c.image_id, chunk))
    return len(image_ids)


def _delete_some_batches(connection: Connection, run_id: int) -> int:
    of_run = select(batches.c.id).where(batches.c.run_id == run_id)
    # The newest first: a part of a split batch refers to it.
    batch_ids = connection.execute(of_run.order_by(batches.c.id.desc()).limit(ROWS_AT_ONCE)).scalars().all()
    for chunk in chunks(batch_ids):
        connection.execute(delete(batches).where(one_of(connection, batches.c.id, chunk)))
    return len(batch_ids)


def _forget_archive(database: Database, target: Target) -> None:
    while True:
        with _locked(database, target) as connection:
            left = 0
            for table, name in ((skipped_files, skipped_files.c.path), (read_studies, read_studies.c.key)):
                of_archive = table.c.archive_id == target.archive_id
                query = select(name).where(of_archive).order_by(name).limit(ROWS_AT_ONCE)
                names = connection.execute(query).scalars().all()
                for chunk in chunks(names):
                    connection.execute(delete(table).where(of_archive, one_of(connection, name, chunk)))
                left += len(names)
            if not left:
                connection.execute(delete(archive_counts).where(archive_counts.c.archive_id == target.archive_id))
                connection.execute(delete(archives).where(archives.c.id == target.archive_id))
                return
