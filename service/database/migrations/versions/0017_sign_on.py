"""Accounts that people open through single sign-on"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    op.create_table(
        "sign_on",
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("expected", sa.LargeBinary(), nullable=False),
        sa.Column("identity", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", at, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("expires_at", at, nullable=False),
        sa.Column("linked_at", at, nullable=True),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_sign_on_token_id")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_sign_on")),
        sa.UniqueConstraint("expected", name=op.f("uq_sign_on_expected")),
        sa.UniqueConstraint("identity", name=op.f("uq_sign_on_identity")),
    )
