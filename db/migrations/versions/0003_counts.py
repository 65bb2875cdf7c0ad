"""Add counts of an archive's and a run's images and studies, and indexes for large databases."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = "state IN ('pending', 'sent', 'claimed')"
RUN_COUNTS = (
    "processed",
    "failed",
    "inferred",
    "scored",
    "incomplete",
    "not_assessable",
    "out_of_scope",
    "flagged_scored",
    "flagged_incomplete",
)


def upgrade() -> None:
    """Count what is there, then index it."""
    # The score of a pending study was that of a part of its images.
    op.execute("UPDATE study_results SET score = NULL WHERE status IN ('pending', 'not assessable', 'out of scope')")
    op.execute("UPDATE batches SET sent_at = 0 WHERE sent_at IS NULL")
    _count_archives()
    _count_runs()
    op.drop_index("ix_batches_run_id_state", "batches")
    op.drop_index("ix_batches_state", "batches")
    op.drop_index("ix_study_results_run_id_score", "study_results")
    _partial_index("ix_batches_open", "batches", ["run_id", "state", "sent_at", "id"], OPEN)
    _partial_index("ix_images_body_part", "images", ["archive_id", "body_part", "study_id"], "current = 1", "current")
    _partial_index("ix_outcomes_failed", "outcomes", ["run_id", "image_id", "reason"], "reason IS NOT NULL")
    op.create_index("ix_outcomes_content_id", "outcomes", ["content_id", "run_id"])
    by_score = ["run_id", "score", "study_id"]
    _partial_index("ix_study_results_score", "study_results", [*by_score, "status"], "score IS NOT NULL")
    _partial_index("ix_study_results_flagged", "study_results", by_score, "flagged = 1", "flagged")


def _count_archives() -> None:
    op.create_table(
        "archive_counts",
        sa.Column("archive_id", ID, nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_archive_counts_archive_id")),
        sa.PrimaryKeyConstraint("archive_id", "block", name=op.f("pk_archive_counts")),
    )
    op.execute(
        """
        INSERT INTO archive_counts (archive_id, block, images, studies)
        SELECT archive_id, block, SUM(images), SUM(studies)
        FROM (
            SELECT archive_id, id / 10000 AS block, COUNT(*) AS images, 0 AS studies
            FROM images WHERE current GROUP BY archive_id, id / 10000
            UNION ALL
            SELECT archive_id, id / 10000, 0, COUNT(*)
            FROM studies WHERE EXISTS (SELECT 1 FROM images WHERE images.study_id = studies.id AND images.current)
            GROUP BY archive_id, id / 10000
        ) AS counted
        GROUP BY archive_id, block
        """
    )


def _count_runs() -> None:
    op.create_table(
        "run_counts",
        sa.Column("run_id", ID, nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in RUN_COUNTS),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_counts_run_id")),
        sa.PrimaryKeyConstraint("run_id", "block", name=op.f("pk_run_counts")),
    )
    op.execute(
        """
        INSERT INTO run_counts (
            run_id, block, processed, failed, inferred,
            scored, incomplete, not_assessable, out_of_scope, flagged_scored, flagged_incomplete
        )
        SELECT
            run_id, block, SUM(processed), SUM(failed), SUM(inferred),
            SUM(scored), SUM(incomplete), SUM(not_assessable), SUM(out_of_scope),
            SUM(flagged_scored), SUM(flagged_incomplete)
        FROM (
            SELECT
                run_id, image_id / 10000 AS block, COUNT(*) AS processed, COUNT(reason) AS failed, 0 AS inferred,
                0 AS scored, 0 AS incomplete, 0 AS not_assessable, 0 AS out_of_scope,
                0 AS flagged_scored, 0 AS flagged_incomplete
            FROM outcomes JOIN images ON images.id = image_id WHERE current
            GROUP BY run_id, image_id / 10000
            UNION ALL
            SELECT run_id, content_id / 10000, 0, 0, COUNT(DISTINCT content_id), 0, 0, 0, 0, 0, 0
            FROM outcomes WHERE content_id IS NOT NULL
            GROUP BY run_id, content_id / 10000
            UNION ALL
            SELECT
                run_id, study_id / 10000, 0, 0, 0,
                COUNT(CASE WHEN status = 'scored' THEN 1 END),
                COUNT(CASE WHEN status = 'incomplete' THEN 1 END),
                COUNT(CASE WHEN status = 'not assessable' THEN 1 END),
                COUNT(CASE WHEN status = 'out of scope' THEN 1 END),
                COUNT(CASE WHEN flagged AND status = 'scored' THEN 1 END),
                COUNT(CASE WHEN flagged AND status = 'incomplete' THEN 1 END)
            FROM study_results
            GROUP BY run_id, study_id / 10000
        ) AS counted
        GROUP BY run_id, block
        """
    )


def _partial_index(name: str, table: str, columns: list[str], where: str, postgresql_where: str | None = None) -> None:
    op.create_index(
        name,
        table,
        columns,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(postgresql_where or where),
    )
