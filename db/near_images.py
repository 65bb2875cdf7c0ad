"""Images near one that failed: whether they can be read tells its own fault from an outage of its folder or device."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from sqlalchemy import select

from db.ledger import BatchImage
from db.session import Database
from db.tables import images, outcomes

NEAR_IDS = 50
"""Ids follow the studies' keys, so the paths of neighbours are mostly alike."""

WITNESSES = 5


def images_read_near(database: Database, run_id: int, image: BatchImage) -> list[BatchImage]:
    """Return the images that a run has read whose ids are next to an image's, `NEAR_IDS` on either side."""
    read = (
        select(images.c.id, images.c.path, images.c.size, images.c.mtime_ns)
        .join(outcomes, outcomes.c.image_id == images.c.id)
        .where(outcomes.c.run_id == run_id, outcomes.c.content_id.is_not(None), images.c.current)
        .limit(NEAR_IDS)
    )
    # The order of the primary key.
    before = read.where(outcomes.c.image_id < image.image_id).order_by(outcomes.c.image_id.desc())
    after = read.where(outcomes.c.image_id > image.image_id).order_by(outcomes.c.image_id)
    with database.read() as connection:
        return [BatchImage(*row) for query in (before, after) for row in connection.execute(query)]


def nearest(image: BatchImage, others: Sequence[BatchImage]) -> list[BatchImage]:
    """Return those images whose paths share most folders with an image's, at most `WITNESSES`."""
    shared = {other: _shared_folders(image.path, other.path) for other in others}
    most = max(shared.values(), default=0)
    return [other for other in others if shared[other] == most][:WITNESSES]


def _shared_folders(one: str, other: str) -> int:
    shared = 0
    for left, right in zip(PurePosixPath(one).parent.parts, PurePosixPath(other).parent.parts, strict=False):
        if left != right:
            break
        shared += 1
    return shared
