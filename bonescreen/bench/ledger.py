"""How fast the database is at size: queries, and batches a second with a stub engine.

Fills an empty database with a run that has screened so many images (2 to 3 in a study, 1 % failed, 10 % of the studies
flagged) and an archive whose images wait. Times what commands and workers ask of it. The stub engine decodes and
infers nothing: its batches a second are those of the database alone.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count, islice
from typing import Any

from sqlalchemy import Connection, create_engine, event, func, make_url, select
from sqlalchemy.engine import Engine

from db import ledger, queries
from db.failures import count_failures
from db.ledger import BatchImage
from db.migrate import upgrade
from db.near_images import images_read_near
from db.queries import ResultFilter
from db.run_queries import list_runs, run_progress
from db.runs import ModelVersion, open_run, register_archive
from db.session import Database
from db.store import ImageOutcome, Prediction
from db.tables import batches, contents, images, models, outcomes, predictions, scans, studies, study_results
from xray.vocabulary import BatchState, Label, Reason, StudyStatus

FIRST_REVISION = "0002"
"""The schema that rows are written in; later migrations then count them, as they do in a database of that age."""

MODEL = ModelVersion(
    "stub", "1", "00" * 32, "fp32", "fracture", 0.5, 0.9, ("HAND", "WRIST", "ELBOW"), ("DX",), "screen.stub"
)
BODY_PARTS = ("HAND", "WRIST", "ELBOW", "FINGER")
FAILED_EVERY = 100
BATCH_IMAGES = 64
INSERT_ROWS = 50_000
START_SECONDS = 120
CAM_SIDE = 28
CAM = b"\x00\x3c" * CAM_SIDE**2


@dataclass(frozen=True)
class Timing:
    """How long one operation takes, in milliseconds; `longest_lock` is that of its longest writing transaction."""

    operation: str
    median: float
    p95: float
    longest_lock: float


@dataclass(frozen=True)
class Throughput:
    """Batches of `BATCH_IMAGES` images a second that worker processes with a stub engine claim, store and finish."""

    workers: int
    batches_per_second: float


@dataclass(frozen=True)
class Report:
    """What was measured on one database."""

    dialect: str
    images: int
    studies: int
    build_seconds: float
    bytes_per_image: float
    queries: list[Timing] = field(default_factory=list)
    stub_engine: list[Throughput] = field(default_factory=list)


# -- the database ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    image_id: int
    study_id: int
    number: int
    failed: bool


@dataclass(frozen=True)
class _Study:
    study_id: int
    images: Sequence[_Image]

    @property
    def key(self) -> str:
        return f"XR_{self.body_part}/patient{self.study_id // 2:07}/study{self.study_id % 2 + 1}_negative"

    @property
    def body_part(self) -> str:
        return BODY_PARTS[self.study_id * 2_654_435_761 % 2**32 % len(BODY_PARTS)]

    @property
    def probability(self) -> float:
        return self.study_id * 2_654_435_761 % 2**32 / 2**32


def study_key(study_id: int) -> str:
    """Return the key of a study that `build` writes."""
    return _Study(study_id, ()).key


def _studies(image_count: int, first: int = 1) -> Iterator[_Study]:
    image_id = first
    for study_id in count(first):
        ids = range(image_id, min(image_id + 2 + study_id % 2, first + image_count))
        if not ids:
            return
        image_id = ids.stop
        yield _Study(study_id, [_Image(i, study_id, n, i % FAILED_EVERY == 0) for n, i in enumerate(ids)])


def build(database: Database, url: str, image_count: int, waiting: int) -> int:
    """Fill an empty database with a finished run and, in a second archive, images that wait; return the studies.

    Parameters
    ----------
    database : Database
    url : str
        The URL of that database.
    image_count : int
        Images of the finished run.
    waiting : int
        Images that wait in pending batches.
    """
    return _build(database, url, image_count, waiting)[0]


def _build(database: Database, url: str, image_count: int, waiting: int) -> tuple[int, float]:
    """Do what `build` does; return the studies, and the bytes that a screened image takes."""
    upgrade(database, FIRST_REVISION)
    empty = _bytes(database)
    model_id, done, todo = _write_archives(database, image_count, waiting)
    listed = (_bytes(database) - empty) / (image_count + waiting)
    _write_outcomes(database, done, model_id, image_count)
    vacuum(database, url)
    upgrade(database)
    ledger.resume(database, todo)
    vacuum(database, url)
    size = (_bytes(database) - empty - waiting * listed) / image_count
    with database.read() as connection:
        found = connection.execute(select(func.count()).where(studies.c.archive_id == done)).scalar_one()
    return found, size


def _bytes(database: Database) -> int:
    if database.dialect == "postgresql":
        query = "SELECT pg_database_size(current_database())"
    else:
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    with database.read() as connection:
        return int(connection.exec_driver_sql(query).scalar_one())


def fill(database: Database, image_count: int, waiting: int) -> tuple[int, int]:
    """Write the rows of `build` in the schema of `FIRST_REVISION`; return the finished run and the other one."""
    upgrade(database, FIRST_REVISION)
    model_id, done, todo = _write_archives(database, image_count, waiting)
    _write_outcomes(database, done, model_id, image_count)
    return done, todo


def _write_archives(database: Database, image_count: int, waiting: int) -> tuple[int, int, int]:
    """Write two archives with a run each; return the model and the runs."""
    model_id = 1
    with database.write() as connection:
        _insert(
            connection,
            models,
            [(model_id, *(_in_one_column(getattr(MODEL, name)) for name in _MODEL))],
            ("id", *_MODEL),
        )
    done = open_run(database, register_archive(database, "done", "/done"), model_id, BATCH_IMAGES * 4)
    todo = open_run(database, register_archive(database, "waiting", "/waiting"), model_id, BATCH_IMAGES * 4)
    with database.write() as connection:
        for run in (done, todo):
            _insert(connection, scans, [(run, run, "mura", 1, 0.0, "bench", 0, 0, 0, "{}", 0.0, 0.0)], _SCAN)
    _write_files(database, done, _studies(image_count))
    _write_files(database, todo, _studies(waiting, first=image_count + 1))
    return model_id, done, todo


def _in_one_column(value: object) -> object:
    return " ".join(value) if isinstance(value, tuple) else value


_MODEL = (
    "name", "version", "digest", "precision", "finding", "image_threshold", "study_threshold", "body_parts", "queue",
)  # fmt: skip
_SCAN = (
    "archive_id", "run_id", "layout", "token", "lease_expires_at", "holder", "found", "added", "gone", "skipped",
    "started_at", "finished_at",
)  # fmt: skip


def _write_files(database: Database, archive_id: int, found: Iterator[_Study]) -> None:
    while part := list(islice(found, INSERT_ROWS)):
        with database.write() as connection:
            _insert(
                connection,
                studies,
                ((s.study_id, archive_id, s.key, s.body_part, Label.NEGATIVE.value) for s in part),
                ("id", "archive_id", "key", "body_parts", "human_label"),
            )
            rows = (
                (i.image_id, archive_id, s.study_id, f"{s.key}/image{i.number}.png", 100_000, 1, True, s.body_part)
                for s in part
                for i in s.images
            )
            columns = ("id", "archive_id", "study_id", "path", "size", "mtime_ns", "current", "body_part")
            _insert(connection, images, rows, columns)


def _write_outcomes(database: Database, run_id: int, model_id: int, image_count: int) -> None:
    found = _studies(image_count)
    while part := list(islice(found, INSERT_ROWS)):
        read = [(s, i) for s in part for i in s.images if not i.failed]
        with database.write() as connection:
            digests = ((i.image_id, _digest(i.image_id), 0) for _, i in read)
            _insert(connection, contents, digests, ("id", "sha256", "frame"))
            predicted = ((i.image_id, model_id, 0.1, s.probability, CAM, CAM_SIDE, CAM_SIDE) for s, i in read)
            columns = ("content_id", "model_id", "logit", "probability", "cam", "cam_rows", "cam_columns")
            _insert(connection, predictions, predicted, columns)
            rows = (
                (run_id, i.image_id, None if i.failed else i.image_id, Reason.CORRUPT.value if i.failed else None, 1)
                for s in part
                for i in s.images
            )
            _insert(connection, outcomes, rows, ("run_id", "image_id", "content_id", "reason", "attempts"))
            columns = ("run_id", "study_id", "status", "score", "flagged", "images", "failed")
            _insert(connection, study_results, (_result(run_id, s) for s in part), columns)
    size = BATCH_IMAGES * 4
    with database.write() as connection:
        done = (
            (run_id, first, min(first + size - 1, image_count), size, BatchState.DONE.value, 1, 0)
            for first in range(1, image_count + 1, size)
        )
        columns = ("run_id", "first_image_id", "last_image_id", "images", "state", "token", "attempts")
        _insert(connection, batches, done, columns)


def _result(run_id: int, study: _Study) -> tuple[object, ...]:
    failed = sum(i.failed for i in study.images)
    status = StudyStatus.INCOMPLETE if failed else StudyStatus.SCORED
    if failed == len(study.images):
        return run_id, study.study_id, StudyStatus.NOT_ASSESSABLE.value, None, False, failed, failed
    flagged = study.probability >= MODEL.study_threshold
    return run_id, study.study_id, status.value, study.probability, flagged, len(study.images), failed


def _digest(image_id: int) -> bytes:
    return sha256(image_id.to_bytes(8, "big")).digest()


def _insert(connection: Connection, table: Any, rows: Iterable[tuple[object, ...]], columns: Sequence[str]) -> None:
    driver: Any = connection.connection.driver_connection
    names = ", ".join(columns)
    if connection.dialect.name == "postgresql":
        with driver.cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        places = ", ".join("?" * len(columns))
        driver.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({places})", rows)  # noqa: S608


def vacuum(database: Database, url: str) -> None:
    """Let PostgreSQL number rows from here on, and do what its autovacuum would do in a minute."""
    if database.dialect != "postgresql":
        return
    with database.write() as connection:
        for table in (studies, images, contents):
            highest = select(func.coalesce(func.max(table.c.id), 1)).scalar_subquery()
            connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "id"), highest)))
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


# -- queries -----------------------------------------------------------------------------------------------------


@contextmanager
def longest_transaction() -> Iterator[list[float]]:
    """Collect how many seconds each writing transaction of this process lasts."""
    held: list[float] = []
    started: dict[int, float] = {}

    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("bonescreen_writes"):
            started[id(connection)] = time.perf_counter()

    def end(connection: Connection) -> None:
        if id(connection) in started:
            held.append(time.perf_counter() - started.pop(id(connection)))

    # The lock is waited for and taken within "begin" on SQLite, so the listener runs after it.
    listeners: list[tuple[str, Callable[..., None]]] = [("begin", begin), ("commit", end), ("rollback", end)]
    for name, listener in listeners:
        event.listen(Engine, name, listener)
    try:
        yield held
    finally:
        for name, listener in listeners:
            event.remove(Engine, name, listener)


def time_queries(database: Database, image_count: int, study_count: int, repeats: int) -> list[Timing]:
    """Time what commands, pages and workers ask of a database that `build` has filled."""
    run = max(summary.run for summary in list_runs(database) if summary.processed)
    keys = [study_key(1 + n * 7919 % study_count) for n in range(repeats * 10)]
    ends = [key.split("/", 1)[1] for key in keys]
    image = BatchImage(image_count // 2, "", 0, 0)
    page = ResultFilter(run=run, limit=50)
    return [
        _time("study by key", lambda n: queries.find_study(database, keys[n]), repeats * 10),
        _time("study by the end of its key", lambda n: queries.find_study(database, ends[n]), repeats),
        _time("results --limit 50", lambda n: _results(database, page), repeats),
        _time("results --flagged --limit 50", lambda n: _results(database, replace(page, flagged=True)), repeats),
        _time("results --body-part HAND --limit 50", lambda n: _results(database, replace(page, body_part="HAND")), 3),
        _time("results --threshold 0.5 --limit 50", lambda n: _results(database, replace(page, threshold=0.5)), 3),
        _time("status", lambda n: _status(database), repeats),
        _time("failures by reason", lambda n: count_failures(database, run), repeats),
        _time("progress of a run", lambda n: run_progress(database, run), repeats * 10),
        _time("images read near another", lambda n: images_read_near(database, run, image), repeats),
        _time("make batches of nothing", lambda n: ledger.resume(database, run), repeats),
        _time(f"retry {image_count // FAILED_EVERY:,} failures", lambda n: ledger.retry(database, run), 1),
    ]


def _time(operation: str, act: Callable[[int], object], repeats: int) -> Timing:
    seen = []
    with longest_transaction() as held:
        for number in range(repeats):
            started = time.perf_counter()
            act(number)
            seen.append((time.perf_counter() - started) * 1000)
    p95 = sorted(seen)[max(0, -(-len(seen) * 95 // 100) - 1)]
    return Timing(operation, statistics.median(seen), p95, max(held, default=0.0) * 1000)


def _results(database: Database, page: ResultFilter) -> None:
    """Ask what `bonescreen results` asks."""
    queries.find_runs(database, page.run)
    if page.body_part is not None:
        queries.list_body_parts(database, [page.run or 0])
    list(queries.results(database, page))
    everything = replace(page, flagged=False, limit=None)
    for wanted in (page, everything, replace(everything, label=Label.POSITIVE)):
        queries.count_results(database, wanted)


def _status(database: Database) -> None:
    """Ask what `bonescreen status` asks."""
    for summary in list_runs(database):
        count_failures(database, summary.run)


# -- batches a second --------------------------------------------------------------------------------------------


def time_batches(url: str, workers: int, seconds: float) -> Throughput:
    """Count the batches that worker processes claim, store and finish in so many seconds; nothing is inferred."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(workers, timeout=START_SECONDS)
    with ProcessPoolExecutor(workers, context, initializer=_start_together, initargs=(together,)) as executor:
        rates = [executor.submit(_work, url, f"stub:{number}", seconds) for number in range(workers)]
        return Throughput(workers, sum(rate.result() for rate in rates))


