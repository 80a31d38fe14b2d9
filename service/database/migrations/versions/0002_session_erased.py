"""Let a session be erased and leave a tombstone; store idempotency keys as keyed hashes"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("session", sa.Column("erased_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("DELETE FROM idempotency")  # as they were sent
