"""Know a recording again that is uploaded twice, by a checksum that is keyed per study"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("recording", sa.Column("digest", sa.LargeBinary(), nullable=True))