def _start_together(barrier: Any) -> None:
    _work.barrier = barrier  # type: ignore[attr-defined]


def _work(url: str, name: str, seconds: float) -> float:
    """Process batches as a worker does; return how many a second."""
    with closing(Database(url)) as database:
        list_runs(database)
        _work.barrier.wait()  # type: ignore[attr-defined]
        started, number = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            claim = ledger.claim_next(database, MODEL.queue, name, images=BATCH_IMAGES)
            if claim is None:
                break
            found = [_outcome(image.image_id) for image in ledger.unprocessed_images(database, claim)]
            half = len(found) // 2
            if not ledger.store(database, claim, found[:half]) or not ledger.finish(database, claim, found[half:]):
                raise RuntimeError(f"lost the claim on batch {claim.batch_id}")
            number += 1
        return number / (time.perf_counter() - started)


def _outcome(image_id: int) -> ImageOutcome:
    if image_id % FAILED_EVERY == 0:
        return ImageOutcome(image_id, reason=Reason.CORRUPT)
    probability = image_id * 2_654_435_761 % 2**32 / 2**32
    return ImageOutcome(image_id, _digest(image_id), Prediction(0.1, probability, CAM, (CAM_SIDE, CAM_SIDE)))


# -- all of it ---------------------------------------------------------------------------------------------------


def measure(
    url: str, image_count: int, *, waiting: int, repeats: int, workers: Sequence[int], seconds: float
) -> Report:
    """Build a database at an empty URL and measure it.

    Parameters
    ----------
    url : str
    image_count, waiting : int
        As for `build`.
    repeats : int
        How often each query is asked, and some of them ten times as often; with 0, none is.
    workers : sequence of int
        Numbers of worker processes that process what waits, one after the other.
    seconds : float
        For how long each of them works.
    """
    with closing(Database(url)) as database:
        started = time.perf_counter()
        study_count, size = _build(database, url, image_count, waiting)
        seconds_to_build = time.perf_counter() - started
        timings = time_queries(database, image_count, study_count, repeats) if repeats else []
        dialect = database.dialect
    stub = [time_batches(url, number, seconds) for number in workers]
    return Report(dialect, image_count, study_count, seconds_to_build, size, timings, stub)
