"""Add columns for DICOM headers: view, laterality and series of an image, and the patient's keyed hash.

The body part moves from the study to its images, as a study may show several.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table, and give each image its study's body part."""
    op.add_column("archives", sa.Column("pseudonym_key", sa.String(length=16), nullable=True))
    op.add_column("studies", sa.Column("patient", sa.String(length=32), nullable=True))
    op.add_column("scan_entries", sa.Column("patient", sa.String(length=32), nullable=True))
    op.add_column("images", sa.Column("body_part", sa.String(length=20), nullable=True))
    for table in ("images", "scan_entries"):
        for name, length in (("view", 20), ("laterality", 1), ("series", 64)):
            op.add_column(table, sa.Column(name, sa.String(length=length), nullable=True))
    op.execute("UPDATE images SET body_part = (SELECT body_part FROM studies WHERE studies.id = images.study_id)")
    # A new column, not an altered one: SQLite would have to rebuild the table, which foreign keys refer to.
    op.add_column("studies", sa.Column("body_parts", sa.Text(), nullable=True))
    op.execute("UPDATE studies SET body_parts = body_part")
    op.drop_column("studies", "body_part")
    op.create_table(
        "passed_over",
        sa.Column("archive_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_passed_over_archive_id")),
        sa.PrimaryKeyConstraint("archive_id", "path", name=op.f("pk_passed_over")),
    )
