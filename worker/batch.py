"""Screen one batch: claim it, load its images, infer, store the results."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from db import ledger
from db.ledger import Claim
from db.session import Database
from db.store import ImageOutcome, Prediction, predicted_contents
from worker.lease_renewal import LeaseRenewer
from worker.load_images import LoadedImage, load_images
from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, DatabaseOutage, EngineOutage, FileFault, Outage, StorageOutage
from xray.images.preprocessing import Preprocessing
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.settings import Settings
from xray.vocabulary import Reason

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 3.0
"""Pause between two attempts during an outage."""

OUTAGE_REASONS = frozenset({Reason.VANISHED, Reason.UNREADABLE, Reason.CHANGED})
"""If all images of a batch fail for one of these reasons, the cause may be the archive and not the files."""

GROUP_SIZE = 32
"""Images that are decoded ahead and passed to the engine together."""


class _ClaimLost(Exception):
    """The lease has expired and the batch is no longer this worker's: stop and store nothing."""


@dataclass(frozen=True)
class BatchSummary:
    """The result of a task: only numbers, as Flower and logs show it.

    Parameters
    ----------
    images, failures, inferred : int
        Images processed; those of them that failed; those that the network was run on.
    seconds : float
        From claim to store.
    rate : float
        Images per second.
    """

    images: int
    failures: int
    inferred: int
    seconds: float
    rate: float


NOT_PROCESSED = BatchSummary(0, 0, 0, 0.0, 0.0)
"""The result of a task whose batch could not be claimed, was lost, or was released in an outage."""


def shared_fault(outcomes: Sequence[ImageOutcome]) -> Reason | None:
    """Return the failure that all images of a batch have in common, if an archive outage may be its cause."""
    reasons = {outcome.reason for outcome in outcomes}
    if len(outcomes) > 1 and len(reasons) == 1 and reasons <= OUTAGE_REASONS:
        return reasons.pop()
    return None


