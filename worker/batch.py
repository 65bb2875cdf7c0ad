"""A claimed batch: its images, the outcomes that are not stored yet, and whether a failure may be its archive's."""

import threading
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from db import ledger
from db.ledger import BatchImage, Claim
from db.near_images import images_read_near, nearest
from db.scan_cache import archive_id_of, current_images
from db.session import Database
from db.store import ImageOutcome
from worker.watchdog import in_work
from xray.archive_root import Root
from xray.archives.archive_file import path_as_text
from xray.archives.dicomweb import is_deleted
from xray.archives.empty_folders import empty_folder_above
from xray.archives.files import read_image_file
from xray.archives.storage_errors import require_root
from xray.dicomweb import DicomWebService
from xray.errors import ArchiveOutage, BonescreenError, FileFault, UsageError
from xray.settings import Settings
from xray.vocabulary import Reason

OUTAGE_REASONS = frozenset({Reason.VANISHED, Reason.UNREADABLE, Reason.CHANGED})
"""If an image fails for one of these reasons, the cause may be its folder or its device and not its file."""


ANSWER_SECONDS = 15.0
"""How long an archive may take to answer before it counts as away."""


class ClaimLost(Exception):
    """The lease has expired and the batch is no longer this worker's: stop and store nothing more of it."""


