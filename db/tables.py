"""The tables. Times are seconds since 1970 on the database's own clock, so hosts' clocks may differ.

::

    archives ─┬─ studies ── images          what the producer found
              ├─ archive_counts        how many of them are current
              ├─ skipped_files         files that it opened and skipped, with the reason (stored as `passed_over`)
              ├─ read_studies          studies of a DICOMweb service, as it last described and read them
              └─ runs ─┬─ scans ── scan_entries (staging, emptied when a scan ends)
    models ────────────┤
                       ├─ batches           the ledger
                       ├─ run_counts        how many of the following are of which kind
                       ├─ outcomes          one row per image and run: a content, or the reason of a failure
                       ├─ study_results     one row per study and run
                       └─ reviews           what people decided on study results, append only
    contents ── predictions                 one row per content and model version, immutable
    heartbeats                              worker and feeder processes, what they do and wait for
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

# SQLite numbers rows by itself only for a column declared exactly INTEGER PRIMARY KEY.
Id = BigInteger().with_variant(Integer, "sqlite")

archives = Table(
    "archives",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("root", Text, nullable=False),
    Column("layout", String(20)),
    # Identifies the pseudonym key that its headers were read with (not the key itself); with a different key they are
    # read again.
    Column("pseudonym_key", String(16)),
    # Identifies what else was read of its headers (`producer.source.Source.header_mark`), likewise.
    Column("headers", String(16)),
)

models = Table(
    "models",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("version", String(50), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("precision", String(10), nullable=False),
    Column("finding", String(100), nullable=False),
    Column("image_threshold", Double, nullable=False),
    Column("study_threshold", Double, nullable=False),
    Column("body_parts", Text, nullable=False),
    Column("modalities", Text, nullable=False),
    # The largest distance of an image in scope; NULL if the model gives no distances.
    Column("distance_threshold", Double),
    Column("queue", String(100), nullable=False),
    UniqueConstraint("digest", "precision"),
)

studies = Table(
    "studies",
    metadata,
    Column("id", Id, primary_key=True),
    Column("archive_id", ForeignKey("archives.id"), nullable=False),
    Column("key", Text, nullable=False),
    # The body parts of its current images, each once: "HAND,WRIST".
    Column("body_parts", Text),
    Column("human_label", String(10)),
    # A keyed hash, hexadecimal; nothing else that identifies the patient is stored.
    Column("patient", String(32)),
    # How many patients its current images are of; a study has one (PS3.3 C.7.2.1). NULL where no image names any.
    Column("patients", Integer),
    # Stored only if BONESCREEN_KEEP names them.
    Column("accession", String(64)),
    Column("study_date", String(10)),
    UniqueConstraint("archive_id", "key"),
    # In the order of bytes, so that PostgreSQL finds what a key or an accession number begins with.
    Index("ix_studies_key", "archive_id", "key", postgresql_ops={"key": "text_pattern_ops"}).ddl_if("postgresql"),
    Index(
        "ix_studies_accession",
        "archive_id",
        "accession",
        sqlite_where=text("accession IS NOT NULL"),
        postgresql_where=text("accession IS NOT NULL"),
        postgresql_ops={"accession": "varchar_pattern_ops"},
    ),
    Index(
        "ix_studies_patients",
        "archive_id",
        sqlite_where=text("patients > 1"),
        postgresql_where=text("patients > 1"),
    ),
)

images = Table(
    "images",
    metadata,
    Column("id", Id, primary_key=True),
    Column("archive_id", ForeignKey("archives.id"), nullable=False),
    Column("study_id", ForeignKey("studies.id"), nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    # Whether the latest scan found it. A changed file is a new image. The rows of a changed or deleted file are kept,
    # with their results, in case it comes back; they are no longer current.
    Column("current", Boolean, nullable=False),
    Column("body_part", String(20)),
    Column("view", String(20)),
    Column("laterality", String(1)),
    Column("series", String(64)),
    Column("modality", String(16)),
    # DICOM's Presentation Intent Type.
    Column("intent", String(16)),
    # Tells patients within one study apart (`xray.pseudonym.patient_mark`).
    Column("patient_mark", String(8)),
    UniqueConstraint("archive_id", "path", "size", "mtime_ns"),
    Index(
        "ix_images_body_part",
        "archive_id",
        "body_part",
        "study_id",
        sqlite_where=text("current = 1"),
        postgresql_where=text("current"),
    ),
)

# What `db.counts` keeps: of an archive, and of a run. A row counts rows whose ids are in one block of ids.
archive_counts = Table(
    "archive_counts",
    metadata,
    Column("archive_id", ForeignKey("archives.id"), primary_key=True),
    Column("block", BigInteger, primary_key=True),
    # Current images.
    Column("images", Integer, nullable=False),
    # Studies that have a current image.
    Column("studies", Integer, nullable=False),
)

skipped_files = Table(
    "passed_over",
    metadata,
    Column("archive_id", ForeignKey("archives.id"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("reason", String(100), nullable=False),
)

# What `db.read_studies` keeps: a scan asks for no study again of which the service says the same as then.
read_studies = Table(
    "read_studies",
    metadata,
    Column("archive_id", ForeignKey("archives.id"), primary_key=True),
    # Study Instance UID.
    Column("key", Text, primary_key=True),
    # Identifies what the service said of it when it was searched for, and how its headers were read.
    Column("mark", String(32), nullable=False),
    # Identifies the images that were found in it, and how they were described.
    Column("images", String(32), nullable=False),
    # How many of its instances were skipped, by reason, as JSON.
    Column("skipped", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("archive_id", ForeignKey("archives.id"), nullable=False),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("batch_size", Integer, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("cancelled_at", Double),
    UniqueConstraint("archive_id", "model_id"),
)

scans = Table(
    "scans",
    metadata,
    Column("id", Id, primary_key=True),
    Column("archive_id", ForeignKey("archives.id"), nullable=False),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("layout", String(20), nullable=False),
    # Which studies of a DICOMweb service it looks for (`producer.selection`), as JSON; empty for all.
    Column("selection", Text, nullable=False, server_default=""),
    Column("token", Integer, nullable=False),
    Column("lease_expires_at", Double, nullable=False),
    Column("holder", String(200), nullable=False),
    Column("found", BigInteger, nullable=False),
    Column("added", BigInteger, nullable=False),
    Column("gone", BigInteger, nullable=False),
    Column("skipped", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    # One open scan per archive: two at the same time would each mark the other's files as gone.
    Index(
        "uq_scans_open",
        "archive_id",
        unique=True,
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
)

scan_entries = Table(
    "scan_entries",
    metadata,
    Column("scan_id", ForeignKey("scans.id"), primary_key=True),
    Column("study_key", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("body_part", String(20)),
    Column("human_label", String(10)),
    Column("view", String(20)),
    Column("laterality", String(1)),
    Column("series", String(64)),
    Column("modality", String(16)),
    Column("intent", String(16)),
    Column("patient_mark", String(8)),
    Column("patient", String(32)),
    Column("accession", String(64)),
    Column("study_date", String(10)),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("parent_id", ForeignKey("batches.id")),
    Column("first_image_id", BigInteger, nullable=False),
    Column("last_image_id", BigInteger, nullable=False),
    Column("images", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("token", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("worker", String(200)),
    Column("lease_expires_at", Double),
    # When it was last released in an outage; 0 if never.
    Column("released_at", Double),
    Index(
        "ix_batches_open",
        "run_id",
        "state",
        "released_at",
        "id",
        sqlite_where=text("state IN ('pending', 'claimed')"),
        postgresql_where=text("state IN ('pending', 'claimed')"),
    ),
)

contents = Table(
    "contents",
    metadata,
    Column("id", Id, primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("frame", Integer, nullable=False),
    # The picture in 16 x 16 gray levels (`xray.images.copies`), to find copies in other bytes.
    Column("picture", LargeBinary(256)),
    UniqueConstraint("sha256", "frame"),
)

predictions = Table(
    "predictions",
    metadata,
    Column("content_id", ForeignKey("contents.id"), primary_key=True),
    Column("model_id", ForeignKey("models.id"), primary_key=True),
    Column("logit", Double, nullable=False),
    Column("probability", Double, nullable=False),
    # float16, row-major, signed
    Column("cam", LargeBinary, nullable=False),
    Column("cam_rows", Integer, nullable=False),
    Column("cam_columns", Integer, nullable=False),
    # How unlike the training images it is (`xray.network.distance`); NULL if the model does not tell.
    Column("distance", Double),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("content_id", ForeignKey("contents.id")),
    Column("reason", String(30)),
    # Of a failure, what is wrong; of an image that was read, what of its file was wrong and read otherwise.
    Column("detail", Text),
    Column("attempts", Integer, nullable=False),
    Index("ix_outcomes_image_id", "image_id"),
    Index("ix_outcomes_content_id", "content_id", "run_id"),
    Index(
        "ix_outcomes_failed",
        "run_id",
        "image_id",
        "reason",
        sqlite_where=text("reason IS NOT NULL"),
        postgresql_where=text("reason IS NOT NULL"),
    ),
    Index(
        "ix_outcomes_repaired",
        "run_id",
        "detail",
        sqlite_where=text("reason IS NULL AND detail IS NOT NULL"),
        postgresql_where=text("reason IS NULL AND detail IS NOT NULL"),
    ),
)

run_counts = Table(
    "run_counts",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("block", BigInteger, primary_key=True),
    # Current images that have an outcome; those of them that failed.
    Column("processed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    # Contents among the outcomes, each once; of images that are no longer current too.
    Column("inferred", Integer, nullable=False),
    # Studies by status; the others are pending.
    Column("scored", Integer, nullable=False),
    Column("incomplete", Integer, nullable=False),
    Column("not_assessable", Integer, nullable=False),
    Column("out_of_scope", Integer, nullable=False),
    # Studies of either status that are flagged.
    Column("flagged_scored", Integer, nullable=False),
    Column("flagged_incomplete", Integer, nullable=False),
)

study_results = Table(
    "study_results",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("study_id", ForeignKey("studies.id"), primary_key=True, index=True),
    Column("status", String(20), nullable=False),
    # NULL unless the status is one that has a score.
    Column("score", Double),
    # The highest probability of an image that counts.
    Column("highest", Double),
    Column("flagged", Boolean, nullable=False),
    Column("images", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("changed_at", Double),
    # Repeated of its study, and of its reviews, for the index of `db.worklist`; empty if unknown.
    Column("human_label", String(10), nullable=False, server_default=""),
    Column("body_parts", Text, nullable=False, server_default=""),
    Column("reviewed", Boolean, nullable=False, server_default=false()),
    Index(
        "ix_study_results_group",
        "run_id",
        "status",
        "reviewed",
        "human_label",
        "body_parts",
        "score",
        "study_id",
    ),
    Index("ix_study_results_changed_at", "run_id", "changed_at"),
    Index(
        "ix_study_results_score",
        "run_id",
        "score",
        "study_id",
        "status",
        sqlite_where=text("score IS NOT NULL"),
        postgresql_where=text("score IS NOT NULL"),
    ),
    Index(
        "ix_study_results_flagged",
        "run_id",
        "score",
        "study_id",
        sqlite_where=text("flagged = 1"),
        postgresql_where=text("flagged"),
    ),
)

# What a person decided on a study's result, and what of it that person saw. Rows are only added.
reviews = Table(
    "reviews",
    metadata,
    Column("id", Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("study_id", ForeignKey("studies.id"), nullable=False, index=True),
    # A `xray.vocabulary.Decision`.
    Column("decision", String(10), nullable=False),
    Column("note", Text),
    Column("reviewer", String(100), nullable=False),
    Column("reviewed_at", Double, nullable=False),
    Column("label", String(10)),
    Column("score", Double),
    Column("status", String(20), nullable=False),
    # Has all that is read to count how reviewers agree.
    Index("ix_reviews_run_id", "run_id", "study_id", "reviewer", "id", "label", "decision"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("role", String(10), nullable=False),
    Column("queue", String(100)),
    Column("problem", Text),
    Column("seen_at", Double, nullable=False),
    # A `db.heartbeats.Activity`.
    Column("activity", String(40)),
    # The precisions that the host computes natively: "bf16 fp32 int8".
    Column("precisions", String(40)),
)
