"""Fill a database through the same functions that the producer uses."""

from collections.abc import Sequence

from sqlalchemy import delete, select, text

from db import ledger, merge, scans
from db.ledger import Claim
from db.runs import ModelVersion, open_run, register_archive, register_model
from db.session import Database
from db.store import ImageOutcome, Prediction
from db.tables import images, metadata
from xray.archives.archive_file import ArchiveFile, Placement
from xray.vocabulary import Label

MODEL = ModelVersion(
    name="tiny",
    version="1",
    digest="ab" * 32,
    precision="fp32",
    finding="fracture",
    image_threshold=0.5,
    study_threshold=0.5,
    body_parts=("HUMERUS", "HAND"),
    modalities=("CR", "DX", "RG"),
    queue="screen.tiny.fp32",
)


def found_file(study: str, name: str, *, size: int = 100, body_part: str | None = "HUMERUS") -> ArchiveFile:
    """Return a file of a study, as a scan finds it."""
    return ArchiveFile(f"{study}/{name}", size, 1_000, Placement(study, body_part, Label.POSITIVE))


def found_files(studies: int, images_each: int = 1) -> list[ArchiveFile]:
    """Return the files of several studies."""
    return [found_file(f"study{s:04}", f"image{i}.png") for s in range(studies) for i in range(images_each)]


def scan(
    database: Database,
    found: Sequence[ArchiveFile],
    *,
    batch_size: int = 4,
    archive: str = "archive",
    model: ModelVersion = MODEL,
) -> int:
    """Scan an archive with these files; return its run."""
    archive_id = register_archive(database, archive, f"/{archive}")
    run_id = open_run(database, archive_id, register_model(database, model), batch_size)
    opened = scans.begin_scan(database, run_id, "folder", "test")
    assert opened is not None
    merge.stage(database, opened, found)
    merge.merge(database, opened, lambda path: None)
    merge.mark_gone(database, opened)
    scans.close_scan(database, opened, {})
    return run_id


def claim_next(database: Database, worker: str = "w", images: int | None = None) -> Claim:
    """Claim the next batch; there is one."""
    claim = ledger.claim_next(database, MODEL.queue, worker, images)
    assert claim is not None
    return claim


def scored(image_id: int, probability: float = 0.7, content: int | None = None) -> ImageOutcome:
    """Return the outcome of an image that is scored, with a content of its own unless given."""
    digest = (image_id if content is None else content).to_bytes(32, "big")
    return ImageOutcome(image_id, digest, Prediction(0.1, probability, b"\x00\x00" * 4, (2, 2)))


def finish_batches(database: Database, batches: int = 1000, probability: float = 0.7) -> int:
    """Process pending batches as workers would; return the number of images processed."""
    done = 0
    for _ in range(batches):
        claim = ledger.claim_next(database, MODEL.queue, "w")
        if claim is None:
            break
        work = ledger.unprocessed_images(database, claim)
        assert ledger.finish(database, claim, [scored(image.image_id, probability) for image in work])
        done += len(work)
    return done


def image_ids(database: Database) -> list[int]:
    """Return all image ids, ascending."""
    with database.read() as connection:
        return list(connection.execute(select(images.c.id).order_by(images.c.id)).scalars())


def empty(database: Database) -> None:
    """Delete every row, and number new ones from 1."""
    with database.write() as connection:
        if database.dialect == "postgresql":
            names = ", ".join(table.name for table in metadata.sorted_tables)
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
        else:
            for table in reversed(metadata.sorted_tables):
                connection.execute(delete(table))


def fill_with_results(database: Database, number: int, key: str = "XR_HAND/patient{n:07}/study1_positive") -> int:
    """Store a run of many studies of one image each, without its files, batches and counts; return the run."""
    archive_id = register_archive(database, "many", "/many")
    run_id = open_run(database, archive_id, register_model(database, MODEL), batch_size=4)
    opened = scans.begin_scan(database, run_id, "folder", "test")
    assert opened is not None
    scans.close_scan(database, opened, {})
    columns = {"archive": archive_id, "run": run_id}
    for first in range(1, number + 1, 100_000):
        ids = range(first, min(first + 100_000, number + 1))
        rows = [{**columns, "id": n, "key": key.format(n=n), "score": n * 7919 % number / number} for n in ids]
        with database.write() as connection:
            connection.execute(
                text(
                    "INSERT INTO studies (id, archive_id, key, body_parts, human_label) "
                    "VALUES (:id, :archive, :key, 'HAND', 'positive')"
                ),
                rows,
            )
            connection.execute(
                text(
                    "INSERT INTO images (id, archive_id, study_id, path, size, mtime_ns, current, body_part) "
                    "VALUES (:id, :archive, :id, :key || '/image1.png', 1, 1, true, 'HAND')"
                ),
                rows,
            )
            connection.execute(
                text(
                    "INSERT INTO study_results (run_id, study_id, status, score, highest, flagged, images, failed, "
                    "changed_at) VALUES (:run, :id, 'scored', :score, :score, :score >= 0.5, 1, 0, 1795000000.25)"
                ),
                rows,
            )
    return run_id
