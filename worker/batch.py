"""One batch: claim, load, infer, explain, store."""

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
from db.store import ImageOutcome, Prediction, known_contents
from worker.lease_renewal import LeaseRenewer
from worker.load import Loaded, load_images
from xray.archives.files import read_image_file
from xray.errors import ArchiveOutage, DatabaseOutage, EngineOutage, FileFault, Outage, StorageOutage
from xray.images.preprocessing import Preprocessing
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.settings import Settings
from xray.vocabulary import Reason

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_SECONDS = 3.0
"""Between two tries while something is away."""

OUTAGE_REASONS = frozenset({Reason.VANISHED, Reason.UNREADABLE, Reason.CHANGED})
"""Failures that, shared by every image of a batch, may say something of the archive and not of the files."""

GROUP = 32
"""Images decoded ahead and given to the engine at once."""


class _ClaimLost(Exception):
    """The lease ran out and the batch is no longer ours: stop, and store nothing."""


@dataclass(frozen=True)
class BatchSummary:
    """What a task returns: numbers only, as Flower and logs show it.

    Parameters
    ----------
    images, failures, inferred : int
        Images settled, those of them that failed, and those that the network was run on.
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


NOTHING = BatchSummary(0, 0, 0, 0.0, 0.0)


def shared_fault(outcomes: Sequence[ImageOutcome]) -> Reason | None:
    """Name the fault that all images of a batch share, if it is one that an archive gone away gives all its files."""
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
        Says where archives lie on this host.
    package : ModelPackage
        The model version this worker serves.
    start_engine : callable returning Engine
        Loads the network; called on the first batch, and again after the engine broke.
    pulse : Pulse
        Renews the lease of the batch in work.
    name : str
        How this worker signs its claims.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        package: ModelPackage,
        start_engine: Callable[[], Engine],
        pulse: LeaseRenewer,
        name: str,
    ) -> None:
        self._database = database
        self._settings = settings
        self._package = package
        self._start_engine = start_engine
        self._engine: Engine | None = None
        self._pulse = pulse
        self._name = name
        self._preprocessing = Preprocessing.from_id(package.card.preprocessing)

    def run(self, run_id: int, batch_id: int) -> BatchSummary:
        """Screen one batch, if it is to be had; a second delivery of its message does nothing.

        During an outage the batch is handed back and this returns only after a pause, so that the worker stops
        consuming; nothing is marked failed.
        """
        engine = self._patiently(self._ready_engine)
        claim = self._patiently(lambda: ledger.claim(self._database, run_id, batch_id, self._name))
        if claim is None:
            log.info("batch %d of run %d is not to be had", batch_id, run_id)
            return NOTHING
        started = time.monotonic()
        with self._pulse.hold(claim) as lost:
            try:
                outcomes = self._screen(engine, claim, lost)
                if not self._patiently(lambda: ledger.finish(self._database, claim, outcomes)):
                    raise _ClaimLost
            except _ClaimLost:
                log.warning("batch %d of run %d was taken back meanwhile; nothing stored", batch_id, run_id)
                return NOTHING
            except Outage as outage:
                self._hand_back(claim, outage)
                return NOTHING
        self._pulse.problem = None
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
        items = self._patiently(lambda: ledger.work_of(self._database, claim))
        outcomes: list[ImageOutcome] = []
        seen: set[bytes] = set()
        for group in load_images(root, items, self._preprocessing, GROUP):
            if lost.is_set():
                raise _ClaimLost
            outcomes.extend(self._infer(engine, claim, group, seen))
        reason = shared_fault(outcomes)
        if reason is not None and not self._still_reads(claim, root):
            raise ArchiveOutage(
                f"all {len(outcomes)} images of a batch of {claim.archive} are {reason}: is it mounted and readable? "
                "If it is, scan it again"
            )
        return outcomes

    def _still_reads(self, claim: Claim, root: Path) -> bool:
        """Tell whether an image of the archive that was read before can be read now: then the archive is well."""
        witness = self._patiently(lambda: ledger.image_read_before(self._database, claim))
        if witness is None:
            return False
        try:
            read_image_file(root, witness.path, expected=(witness.size, witness.mtime_ns))
        except FileFault:
            return False
        return True

    def _infer(self, engine: Engine, claim: Claim, group: Sequence[Loaded], seen: set[bytes]) -> list[ImageOutcome]:
        readable = {loaded.digest: loaded for loaded in group if loaded.digest and loaded.pixels is not None}
        known = self._patiently(lambda: known_contents(self._database, claim.model_id, list(readable)))
        new = [digest for digest in readable if digest not in known and digest not in seen]
        seen.update(new)
        predictions = self._predict(engine, [readable[digest] for digest in new])
        first = dict(zip(new, predictions, strict=True))
        outcomes = []
        for loaded in group:
            if loaded.fault is not None:
                # A digest would claim a prediction for these bytes.
                outcomes.append(
                    ImageOutcome(loaded.item.image_id, reason=loaded.fault.reason, detail=loaded.fault.detail)
                )
            elif loaded.digest is not None:
                # Only one image of a content carries its prediction.
                outcomes.append(ImageOutcome(loaded.item.image_id, loaded.digest, first.pop(loaded.digest, None)))
        return outcomes

    def _predict(self, engine: Engine, group: Sequence[Loaded]) -> list[Prediction]:
        if not group:
            return []
        films = np.stack([loaded.pixels for loaded in group if loaded.pixels is not None])
        try:
            inferred = engine.infer(films)
        except Exception as error:
            # The input is plain bytes of a fixed shape, so no image is to blame: the device or its memory is.
            self._engine = None
            raise EngineOutage(f"the {engine.name} engine broke: {error}") from error
        probabilities = self._package.card.probability(inferred.logits)
        return [
            Prediction(float(logit), float(probability), cam.astype("<f2").tobytes(), (cam.shape[0], cam.shape[1]))
            for logit, probability, cam in zip(inferred.logits, probabilities, inferred.cams, strict=True)
        ]

    def _root(self, claim: Claim) -> Path:
        root = self._settings.archive_root(claim.archive, claim.scanned_at)
        if root is None:
            raise ArchiveOutage(
                f"the archive {claim.archive!r} has no root on this host; "
                f"add it to BONESCREEN_ARCHIVES={claim.archive}=/path"
            )
        return root

    def _hand_back(self, claim: Claim, outage: Outage) -> None:
        self._pulse.problem = str(outage)
        log.warning("batch %d of run %d handed back: %s", claim.batch_id, claim.run_id, type(outage).__name__)
        self._patiently(lambda: ledger.hand_back(self._database, claim))
        time.sleep(PAUSE_SECONDS)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until the database, the disk or the engine is back; meanwhile nothing else is consumed."""
        while True:
            try:
                return attempt()
            except (DatabaseOutage, StorageOutage, EngineOutage) as outage:
                self._pulse.problem = str(outage)
                log.warning("waiting: %s", type(outage).__name__)
                time.sleep(PAUSE_SECONDS)
