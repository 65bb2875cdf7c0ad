"""Files whose times moved by whole hours: they have not changed if their content is what was screened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select, update

from db.scans import Scan, renew_lease
from db.session import Database, chunks, one_of
from db.tables import contents, images, outcomes
from xray.archives.archive_file import MTIME_TOLERANCE_NS

HOUR_NS = 3_600_000_000_000
MAX_SHIFT_HOURS = 26
"""Time zones are at most 26 hours apart."""

SHIFTS_AT_ONCE = 4
"""Files that are hashed between two renewals of the scan's lease."""

DigestOf = Callable[[str], bytes | None]
"""Returns the SHA-256 of a file of the archive by its path, or None if it cannot be read."""


@dataclass(frozen=True)
class Shift:
    """A current image whose file has its size, and a time that differs by about whole hours."""

    image_id: int
    path: str
    mtime_ns: int


def is_shift(one_ns: int, other_ns: int) -> bool:
    """Tell whether two times of a file (ns) differ by at most `MAX_SHIFT_HOURS` whole hours.

    Daylight saving and time zones move the times of all files on a mount, and rounding moves them a little.
    """
    hours, rest = divmod(abs(one_ns - other_ns) + MTIME_TOLERANCE_NS, HOUR_NS)
    return hours <= MAX_SHIFT_HOURS and rest <= 2 * MTIME_TOLERANCE_NS


def known_digests(connection: Connection, image_ids: Sequence[int]) -> dict[int, bytes]:
    """Return the SHA-256 of the content that images had when they were screened, of those that were."""
    found: dict[int, bytes] = {}
    for chunk in chunks(image_ids):
        query = select(outcomes.c.image_id, contents.c.sha256).join(contents, contents.c.id == outcomes.c.content_id)
        rows = connection.execute(query.where(one_of(connection, outcomes.c.image_id, chunk)))
        found.update((row.image_id, bytes(row.sha256)) for row in rows)
    return found


def keep_unchanged(database: Database, scan: Scan, shifts: Sequence[Shift], digest_of: DigestOf) -> None:
    """Give images the new times of their files, where the files' content is what was screened.

    Raises
    ------
    TakenOver
        Another process has taken the scan over.
    """
    with database.read() as connection:
        known = known_digests(connection, [shift.image_id for shift in shifts])
    for first in range(0, len(shifts), SHIFTS_AT_ONCE):
        these = shifts[first : first + SHIFTS_AT_ONCE]
        same = [shift for shift in these if shift.image_id in known and digest_of(shift.path) == known[shift.image_id]]
        with database.write() as connection:
            renew_lease(connection, scan)
            if same:
                connection.execute(
                    update(images).where(images.c.id == bindparam("image_id")).values(mtime_ns=bindparam("moved_to")),
                    [{"image_id": shift.image_id, "moved_to": shift.mtime_ns} for shift in same],
                )