class ClaimedBatch:
    """A batch in the hands of a worker.

    Failures that may be the archive's are stored with the last outcomes of the batch, as only then it is known whether
    all are alike, and what can be read beside them; other outcomes are stored at any time.

    Parameters
    ----------
    database : Database
        The worker's own.
    settings : Settings
        Has the archives' roots on this host.
    claim : Claim
        The claim that the lease renewal renews.
    lost : threading.Event
        Set once the claim is lost.

    Raises
    ------
    ArchiveOutage
        The archive has no root on this host.
    DatabaseOutage
        The database does not answer.

    Attributes
    ----------
    root : Path or DicomWebService
        The archive's root on this host.
    images : dict of int to BatchImage
        Its images that were unprocessed when it was claimed, by id.
    waiting : deque of BatchImage
        The images that nobody has taken to load them.
    inferred : set of bytes
        The contents (SHA-256) that were given to the engine. Per batch: the prediction of a content is stored with the
        first image that has it, so another batch, which may be stored without this one, needs its own.
    closed : bool
        Set once it is finished, released or lost; nothing more is stored of it.
    """

    def __init__(self, database: Database, settings: Settings, claim: Claim, lost: threading.Event) -> None:
        self._database = database
        self.claim = claim
        self._lost = lost
        self.root = _root(settings, claim)
        self.waiting: deque[BatchImage] = deque(ledger.unprocessed_images(database, claim))
        self.images = {image.image_id: image for image in self.waiting}
        self._read: list[BatchImage] = []
        # What many failures have in common is looked at once.
        self._held: dict[str, bool] = {}
        self._checked: dict[BatchImage, bool] = {}
        self._left = len(self.waiting)
        self._unstored: list[ImageOutcome] = []
        self._suspects: list[ImageOutcome] = []
        self._only_suspects = True
        self.inferred: set[bytes] = set()
        self.closed = False

    def archive_responds(self, hung: BatchImage, busy: Collection[BatchImage]) -> bool:
        """Return whether the archive answers within some seconds when it is asked for images near one that is hung.

        What does not answer at all blocks the thread that asks, so each is asked for in another one.

        Parameters
        ----------
        hung : BatchImage
            An image of this batch.
        busy : collection of BatchImage
            Images that are being loaded. They may be hung too, so they are asked for only if there is no other.
        """
        answered = threading.Event()

        def read(image: BatchImage) -> None:
            with suppress(BonescreenError, OSError):
                # Any fault of the file is an answer.
                with suppress(FileFault):
                    read_image_file(self.root, image.path)
                answered.set()

        def ask() -> None:
            with suppress(BonescreenError, OSError):
                require_root(self.root)
                near = [*self._read, *images_read_near(self._database, self.claim.run_id, hung)]
                others = [image for image in (*near, *self.images.values()) if image != hung]
                # If all of them are hung, it is not one image's fault.
                witnesses = nearest(hung, [image for image in others if image not in busy] or others)
                for witness in witnesses:
                    threading.Thread(target=read, args=(witness,), daemon=True).start()
                if not witnesses:
                    answered.set()

        threading.Thread(target=ask, daemon=True).start()
        return answered.wait(ANSWER_SECONDS)

    @property
    def complete(self) -> bool:
        """Whether every image has an outcome."""
        return self._left == 0

    def add(self, outcomes: Sequence[ImageOutcome]) -> None:
        """Add the outcomes of some images, to be stored."""
        self._left -= len(outcomes)
        for outcome in outcomes:
            suspect = outcome.reason in OUTAGE_REASONS
            (self._suspects if suspect else self._unstored).append(outcome)
            self._only_suspects &= suspect
            if outcome.digest is not None:
                self._read.append(self.images[outcome.image_id])

    def check_claim(self) -> None:
        """Raise `ClaimLost` if the lease renewal found the claim lost."""
        if self._lost.is_set():
            raise ClaimLost

    def store(self) -> list[ImageOutcome]:
        """Store the outcomes so far, and return them; the claim stays.

        Raises
        ------
        ClaimLost
            If the claim is no longer valid; nothing is stored.
        """
        stored = self._unstored
        if stored:
            if not ledger.store(self._database, self.claim, stored):
                raise ClaimLost
            self._unstored = []
        return stored

    def finish(self) -> list[ImageOutcome]:
        """Store the remaining outcomes, mark the batch done, and return what was stored.

        Raises
        ------
        ClaimLost
            If the claim is no longer valid; nothing is stored.
        ArchiveOutage
            If failures are not those of their files: the others are left to `store`.
        """
        self._held, self._checked = {}, {}
        decided = [(group, self._outage(group)) for group in self._suspects_by_folder()]
        self._suspects = [suspect for group, outage in decided if outage is not None for suspect in group]
        self._unstored += [suspect for group, outage in decided if outage is None for suspect in group]
        if self._suspects:
            raise ArchiveOutage(next(outage for _, outage in decided if outage is not None))
        stored = self._unstored
        if not ledger.finish(self._database, self.claim, stored):
            raise ClaimLost
        return stored

    def _suspects_by_folder(self) -> list[list[ImageOutcome]]:
        """Group the suspects that share a folder and a reason."""
        groups: dict[tuple[PurePosixPath, Reason | None], list[ImageOutcome]] = {}
        for suspect in self._suspects:
            folder = PurePosixPath(self.images[suspect.image_id].path).parent
            groups.setdefault((folder, suspect.reason), []).append(suspect)
        return list(groups.values())

    def _outage(self, group: Sequence[ImageOutcome]) -> str | None:
        """Return what is unavailable, if the failures of a folder's images are not those of their files.

        It is the folder or its device, if it is empty and held more than one image, or if none of the nearest images
        that were read before can be read now. If none was read yet, a batch of one image says too little. What a
        service has deleted is gone, however much of its study was read before.
        """
        image, reason = self.images[group[0].image_id], group[0].reason
        if reason is Reason.VANISHED and isinstance(self.root, DicomWebService):
            with in_work(image):
                if is_deleted(self.root, image.path):
                    return None
        why = f"{reason} ({group[0].detail})" if group[0].detail else f"{reason}"
        archive = self.claim.archive
        with in_work(image):
            folder = empty_folder_above(self.root, image.path) if reason is Reason.VANISHED else None
        if folder is not None and self._held_several(folder):
            return (
                f"the folder {path_as_text(folder)} of {archive} held images and is empty: is it mounted? "
                "If it was emptied on purpose, scan the archive twice"
            )
        read = [*self._read, *images_read_near(self._database, self.claim.run_id, image)]
        witnesses = nearest(image, read)
        if not witnesses:
            alike = self._only_suspects and {suspect.reason for suspect in self._suspects} == {reason}
            if not alike or len(self._suspects) == 1:
                return None
            return (
                f"every image of a batch of {archive} ({len(self._suspects)}) is {why}: is the archive "
                "mounted and readable? If it is, scan it again"
            )
        if any(self._is_readable(witness) for witness in witnesses):
            return None
        return (
            f"an image of {archive} is {why}, and {path_as_text(witnesses[0].path)}, which was read before, cannot "
            "be read now: is everything mounted and readable? If it is, scan the archive again"
        )

    def _held_several(self, folder: str) -> bool:
        if folder not in self._held:
            archive_id = archive_id_of(self._database, self.claim.archive)
            self._held[folder] = archive_id is not None and current_images(self._database, archive_id, folder) > 1
        return self._held[folder]

    def _is_readable(self, image: BatchImage) -> bool:
        if image not in self._checked:
            try:
                with in_work(image):
                    read_image_file(self.root, image.path, expected=(image.size, image.mtime_ns))
                self._checked[image] = True
            except FileFault:
                self._checked[image] = False
        return self._checked[image]


def _root(settings: Settings, claim: Claim) -> Root:
    try:
        root = settings.archive_root(claim.archive, claim.scanned_at)
    except UsageError as error:
        raise ArchiveOutage(str(error)) from error
    if root is None:
        raise ArchiveOutage(
            f"the archive {claim.archive!r} has no root on this host; "
            f"add it to BONESCREEN_ARCHIVES={claim.archive}=/path, or =dicomweb+https://host/path"
        )
    return root
