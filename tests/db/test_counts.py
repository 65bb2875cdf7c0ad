"""The counts that the database keeps are those of its rows, whatever happens."""

import random

import pytest
from sqlalchemy import insert, select, text, update

from bonescreen.bench import ledger as benchmark
from db import batching, counts, ledger, merge, recovery, scans, store
from db.migrate import upgrade
from db.queries import ResultFilter, count_results, results
from db.run_queries import run_progress, run_summary
from db.runs import ModelVersion
from db.session import Database, Now
from db.store import ImageOutcome
from db.tables import batches, images, outcomes, runs
from tests.recount import kept_counts, recount
from tests.seeding import MODEL, found_file, found_files, scan, scored
from xray.archives.archive_file import ArchiveFile
from xray.vocabulary import Label, Reason, StudyStatus

OTHER = ModelVersion(**{**vars(MODEL), "digest": "cd" * 32, "queue": "screen.other.fp32"})


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few files fill several blocks of ids and need several transactions."""
    for module in (counts, batching, merge):
        monkeypatch.setattr(module, "BLOCK_IDS", 7)
    for module in (batching, store):
        monkeypatch.setattr(module, "BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr(store, "RETRY_IMAGES", 3)
    monkeypatch.setattr(merge, "MERGE_ROWS", 9)
    monkeypatch.setattr(scans, "DELETE_ROWS", 5)


class Archive:
    """Random operations of scanners, workers, feeders and users on one archive and two runs."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database = database
        self.draw = random.Random(seed)
        self.files = [found_file(f"study{n // 3}", f"image{n}.png", body_part=self._part()) for n in range(30)]
        self.scan()

    def _part(self) -> str | None:
        return self.draw.choice(["HUMERUS", "HAND", "KNEE", None])

    def scan(self) -> None:
        """Scan files of which some have changed, moved, gone or come back."""
        found = []
        for file in self.draw.sample(self.files, self.draw.randint(1, len(self.files))):
            study, size = f"study{self.draw.randint(0, 9)}", self.draw.choice([100, 100, 101])
            known = file.placement
            assert known is not None
            placement = known if self.draw.random() < 0.8 else type(known)(study, self._part(), Label.POSITIVE)
            found.append(ArchiveFile(file.path, size, 1, placement))
        model = self.draw.choice([MODEL, MODEL, OTHER])
        scan(self.database, found, batch_size=self.draw.choice([1, 4, 50]), model=model)

    def work(self) -> None:
        """Claim a batch, store some of it, and finish, release or lose it."""
        queue, take = self.draw.choice([MODEL.queue, OTHER.queue]), self.draw.choice([None, 1, 3])
        claim = ledger.claim_next(self.database, queue, "w", images=take)
        if claim is None:
            return
        found = [self._outcome(image.image_id) for image in ledger.unprocessed_images(self.database, claim)]
        stored = self.draw.randint(0, len(found))
        assert ledger.store(self.database, claim, found[:stored])
        fate = self.draw.choice(["finish", "finish", "release", "lose"])
        if fate == "finish":
            assert ledger.finish(self.database, claim, found[stored:])
        elif fate == "release":
            assert ledger.release_claim(self.database, claim)
        else:
            with self.database.write() as connection:
                connection.execute(
                    update(batches).where(batches.c.id == claim.batch_id).values(lease_expires_at=Now() - 1)
                )

    def _outcome(self, image_id: int) -> ImageOutcome:
        if self.draw.random() < 0.3:
            return ImageOutcome(image_id, reason=self.draw.choice([Reason.CORRUPT, Reason.VANISHED]))
        return scored(image_id, self.draw.random(), content=self.draw.choice([image_id, image_id % 5]))

    def recover(self) -> None:
        """Requeue, split or quarantine what was lost."""
        recovery.recover_expired(self.database)

    def _run(self) -> int:
        with self.database.read() as connection:
            return self.draw.choice(connection.execute(select(runs.c.id)).scalars().all())

    def retry(self) -> None:
        """Retry the failures of a run."""
        ledger.retry(self.database, self._run())

    def cancel(self) -> None:
        """Cancel a run."""
        ledger.cancel(self.database, self._run())

    def resume(self) -> None:
        """Resume a run; then each of its unprocessed images is in one open batch."""
        run = self._run()
        ledger.resume(self.database, run)
        assert covered(self.database, run) <= {1}

    def act(self) -> None:
        """Do something, mostly work."""
        others = [self.scan, self.retry, self.cancel, self.resume, self.recover]
        self.draw.choice([self.work] * 10 + others + [self.recover] * 2)()


