"""Remember the playback copy and the waveform of each recording"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("recording", sa.Column("playback_artefact_id", sa.Uuid(), nullable=True))
    op.add_column("recording", sa.Column("peaks_artefact_id", sa.Uuid(), nullable=True))
    op.add_column("recording", sa.Column("playback_error", sa.Text(), nullable=True))
