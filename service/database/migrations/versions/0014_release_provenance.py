"""What a release was made from, so that outdated releases are recognised"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # No version has made releases yet, so the table is empty.
    op.add_column("release", sa.Column("review_version", sa.Integer(), nullable=False))
    op.add_column("release", sa.Column("context", sa.Text(), nullable=False))
    op.add_column("release", sa.Column("names_kept", JSONB(), nullable=False))
