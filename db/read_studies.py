"""The studies of a DICOMweb service as scans have read them, so that those that did not change are not read again.

A row is written before the images that it tells of are merged, and may outlive them. So it counts only where the
database has just these images: nothing has to be undone when a scan ends in between, or is taken over.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from sqlalchemy import select

from db.merge import IMAGE_ATTRIBUTES, STUDY_ATTRIBUTES
from db.session import Database, chunks, insert_into, one_of
from db.tables import images, read_studies, scan_entries, studies
from xray.archives.archive_file import ArchiveFile, Placement
from xray.vocabulary import Label

_COMPARED = ("accession", "study_date")
"""What is compared of a study: a service knows no labels, and a scan without the pseudonym key knows no patients."""


@dataclass(frozen=True)
class ReadStudy:
    """A study that was read.

    Parameters
    ----------
    key : str
        Study Instance UID.
    mark : str
        Identifies what the service said of it when it was searched for, and how headers were read; 32 hexadecimal
        digits.
    images : sequence of ArchiveFile
        The images that were found in it, each with its placement.
    skipped : Counter of str
        How many of its instances were skipped, by reason.
    """

    key: str
    mark: str
    images: Sequence[ArchiveFile] = ()
    skipped: Counter[str] = field(default_factory=Counter)


def known_studies(database: Database, archive_id: int, marks: Mapping[str, str]) -> dict[str, ReadStudy]:
    """Return those of some studies of which the service says the same as when they were read, as they were read.

    Parameters
    ----------
    database : Database
    archive_id : int
    marks : mapping of str to str
        Identifies what the service says of each study now, by its key.
    """
    found: dict[str, ReadStudy] = {}
    for chunk in chunks(list(marks)):
        with database.read() as connection:
            of_archive = read_studies.c.archive_id == archive_id
            rows = connection.execute(
                select(read_studies).where(of_archive, one_of(connection, read_studies.c.key, chunk))
            ).all()
        same = [row for row in rows if row.mark == marks[row.key]]
        current = _current_images(database, archive_id, [row.key for row in same])
        for row in same:
            if _digest(current[row.key]) == row.images:
                found[row.key] = ReadStudy(row.key, row.mark, current[row.key], Counter(json.loads(row.skipped)))
    return found


def remember_studies(database: Database, archive_id: int, read: Iterable[ReadStudy]) -> None:
    """Save how studies were read."""
    rows = [
        {
            "archive_id": archive_id,
            "key": study.key,
            "mark": study.mark,
            "images": _digest(study.images),
            "skipped": json.dumps(study.skipped, sort_keys=True),
        }
        # In one order, as two transactions that lock rows in different orders can block each other.
        for study in sorted(read, key=lambda study: study.key)
    ]
    if not rows:
        return
    with database.write() as connection:
        for chunk in chunks(rows):
            upsert = insert_into(connection, read_studies)
            fresh = {name: upsert.excluded[name] for name in ("mark", "images", "skipped")}
            connection.execute(upsert.on_conflict_do_update(index_elements=["archive_id", "key"], set_=fresh), chunk)


def staged_studies(database: Database, scan_id: int, keys: Sequence[str]) -> set[str]:
    """Return those of some studies of which a scan has staged an image."""
    found: set[str] = set()
    with database.read() as connection:
        for chunk in chunks(keys):
            staged = scan_entries.c.scan_id == scan_id, one_of(connection, scan_entries.c.study_key, chunk)
            found.update(connection.execute(select(scan_entries.c.study_key).where(*staged).distinct()).scalars())
    return found


def _current_images(database: Database, archive_id: int, keys: Sequence[str]) -> dict[str, list[ArchiveFile]]:
    found: dict[str, list[ArchiveFile]] = {key: [] for key in keys}
    names = [one.name for one in fields(Placement) if one.name != "study"]
    described = [(studies if name in STUDY_ATTRIBUTES else images).c[name] for name in names]
    with database.read() as connection:
        query = (
            select(images.c.path, images.c.size, images.c.mtime_ns, studies.c.key, *described)
            .join_from(images, studies, studies.c.id == images.c.study_id)
            .where(studies.c.archive_id == archive_id, images.c.current, one_of(connection, studies.c.key, keys))
        )
        for path, size, mtime_ns, study, body_part, human_label, *others in connection.execute(query):
            label = Label(human_label) if human_label else None
            found[study].append(ArchiveFile(path, size, mtime_ns, Placement(study, body_part, label, *others)))
    return found


def _digest(files: Sequence[ArchiveFile]) -> str:
    placements = {file.path: file.placement for file in files if file.placement is not None}
    # As a merge describes a study: by what any of its images names.
    of_study = [
        max((value for placement in placements.values() if (value := getattr(placement, name))), default=None)
        for name in _COMPARED
    ]
    of_images = [
        (path, *(getattr(placement, name) for name in IMAGE_ATTRIBUTES)) for path, placement in placements.items()
    ]
    return hashlib.sha256(repr((of_study, sorted(of_images, key=lambda one: one[0]))).encode()).hexdigest()[:32]
