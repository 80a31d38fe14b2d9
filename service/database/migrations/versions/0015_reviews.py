"""Reviews: the names that a transcript was searched for, and who else a mention may mean"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "review",
        sa.Column("roster_version", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column(
        "mention",
        sa.Column("choices", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )
