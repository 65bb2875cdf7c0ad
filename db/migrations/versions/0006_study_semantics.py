"""Add what decides whether an image counts in its study, and what leads from a study back to the hospital's records.

An image's modality, presentation intent and patient; a content's picture, to find copies; a study result's highest
probability, and when it changed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and indexes; every model so far was made for radiographs of the limbs."""
    for table in ("images", "scan_entries"):
        for name, length in (("modality", 16), ("intent", 16), ("patient_mark", 8)):
            op.add_column(table, sa.Column(name, sa.String(length=length), nullable=True))
    for table in ("studies", "scan_entries"):
        for name, length in (("accession", 64), ("study_date", 10)):
            op.add_column(table, sa.Column(name, sa.String(length=length), nullable=True))
    op.add_column("studies", sa.Column("patients", sa.Integer(), nullable=True))
    op.add_column("archives", sa.Column("headers", sa.String(length=16), nullable=True))
    op.add_column("models", sa.Column("modalities", sa.Text(), nullable=False, server_default="CR DX RG"))
    op.add_column("contents", sa.Column("picture", sa.LargeBinary(length=256), nullable=True))
    op.add_column("study_results", sa.Column("highest", sa.Double(), nullable=True))
    op.add_column("study_results", sa.Column("changed_at", sa.Double(), nullable=True))
    several = sa.text("patients > 1")
    op.create_index("ix_studies_patients", "studies", ["archive_id"], sqlite_where=several, postgresql_where=several)
    repaired = sa.text("reason IS NULL AND detail IS NOT NULL")
    op.create_index(
        "ix_outcomes_repaired", "outcomes", ["run_id", "detail"], sqlite_where=repaired, postgresql_where=repaired
    )
