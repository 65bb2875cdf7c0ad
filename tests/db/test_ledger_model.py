"""The ledger against a model of it: workers, feeders, scans and users in random order, on SQLite and on PostgreSQL.

CI runs the same few examples each time. A longer, random search::

    BONESCREEN_TEST_EXAMPLES=2000 python -m pytest tests/db/test_ledger_model.py
"""

import itertools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Row, select, update

from db import batching, counts, ledger, merge, recovery, scans, store
from db.ledger import Claim
from db.runs import ModelVersion, open_run, register_archive, register_model, set_priority
from db.scans import Scan
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import batches, images, outcomes
from producer import feeder
from producer.feeder import Feeder
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, empty, found_file, scored
from xray.message import MAX_ATTEMPTS
from xray.settings import read_settings
from xray.vocabulary import OPEN_STATES, BatchState, Reason

OTHER = ModelVersion(**{**vars(MODEL), "digest": "cd" * 32, "queue": "screen.other.fp32"})
QUEUES = [MODEL.queue, OTHER.queue]
RUNS = {1: ("north", MODEL), 2: ("south", MODEL), 3: ("south", OTHER)}
"""Archive and model version of each run: two of one queue, and two of one archive."""

WORKERS = ["first:1", "second:1"]
FILES = 6
HIGH_WATER = 3

runs_drawn = st.sampled_from(sorted(RUNS))
picked = st.integers(0, 20)
sizes = st.sampled_from([None, 1, 2])
found_sizes = st.lists(st.sampled_from([None, 100, 100, 101]), min_size=FILES, max_size=FILES)
"""Of each file, its size as a scan finds it, or None if it is gone."""


# -- what must be true -------------------------------------------------------------------------------------------


@dataclass
class BatchModel:
    """A batch, and whether its lease has expired."""

    run: int
    first: int
    last: int
    token: int
    state: BatchState = BatchState.PENDING
    attempts: int = 0
    worker: str | None = None
    released_at: float = 0.0
    expired: bool = False

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    def close(self, state: BatchState) -> None:
        """Leave the worker, if there is one."""
        self.state, self.worker, self.expired = state, None, False


@dataclass
class RunModel:
    """A run; `covered` says whether batches were made since its archive's images changed last."""

    archive: str
    queue: str
    priority: int = 0
    cancelled: bool = False
    covered: bool = False
    outcomes: dict[int, str] = field(default_factory=dict)


@dataclass
class Held:
    """What a worker knows of a batch that it claimed, perhaps long ago."""

    claim: Claim
    work: list[int]


class Messages:
    """Queues of wake-up calls; `meanwhile` is done once between a feeder's look at a queue and its sending."""

    def __init__(self) -> None:
        self.queues: dict[str, list[int]] = {queue: [] for queue in QUEUES}
        self.meanwhile: Callable[[], object] | None = None

    def depth(self, queue: str) -> int:
        waiting, meanwhile = len(self.queues[queue]), self.meanwhile
        if meanwhile is not None:
            self.meanwhile = None
            meanwhile()
        return waiting

    def send(self, queue: str, run_id: int) -> None:
        self.queues[queue].append(run_id)


