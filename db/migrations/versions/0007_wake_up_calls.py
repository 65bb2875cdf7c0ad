"""A message no longer names a batch, so the ledger no longer records what was sent; runs get a priority.

A batch that was released in an outage comes after the others of its run, by when it was released.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OPEN = sa.text("state IN ('pending', 'claimed')")


def upgrade() -> None:
    """Make sent batches pending again; workers claim them when the next message arrives."""
    op.drop_index("ix_batches_open", "batches")
    op.execute("UPDATE batches SET state = 'pending' WHERE state = 'sent'")
    op.drop_column("batches", "epoch")
    op.alter_column("batches", "sent_at", new_column_name="released_at")
    op.execute("UPDATE batches SET released_at = 0 WHERE state IN ('pending', 'claimed')")
    columns = ["run_id", "state", "released_at", "id"]
    op.create_index("ix_batches_open", "batches", columns, sqlite_where=OPEN, postgresql_where=OPEN)
    op.add_column("runs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
