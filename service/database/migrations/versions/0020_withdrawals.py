"""Withdrawals of participants, and transcripts that stand in place of others"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    op.add_column("transcript", sa.Column("replaces", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("fk_transcript_replaces"), "transcript", "transcript", ["replaces"], ["id"]
    )
    op.drop_constraint(op.f("ck_mention_origin"), "mention", type_="check")
    op.create_check_constraint(
        op.f("ck_mention_origin"),
        "mention",
        "origin IN ('detector', 'person', 'alias', 'sample', 'withdrawal')",
    )
    op.create_table(
        "withdrawal",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("participant_id", sa.Uuid(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("steps", JSONB(), nullable=False),
        sa.Column("results", JSONB(), nullable=False),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("certificate_id", sa.Uuid(), nullable=True),
        sa.Column("requested_at", at, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("finished_at", at, nullable=True),
        sa.CheckConstraint(
            "scope IN ('data', 'identified', 'participation')", name=op.f("ck_withdrawal_scope")
        ),
        sa.CheckConstraint("state IN ('removing', 'finished')", name=op.f("ck_withdrawal_state")),
        sa.ForeignKeyConstraint(
            ["certificate_id"], ["certificate.id"], name=op.f("fk_withdrawal_certificate_id")
        ),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["participant.id"], name=op.f("fk_withdrawal_participant_id")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_withdrawal_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_withdrawal_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_withdrawal")),
    )
    op.create_index(op.f("ix_withdrawal_study_id"), "withdrawal", ["study_id"], unique=False)
