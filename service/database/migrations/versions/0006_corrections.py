"""Journals of corrections, and the version of a transcript that a hand-off was claimed with"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

KINDS = "text speaker check split merge insert delete speakers import undo restore".split()


def upgrade() -> None:
    op.add_column("transcript", sa.Column("first_version", sa.Integer(), nullable=True))
    op.add_column("transcript", sa.Column("first_speakers", JSONB(), nullable=True))
    op.execute("UPDATE transcript SET first_version = version, first_speakers = speakers")
    op.alter_column("transcript", "first_version", nullable=False)
    op.alter_column("transcript", "first_speakers", nullable=False)
    op.add_column("handoff", sa.Column("transcript_version", sa.Integer(), nullable=True))
    op.create_table(
        "correction",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("segments", JSONB(), nullable=False),
        sa.Column("undoes", sa.Integer(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("artefact_id", sa.Uuid(), nullable=False),
        sa.Column("snapshot_artefact_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "kind IN (" + ", ".join(f"'{kind}'" for kind in KINDS) + ")",
            name=op.f("ck_correction_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_correction_transcript_id")
        ),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_correction_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_correction")),
        sa.UniqueConstraint("transcript_id", "version", name="uq_correction_version"),
    )
