"""Faults of `bonescreen screen` on SQLite and the embedded broker: processes killed, database locked, archive away."""

import shutil
import time
from pathlib import Path

from tests.awaiting import await_that
from tests.faults.conftest import MakeArchive, MakeStack
from tests.faults.stack import MORE_THAN_PREFETCHED, ClaimedBatch, Command, Stack

END = 150.0


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def screening(stack: Stack) -> Command:
    """Start `screen` and wait for its first results."""
    command = stack.start("screen", str(stack.archive.root))
    await_that(lambda: stack.ledger.exists() and stack.ledger.processed(), 90, "the first results")
    return command


def test_a_killed_worker_child_delays_nothing_but_its_batch(make_archive: MakeArchive, home_stack: MakeStack) -> None:
    stack = home_stack(make_archive(1000))
    command = screening(stack)
    child, batch = stack.suspended_at_work()
    assert "openvino" in maps(child.pid)
    assert "openvino" not in maps(child.ppid()), "the Celery parent loads no network library"
    child.kill()
    stack.assert_work_continues(45, after="SIGKILL of the worker child")
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)
    assert stack.ledger.batch(batch.batch_id) == ("done", 1)


def test_a_worker_killed_with_two_batches_in_its_hands_loses_no_image_and_stores_none_twice(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(2000))
    command = screening(stack)

    def suspended_with_two() -> list[ClaimedBatch] | None:
        child, _ = stack.suspended_at_work()
        held = stack.ledger.claimed_batches()
        if len(held) == 2 and {batch.pid for batch in held} == {child.pid}:
            child.kill()
            return held
        child.resume()
        return None

    held = await_that(suspended_with_two, 60, "a worker holds two batches")
    stack.assert_work_continues(45, after="SIGKILL of a worker with two batches")
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)
    assert [stack.ledger.batch(batch.batch_id) for batch in held] == [("done", 1)] * 2


def test_a_killed_celery_parent_is_replaced_and_its_child_does_not_outlive_it(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(1500))
    command = screening(stack)
    child, _ = stack.suspended_at_work()
    child.resume()
    command.service("worker").kill()
    await_that(lambda: not child.is_running(), 5, "the child has ended", patience=1)
    stack.assert_work_continues(60, after="SIGKILL of the Celery parent")
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)


def test_screen_killed_while_scanning_and_while_working_leaves_no_process_and_continues_when_run_again(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(4000, side=64))
    stack.environ["BONESCREEN_BATCH_SIZE"] = "64"
    first = stack.start("screen", str(stack.archive.root))
    await_that(lambda: stack.ledger.exists() and stack.ledger.scanned(), 60, "the scan has found files")
    first.kill()
    scanned = stack.ledger.scanned()
    assert scanned is not None
    assert scanned > 0
    assert first.survivors() == []
    second = stack.start("screen", str(stack.archive.root))
    await_that(lambda: stack.ledger.processed() > 100, 90, "the scan was taken over and work began")
    second.kill()
    await_that(lambda: not second.survivors(), 5, "nothing of it is left", patience=1)
    done = stack.ledger.done_batches()
    assert stack.ledger.processed() < 4000
    third = stack.start("screen", str(stack.archive.root))
    assert third.ended(END) == 0
    stack.assert_run_finishes(1)
    assert done.items() <= stack.ledger.done_batches().items()
    code, text = stack.run("screen", str(stack.archive.root))
    assert code == 0
    assert "Everything is already screened" in text


def test_a_killed_broker_and_a_killed_feeder_are_replaced_even_when_the_brokers_data_is_lost(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(2000))
    command = screening(stack)
    command.service("valkey").kill()
    stack.assert_work_continues(45, after="SIGKILL of the broker, data kept", images=MORE_THAN_PREFETCHED)
    command.service("producer").kill()
    broker = command.service("valkey")
    shutil.rmtree(stack.home / "broker")
    broker.kill()
    stack.assert_work_continues(
        45, after="SIGKILL of the feeder and of the broker, data lost", images=MORE_THAN_PREFETCHED
    )
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)


def test_a_worker_suspended_past_its_lease_stores_nothing_when_it_continues(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(1000))
    command = screening(stack)
    child, batch = stack.suspended_at_work()
    await_that(lambda: stack.ledger.batch(batch.batch_id)[1] == 1, 60, "its lease ran out")
    child.resume()
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)
    assert stack.ledger.batch(batch.batch_id) == ("done", 1)
    assert (
        f"lost the claim on batch {batch.batch_id} of run 1; nothing more stored"
        in (stack.home / "logs" / "worker.log").read_text()
    )


def test_an_archive_that_vanishes_or_is_empty_for_a_while_fails_no_image(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(1500))
    command = screening(stack)
    root = stack.archive.root
    away = root.with_name("away")
    for empty in (False, True):
        root.rename(away)
        if empty:
            root.mkdir()
        await_that(lambda: _status_names(stack, root), 60, "status names the archive")
        assert stack.ledger.failed() == []
        if empty:
            root.rmdir()
        away.rename(root)
        stack.assert_work_continues(45, after=f"an archive that was {'empty' if empty else 'missing'}")
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)
    assert f"waiting: the archive at {root}" in " ".join(command.text.split())


def _status_names(stack: Stack, root: Path) -> bool:
    code, text = stack.run("status")
    return code == 1 and str(root) in text and "waits" in text


def test_a_database_locked_for_longer_than_the_busy_timeout_fails_no_image(
    make_archive: MakeArchive, home_stack: MakeStack
) -> None:
    stack = home_stack(make_archive(1000))
    command = screening(stack)
    with stack.ledger.locked():
        processed, began = stack.ledger.processed(), time.monotonic()
        await_that(lambda: time.monotonic() - began > 48, 60, "more than the busy timeout passed")
        assert stack.ledger.processed() == processed
        code, text = stack.run("status")
        assert code == 1, text
    stack.assert_work_continues(45, after="an SQLite database locked for 48 s")
    assert command.ended(END) == 0
    stack.assert_run_finishes(1)
    assert "waiting: feeder and worker cannot write to the database" in " ".join(command.text.split())
