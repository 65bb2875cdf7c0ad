"""Add to heartbeats what a worker does and the precisions that its host computes natively."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("heartbeats", sa.Column("activity", sa.String(length=40), nullable=True))
    op.add_column("heartbeats", sa.Column("precisions", sa.String(length=40), nullable=True))
