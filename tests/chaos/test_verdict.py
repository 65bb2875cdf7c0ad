"""The verdict on a ledger sees what must never be in one."""

from sqlalchemy import delete, select, update

from db import ledger
from db.ledger import Claim
from db.session import Database
from db.store import record_outcomes
from db.tables import images, outcomes, predictions
from tests.chaos.audit import start_audit
from tests.chaos.verdict import KINDS, Violation, read_predictions, violations
from tests.seeding import claim_next, finish_batches, found_files, scan, scored

STUDIES = 8


def archive(database: Database) -> dict[str, bytes]:
    with database.read() as connection:
        return {row.path: row.id.to_bytes(32, "big") for row in connection.execute(select(images.c.path, images.c.id))}


def wrong_in(database: Database) -> set[str]:
    """Return the kinds of what is wrong, where the predictions are as expected."""
    return kinds(violations(database, archive(database), read_predictions(database)))


def kinds(found: list[Violation]) -> set[str]:
    return {violation.kind for violation in found} & set(KINDS)


def scanned(database: Database) -> int:
    start_audit(database)
    return scan(database, found_files(STUDIES))


def store(database: Database, claim: Claim) -> None:
    work = ledger.unprocessed_images(database, claim)
    assert ledger.finish(database, claim, [scored(image.image_id) for image in work])


def test_a_run_without_faults_has_nothing_wrong(database: Database) -> None:
    scanned(database)
    finish_batches(database)
    assert violations(database, archive(database), read_predictions(database)) == []


def test_a_run_that_is_not_done_is_unfinished_and_its_images_are_lost(database: Database) -> None:
    scanned(database)
    finish_batches(database, batches=1)
    found = violations(database, archive(database), read_predictions(database))
    assert {violation.kind for violation in found} == {"unfinished", "lost"}


def test_a_lost_outcome_is_seen(database: Database) -> None:
    scanned(database)
    finish_batches(database)
    with database.write() as connection:
        connection.execute(delete(outcomes).where(outcomes.c.image_id == 1))
    found = violations(database, archive(database), read_predictions(database))
    assert Violation("lost", "study0000/image0.png has no outcome") in found


def test_a_prediction_off_by_one_bit_and_one_that_was_rewritten_are_seen(database: Database) -> None:
    scanned(database)
    finish_batches(database)
    expected = read_predictions(database)
    with database.write() as connection:
        rewritten = update(predictions).where(predictions.c.content_id == 1)
        connection.execute(rewritten.values(probability=0.7000000000000001))
    assert kinds(violations(database, archive(database), expected)) == {"falsified", "doubled"}


def test_an_outcome_that_was_stored_twice_is_seen_although_one_row_is_left(database: Database) -> None:
    scanned(database)
    finish_batches(database)
    with database.write() as connection:
        connection.execute(update(outcomes).where(outcomes.c.image_id == 2).values(attempts=2))
    assert wrong_in(database) == {"doubled"}


def test_an_outcome_that_was_stored_without_a_claim_is_seen(database: Database) -> None:
    run = scanned(database)
    with database.write() as connection:
        record_outcomes(connection, run, [scored(1)])
    finish_batches(database)
    assert wrong_in(database) == {"stale"}


def test_an_outcome_that_a_worker_stored_under_the_claim_of_another_one_is_seen_on_postgresql(
    database: Database, database_url: str
) -> None:
    scanned(database)
    mine = claim_next(database, "mine")
    other = Database(database_url)
    claim_next(other, "other")
    store(other, mine)
    other.close()
    found = [violation.what for violation in violations(database, archive(database), read_predictions(database))]
    stale = "image 1 was stored by other, held by mine"
    assert (stale in found) is (database.dialect == "postgresql")
