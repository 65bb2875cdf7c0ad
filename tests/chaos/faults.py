"""The faults: each a function that injects one while a run is open, and takes its cause away again.

What an outside supervisor does (systemd, Compose, a person who runs the same command again) is done here too: a killed
or ended command is started again.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
import redis

from tests.chaos.screening import Cluster, Kind, NotInjectedError, OneMachine, Screening
from tests.faults.stack import ARCHIVE, ClaimedBatch
from tests.forged_messages import forged, genuine
from tests.worker.blocked_files import blocked
from xray.errors import DatabaseOutage

BOTH = (Kind.ONE_MACHINE, Kind.CLUSTER)

LEASE_LIMIT_SECONDS = 120.0
"""A suspended worker's lease has run out by then, and a feeder has noticed."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Parameters
    ----------
    name : str
        For people.
    kinds : tuple of Kind
        The stacks that it is possible on.
    inject : callable
        Injects it into a screening, and returns once its cause is gone.
    needs_a_person : bool
        Whether only a person can put right it, so that `status` must name it.
    slow : bool
        It takes half a minute or more, so that it is drawn half as often.
    """

    name: str
    kinds: tuple[Kind, ...]
    inject: Callable[[Screening], None]
    needs_a_person: bool
    slow: bool


FAULTS: list[Fault] = []


def fault(
    name: str, kinds: tuple[Kind, ...] = BOTH, *, needs_a_person: bool = False, slow: bool = False
) -> Callable[[Callable[[Screening], None]], Callable[[Screening], None]]:
    """Add a function to the table of faults."""

    def add(inject: Callable[[Screening], None]) -> Callable[[Screening], None]:
        FAULTS.append(Fault(name, kinds, inject, needs_a_person, slow))
        return inject

    return add


# -- processes ---------------------------------------------------------------------------------------------------


@fault("worker child killed (SIGKILL)")
def kill_worker_child(screening: Screening) -> None:
    screening.worker_child().kill()


@fault("Celery parent killed")
def kill_celery_parent(screening: Screening) -> None:
    screening.service("worker").kill()


@fault("supervisor killed, and the command started again")
def kill_supervisor(screening: Screening) -> None:
    command = screening.a_command()
    command.kill()
    screening.until(lambda: not command.survivors(), "nothing that it had started is left")
    screening.pause(0, 3)
    screening.restart()


@fault("worker told to stop (SIGTERM), and the command started again")
def stop_supervisor(screening: Screening) -> None:
    command = screening.a_command()
    command.stop()
    screening.pause(0, 3)
    screening.restart()


@fault("feeder killed")
def kill_feeder(screening: Screening) -> None:
    screening.service("producer").kill()


@fault("producer killed while it scans the archive again", (Kind.CLUSTER,))
def kill_producer(screening: Screening) -> None:
    producer = screening.start_command("enqueue", ARCHIVE)
    screening.pause(0.5, 4)
    producer.kill()
    screening.commands.remove(producer)


@fault("a second feeder beside", (Kind.CLUSTER,))
def second_feeder(screening: Screening) -> None:
    feeder = screening.start_command("feed")
    screening.pause(3, 8)
    feeder.stop()
    screening.commands.remove(feeder)


@fault("feeder suspended for a while (SIGSTOP), and continued")
def suspend_feeder(screening: Screening) -> None:
    _suspend(screening, screening.service("producer"), 3, 20)


@fault("Celery parent suspended for a while, and continued")
def suspend_celery_parent(screening: Screening) -> None:
    _suspend(screening, screening.service("worker"), 3, 20)


def _suspend(screening: Screening, process: psutil.Process, low: float, high: float) -> None:
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        try:
            screening.pause(low, high)
        finally:
            process.resume()


@fault("worker child suspended past its lease, and continued", slow=True)
def suspend_worker_past_its_lease(screening: Screening) -> None:
    child, batch = screening.until(screening.stack.suspend_claiming_child, "a worker has claimed a batch")
    try:
        # A run whose last batches are those of the suspended child goes on when their leases have run out.
        screening.until(lambda: _is_given_up(screening, batch), "its lease ran out", LEASE_LIMIT_SECONDS)
        screening.pause(0, 10)
    finally:
        with suppress(psutil.NoSuchProcess):
            child.resume()


def _is_given_up(screening: Screening, batch: ClaimedBatch) -> bool:
    try:
        return not screening.stack.ledger.is_claimed(batch)
    except DatabaseOutage:
        return False


# -- broker and messages -----------------------------------------------------------------------------------------


@fault("broker killed, data kept")
def kill_broker(screening: Screening) -> None:
    screening.kill_broker()
    screening.pause(0, 5)
    screening.start_broker()


@fault("broker killed, data lost")
def kill_and_wipe_broker(screening: Screening) -> None:
    screening.kill_broker()
    screening.wipe_broker()
    screening.pause(0, 5)
    screening.start_broker()


@fault("FLUSHALL")
def flush(screening: Screening) -> None:
    _with_broker(screening, lambda client: client.flushall())


@fault("broker frozen for a while (SIGSTOP), and continued")
def freeze_broker(screening: Screening) -> None:
    resume = screening.freeze_broker()
    screening.pause(3, 20)
    resume()


@fault("messages dropped")
def drop_messages(screening: Screening) -> None:
    _with_broker(screening, lambda client: client.delete(screening.queue))


@fault("messages doubled")
def double_messages(screening: Screening) -> None:
    _rewrite(screening, lambda messages: messages * 2)


@fault("messages in another order")
def reorder_messages(screening: Screening) -> None:
    _rewrite(screening, lambda messages: screening.rng.sample(messages, len(messages)))


@fault("malformed and forged messages")
def forge_messages(screening: Screening) -> None:
    def send(client: redis.Redis) -> object:
        message = genuine(screening.queue, screening.broker_url, client)
        wrong = forged(message)
        return client.lpush(screening.queue, *screening.rng.sample(wrong, len(wrong)))

    _with_broker(screening, send)


def _rewrite(screening: Screening, change: Callable[[list[bytes | str]], Sequence[bytes | str]]) -> None:
    """Change the messages that wait; the feeder sends some again and again, so there are soon some."""

    def apply(client: redis.Redis) -> bool:
        messages = client.lrange(screening.queue, 0, -1)
        if not messages:
            return False
        with client.pipeline() as together:
            together.delete(screening.queue)
            together.rpush(screening.queue, *change(messages))
            together.execute()
        return True

    screening.until(lambda: _with_broker(screening, apply), "messages wait")


def _with_broker(screening: Screening, act: Callable[[redis.Redis], object]) -> object:
    """Do something in the broker as soon as it answers; return its result."""
    answer: list[object] = []

    def attempt() -> bool:
        try:
            with screening.broker() as client:
                answer.append(act(client))
        except (redis.RedisError, OSError):
            return False
        return True

    screening.until(attempt, "the broker answers")
    return answer[0]


# -- database ----------------------------------------------------------------------------------------------------


@fault("database stopped at once (immediate), and started again", (Kind.CLUSTER,))
def stop_database(screening: Screening) -> None:
    assert isinstance(screening, Cluster)
    screening.postgres.stop()
    try:
        screening.pause(0.5, 10)
    finally:
        screening.postgres.start()


@fault("connections to the database terminated", (Kind.CLUSTER,))
def terminate_connections(screening: Screening) -> None:
    assert isinstance(screening, Cluster)
    for _ in range(screening.rng.randint(1, 4)):
        screening.terminate_connections()
        screening.pause(0, 0.5)


@fault("database locked for a while", (Kind.ONE_MACHINE,))
def lock_database(screening: Screening) -> None:
    with screening.stack.ledger.locked():
        screening.pause(2, 12)


@fault("database locked for longer than anyone waits for it", (Kind.ONE_MACHINE,), slow=True)
def lock_database_long(screening: Screening) -> None:
    with screening.stack.ledger.locked():
        screening.pause(40, 50)


# -- archive and run ---------------------------------------------------------------------------------------------


@fault("archive away for a while")
def archive_away(screening: Screening) -> None:
    with screening.archive_away(empty=screening.rng.random() < 0.5):
        screening.pause(1, 15)


@fault("a folder of the archive away for a while, and scanned again")
def folder_away(screening: Screening) -> None:
    folders = [folder.parent for folder in screening.folders]
    # The last ones too, as those are not screened yet.
    chosen = screening.rng.sample(folders[len(folders) // 2 :], 3)
    away = {folder: screening.folder / f"away-{folder.name}" for folder in chosen}
    for folder, place in away.items():
        folder.rename(place)
    try:
        screening.pause(1, 15)
    finally:
        for folder, place in away.items():
            place.rename(folder)
    rescan(screening)


def rescan(screening: Screening) -> None:
    """Scan the archive again, as the message of a failure says."""
    if isinstance(screening, OneMachine):
        screening.a_command().stop()
        screening.restart()
    else:
        screening.must_run("enqueue", ARCHIVE)


@fault("an image whose opening does not return for a while")
def block_image(screening: Screening) -> None:
    files = [screening.archive.root / path for path in screening.contents]
    with blocked([screening.rng.choice(files[len(files) // 2 :])]):
        screening.pause(5, 40)


@fault("run cancelled and resumed")
def cancel_and_resume(screening: Screening) -> None:
    screening.must_run("cancel", "1")
    screening.pause(0, 3)
    screening.must_run("resume", "1")
    screening.keep_running()


# -- what only a person can put right ---------------------------------------------------------------------------------


@fault("archive not mounted", needs_a_person=True)
def archive_not_mounted(screening: Screening) -> None:
    empty = screening.rng.random() < 0.5
    with screening.archive_away(empty=empty):
        screening.await_status("The archive", str(screening.archive.root), "is it mounted?" if empty else "is missing")


@fault("database stopped", (Kind.CLUSTER,), needs_a_person=True)
def database_stopped(screening: Screening) -> None:
    assert isinstance(screening, Cluster)
    screening.postgres.stop()
    try:
        screening.await_status("database", "does not answer", "Start the database")
    finally:
        screening.postgres.start()


@fault("broker stopped", (Kind.CLUSTER,), needs_a_person=True)
def broker_stopped(screening: Screening) -> None:
    assert isinstance(screening, Cluster)
    screening.server.stop()
    try:
        screening.await_status("The broker", "does not answer", "Start the broker")
    finally:
        screening.server.start()


@fault("disk full", (Kind.ONE_MACHINE,), needs_a_person=True)
def disk_full(screening: Screening) -> None:
    filler = screening.home / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        screening.await_status("no space left for the database")
    finally:
        filler.unlink()


@fault("model package missing", needs_a_person=True)
def model_missing(screening: Screening) -> None:
    away = screening.package.with_name("model-away")
    screening.package.rename(away)
    try:
        if screening.rng.random() < 0.5:
            screening.worker_child().kill()
        else:
            screening.service("worker").kill()
        screening.await_status(str(screening.package))
    finally:
        away.rename(screening.package)


def deck(kind: Kind, seed: int, chosen: Sequence[Fault]) -> list[Fault]:
    """Return the faults of one kind of stack in a drawn order; quick ones twice."""
    possible = [one for one in chosen if kind in one.kinds]
    cards = possible + [one for one in possible if not one.slow]
    random.Random(f"{seed} {kind}").shuffle(cards)
    return cards


def inject(screening: Screening, one: Fault) -> tuple[float, float | None]:
    """Inject a fault at a drawn moment; return the seconds until work went on, and until `status` named the cause.

    Raises
    ------
    NotInjectedError
        The run ended before.
    OverdueError
        Work did not go on, or `status` did not name the cause, in time.
    """
    screening.pause(0.1, 1.5)
    if screening.is_done():
        raise NotInjectedError
    screening.named = None
    one.inject(screening)
    began = time.monotonic()
    screening.await_progress(one.name)
    return time.monotonic() - began, screening.named
