"""What earlier scans have learned of an archive's files, so that the next one opens only what is new."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import and_, func, or_, select, update

from db.merge import DESCRIPTION, Entry
from db.session import Database, chunks, insert_into
from db.tables import archives, images, models, outcomes, passed_over, runs, studies

FileKey = tuple[str, int, int]
"""A file as a scan sees it: path below the root, size in bytes, time of the last change in ns."""


@dataclass(frozen=True)
class ScanCache:
    """Files seen before, by path: images, placed as they were, and files passed over, with the reason."""

    images: Mapping[str, Entry] = field(default_factory=dict)
    passed_over: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanDifference:
    """How many of some files are screened already, are known and left to do, or are another version of a known file."""

    processed: int = 0
    left: int = 0
    changed: int = 0
    current: int = 0


def known_files(database: Database, archive_id: int, files: Sequence[FileKey]) -> ScanCache:
    """Tell what is known of files whose size and time of change are as they were."""
    wanted = {path: (size, mtime_ns) for path, size, mtime_ns in files}
    found: dict[str, Entry] = {}
    passed: dict[str, str] = {}
    columns = [images.c[name] for name in ("path", "size", "mtime_ns", *DESCRIPTION)]
    with database.read() as connection:
        for chunk in chunks(list(wanted)):
            query = (
                select(studies.c.key.label("study_key"), studies.c.human_label, studies.c.patient, *columns)
                .join_from(images, studies, studies.c.id == images.c.study_id)
                .where(images.c.archive_id == archive_id, images.c.path.in_(chunk))
            )
            for row in connection.execute(query).mappings():
                if wanted[row["path"]] == (row["size"], row["mtime_ns"]):
                    found[row["path"]] = Entry(**row)
            skipped = select(passed_over).where(passed_over.c.archive_id == archive_id, passed_over.c.path.in_(chunk))
            for seen in connection.execute(skipped):
                if wanted[seen.path] == (seen.size, seen.mtime_ns):
                    passed[seen.path] = seen.reason
    return ScanCache(found, passed)


def remember_passed_over(database: Database, archive_id: int, files: Iterable[tuple[FileKey, str]]) -> None:
    """Keep why files were passed over that had to be opened to be judged."""
    rows = [
        {"archive_id": archive_id, "path": path, "size": size, "mtime_ns": mtime_ns, "reason": reason}
        for (path, size, mtime_ns), reason in files
    ]
    if not rows:
        return
    with database.write() as connection:
        for chunk in chunks(rows):
            upsert = insert_into(connection, passed_over)
            fresh = {name: upsert.excluded[name] for name in ("size", "mtime_ns", "reason")}
            connection.execute(upsert.on_conflict_do_update(index_elements=["archive_id", "path"], set_=fresh), chunk)


def pseudonym_key_mark(database: Database, archive_id: int) -> str | None:
    """Return the mark of the pseudonym key that an archive's patients were hashed under, None for none."""
    with database.read() as connection:
        query = select(archives.c.pseudonym_key).where(archives.c.id == archive_id)
        mark: str | None = connection.execute(query).scalar_one()
    return mark


def remember_pseudonym_key(database: Database, archive_id: int, mark: str | None) -> None:
    """Keep the mark of the key that all of an archive's patients are hashed under now, None if not all are."""
    with database.write() as connection:
        connection.execute(update(archives).where(archives.c.id == archive_id).values(pseudonym_key=mark))


def archive_id_of(database: Database, name: str) -> int | None:
    """Return an archive's id, None for one that was never scanned."""
    with database.read() as connection:
        return connection.execute(select(archives.c.id).where(archives.c.name == name)).scalar_one_or_none()


def standing(database: Database, archive_id: int, digest: str, files: Sequence[FileKey]) -> ScanDifference:
    """Count how files stand in the run of a model version (by digest) over an archive; new files are in no count.

    `current` counts the paths that an image is current of.
    """
    seen = {path: (size, mtime_ns) for path, size, mtime_ns in files}
    run_id = (
        select(runs.c.id)
        .join(models, models.c.id == runs.c.model_id)
        .where(runs.c.archive_id == archive_id, models.c.digest == digest)
        .scalar_subquery()
    )
    processed: set[str] = set()
    same: set[str] = set()
    current: set[str] = set()
    known: set[str] = set()
    with database.read() as connection:
        for chunk in chunks(list(seen)):
            query = (
                select(images.c.path, images.c.size, images.c.mtime_ns, images.c.current, outcomes.c.image_id)
                .select_from(images)
                .outerjoin(outcomes, and_(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id))
                .where(images.c.archive_id == archive_id, images.c.path.in_(chunk))
            )
            for row in connection.execute(query):
                known.add(row.path)
                if row.current:
                    current.add(row.path)
                if seen[row.path] == (row.size, row.mtime_ns):
                    (same if row.image_id is None else processed).add(row.path)
    return ScanDifference(len(processed), len(same), len(known - same - processed), len(current))


def current_images(database: Database, archive_id: int, below: str | None = None) -> int:
    """Count an archive's current images, of all of it or at and below a path."""
    query = select(func.count()).where(images.c.archive_id == archive_id, images.c.current)
    if below is not None:
        query = query.where(or_(images.c.path == below, images.c.path.startswith(below + "/", autoescape=True)))
    with database.read() as connection:
        return connection.execute(query).scalar_one()
