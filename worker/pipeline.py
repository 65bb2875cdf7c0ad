"""The pipeline of a worker: while one group of images is inferred, the next is loaded and the last is stored.

It goes on across batches: when all images of a batch are loaded or being loaded, the next batch is claimed.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np

from db import ledger
from db.heartbeats import Activity
from db.ledger import BatchImage, Claim
from db.recovery import set_apart
from db.session import Database
from db.store import ImageOutcome, Prediction, predicted_contents
from worker.archive_outages import OUTAGE_SECONDS, ArchiveOutages
from worker.batch import ClaimedBatch, ClaimLost
from worker.lease_renewal import LeaseRenewer
from worker.load_images import LoadedImage, has_memory, load_image, loading_threads
from worker.watchdog import in_work, slow_images
from xray.errors import ArchiveOutage, DatabaseOutage, EngineOutage, Outage, StorageOutage
from xray.images.preprocessing import Preprocessing
from xray.message import queue_name
from xray.network.engine import Engine, PendingInference, stored_cams
from xray.network.package import ModelPackage
from xray.settings import Settings
from xray.vocabulary import Precision

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 3.0
"""Pause between two attempts during an outage."""

CLAIM_SECONDS = 3.0
"""A claim takes as many images as this worker screens in this time."""

STORE_SECONDS = 0.8
"""What was inferred is stored this often, so that progress moves, and a crash loses no more."""

GROUP_SECONDS = 0.25
"""Images that are loaded ahead and given to the engine together are this many seconds of work."""

TASK_SECONDS = 30.0
"""A task goes on with further batches of its run for this long; then it is decided anew which run comes next."""

FIRST_RATE = 32.0
"""Images per second, until a worker knows its own."""

FIRST_GROUP, MAX_GROUP = 8, 1024

MAX_CLAIMS = 2
"""Batches in a worker's hands: the one that is inferred and the one that is loaded."""

RATE_GROUPS = 24
"""A worker's rate is that of its last groups."""

HOURS_CHECK_SECONDS = 1.0

CLAIM_PAUSE_SECONDS = 0.2
"""Pause between two attempts to claim a next batch where none was to be had."""


@dataclass(frozen=True)
class TaskSummary:
    """The result of a task: only numbers, as Flower and logs show it.

    Parameters
    ----------
    run, batch : int or None
        The run, and the first batch that was claimed of it; None if none was.
    batches, images, failures, inferred : int
        Batches finished; images processed; those of them that failed; those that the network was run on.
    seconds : float
        From the first claim to the last store.
    rate : float
        Images per second.
    """

    run: int | None
    batch: int | None
    batches: int
    images: int
    failures: int
    inferred: int
    seconds: float
    rate: float


NOTHING_DONE = TaskSummary(None, None, 0, 0, 0, 0, 0.0, 0.0)
"""The result of a task that found no batch to claim, lost it, or released it in an outage."""