class BatchWorker:
    """Screens batches with one model version, one after the other, in one process.

    Parameters
    ----------
    database : Database
        This process's own.
    settings : Settings
        Has the archives' roots on this host.
    package : ModelPackage
        The model version.
    start_engine : callable returning Engine
        Loads the network; called for the first batch, and again after the engine has failed.
    lease_renewer : LeaseRenewer
        Renews the lease of the batch in work, and reports what this worker waits for.
    name : str
        Stored with the worker's claims.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        package: ModelPackage,
        start_engine: Callable[[], Engine],
        lease_renewer: LeaseRenewer,
        name: str,
    ) -> None:
        self._database = database
        self._settings = settings
        self._package = package
        self._start_engine = start_engine
        self._engine: Engine | None = None
        self._lease_renewer = lease_renewer
        self._name = name
        self._preprocessing = Preprocessing.from_id(package.card.preprocessing)

    def run(self, run_id: int, batch_id: int) -> BatchSummary:
        """Screen one batch if it can be claimed; a message delivered twice does nothing the second time.

        During an outage the batch is released, no image is marked failed, and this method pauses before it returns, so
        that the worker does not consume the next message at once.
        """
        engine = self._retry_during_outage(self._ready_engine)
        claim = self._retry_during_outage(lambda: ledger.claim(self._database, run_id, batch_id, self._name))
        if claim is None:
            log.info("batch %d of run %d cannot be claimed", batch_id, run_id)
            return NOT_PROCESSED
        started = time.monotonic()
        with self._lease_renewer.renewing(claim) as lost:
            try:
                outcomes = self._screen(engine, claim, lost)
                if not self._retry_during_outage(lambda: ledger.finish(self._database, claim, outcomes)):
                    raise _ClaimLost
            except _ClaimLost:
                log.warning("lost the claim on batch %d of run %d; nothing stored", batch_id, run_id)
                return NOT_PROCESSED
            except Outage as outage:
                self._release(claim, outage)
                return NOT_PROCESSED
        self._lease_renewer.problem = None
        failures = sum(outcome.reason is not None for outcome in outcomes)
        inferred = sum(outcome.prediction is not None for outcome in outcomes)
        seconds = time.monotonic() - started
        return BatchSummary(len(outcomes), failures, inferred, round(seconds, 2), round(len(outcomes) / seconds, 1))

    def _ready_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._start_engine()
        return self._engine

    def _screen(self, engine: Engine, claim: Claim, lost: threading.Event) -> list[ImageOutcome]:
        root = self._root(claim)
        images = self._retry_during_outage(lambda: ledger.unprocessed_images(self._database, claim))
        outcomes: list[ImageOutcome] = []
        inferred: set[bytes] = set()
        for group in load_images(root, images, self._preprocessing, GROUP_SIZE):
            if lost.is_set():
                raise _ClaimLost
            outcomes.extend(self._infer(engine, claim, group, inferred))
        reason = shared_fault(outcomes)
        if reason is not None and not self._archive_is_readable(claim, root):
            raise ArchiveOutage(
                f"every image of a batch of {claim.archive} ({len(outcomes)}) is {reason}: is the archive mounted and "
                "readable? If it is, scan it again"
            )
        return outcomes

    def _archive_is_readable(self, claim: Claim, root: Path) -> bool:
        """Try to read an image again that was read before in this run."""
        image = self._retry_during_outage(lambda: ledger.latest_read_image(self._database, claim))
        if image is None:
            return False
        try:
            read_image_file(root, image.path, expected=(image.size, image.mtime_ns))
        except FileFault:
            return False
        return True

    def _infer(
        self, engine: Engine, claim: Claim, group: Sequence[LoadedImage], inferred: set[bytes]
    ) -> list[ImageOutcome]:
        """Run the network on contents that neither the database nor `inferred` has, and add them to `inferred`."""
        readable = {loaded.digest: loaded for loaded in group if loaded.digest and loaded.pixels is not None}
        known = self._retry_during_outage(lambda: predicted_contents(self._database, claim.model_id, list(readable)))
        new = [digest for digest in readable if digest not in known and digest not in inferred]
        inferred.update(new)
        predictions = dict(zip(new, self._predict(engine, [readable[digest] for digest in new]), strict=True))
        outcomes = []
        for loaded in group:
            image_id = loaded.image.image_id
            if loaded.fault is not None:
                # Without the digest: an outcome with a digest counts as predicted.
                outcomes.append(ImageOutcome(image_id, reason=loaded.fault.reason, detail=loaded.fault.detail))
            elif loaded.digest is not None:
                # Of images with the same content, only the first carries the prediction.
                outcomes.append(ImageOutcome(image_id, loaded.digest, predictions.pop(loaded.digest, None)))
        return outcomes

    def _predict(self, engine: Engine, group: Sequence[LoadedImage]) -> list[Prediction]:
        if not group:
            return []
        images = np.stack([loaded.pixels for loaded in group if loaded.pixels is not None])
        try:
            inference = engine.infer(images)
        except Exception as error:
            # The input is an array of fixed shape and type, so the cause is the device or its memory, not an image.
            self._engine = None
            raise EngineOutage(f"the {engine.name} engine failed: {error}") from error
        probabilities = self._package.card.probability(inference.logits)
        return [
            Prediction(float(logit), float(probability), cam.astype("<f2").tobytes(), (cam.shape[0], cam.shape[1]))
            for logit, probability, cam in zip(inference.logits, probabilities, inference.cams, strict=True)
        ]

    def _root(self, claim: Claim) -> Path:
        root = self._settings.archive_root(claim.archive, claim.scanned_at)
        if root is None:
            raise ArchiveOutage(
                f"the archive {claim.archive!r} has no root on this host; "
                f"add it to BONESCREEN_ARCHIVES={claim.archive}=/path"
            )
        return root

    def _release(self, claim: Claim, outage: Outage) -> None:
        self._lease_renewer.problem = str(outage)
        log.warning("batch %d of run %d released: %s", claim.batch_id, claim.run_id, type(outage).__name__)
        self._retry_during_outage(lambda: ledger.release_claim(self._database, claim))
        time.sleep(RETRY_SECONDS)

    def _retry_during_outage(self, attempt: Callable[[], T]) -> T:
        """Retry until the database, the disk or the engine works again; meanwhile no other message is consumed."""
        while True:
            try:
                return attempt()
            except (DatabaseOutage, StorageOutage, EngineOutage) as outage:
                self._lease_renewer.problem = str(outage)
                log.warning("waiting: %s", type(outage).__name__)
                time.sleep(RETRY_SECONDS)
