"""Find the jobs of a recording, and of a row in the queue, without reading every job"""

from collections.abc import Sequence

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_index("ix_job_recording_recording_id", "job_recording", ["recording_id"])
    op.create_index("ix_job_queue_job_id", "job", ["queue_job_id"])
