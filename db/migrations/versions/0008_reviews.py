"""Add what people decide on studies' results, and what makes worklists quick on large databases.

A study result repeats its study's human label and body parts, and whether it was reviewed: an index by these and the
score has each filter's studies in order.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table of reviews and the repeated columns; fill and index these."""
    op.create_table(
        "reviews",
        sa.Column("id", ID, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("decision", sa.String(length=10), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("reviewer", sa.String(length=100), nullable=False),
        sa.Column("reviewed_at", sa.Double(), nullable=False),
        sa.Column("label", sa.String(length=10), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_reviews_run_id")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_reviews_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    op.create_index("ix_reviews_run_id", "reviews", ["run_id", "study_id", "reviewer", "id", "label", "decision"])
    op.create_index("ix_reviews_study_id", "reviews", ["study_id"])
    op.add_column("study_results", sa.Column("human_label", sa.String(length=10), nullable=False, server_default=""))
    op.add_column("study_results", sa.Column("body_parts", sa.Text(), nullable=False, server_default=""))
    op.add_column("study_results", sa.Column("reviewed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        """
        UPDATE study_results
        SET human_label = COALESCE(studies.human_label, ''), body_parts = COALESCE(studies.body_parts, '')
        FROM studies WHERE studies.id = study_results.study_id
        """
    )
    group = ["status", "reviewed", "human_label", "body_parts"]
    op.create_index("ix_study_results_group", "study_results", ["run_id", *group, "score", "study_id"])
    op.create_index("ix_study_results_changed_at", "study_results", ["run_id", "changed_at"])
    op.create_index("ix_study_results_study_id", "study_results", ["study_id"])
    op.create_index(
        "ix_studies_accession",
        "studies",
        ["archive_id", "accession"],
        sqlite_where=sa.text("accession IS NOT NULL"),
        postgresql_where=sa.text("accession IS NOT NULL"),
        postgresql_ops={"accession": "varchar_pattern_ops"},
    )
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("ix_studies_key", "studies", ["archive_id", "key"], postgresql_ops={"key": "text_pattern_ops"})
