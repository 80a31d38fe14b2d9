"""List workers with their devices"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    at = sa.DateTime(timezone=True)
    op.create_table(
        "worker",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("retired_because", sa.Text(), nullable=True),
        sa.Column("started_at", at, server_default=now, nullable=False),
        sa.Column("heartbeat_at", at, server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
