"""Packets that participants check, and which corrections they proposed"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLE = "member_packet"


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    owners = ("study", "participant", "transcript", "token")
    op.create_table(
        TABLE,
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("participant_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("wording", sa.Text(), nullable=False),
        sa.Column("artefact_id", sa.Uuid(), nullable=True),
        sa.Column("answer_artefact_id", sa.Uuid(), nullable=True),
        sa.Column("decided", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", at, nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", at, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("opened_at", at, nullable=True),
        sa.Column("answered_at", at, nullable=True),
        sa.Column("revoked_at", at, nullable=True),
        sa.Column("erased_at", at, nullable=True),
        sa.CheckConstraint("kind IN ('transcript', 'summary')", name=op.f(f"ck_{TABLE}_kind")),
        sa.CheckConstraint("wording IN ('codes', 'own_words')", name=op.f(f"ck_{TABLE}_wording")),
        *(
            sa.ForeignKeyConstraint(
                [f"{owner}_id"], [f"{owner}.id"], name=op.f(f"fk_{TABLE}_{owner}_id")
            )
            for owner in owners
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{TABLE}")),
        sa.UniqueConstraint("hash", name=op.f(f"uq_{TABLE}_hash")),
    )
    for owner in owners[:3]:
        op.create_index(op.f(f"ix_{TABLE}_{owner}_id"), TABLE, [f"{owner}_id"], unique=False)
    op.add_column("correction", sa.Column("packet_id", sa.Uuid(), nullable=True))
    op.create_index(op.f("ix_correction_packet_id"), "correction", ["packet_id"], unique=False)
    op.create_foreign_key(
        op.f("fk_correction_packet_id"), "correction", TABLE, ["packet_id"], ["id"]
    )
    # Earlier migrations left these references without an index.
    for table, column in (
        ("transcript", "replaces"),
        ("withdrawal", "participant_id"),
        ("withdrawal", "certificate_id"),
        ("legal_hold", "lifted_by"),
        ("destruction", "confirmed_by"),
        ("destruction", "certificate_id"),
    ):
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column], unique=False)
