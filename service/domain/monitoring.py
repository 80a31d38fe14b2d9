"""What an administrator watches: running workers, the queue's age, and the latest backup."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session as DbSession

from service.domain.queue import STALLED
from service.settings import Settings

NO_WORKER = "Jobs are queued but no worker is running: start `fieldscribe worker`"
RETIRED = {
    "check_failed": "it fails a computation with a known result; checked again until it passes",
    "jobs_died": "several jobs in a row ended with its engine; replace it or restart its worker",
}

# By the database's clock. A heartbeat well ahead of it comes from a wrong clock.
WORK = text("""
SELECT (SELECT count(*) FROM procrastinate_workers
         WHERE abs(extract(epoch FROM now() - last_heartbeat)) < :stalled) AS n_workers,
       count(*) AS n_queued,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float AS oldest
  FROM job WHERE status = 'queued'
""")


@dataclass(frozen=True)
class Work:
    n_workers: int  # alive
    n_queued: int  # jobs
    oldest: float  # s since the oldest queued job was submitted; 0 if there is none

    @property
    def is_stuck(self) -> bool:
        return self.n_queued > 0 and self.n_workers == 0


def read_work(session: DbSession) -> Work:
    row = session.execute(WORK, {"stalled": STALLED}).one()
    return Work(row.n_workers, row.n_queued, max(0.0, row.oldest))


def backup_age(settings: Settings) -> timedelta | None:
    """The time since the latest backup; None if there is none."""
    try:
        made_at = json.loads((settings.data / "backup.json").read_text())["at"]
        return datetime.now(UTC) - datetime.fromisoformat(made_at).astimezone(UTC)
    except (OSError, ValueError, KeyError, OverflowError):
        return None
