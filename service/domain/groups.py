"""Groups: short jobs of a study that one worker takes from the queue and transcribes together.

The first, the lead, comes from the queue. Its companions join it: the next jobs of its study that
need the same models. Each job keeps its own claim, fence and queue row. A group takes one turn,
however many jobs it has.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Job
from service.domain import workers
from service.domain.turns import TASK

# As long as a usual interview, so other studies wait no longer for a group than for one of those.
GROUP_SECONDS = 2400.0
GROUP_JOBS = 32
ROUNDS = 2  # groups for each worker, from the jobs that are waiting

WAITING = text("""
SELECT count(*) FROM procrastinate_jobs
 WHERE task_name = :task AND status = 'todo' AND (scheduled_at IS NULL OR scheduled_at <= now())
""")

# A job during whose latest attempt something broke runs alone, because it may be the cause. The
# lead has been claimed, which counts as a crash until a stage is finished.
COMPANIONS = text("""
WITH lead AS MATERIALIZED (
  SELECT job.*, held.worker_id FROM job
    JOIN procrastinate_jobs held ON held.id = job.queue_job_id
   WHERE job.id = :lead AND job.crashes = 1
     AND held.status = 'doing' AND held.worker_id IS NOT NULL)
SELECT queued.id AS row, queued.priority, job.id AS job_id, job.audio_seconds
  FROM lead
  JOIN job ON job.study_id = lead.study_id AND job.status IN ('queued', 'waiting')
   AND job.whisper_model = lead.whisper_model AND job.whisper_sha256 = lead.whisper_sha256
   AND job.diarisation_pipeline = lead.diarisation_pipeline
   AND job.diarisation_sha256 = lead.diarisation_sha256
  JOIN procrastinate_jobs queued ON queued.id = job.queue_job_id
 WHERE queued.task_name = :task AND queued.status = 'todo'
   AND (queued.scheduled_at IS NULL OR queued.scheduled_at <= now())
   AND NOT EXISTS (SELECT FROM procrastinate_jobs other
                    WHERE other.lock = queued.lock AND other.status = 'doing')
   AND job.crashes = 0 AND job.audio_seconds <= :seconds
   AND NOT EXISTS (SELECT FROM job_error error
                    WHERE error.code IN ('engine_died', 'internal_error', 'out_of_memory')
                      AND (error.job_id = job.id AND error.attempt = job.attempt
                           OR error.job_id = lead.id AND error.attempt = lead.attempt - 1))
 ORDER BY queued.priority DESC, queued.id
 LIMIT :most
   FOR UPDATE OF queued SKIP LOCKED
""")

# With the lead's turn, so that the turns of other studies do not count as passed.
TAKE = text("""
UPDATE procrastinate_jobs queued
   SET status = 'doing', worker_id = held.worker_id, priority = held.priority
  FROM procrastinate_jobs held JOIN job lead ON lead.queue_job_id = held.id
 WHERE lead.id = :lead AND queued.id = ANY(:rows)
""")

NEWCOMER = text("""
SELECT EXISTS (
  SELECT FROM procrastinate_jobs queued JOIN job ON job.queue_job_id = queued.id
   WHERE queued.id > :newest AND queued.task_name = :task AND queued.status = 'todo'
     AND (queued.scheduled_at IS NULL OR queued.scheduled_at <= now())
     AND job.study_id <> :study)
""")

FINISH = text("SELECT procrastinate_finish_job_v1(:row, 'succeeded', false)")
RETRY = text("SELECT procrastinate_retry_job_v2(:row, :at, :priority, NULL, NULL)")


@dataclass(frozen=True)
class Companion:
    """A job that was taken from the queue to join another."""

    job_id: UUID
    row: int  # in the queue
    priority: int  # of the row before


def take_companions(session: DbSession, lead: UUID) -> list[Companion]:
    """Take the jobs that join a claimed one, as many as leave enough for other workers.

    The caller claims each afterwards, then calls `release`. If it dies, the queue's reaper puts
    them back.
    """
    job = session.get_one(Job, lead)
    if job.audio_seconds is None or job.audio_seconds >= GROUP_SECONDS:
        return []
    most, n_workers = GROUP_JOBS - 1, workers.count_available(session)
    if n_workers > 1:
        n_waiting = session.scalar(WAITING, {"task": TASK}) or 0
        most = min(most, (1 + n_waiting) // (ROUNDS * n_workers) - 1)
    if most < 1:
        return []
    seconds_left = GROUP_SECONDS - job.audio_seconds
    wanted = {"lead": lead, "task": TASK, "seconds": GROUP_SECONDS, "most": most}
    companions = []
    for found in session.execute(COMPANIONS, wanted).all():
        if found.audio_seconds <= seconds_left:
            seconds_left -= found.audio_seconds
            companions.append(Companion(found.job_id, found.row, found.priority))
    if companions:
        session.execute(TAKE, {"lead": lead, "rows": [each.row for each in companions]})
    return companions


def release(session: DbSession, companion: Companion, retry_at: datetime | None) -> None:
    """End a companion's row in the queue, or put it back with the turn that it had."""
    if retry_at is None:
        session.execute(FINISH, {"row": companion.row})
    else:
        again = {"row": companion.row, "at": retry_at, "priority": companion.priority}
        session.execute(RETRY, again)


def read_newest(session: DbSession) -> int:
    """The row of the queue that was added last."""
    return session.scalar(select(func.max(text("id"))).select_from(text("procrastinate_jobs"))) or 0


def has_newcomer(session: DbSession, study_id: UUID, newest: int) -> bool:
    """Whether a job of another study waits that was submitted after the row `newest`."""
    return bool(session.scalar(NEWCOMER, {"task": TASK, "study": study_id, "newest": newest}))
