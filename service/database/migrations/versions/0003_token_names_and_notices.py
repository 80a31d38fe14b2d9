"""Give tokens a name and a last use, studies what admins may create; announce recordings' states"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("token", sa.Column("name", sa.Text(), nullable=True))
    op.add_column("token", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    # Later times cannot be read back: the list of tokens failed.
    op.execute("UPDATE token SET expires_at = '2200-01-01Z' WHERE expires_at > '2200-01-01Z'")
    op.add_column(
        "study",
        sa.Column(
            "admins_may_create",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
    )
    op.execute(
        """
        CREATE FUNCTION fieldscribe_announce_recording() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          PERFORM pg_notify('fieldscribe_recording', NEW.id::text);
          RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER fieldscribe_announce_recording AFTER UPDATE OF state ON recording
        FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
        EXECUTE FUNCTION fieldscribe_announce_recording()
        """
    )