def covered(database: Database, run: int) -> set[int]:
    """Return how many open batches cover an unprocessed image of a run: each number that occurs."""
    with database.read() as connection:
        ranges = connection.execute(
            select(batches.c.first_image_id, batches.c.last_image_id).where(
                batches.c.run_id == run, batches.c.state.in_(["pending", "claimed"])
            )
        ).all()
        processed = select(outcomes.c.image_id).where(outcomes.c.run_id == run)
        ids = connection.execute(select(images.c.id).where(images.c.current, images.c.id.not_in(processed))).scalars()
        return {sum(first <= image_id <= last for first, last in ranges) for image_id in ids}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", range(6))
def test_after_any_operation_the_counts_are_those_of_the_rows(database: Database, seed: int) -> None:
    archive = Archive(database, seed)
    for _ in range(60):
        archive.act()
        assert kept_counts(database) == recount(database)


@pytest.mark.usefixtures("small_blocks")
def test_every_image_is_in_one_batch_after_a_scan_that_needed_several_transactions(database: Database) -> None:
    run = scan(database, found_files(40, images_each=2), batch_size=3)
    assert covered(database, run) == {1}
    # The first batches are done and the others open: the search starts anew among them.
    for _ in range(3):
        claim = ledger.claim_next(database, MODEL.queue, "w")
        assert claim is not None
        ledger.finish(database, claim, [scored(i.image_id) for i in ledger.unprocessed_images(database, claim)])
    assert scan(database, found_files(60, images_each=2), batch_size=3) == run
    assert covered(database, run) == {1}
    assert ledger.resume(database, run) == 0


@pytest.mark.usefixtures("small_blocks")
def test_results_counted_by_the_kept_counts_are_those_that_are_listed(database: Database) -> None:
    archive = Archive(database, 99)
    for _ in range(60):
        archive.act()
    every = [ResultFilter(flagged=flagged, label=label) for flagged in (False, True) for label in (None, *Label)]
    for wanted in [*every, ResultFilter(min_score=0.3), ResultFilter(threshold=0.2, body_part="hand")]:
        listed = [StudyStatus(row.status) for row in results(database, wanted)]
        assert count_results(database, wanted) == {status: listed.count(status) for status in listed}


def test_upgrading_counts_what_is_there(database_url: str) -> None:
    database = Database(database_url)
    benchmark.build(database, database_url, image_count=1_000, waiting=300)
    assert kept_counts(database) == recount(database)
    assert sum(len(changes) for changes in kept_counts(database).values()) > 5
    database.close()


def test_upgrading_counts_no_images_that_are_gone_and_forgets_the_scores_of_pending_studies(
    database_url: str,
) -> None:
    database = Database(database_url)
    benchmark.fill(database, image_count=10, waiting=0)
    with database.write() as connection:
        connection.execute(text("UPDATE images SET current = (id <> 3)"))
        connection.execute(text("DELETE FROM outcomes WHERE image_id = 1"))
        pending = text("UPDATE study_results SET status = 'pending', flagged = :no WHERE study_id = 1")
        connection.execute(pending, {"no": False})
        connection.execute(insert(batches), [_old_batch(run_id=1, first=1, last=1)])
    upgrade(database)
    assert kept_counts(database) == recount(database)
    progress = run_progress(database, 1)
    assert (progress.images, progress.processed) == (9, 8)
    assert run_summary(database, 1).studies == 4
    assert next(row.score for row in results(database, ResultFilter(run=1)) if row.status == "pending") is None
    claim = ledger.claim_next(database, benchmark.MODEL.queue, "w")
    assert claim is not None
    assert [image.image_id for image in ledger.unprocessed_images(database, claim)] == [1]
    database.close()


def _old_batch(run_id: int, first: int, last: int) -> dict[str, object]:
    """Return a pending batch as earlier versions wrote it."""
    numbers = {"images": last - first + 1, "token": 0, "attempts": 0}
    return {"run_id": run_id, "first_image_id": first, "last_image_id": last, "state": "pending", **numbers}


def test_the_benchmark_of_the_ledger_measures_every_operation(database_url: str) -> None:
    report = benchmark.measure(database_url, 500, waiting=300, repeats=1, workers=[2], seconds=0.5)
    assert report.studies == 200
    assert {timing.operation for timing in report.queries} >= {"study by key", "status", "progress of a run"}
    assert all(timing.median > 0 for timing in report.queries)
    assert [stub.workers for stub in report.stub_engine] == [2]
    assert report.stub_engine[0].batches_per_second > 0
    database = Database(database_url)
    assert kept_counts(database) == recount(database)
    database.close()
