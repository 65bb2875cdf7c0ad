"""What the database knows of an archive's files: a scan reads only new files, a dry run compares without writing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from sqlalchemy import and_, func, or_, select, update

from db.merge import STUDY_ATTRIBUTES
from db.moved_times import DigestOf, is_shift, known_digests
from db.passing_failures import PASSING, IsReadable
from db.session import Database, chunks, insert_into
from db.tables import archives, images, models, outcomes, runs, skipped_files, studies
from xray.archives.archive_file import ArchiveFile, Placement, Skipped
from xray.vocabulary import Label


@dataclass(frozen=True)
class ScanCache:
    """What earlier scans found out by reading files that have not changed since.

    Parameters
    ----------
    placements : mapping of str to Placement
        Of images, by path.
    skipped : mapping of str to str
        The reasons for skipping the other files, by path.
    """

    placements: Mapping[str, Placement] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanDifference:
    """How some files of an archive differ from a run; new files are not counted.

    Parameters
    ----------
    processed : int
        Files that the run has processed.
    unprocessed : int
        Files known from an earlier scan, which the run has not processed.
    changed : int
        Files of which only a different version is known.
    current : int
        Files of which a version is a current image.
    """

    processed: int = 0
    unprocessed: int = 0
    changed: int = 0
    current: int = 0


def known_files(database: Database, archive_id: int, files: Sequence[ArchiveFile]) -> ScanCache:
    """Return what earlier scans found out about those of some files that have not changed."""
    versions = {file.path: file.version for file in files}
    placements: dict[str, Placement] = {}
    reasons: dict[str, str] = {}
    # By position, as this is done for each file of each scan.
    names = [one.name for one in fields(Placement) if one.name != "study"]
    described = [(studies if name in STUDY_ATTRIBUTES else images).c[name] for name in names]
    with database.read() as connection:
        for chunk in chunks(list(versions)):
            query = (
                select(images.c.path, images.c.size, images.c.mtime_ns, studies.c.key, *described)
                .join_from(images, studies, studies.c.id == images.c.study_id)
                .where(images.c.archive_id == archive_id, images.c.path.in_(chunk))
            )
            for path, size, mtime_ns, study, body_part, human_label, *others in connection.execute(query):
                if versions[path] == (size, mtime_ns):
                    label = Label(human_label) if human_label else None
                    placements[path] = Placement(study, body_part, label, *others)
            skipped = select(skipped_files).where(
                skipped_files.c.archive_id == archive_id, skipped_files.c.path.in_(chunk)
            )
            for known in connection.execute(skipped):
                if versions[known.path] == (known.size, known.mtime_ns):
                    reasons[known.path] = known.reason
    return ScanCache(placements, reasons)


def remember_skipped(database: Database, archive_id: int, skipped: Iterable[Skipped]) -> None:
    """Save why files were skipped whose content had to be read to decide it."""
    rows = [
        {
            "archive_id": archive_id,
            "path": one.opened.path,
            "size": one.opened.size,
            "mtime_ns": one.opened.mtime_ns,
            "reason": one.reason,
        }
        for one in skipped
        if one.opened is not None
    ]
    if not rows:
        return
    with database.write() as connection:
        for chunk in chunks(rows):
            upsert = insert_into(connection, skipped_files)
            fresh = {name: upsert.excluded[name] for name in ("size", "mtime_ns", "reason")}
            connection.execute(upsert.on_conflict_do_update(index_elements=["archive_id", "path"], set_=fresh), chunk)


@dataclass(frozen=True)
class HeaderMarks:
    """How an archive's headers were read: with other marks than these they are read again.

    Parameters
    ----------
    pseudonym_key : str or None
        The mark of the key that all patients were hashed with; None without one, or if some were not.
    headers : str or None
        The mark of what else was read; None if some were read otherwise.
    """

    pseudonym_key: str | None
    headers: str | None


def header_marks(database: Database, archive_id: int) -> HeaderMarks:
    """Return how the headers of an archive were read."""
    with database.read() as connection:
        query = select(archives.c.pseudonym_key, archives.c.headers).where(archives.c.id == archive_id)
        return HeaderMarks(*connection.execute(query).one())


def remember_header_marks(database: Database, archive_id: int, marks: HeaderMarks) -> None:
    """Save how the headers of an archive were read."""
    with database.write() as connection:
        connection.execute(update(archives).where(archives.c.id == archive_id).values(asdict(marks)))


def archive_id_of(database: Database, name: str) -> int | None:
    """Return an archive's id, or None if it was never scanned."""
    with database.read() as connection:
        return connection.execute(select(archives.c.id).where(archives.c.name == name)).scalar_one_or_none()


