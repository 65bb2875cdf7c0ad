"""Add what is known of the studies of DICOMweb services, and which of them a scan looks for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the column."""
    op.create_table(
        "read_studies",
        sa.Column("archive_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("mark", sa.String(length=32), nullable=False),
        sa.Column("images", sa.String(length=32), nullable=False),
        sa.Column("skipped", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_read_studies_archive_id")),
        sa.PrimaryKeyConstraint("archive_id", "key", name=op.f("pk_read_studies")),
    )
    op.add_column("scans", sa.Column("selection", sa.Text(), server_default="", nullable=False))
