"""Add how unlike the training images an image is, and the largest such distance of a model's scope.

Predictions and models from before have none: their scope stays as it was.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("predictions", sa.Column("distance", sa.Double(), nullable=True))
    op.add_column("models", sa.Column("distance_threshold", sa.Double(), nullable=True))
