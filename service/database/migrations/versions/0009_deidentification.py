"""De-identification: entities, mentions and decisions on them, releases, masked audio"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    at = sa.DateTime(timezone=True)
    op.create_table(
        "entity",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pseudonym", sa.Text(), nullable=True),
        sa.Column("always", sa.Boolean(), nullable=False),
        sa.Column("record_artefact_id", sa.Uuid(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("merged_into", sa.Uuid(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.Column("erased_at", at, nullable=True),
        sa.CheckConstraint(
            "kind IN ('participant', 'interviewer', 'person', 'organisation', 'place', 'other', 'allowed')",
            name=op.f("ck_entity_kind"),
        ),
        sa.ForeignKeyConstraint(["merged_into"], ["entity.id"], name=op.f("fk_entity_merged_into")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_entity_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_entity_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entity")),
        sa.UniqueConstraint("study_id", "pseudonym", name="uq_entity_pseudonym"),
    )
    op.create_index(op.f("ix_entity_merged_into"), "entity", ["merged_into"], unique=False)
    op.create_index(op.f("ix_entity_study_id"), "entity", ["study_id"], unique=False)
    op.create_table(
        "blind_sample",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_version", sa.Integer(), nullable=False),
        sa.Column("segments", JSONB(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("n_found", sa.Integer(), nullable=True),
        sa.Column("n_missed", sa.Integer(), nullable=True),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.Column("finished_at", at, nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_blind_sample_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_blind_sample_token_id")),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_blind_sample_transcript_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blind_sample")),
    )
    op.create_index(op.f("ix_blind_sample_study_id"), "blind_sample", ["study_id"], unique=False)
    op.create_index(
        op.f("ix_blind_sample_transcript_id"), "blind_sample", ["transcript_id"], unique=False
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=True),
        sa.Column("mention_id", sa.Uuid(), nullable=True),
        sa.Column("entity_id", sa.Uuid(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("at", at, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_decision_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_decision_token_id")),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_decision_transcript_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decision")),
    )
    op.create_index(op.f("ix_decision_study_id"), "decision", ["study_id"], unique=False)
    op.create_index("ix_decision_transcript", "decision", ["transcript_id", "at"], unique=False)
    op.create_table(
        "linkage_lookup",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=True),
        sa.Column("transcript_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("at", at, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(
            ["entity_id"], ["entity.id"], name=op.f("fk_linkage_lookup_entity_id")
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["study.id"], name=op.f("fk_linkage_lookup_study_id")
        ),
        sa.ForeignKeyConstraint(
            ["token_id"], ["token.id"], name=op.f("fk_linkage_lookup_token_id")
        ),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_linkage_lookup_transcript_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_linkage_lookup")),
    )
    op.create_index("ix_linkage_lookup_entity", "linkage_lookup", ["entity_id", "at"], unique=False)
    op.create_index(
        op.f("ix_linkage_lookup_study_id"), "linkage_lookup", ["study_id"], unique=False
    )
    op.create_index(
        op.f("ix_linkage_lookup_transcript_id"), "linkage_lookup", ["transcript_id"], unique=False
    )
    op.create_table(
        "masked_audio",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("review_version", sa.Integer(), nullable=False),
        sa.Column("style", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("artefact_id", sa.Uuid(), nullable=True),
        sa.Column("spans", JSONB(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.Column("finished_at", at, nullable=True),
        sa.Column("erased_at", at, nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'ready', 'failed')", name=op.f("ck_masked_audio_state")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_masked_audio_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_masked_audio_token_id")),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_masked_audio_transcript_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_masked_audio")),
    )
    op.create_index(op.f("ix_masked_audio_study_id"), "masked_audio", ["study_id"], unique=False)
    op.create_index(
        op.f("ix_masked_audio_transcript_id"), "masked_audio", ["transcript_id"], unique=False
    )
    op.create_table(
        "mention",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_version", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Text(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("votes", JSONB(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=True),
        sa.Column("entity_id", sa.Uuid(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("decided_at", at, nullable=True),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.CheckConstraint(
            "origin IN ('detector', 'person', 'alias', 'sample')", name=op.f("ck_mention_origin")
        ),
        sa.CheckConstraint(
            "state IN ('suggested', 'accepted', 'rejected')", name=op.f("ck_mention_state")
        ),
        sa.ForeignKeyConstraint(["entity_id"], ["entity.id"], name=op.f("fk_mention_entity_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_mention_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_mention_token_id")),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_mention_transcript_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mention")),
    )
    op.create_index(op.f("ix_mention_entity_id"), "mention", ["entity_id"], unique=False)
    op.create_index(op.f("ix_mention_study_id"), "mention", ["study_id"], unique=False)
    op.create_index(
        "ix_mention_transcript", "mention", ["transcript_id", "segment", "start"], unique=False
    )
    op.create_table(
        "release",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_version", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("report_artefact_id", sa.Uuid(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.Column("revoked_at", at, nullable=True),
        sa.Column("erased_at", at, nullable=True),
        sa.ForeignKeyConstraint(["session_id"], ["session.id"], name=op.f("fk_release_session_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_release_study_id")),
        sa.ForeignKeyConstraint(["token_id"], ["token.id"], name=op.f("fk_release_token_id")),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_release_transcript_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release")),
        sa.UniqueConstraint("transcript_id", "number", name="uq_release_number"),
    )
    op.create_index(op.f("ix_release_session_id"), "release", ["session_id"], unique=False)
    op.create_index(op.f("ix_release_study_id"), "release", ["study_id"], unique=False)
    op.create_table(
        "review",
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("transcript_version", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_review_study_id")),
        sa.ForeignKeyConstraint(
            ["transcript_id"], ["transcript.id"], name=op.f("fk_review_transcript_id")
        ),
        sa.PrimaryKeyConstraint("transcript_id", name=op.f("pk_review")),
    )
    op.create_index(op.f("ix_review_study_id"), "review", ["study_id"], unique=False)
    op.create_table(
        "release_file",
        sa.Column("release_id", sa.Uuid(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("artefact_id", sa.Uuid(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["release_id"], ["release.id"], name=op.f("fk_release_file_release_id")
        ),
        sa.PrimaryKeyConstraint("release_id", "format", name=op.f("pk_release_file")),
    )
    op.add_column(
        "handoff",
        sa.Column("stage", sa.Text(), server_default=sa.text("'default'"), nullable=False),
    )
    op.create_index("ix_handoff_stage", "handoff", ["transcript_id", "stage"], unique=False)
    op.add_column(
        "study",
        sa.Column(
            "deidentification", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
    )