def compare_with_run(
    database: Database,
    archive_id: int,
    queue: str,
    files: Sequence[ArchiveFile],
    digest_of: DigestOf,
    is_readable: IsReadable,
) -> ScanDifference:
    """Compare files with the run of a model version over their archive.

    Parameters
    ----------
    database : Database
    archive_id : int
    queue : str
        The model version's queue.
    files : sequence of ArchiveFile
        Each path once.
    digest_of : callable
        Returns the SHA-256 of a file of the archive by its path, or None if it cannot be read: a file whose time moved
        by whole hours is compared by its content.
    is_readable : callable
        Tells whether a file can be opened with its version, as in `db.passing_failures`: a scan forgets its failure.
    """
    versions = {file.path: file.version for file in files}
    outcome = outcomes.c.image_id, outcomes.c.reason
    run_id = (
        select(runs.c.id)
        .join(models, models.c.id == runs.c.model_id)
        .where(runs.c.archive_id == archive_id, models.c.queue == queue)
        .scalar_subquery()
    )
    processed: set[str] = set()
    unprocessed: set[str] = set()
    current: set[str] = set()
    known: set[str] = set()
    moved: dict[str, tuple[int, bool]] = {}
    failed: set[str] = set()
    with database.read() as connection:
        for chunk in chunks(list(versions)):
            query = (
                select(*(images.c[name] for name in ("id", "path", "size", "mtime_ns", "current")), *outcome)
                .select_from(images)
                .outerjoin(outcomes, and_(outcomes.c.run_id == run_id, outcomes.c.image_id == images.c.id))
                .where(images.c.archive_id == archive_id, images.c.path.in_(chunk))
            )
            for row in connection.execute(query):
                known.add(row.path)
                if row.current:
                    current.add(row.path)
                size, mtime_ns = versions[row.path]
                if (size, mtime_ns) == (row.size, row.mtime_ns):
                    (unprocessed if row.image_id is None else processed).add(row.path)
                    if row.reason in PASSING:
                        failed.add(row.path)
                elif (
                    row.current and row.size == versions[row.path][0] and is_shift(row.mtime_ns, versions[row.path][1])
                ):
                    moved[row.path] = (row.id, row.image_id is None)
        moved = {path: moved[path] for path in moved.keys() - unprocessed - processed}
        digests = known_digests(connection, [image_id for image_id, _ in moved.values()])
    for path, (image_id, is_unprocessed) in moved.items():
        if image_id in digests and digest_of(path) == digests[image_id]:
            (unprocessed if is_unprocessed else processed).add(path)
    again = {path for path in failed if is_readable(path, versions[path])}
    processed, unprocessed = processed - again, unprocessed | again
    changed = known - unprocessed - processed
    return ScanDifference(len(processed), len(unprocessed), len(changed), len(current))


def current_paths(database: Database, archive_id: int, paths: Sequence[str]) -> set[str]:
    """Return those of some paths that are current images of an archive."""
    found: set[str] = set()
    with database.read() as connection:
        for chunk in chunks(paths):
            query = select(images.c.path).where(images.c.archive_id == archive_id, images.c.current)
            found.update(connection.execute(query.where(images.c.path.in_(chunk))).scalars())
    return found


def current_images(database: Database, archive_id: int, path: str | None = None) -> int:
    """Count the current images of an archive, or those at and below a path of it."""
    query = select(func.count()).where(images.c.archive_id == archive_id, images.c.current)
    if path is not None:
        query = query.where(or_(images.c.path == path, images.c.path.startswith(path + "/", autoescape=True)))
    with database.read() as connection:
        return connection.execute(query).scalar_one()
