"""Masked audio of each recording, and the role that may hear it"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ROLES = "researcher coder listener custodian deidentifier admin owner worker".split()


def upgrade() -> None:
    op.add_column("masked_audio", sa.Column("recording_id", sa.Uuid(), nullable=False))
    op.add_column("masked_audio", sa.Column("session_id", sa.Uuid(), nullable=True))
    op.add_column("masked_audio", sa.Column("transcript_version", sa.Integer(), nullable=False))
    op.add_column("masked_audio", sa.Column("untranscribed", sa.Boolean(), nullable=False))
    op.add_column("masked_audio", sa.Column("n_unreviewed", sa.Integer(), nullable=False))
    op.add_column("masked_audio", sa.Column("n_bytes", sa.BigInteger(), nullable=True))
    for column in ("recording_id", "session_id"):
        table = column.removesuffix("_id")
        name = op.f(f"fk_masked_audio_{column}")
        op.create_foreign_key(name, "masked_audio", table, [column], ["id"])
        op.create_index(op.f(f"ix_masked_audio_{column}"), "masked_audio", [column])
    op.drop_constraint(op.f("ck_token_role"), "token", type_="check")
    listed = ", ".join(f"'{role}'" for role in ROLES)
    op.create_check_constraint(op.f("ck_token_role"), "token", f"role IN ({listed})")
