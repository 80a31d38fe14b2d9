"""Remember that a second copy of a recording in its session was asked for"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "recording",
        sa.Column("is_copy", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