class LedgerMachine(RuleBasedStateMachine):
    """Steps of two workers, two feeders, scanners and users; each is a transaction or some of the real code."""

    database: ClassVar[Database]

    def __init__(self) -> None:
        super().__init__()
        empty(self.database)
        self.runs = {run: RunModel(archive, model.queue) for run, (archive, model) in RUNS.items()}
        self.batches: dict[int, BatchModel] = {}
        self.current: dict[str, set[int]] = {archive: set() for archive, _ in RUNS.values()}
        self.set_apart_images: set[int] = set()
        self.claims: list[Held] = []
        self.open_scans: dict[str, tuple[Scan, set[int]]] = {}
        self.messages = Messages()
        configured = read_settings({"BONESCREEN_HOME": "/nowhere"})
        self.feeders = [Feeder(self.database, self.messages, configured) for _ in range(2)]  # type: ignore[arg-type]
        self.serial = itertools.count(1)

    @initialize(batch_sizes=st.tuples(*[st.integers(1, 4)] * len(RUNS)))
    def begin(self, batch_sizes: tuple[int, ...]) -> None:
        for (run, (archive, model)), batch_size in zip(RUNS.items(), batch_sizes, strict=True):
            archive_id = register_archive(self.database, archive, f"/{archive}")
            assert open_run(self.database, archive_id, register_model(self.database, model), batch_size) == run
            self.begin_scan(run, [100] * FILES)
            self.close_scan(run)

    # -- the model -----------------------------------------------------------------------------------------------

    def unprocessed(self, batch: BatchModel) -> list[int]:
        run = self.runs[batch.run]
        current = self.current[run.archive] - run.outcomes.keys()
        return sorted(image for image in current if batch.first <= image <= batch.last)

    def pending(self, run: int) -> dict[int, BatchModel]:
        return {b: batch for b, batch in self.batches.items() if batch.run == run and batch.state == BatchState.PENDING}

    def waiting_runs(self, queues: Collection[str], last: Collection[int] = ()) -> list[int]:
        """Runs in the order of their turn."""
        waiting = [run for run, its in self.runs.items() if its.queue in queues and self.pending(run)]
        return sorted(waiting, key=lambda run: (run in last, -self.runs[run].priority, run))

    def next_batch(self, run: int, attempts: int | None = None) -> int | None:
        pending = self.pending(run)
        ids = [b for b, batch in pending.items() if attempts is None or batch.attempts == attempts]
        return min(ids, key=lambda b: (pending[b].released_at, b), default=None)

    def is_valid(self, held: Held) -> bool:
        batch = self.batches[held.claim.batch_id]
        return batch.state == BatchState.CLAIMED and batch.token == held.claim.token

    def has_claim(self) -> bool:
        return self.some_claim(0, valid=True) is not None

    def some_claim(self, pick: int, *, valid: bool) -> Held | None:
        of_kind = [held for held in self.claims if self.is_valid(held) is valid]
        # Zombies of batches that somebody else has now last, as these are picked first.
        of_kind.sort(key=lambda held: self.batches[held.claim.batch_id].state == BatchState.CLAIMED)
        return of_kind[-1 - pick % len(of_kind)] if of_kind else None

    def rows(self) -> list[Row[Any]]:
        with self.database.read() as connection:
            return list(connection.execute(select(batches).order_by(batches.c.id)))

    def learn_new_batches(self) -> None:
        """Add batches that the ledger has made: pending ones, without attempts unless set apart."""
        for row in self.rows():
            if row.id not in self.batches:
                alone = row.first_image_id == row.last_image_id and row.first_image_id in self.set_apart_images
                first, last = row.first_image_id, row.last_image_id
                # The first token is random, see `db.batching`.
                made = BatchModel(row.run_id, first, last, token=row.token, attempts=int(alone))
                self.batches[row.id] = made
        self.set_apart_images.clear()

    def lose(self) -> int:
        """What recovery does to all batches whose leases have expired; return how many."""
        lost = [b for b in self.batches.values() if b.state == BatchState.CLAIMED and b.expired]
        for batch in lost:
            batch.close(BatchState.PENDING)
            batch.attempts += 1
            left = self.unprocessed(batch)
            if not left:
                batch.state = BatchState.DONE
            elif len(left) > 1 and batch.attempts >= 2:
                batch.state = BatchState.SPLIT
            elif len(left) == 1 and batch.attempts >= MAX_ATTEMPTS:
                self.quarantine(batch, left[0])
        return len(lost)

    def quarantine(self, batch: BatchModel, image: int) -> None:
        assert batch.attempts == MAX_ATTEMPTS
        batch.state = BatchState.QUARANTINED
        self.runs[batch.run].outcomes[image] = Reason.QUARANTINED

    def outcome(self, image: int, failure: bool) -> ImageOutcome:
        """An outcome that is told from every other one by its detail."""
        detail = f"outcome {next(self.serial)}"
        if failure:
            return ImageOutcome(image, reason=Reason.CORRUPT, detail=detail)
        return ImageOutcome(**{**vars(scored(image, 0.5, content=image % 4)), "detail": detail})

    def keep(self, run: int, found: Collection[ImageOutcome]) -> None:
        for outcome in found:
            self.runs[run].outcomes.setdefault(outcome.image_id, outcome.detail)

    # -- workers -------------------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), queue=st.sampled_from(QUEUES), size=sizes, last=st.sets(runs_drawn))
    def claim_next(self, worker: str, queue: str, size: int | None, last: set[int]) -> None:
        waiting = self.waiting_runs([queue], last)
        assert ledger.next_queue(self.database, [queue], last) == (queue if waiting else None)
        every = self.waiting_runs(QUEUES, last)
        assert ledger.next_queue(self.database, QUEUES, last) == (self.runs[every[0]].queue if every else None)
        expected = self.next_batch(waiting[0]) if waiting else None
        claim = ledger.claim_next(self.database, queue, worker, size, last)
        self.claimed(claim, expected, worker, size)

    @precondition(lambda self: self.has_claim())
    @rule(worker=st.sampled_from(WORKERS), pick=picked, size=st.integers(1, 3))
    def claim_more(self, worker: str, pick: int, size: int) -> None:
        held = self.some_claim(pick, valid=True)
        if held is None:
            return
        claim = ledger.claim_more(self.database, held.claim.run_id, worker, size)
        self.claimed(claim, self.next_batch(held.claim.run_id, attempts=0), worker, size)

    def claimed(self, claim: Claim | None, expected: int | None, worker: str, size: int | None) -> None:
        assert (None if claim is None else claim.batch_id) == expected
        if claim is None:
            return
        batch = self.batches[claim.batch_id]
        before = self.unprocessed(batch)
        batch.state, batch.worker, batch.token = BatchState.CLAIMED, worker, batch.token + 1
        assert (claim.run_id, claim.token, claim.attempts) == (batch.run, batch.token, batch.attempts)
        work = [image.image_id for image in ledger.unprocessed_images(self.database, claim)]
        taken = before if size is None or batch.attempts else before[:size]
        assert work == taken
        if len(taken) < len(before):
            batch.last = before[len(taken)] - 1
        for earlier in [held for held in self.claims if held.claim.batch_id == claim.batch_id]:
            self.try_as_zombie(earlier)
        self.claims.append(Held(claim, work))

    @precondition(lambda self: self.has_claim())
    @rule(pick=picked)
    def renew(self, pick: int) -> None:
        if (held := self.some_claim(pick, valid=True)) is not None:
            assert ledger.renew_lease(self.database, held.claim)
            self.batches[held.claim.batch_id].expired = False

    @precondition(lambda self: self.has_claim())
    @rule(pick=picked, failure=st.booleans(), images=st.integers(0, 3))
    def store_part(self, pick: int, failure: bool, images: int) -> None:
        if (held := self.some_claim(pick, valid=True)) is not None:
            # The worker may also repeat what it has stored, as after a commit whose reply was lost.
            found = [self.outcome(image, failure) for image in held.work[:images]]
            assert ledger.store(self.database, held.claim, found)
            self.keep(held.claim.run_id, found)
            self.batches[held.claim.batch_id].expired = False

    @precondition(lambda self: self.has_claim())
    @rule(pick=picked, failures=st.integers(0, 3))
    def finish(self, pick: int, failures: int) -> None:
        if (held := self.some_claim(pick, valid=True)) is not None:
            found = [self.outcome(image, i < failures) for i, image in enumerate(held.work)]
            assert ledger.finish(self.database, held.claim, found)
            self.keep(held.claim.run_id, found)
            batch = self.batches[held.claim.batch_id]
            worker = batch.worker
            batch.close(BatchState.PENDING if self.unprocessed(batch) else BatchState.DONE)
            # A batch that is done still names its worker.
            batch.worker = worker if batch.state == BatchState.DONE else None

    @precondition(lambda self: self.has_claim())
    @rule(pick=picked)
    def release(self, pick: int) -> None:
        if (held := self.some_claim(pick, valid=True)) is not None:
            assert ledger.release_claim(self.database, held.claim)
            batch = self.batches[held.claim.batch_id]
            batch.close(BatchState.PENDING)
            latest = max(b.released_at for b in self.batches.values())
            with self.database.read() as connection:
                released_at = select(batches.c.released_at).where(batches.c.id == held.claim.batch_id)
                batch.released_at = connection.execute(released_at).scalar_one()
            assert batch.released_at >= latest
            assert batch.released_at > 0

    @precondition(lambda self: self.has_claim())
    @rule(pick=picked, image=picked)
    def set_apart(self, pick: int, image: int) -> None:
        held = self.some_claim(pick, valid=True)
        if held is None or not held.work:
            return
        chosen = held.work[image % len(held.work)]
        assert recovery.set_apart(self.database, held.claim, chosen, "it does not load")
        batch = self.batches[held.claim.batch_id]
        left = self.unprocessed(batch)
        batch.close(BatchState.PENDING)
        batch.attempts += 1
        if chosen not in left:
            batch.state = BatchState.PENDING if left else BatchState.DONE
        elif len(left) > 1:
            batch.state = BatchState.SPLIT
            self.set_apart_images.add(chosen)
        elif batch.attempts >= MAX_ATTEMPTS:
            self.quarantine(batch, chosen)

    @precondition(lambda self: self.some_claim(0, valid=False) is not None)
    @rule(pick=picked)
    def a_zombie_acts(self, pick: int) -> None:
        held = self.some_claim(pick, valid=False)
        assert held is not None
        self.try_as_zombie(held)

    def try_as_zombie(self, held: Held) -> None:
        """Act on a batch that the worker has lost."""
        found = [self.outcome(image, failure=False) for image in held.work]
        assert not ledger.store(self.database, held.claim, found)
        assert not ledger.renew_lease(self.database, held.claim)
        assert not ledger.finish(self.database, held.claim, found)
        assert not ledger.release_claim(self.database, held.claim)
        for image in held.work[:1]:
            assert not recovery.set_apart(self.database, held.claim, image, "it does not load")

    @precondition(lambda self: self.has_claim())
    @rule(pick=picked, recovered=st.booleans(), worker=st.sampled_from(WORKERS))
    def expire(self, pick: int, recovered: bool, worker: str) -> None:
        held = self.some_claim(pick, valid=True)
        assert held is not None
        self.batches[held.claim.batch_id].expired = True
        with self.database.write() as connection:
            this = batches.c.id == held.claim.batch_id
            connection.execute(update(batches).where(this).values(lease_expires_at=Now() - 1))
        if recovered:
            self.recover()
            self.learn_new_batches()
            self.claim_next(worker, self.runs[held.claim.run_id].queue, None, set(RUNS) - {held.claim.run_id})

    # -- feeders -------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(batch.expired for batch in self.batches.values()))
    @rule()
    def recover(self) -> None:
        assert recovery.recover_expired(self.database) == self.lose()

    @rule(first=st.integers(0, 1), both=st.booleans())
    def top_up(self, first: int, both: bool) -> None:
        before = {queue: list(waiting) for queue, waiting in self.messages.queues.items()}
        expected = self.lose()
        if both:
            self.messages.meanwhile = self.feeders[1 - first].do_round
        done = self.feeders[first].do_round()
        self.messages.meanwhile = None
        assert done.recovered == expected
        self.learn_new_batches()
        for queue, waiting in self.messages.queues.items():
            runs = self.waiting_runs([queue])
            needed = min(HIGH_WATER, sum(len(self.pending(run)) for run in runs))
            missing = max(0, needed - len(before[queue]))
            new = waiting[len(before[queue]) :]
            assert missing <= len(new) <= missing * (2 if both else 1)
            assert set(new) <= set(runs[:1])

    # -- users and scans -----------------------------------------------------------------------------------------

    @rule(run=runs_drawn, action=st.sampled_from(["cancel", "resume", "retry", "retry"]))
    def users_act(self, run: int, action: str) -> None:
        # One rule, so that there is more for workers to do.
        getattr(self, action)(run)

    def cancel(self, run: int) -> None:
        opened = [batch for batch in self.batches.values() if batch.run == run and batch.is_open]
        assert ledger.cancel(self.database, run) == len(opened)
        for batch in opened:
            batch.close(BatchState.CANCELLED)
        self.runs[run].cancelled = True
        if (scan := self.open_scans.get(self.runs[run].archive)) is not None:
            scan[1].add(run)

    def resume(self, run: int) -> None:
        ledger.resume(self.database, run)
        self.runs[run].cancelled, self.runs[run].covered = False, True

    def retry(self, run: int) -> None:
        its = self.runs[run].outcomes
        with self.database.read() as connection:
            failed = select(outcomes.c.image_id).where(outcomes.c.run_id == run, outcomes.c.reason.is_not(None))
            ids = list(connection.execute(failed).scalars())
        assert ledger.retry(self.database, run) == len(ids)
        for image in ids:
            del its[image]

    @rule(run=runs_drawn, priority=st.integers(-1, 2))
    def set_priority(self, run: int, priority: int) -> None:
        set_priority(self.database, run, priority)
        self.runs[run].priority = priority

    @rule(worker=st.sampled_from(WORKERS))
    def stop_worker(self, worker: str) -> None:
        its = [batch for batch in self.batches.values() if batch.worker == worker and batch.is_open]
        assert ledger.release_claims(self.database, worker.partition(":")[0]) == len(its)
        for batch in its:
            batch.close(BatchState.PENDING)

    @rule(run=runs_drawn, found=found_sizes)
    def begin_scan(self, run: int, found: list[int | None]) -> None:
        archive = self.runs[run].archive
        opened = scans.begin_scan(self.database, run, "folder", "test")
        assert (opened is None) is (archive in self.open_scans)
        if opened is None:
            return
        self.open_scans[archive] = (opened, set())
        files = [found_file(f"s{n // 2}", f"{n}.png", size=size) for n, size in enumerate(found) if size is not None]
        merge.stage(self.database, opened, files)
        merge.merge(self.database, opened, lambda path: None)
        merge.mark_gone(self.database, opened)
        query = select(images.c.id, images.c.path, images.c.size)
        with self.database.read() as connection:
            rows = connection.execute(query.where(images.c.archive_id == opened.archive_id, images.c.current)).all()
        assert sorted((row.path, row.size) for row in rows) == sorted((file.path, file.size) for file in files)
        before, self.current[archive] = self.current[archive], {row.id for row in rows}
        for its in self.runs.values():
            its.covered &= its.archive != archive or self.current[archive] <= before

    @precondition(lambda self: self.open_scans)
    @rule(run=runs_drawn)
    def close_scan(self, run: int) -> None:
        archive = self.runs[run].archive
        if archive not in self.open_scans:
            return
        opened, cancelled_since = self.open_scans.pop(archive)
        scans.close_scan(self.database, opened, {})
        its = self.runs[opened.run_id]
        its.cancelled &= opened.run_id in cancelled_since
        its.covered |= not its.cancelled

    # -- after each step -----------------------------------------------------------------------------------------

    @invariant()
    def the_database_is_as_the_model(self) -> None:
        self.the_batches_are_those_of_the_model()
        self.each_unprocessed_image_is_in_exactly_one_open_batch()
        self.outcomes_are_those_stored_under_a_valid_token_and_never_change()
        assert kept_counts(self.database) == recount(self.database)

    def the_batches_are_those_of_the_model(self) -> None:
        self.learn_new_batches()
        for row in self.rows():
            batch = self.batches[row.id]
            expected = (batch.state, batch.token, batch.attempts, batch.first, batch.last)
            assert (row.state, row.token, row.attempts, row.first_image_id, row.last_image_id) == expected
            if batch.state != BatchState.CANCELLED:
                assert (row.worker, row.released_at) == (batch.worker, batch.released_at)
            assert row.state != BatchState.QUARANTINED or row.attempts == MAX_ATTEMPTS

    def each_unprocessed_image_is_in_exactly_one_open_batch(self) -> None:
        for run, its in self.runs.items():
            opened = sorted((b.first, b.last) for b in self.batches.values() if b.run == run and b.is_open)
            assert all(one[1] < other[0] for one, other in itertools.pairwise(opened))
            if its.cancelled:
                assert opened == []
            elif its.covered:
                unprocessed = self.current[its.archive] - its.outcomes.keys()
                assert all(any(first <= image <= last for first, last in opened) for image in unprocessed)

    def outcomes_are_those_stored_under_a_valid_token_and_never_change(self) -> None:
        with self.database.read() as connection:
            rows = connection.execute(select(outcomes)).all()
        for run, its in self.runs.items():
            stored = {row.image_id: row.detail for row in rows if row.run_id == run}
            quarantined = {row.image_id for row in rows if row.run_id == run and row.reason == Reason.QUARANTINED}
            assert quarantined == {image for image, what in its.outcomes.items() if what == Reason.QUARANTINED}
            assert stored | dict.fromkeys(quarantined, Reason.QUARANTINED) == its.outcomes

    # -- at the end ----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Lose every worker; the runs then end by themselves, driven by nothing but messages."""
        for archive, its in [(its.archive, run) for run, its in self.runs.items()]:
            if archive in self.open_scans:
                self.close_scan(its)
        with self.database.write() as connection:
            connection.execute(update(batches).where(batches.c.state == "claimed").values(lease_expires_at=Now() - 1))
        for number in itertools.count():
            self.feeders[number % 2].do_round()
            queued = [(queue, run) for queue, waiting in self.messages.queues.items() for run in waiting]
            if not queued:
                break
            assert number < 100, "it does not end"
            for waiting in self.messages.queues.values():
                waiting.clear()
            for queue, _ in queued:
                while (claim := ledger.claim_next(self.database, queue, "last")) is not None:
                    work = ledger.unprocessed_images(self.database, claim)
                    found = [self.outcome(image.image_id, failure=False) for image in work]
                    assert ledger.finish(self.database, claim, found)
        with self.database.read() as connection:
            rows = connection.execute(select(outcomes.c.run_id, outcomes.c.image_id))
            done = {(row.run_id, row.image_id) for row in rows}
        for run, its in self.runs.items():
            assert ledger.count_open_batches(self.database, run) == 0
            if its.covered and not its.cancelled:
                assert {(run, image) for image in self.current[its.archive]} <= done


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few files fill several blocks of ids and need several transactions."""
    for module in (counts, batching, merge):
        monkeypatch.setattr(module, "BLOCK_IDS", 5)
    for module in (batching, store):
        monkeypatch.setattr(module, "BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr(store, "RETRY_IMAGES", 3)
    monkeypatch.setattr(feeder, "HIGH_WATER", HIGH_WATER)


@pytest.mark.usefixtures("small_blocks")
def test_whatever_the_order_of_steps_the_ledger_is_as_its_model(database: Database) -> None:
    machine = type("Machine", (LedgerMachine,), {"database": database})
    examples = os.environ.get("BONESCREEN_TEST_EXAMPLES")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(examples or 30),
            stateful_step_count=40,
            derandomize=examples is None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
