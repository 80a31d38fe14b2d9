"""Retention rules, legal holds, destructions"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

CLASSES = "data_class IN ('identified', 'deidentified', 'linkage', 'consent')"
BASES = "basis IN ('publication', 'completion', 'last_contact')"


def keys(table: str, *columns: tuple[str, str]) -> list[sa.ForeignKeyConstraint]:
    return [
        sa.ForeignKeyConstraint([column], [target], name=op.f(f"fk_{table}_{column}"))
        for column, target in columns
    ]


def upgrade() -> None:
    at = sa.DateTime(timezone=True)
    now = sa.text("clock_timestamp()")
    study, token = ("study_id", "study.id"), ("token_id", "token.id")
    op.create_table(
        "retention_rule",
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("data_class", sa.Text(), nullable=False),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("years", sa.Integer(), nullable=False),
        sa.Column("at_end", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.CheckConstraint(CLASSES, name=op.f("ck_retention_rule_data_class")),
        sa.CheckConstraint(BASES, name=op.f("ck_retention_rule_basis")),
        sa.CheckConstraint(
            "at_end IN ('review', 'destroy')", name=op.f("ck_retention_rule_at_end")
        ),
        *keys("retention_rule", study, token),
        sa.PrimaryKeyConstraint("study_id", "data_class", name=op.f("pk_retention_rule")),
    )
    op.create_table(
        "retention_date",
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("on_date", sa.Date(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.CheckConstraint(BASES, name=op.f("ck_retention_date_basis")),
        *keys("retention_date", study, token),
        sa.PrimaryKeyConstraint("study_id", "basis", name=op.f("pk_retention_date")),
    )
    op.create_table(
        "legal_hold",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", at, server_default=now, nullable=False),
        sa.Column("lifted_at", at, nullable=True),
        sa.Column("lifted_by", sa.Uuid(), nullable=True),
        *keys("legal_hold", study, token, ("lifted_by", "token.id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_legal_hold")),
    )
    op.create_index(op.f("ix_legal_hold_study_id"), "legal_hold", ["study_id"], unique=False)
    op.create_table(
        "destruction",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("data_class", sa.Text(), nullable=False),
        sa.Column("ids", JSONB(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("requested_at", at, nullable=False),
        sa.Column("expires_at", at, nullable=False),
        sa.Column("cancelled_at", at, nullable=True),
        sa.Column("confirmed_by", sa.Uuid(), nullable=True),
        sa.Column("confirmed_at", at, nullable=True),
        sa.Column("finished_at", at, nullable=True),
        sa.Column("certificate_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(CLASSES, name=op.f("ck_destruction_data_class")),
        *keys(
            "destruction",
            study,
            token,
            ("confirmed_by", "token.id"),
            ("certificate_id", "certificate.id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_destruction")),
    )
    op.create_index(op.f("ix_destruction_study_id"), "destruction", ["study_id"], unique=False)