class BatchWorker:
    """Screens batches of one model package in one process.

    Parameters
    ----------
    database : Database
        This process's own.
    settings : Settings
        Has the archives' roots on this host.
    package : ModelPackage
        The model.
    precisions : sequence of Precision
        Those in which this worker runs it; each is a queue.
    start_engine : callable returning Engine
        Loads the network in a precision; called for its first batch, and again after the engine has failed.
    lease_renewer : LeaseRenewer
        Renews the leases of the batches in work, and reports what this worker waits for.
    name : str
        Stored with the worker's claims.
    stopping : callable returning bool
        Says whether this worker is to stop: it then stores what was inferred and releases its batches.
    archive_outages : ArchiveOutages, optional
        What an earlier process of this worker knew of archives that are away.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        package: ModelPackage,
        precisions: Sequence[Precision],
        start_engine: Callable[[Precision], Engine],
        lease_renewer: LeaseRenewer,
        name: str,
        stopping: Callable[[], bool] = lambda: False,
        archive_outages: ArchiveOutages | None = None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.package = package
        self._precisions = {queue_name(package.digest, precision): precision for precision in precisions}
        self.archive_outages = ArchiveOutages() if archive_outages is None else archive_outages
        self.batches_in_hand: list[ClaimedBatch] = []
        self._start_engine = start_engine
        self._engines: dict[Precision, Engine] = {}
        self._engine_outages: dict[Precision, float] = {}
        self.lease_renewer = lease_renewer
        self.name = name
        self.stopping = stopping
        self.rates: dict[Precision, float] = {}

    def run(self) -> TaskSummary:
        """Claim the next batch of this worker's queues, if there is one, and screen it; then others of the same run.

        So a message that is lost, doubled or forged does no harm. During an outage a batch is released, no image is
        marked failed, and this method pauses before it returns, so that the worker does not consume the next message at
        once.

        Returns
        -------
        TaskSummary
            What was stored.
        """
        self._wait_for_hours()
        if self.stopping():
            return NOTHING_DONE
        last = self.archive_outages.runs()
        queue = self.retry_during_outage(lambda: self._next_queue(last))
        if queue is None:
            return NOTHING_DONE
        precision = self._precisions[queue]
        try:
            # Before the claim: where the model cannot be loaded, the batch is left to other workers.
            engine = self._ready_engine(precision)
        except EngineOutage as outage:
            self._engine_outages[precision] = time.monotonic()
            self._wait(outage)
            self.lease_renewer.activity = Activity.IDLE
            return NOTHING_DONE
        size = self.claim_size(precision)
        claim = self.retry_during_outage(lambda: ledger.claim_next(self.database, queue, self.name, size, last))
        return NOTHING_DONE if claim is None else _Task(self, engine).run(claim)

    def _next_queue(self, last: Sequence[int]) -> str | None:
        """Return the queue to claim of; one whose engine has failed a moment ago only if no other has work."""
        now = time.monotonic()
        failed = {precision for precision, since in self._engine_outages.items() if now - since < OUTAGE_SECONDS}
        working = [queue for queue, precision in self._precisions.items() if precision not in failed]
        queue = ledger.next_queue(self.database, working, last)
        return ledger.next_queue(self.database, self._precisions, last) if queue is None and failed else queue

    def within_hours(self) -> bool:
        """Return whether this host may read archives now (``BONESCREEN_HOURS``)."""
        return self.settings.hours is None or self.settings.hours.includes(datetime.now())

    def _wait_for_hours(self) -> None:
        waiting = False
        while not self.within_hours() and not self.stopping():
            waiting = True
            self.lease_renewer.activity = Activity.OUTSIDE_HOURS
            time.sleep(HOURS_CHECK_SECONDS)
        if waiting:
            self.lease_renewer.activity = Activity.IDLE

    def claim_size(self, precision: Precision) -> int:
        """Return how many images to claim at once."""
        return max(1, round(CLAIM_SECONDS * self.rates.get(precision, FIRST_RATE)))

    def count_hung(self, hung: Sequence[BatchImage]) -> None:
        """Count an attempt of each image that does not end to load, unless its archive does not answer.

        If there is none, the engine is hung, and no attempt counts. Whatever else this worker has is released, as this
        process ends through no fault of it.
        """
        busy = slow_images(0.0)
        try:
            for image, batch in [(image, batch) for image in hung for batch in list(self.batches_in_hand)]:
                if image.image_id not in batch.images:
                    continue
                where = (image.image_id, batch.claim.batch_id, batch.claim.run_id)
                if not batch.archive_responds(image, busy):
                    log.error("image %d of batch %d, run %d: its archive does not answer; this process ends", *where)
                    self.archive_outages.note(batch.claim.run_id)
                    return
                log.error("image %d of batch %d, run %d does not end to load; this process ends", *where)
                set_apart(self.database, batch.claim, image.image_id, "it did not end to load within two minutes")
        finally:
            for batch in list(self.batches_in_hand):
                ledger.release_claim(self.database, batch.claim)

    def drop_engine(self, engine: Engine) -> None:
        """Have an engine that failed loaded again before the next task."""
        self._engine_outages[engine.precision] = time.monotonic()
        self._engines.pop(engine.precision, None)

    def retry_during_outage(self, attempt: Callable[[], T]) -> T:
        """Retry until the database or its disk works again; meanwhile no other message is consumed."""
        while True:
            try:
                return attempt()
            except (DatabaseOutage, StorageOutage) as outage:
                self._wait(outage)

    def _wait(self, outage: Outage) -> None:
        self.lease_renewer.problem = str(outage)
        log.warning("waiting: %s", type(outage).__name__)
        time.sleep(RETRY_SECONDS)

    def _ready_engine(self, precision: Precision) -> Engine:
        if precision not in self._engines:
            self._engines[precision] = self._start_engine(precision)
        return self._engines[precision]


@dataclass(frozen=True)
class _Group:
    """Some loaded images of a batch, and the inference of the contents that need one."""

    batch: ClaimedBatch
    loaded: Sequence[LoadedImage]
    new: Sequence[bytes]
    inference: Future[PendingInference] | None


class _Task:
    """One task: the batches that it screens, and the groups of images on their way through the pipeline."""

    def __init__(self, worker: BatchWorker, engine: Engine) -> None:
        self._worker, self._engine = worker, engine
        self._preprocessing = Preprocessing.from_id(worker.package.card.preprocessing)
        self._claims: set[Claim] = set()
        self._in_hand = worker.batches_in_hand
        self._started = self._stored_at = time.monotonic()
        self._next_claim = 0.0
        self._outage = False
        self._last_size = FIRST_GROUP
        self._collected: deque[tuple[float, int]] = deque(maxlen=RATE_GROUPS)
        self._counts = Counter[str]()

    def run(self, claim: Claim) -> TaskSummary:
        self._first = claim
        with (
            ThreadPoolExecutor(loading_threads(claim.scanned_at), thread_name_prefix="decode") as decoders,
            ThreadPoolExecutor(1, thread_name_prefix="infer") as inference,
        ):
            try:
                self._take(claim)
                in_work: deque[_Group] = deque()
                for batch, loading in self._loaded_groups(decoders):
                    # Slow images must not keep back what was inferred before them.
                    while wait(loading, timeout=STORE_SECONDS).not_done:
                        if in_work:
                            self._collect(in_work.popleft())
                        self._store_all()
                    with self._responsible_for(batch):
                        in_work.append(self._infer(inference, batch, [future.result() for future in loading]))
                    # While this group is inferred, the one before is stored and the next one loaded.
                    while len(in_work) > 1:
                        self._collect(in_work.popleft())
                while in_work:
                    self._collect(in_work.popleft())
                # Left by a stop: what was inferred is kept, and the rest is somebody else's.
                for batch in list(self._in_hand):
                    with self._responsible_for(batch):
                        self._store(batch)
                        self._release(batch)
            finally:
                # If an error ends the task, its leases expire, and the loss of its batches counts as an attempt.
                for held in self._claims:
                    self._worker.lease_renewer.remove(held)
                self._in_hand.clear()
        if self._outage:
            time.sleep(RETRY_SECONDS)
        else:
            self._worker.lease_renewer.problem = None
        images = self._counts["images"]
        if not images:
            return NOTHING_DONE
        seconds = time.monotonic() - self._started
        return TaskSummary(
            claim.run_id,
            claim.batch_id,
            self._counts["batches"],
            images,
            self._counts["failures"],
            self._counts["inferred"],
            round(seconds, 2),
            round(images / seconds, 1),
        )

    # -- claim ---------------------------------------------------------------------------------------------------

    def _take(self, claim: Claim) -> None:
        """Take a claimed batch in hand."""
        worker = self._worker
        self._claims.add(claim)
        lost = worker.lease_renewer.add(claim)
        try:
            batch = worker.retry_during_outage(lambda: ClaimedBatch(worker.database, worker.settings, claim, lost))
        except ArchiveOutage as outage:
            self._note(claim, outage)
            worker.retry_during_outage(lambda: ledger.release_claim(worker.database, claim))
            self._let_go(claim)
            return
        self._in_hand.append(batch)
        if batch.complete:
            self._finish(batch)

    def _let_go(self, claim: Claim) -> None:
        """Renew a claim no longer."""
        self._worker.lease_renewer.remove(claim)
        self._claims.discard(claim)

    def _close(self, batch: ClaimedBatch) -> None:
        """Do nothing more for a batch: images of it that are still on their way are dropped."""
        batch.closed = True
        self._in_hand.remove(batch)
        self._let_go(batch.claim)

    def _take_next(self) -> None:
        """Claim the run's next batch, if this task may and there is one."""
        now = time.monotonic()
        if (
            self._outage
            or now < self._next_claim
            or now - self._started > TASK_SECONDS
            or len(self._in_hand) >= MAX_CLAIMS
            or not self._worker.within_hours()
            # One that may kill this process is screened alone, so that only its own attempts count.
            or any(batch.claim.attempts for batch in self._in_hand)
        ):
            return
        worker, size = self._worker, self._worker.claim_size(self._engine.precision)
        run_id = self._first.run_id
        claim = worker.retry_during_outage(lambda: ledger.claim_more(worker.database, run_id, worker.name, size))
        if claim is None:
            self._next_claim = now + CLAIM_PAUSE_SECONDS
        else:
            self._take(claim)

    # -- load ----------------------------------------------------------------------------------------------------

    def _loaded_groups(self, decoders: ThreadPoolExecutor) -> Iterator[tuple[ClaimedBatch, list[Future[LoadedImage]]]]:
        """Yield images that are being loaded, in groups of one batch; at most two groups are loaded ahead."""
        ahead: deque[tuple[ClaimedBatch, Future[LoadedImage]]] = deque()
        while True:
            size = self._group_size()
            while len(ahead) < 2 * size and (batch := self._batch_to_load()) is not None:
                image = batch.waiting.popleft()
                ahead.append((batch, decoders.submit(load_image, batch.root, image, self._preprocessing)))
            if not ahead or self._worker.stopping():
                for _, future in ahead:
                    future.cancel()
                return
            batch = ahead[0][0]
            group: list[Future[LoadedImage]] = []
            while ahead and ahead[0][0] is batch and len(group) < size:
                group.append(ahead.popleft()[1])
            if not batch.closed:
                yield batch, group

    def _batch_to_load(self) -> ClaimedBatch | None:
        def waiting() -> ClaimedBatch | None:
            return next((batch for batch in self._in_hand if batch.waiting), None)

        if (batch := waiting()) is None:
            self._take_next()
            batch = waiting()
        return batch

    def _group_size(self) -> int:
        rate = self._worker.rates.get(self._engine.precision, FIRST_RATE)
        # At most twice the last: a rate measured on a few easy images may be far too high.
        size = min(max(1, round(GROUP_SECONDS * rate)), 2 * self._last_size, MAX_GROUP)
        self._last_size = -(-size // self._engine.batch) * self._engine.batch
        return self._last_size

    # -- infer ---------------------------------------------------------------------------------------------------

    def _infer(self, inference: ThreadPoolExecutor, batch: ClaimedBatch, loaded: Sequence[LoadedImage]) -> _Group:
        """Start the inference of the contents that neither the database nor this batch has."""
        batch.check_claim()
        lacking = [one.image for one in loaded if one.lacks_memory]
        if lacking and not has_memory():
            raise StorageOutage("this host does not have enough memory to decode images")
        if lacking:
            self._set_apart(batch, lacking[0])
            return _Group(batch, [], [], None)
        readable = {one.digest: one.pixels for one in loaded if one.digest and one.pixels is not None}
        known = self._worker.retry_during_outage(
            lambda: predicted_contents(self._worker.database, batch.claim.model_id, list(readable))
        )
        new = [digest for digest in readable if digest not in known and digest not in batch.inferred]
        batch.inferred.update(new)
        if not new:
            return _Group(batch, loaded, new, None)
        images = np.stack([readable[digest] for digest in new])
        return _Group(batch, loaded, new, inference.submit(self._engine.submit, images))

    def _collect(self, group: _Group) -> None:
        """Wait for a group's inference, and store when it is time."""
        batch = group.batch
        with self._responsible_for(batch):
            predictions = self._predictions(group)
            if batch.closed:
                return
            outcomes = [
                # Without the digest: an outcome with a digest counts as predicted.
                ImageOutcome(one.image.image_id, reason=one.fault.reason, detail=one.fault.detail)
                if one.fault is not None
                # Of images with the same content, only the first carries the prediction.
                else ImageOutcome(
                    one.image.image_id,
                    one.digest,
                    predictions.pop(one.digest or b"", None),
                    detail="; ".join(one.repairs),
                    picture=one.picture,
                )
                for one in group.loaded
            ]
            batch.check_claim()
            batch.add(outcomes)
            self._measure(len(group.new))
            if batch.complete:
                self._finish(batch)
            elif time.monotonic() - self._stored_at >= STORE_SECONDS:
                self._store(batch)

    def _predictions(self, group: _Group) -> dict[bytes, Prediction]:
        if group.inference is None:
            return {}
        try:
            with in_work(None):
                inference = group.inference.result().result()
        except Exception as error:
            # The input is an array of fixed shape and type, so the cause is the device or its memory, not an image.
            self._worker.drop_engine(self._engine)
            raise EngineOutage(f"the {self._engine.name} engine failed: {error}") from error
        probabilities = self._worker.package.card.probability(inference.logits)
        distances = [None] * len(group.new) if inference.distances is None else inference.distances.tolist()
        return {
            digest: Prediction(
                float(logit),
                float(probability),
                stored_cams(cam).astype("<f2").tobytes(),
                (cam.shape[0], cam.shape[1]),
                distance,
            )
            for digest, logit, probability, cam, distance in zip(
                group.new, inference.logits, probabilities, inference.cams, distances, strict=True
            )
        }

    def _measure(self, images: int) -> None:
        """Update this worker's rate, by which it chooses how much to claim and to load.

        Images that need no inference do not count: those after them may.
        """
        if not images:
            return
        self._collected.append((time.monotonic(), images))
        (first, before), (last, _) = self._collected[0], self._collected[-1]
        if last > first:
            total = sum(count for _, count in self._collected) - before
            self._worker.rates[self._engine.precision] = total / (last - first)

    # -- store ---------------------------------------------------------------------------------------------------

    def _store(self, batch: ClaimedBatch) -> None:
        self._count(self._worker.retry_during_outage(batch.store))

    def _store_all(self) -> None:
        for batch in list(self._in_hand):
            with self._responsible_for(batch):
                self._store(batch)

    def _finish(self, batch: ClaimedBatch) -> None:
        with self._responsible_for(batch):
            self._count(self._worker.retry_during_outage(batch.finish))
            self._counts["batches"] += 1
            self._close(batch)

    def _count(self, stored: Sequence[ImageOutcome]) -> None:
        self._stored_at = time.monotonic()
        self._counts["images"] += len(stored)
        self._counts["failures"] += sum(outcome.reason is not None for outcome in stored)
        self._counts["inferred"] += sum(outcome.prediction is not None for outcome in stored)

    def _set_apart(self, batch: ClaimedBatch, image: BatchImage) -> None:
        """Store what a batch has, count an attempt of an image for which there is too little memory, and give it up.

        The others of the batch are claimed again. A moment later there may be enough memory.
        """
        self._store(batch)
        cause = "this host does not have enough memory to decode it"
        log.warning("image %d of batch %d is set apart: %s", image.image_id, batch.claim.batch_id, cause)
        self._worker.retry_during_outage(lambda: set_apart(self._worker.database, batch.claim, image.image_id, cause))
        self._close(batch)
        self._outage = True

    def _release(self, batch: ClaimedBatch) -> None:
        self._worker.retry_during_outage(lambda: ledger.release_claim(self._worker.database, batch.claim))
        self._close(batch)

    @contextmanager
    def _responsible_for(self, batch: ClaimedBatch) -> Iterator[None]:
        """Give a batch up if its claim is lost, or release it if there is an outage within the block."""
        try:
            yield
        except ClaimLost:
            log.warning(
                "lost the claim on batch %d of run %d; nothing more stored", batch.claim.batch_id, batch.claim.run_id
            )
            self._close(batch)
        except Outage as outage:
            self._note(batch.claim, outage)
            with self._responsible_for(batch):
                self._store(batch)
            if not batch.closed:
                self._release(batch)

    def _note(self, claim: Claim, outage: Outage) -> None:
        self._outage = True
        if isinstance(outage, ArchiveOutage):
            self._worker.archive_outages.note(claim.run_id)
        self._worker.lease_renewer.problem = str(outage)
        log.warning("batch %d of run %d released: %s", claim.batch_id, claim.run_id, type(outage).__name__)
