"""Two operations on PostgreSQL's ledger at once, the first one paused before each of its statements in turn."""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update

from db import ledger, recovery
from db.ledger import Claim
from db.migrate import upgrade
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import batches, images, outcomes, runs
from tests.awaiting import PATIENCE, await_that
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, claim_next, empty, found_file, found_files, scan, scored
from xray.vocabulary import OPEN_STATES, BatchState, Reason

FILES = found_files(6)
STORED = "stored by the first claim"


# -- operations --------------------------------------------------------------------------------------------------


def cancel(database: Database, old: Claim) -> object:
    return ledger.cancel(database, old.run_id)


def resume(database: Database, old: Claim) -> object:
    return ledger.resume(database, old.run_id)


def retry(database: Database, old: Claim) -> object:
    return ledger.retry(database, old.run_id)


def rescan(database: Database, old: Claim) -> object:
    return scan(database, [*FILES, found_file("study9999", "more.png")], batch_size=3)


def claim(database: Database, old: Claim) -> object:
    return ledger.claim_next(database, MODEL.queue, "other")


def claim_part(database: Database, old: Claim) -> object:
    return ledger.claim_more(database, old.run_id, "other", images=1)


def renew(database: Database, old: Claim) -> object:
    return ledger.renew_lease(database, old)


def release(database: Database, old: Claim) -> object:
    return ledger.release_claim(database, old)


def store(database: Database, old: Claim) -> object:
    return ledger.store(database, old, [stored(2)])


def finish(database: Database, old: Claim) -> object:
    return ledger.finish(database, old, [stored(image) for image in (2, 3)])


def set_apart(database: Database, old: Claim) -> object:
    return recovery.set_apart(database, old, 2, "it does not load")


def recover(database: Database, old: Claim) -> object:
    return recovery.recover_expired(database)


def stored(image: int) -> ImageOutcome:
    return ImageOutcome(**{**vars(scored(image)), "detail": STORED})


PAIRS = [
    (claim, cancel),
    (claim_part, resume),
    (claim_part, rescan),
    (recover, finish),
    (recover, renew),
    (recover, recover),
    (recover, cancel),
    (set_apart, recover),
    (set_apart, cancel),
    (store, cancel),
    (finish, recover),
    (finish, resume),
    (release, recover),
    (retry, finish),
]
"""The first one is paused, and the second one runs as far as it can."""


# -- test --------------------------------------------------------------------------------------------------------


class Process:
    """An operation in a thread."""

    def __init__(self, operation: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self._operation = operation
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._operation()
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        self._thread.join(30 * PATIENCE)
        assert self.ended
        if self.error is not None:
            raise self.error


class Pause:
    """Pauses whoever executes the n-th statement of a database, until `go_on` is set."""

    def __init__(self, database: Database) -> None:
        self._left = 0
        self.reached, self.go_on = threading.Event(), threading.Event()
        event.listen(database._engine, "before_cursor_execute", self._before)

    def before(self, statement: int) -> None:
        self._left = statement
        self.reached.clear()
        self.go_on.clear()

    def _before(self, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            assert self.go_on.wait(30 * PATIENCE)


def lost_claim(database: Database) -> Claim:
    """Scan 6 images; a worker that was lost once has the first 3, has stored a failure, and its lease has expired."""
    empty(database)
    scan(database, FILES, batch_size=3)
    for _ in range(2):
        old = claim_next(database, "first")
        expire(database, old)
        if old.attempts == 0:
            recovery.recover_expired(database)
    failure = ImageOutcome(1, reason=Reason.CORRUPT, detail=STORED)
    assert ledger.store(database, old, [failure])
    expire(database, old)
    return old


def expire(database: Database, old: Claim) -> None:
    with database.write() as connection:
        connection.execute(update(batches).where(batches.c.id == old.batch_id).values(lease_expires_at=Now() - 1))


def waits_for_a_lock(database: Database) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.read() as connection:
        return connection.execute(text(waiting)).scalar_one() > 0


def check(database: Database) -> None:
    """Check what is true after any operations."""
    with database.read() as connection:
        cancelled = connection.execute(select(runs.c.cancelled_at)).scalar_one() is not None
        query = select(batches.c.first_image_id, batches.c.last_image_id).where(batches.c.state.in_(OPEN_STATES))
        ranges = connection.execute(query.order_by(batches.c.first_image_id)).all()
        done = set(connection.execute(select(outcomes.c.image_id)).scalars())
        left = set(connection.execute(select(images.c.id).where(images.c.current)).scalars()) - done
    covered = {image: sum(first <= image <= last for first, last in ranges) for image in left}
    assert set(covered.values()) <= {0 if cancelled else 1}
    assert not (cancelled and ranges)
    assert kept_counts(database) == recount(database)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda operation: operation.__name__)
def test_wherever_the_first_is_paused_both_leave_the_ledger_right(
    postgres_database_url: str, first: Callable[..., object], second: Callable[..., object]
) -> None:
    with closing(Database(postgres_database_url)) as database, closing(Database(postgres_database_url)) as paused:
        upgrade(database)
        pause = Pause(paused)
        for statement in range(1, 100):
            old = lost_claim(database)
            pause.before(statement)
            both = (lambda old=old: first(paused, old)), (lambda old=old: second(database, old))
            results = interleave(pause, *both, database)
            check(database)
            check_stored(database, dict(zip((first, second), results, strict=True)))
            if not pause.reached.is_set():
                break
    assert statement > 1


def interleave(
    pause: Pause, first: Callable[[], object], second: Callable[[], object], database: Database
) -> tuple[object, object]:
    """Run the first operation up to its pause, the second one as far as it can, then both to their ends."""
    one = Process(first)
    await_that(lambda: one.ended or pause.reached.is_set(), 30, "it is paused or done")
    other = Process(second)
    await_that(lambda: other.ended or waits_for_a_lock(database), 30, "the other one is done or waits")
    pause.go_on.set()
    one.end()
    other.end()
    return one.result, other.result


def check_stored(database: Database, results: dict[Callable[..., object], object]) -> None:
    """Check that what a worker was told about its claim is what has happened."""
    with database.read() as connection:
        this = outcomes.c.detail == STORED, outcomes.c.reason.is_(None)
        number = connection.execute(select(func.count()).where(*this)).scalar_one()
        state = connection.execute(select(batches.c.state).order_by(batches.c.id).limit(1)).scalar_one()
    for operation, images_stored in ((store, 1), (finish, 2)):
        if operation in results:
            assert number == (images_stored if results[operation] else 0)
    if results.get(finish) and retry not in results:
        assert state == BatchState.DONE
