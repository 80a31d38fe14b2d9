"""Foreign keys of the audit trail, which would make writers wait for each other"""

from collections.abc import Sequence

from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    for column in ("study_id", "token_id"):
        op.drop_constraint(f"fk_audit_entry_{column}", "audit_entry", type_="foreignkey")
