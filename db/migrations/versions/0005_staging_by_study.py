"""Drop the second index of staging rows: they are merged and looked up by study and path."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_scan_entries_path", "scan_entries")
