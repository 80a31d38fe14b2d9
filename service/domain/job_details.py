"""Everything that the API shows of a job: its rows, its place in the queue, the time left."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session as DbSession

from service.database.tables import FINAL, STAGES, Job
from service.domain.stages import RateCache, RemainingTime, StageState, remaining_time

AHEAD = text("""
SELECT count(*) FROM procrastinate_jobs mine
  JOIN procrastinate_jobs other
    ON other.task_name = mine.task_name AND other.status = 'todo'
   AND (other.priority > mine.priority
        OR (other.priority = mine.priority AND other.id < mine.id))
 WHERE mine.id = :id AND mine.status = 'todo'
""")

# One query for all of them: jobs are polled more often than anything else.
ROWS = text("""
SELECT clock_timestamp() AS now,
       (SELECT jsonb_agg(stage) FROM job_stage stage WHERE stage.job_id = :id) AS stages,
       (SELECT jsonb_agg(error ORDER BY error.at, error.id)
          FROM job_error error WHERE error.job_id = :id) AS errors,
       (SELECT jsonb_agg(held.recording_id ORDER BY held.position)
          FROM job_recording held WHERE held.job_id = :id) AS recordings,
       (SELECT sum(other.audio_seconds) FROM procrastinate_jobs mine
          JOIN procrastinate_jobs held ON held.worker_id = mine.worker_id AND held.status = 'doing'
          JOIN job other ON other.queue_job_id = held.id
         WHERE mine.id = :row AND mine.status = 'doing') AS group_seconds
""")


@dataclass(frozen=True)
class JobDetails:
    """A job with the rows that belong to it, which are JSON by column."""

    job: Job
    stages: list[dict[str, Any]]
    """In the order in which they run."""
    errors: list[dict[str, Any]]
    """Oldest first."""
    recordings: list[str]
    """Their ids, in order."""
    remaining: RemainingTime | None
    position: int | None
    """Jobs ahead in the queue; None unless the job is waiting in it."""
    waited_seconds: float


def read_details(session: DbSession, rates: RateCache, job: Job) -> JobDetails:
    session.flush()
    row = session.execute(ROWS, {"id": job.id, "row": job.queue_job_id}).one()
    stages = sorted(row.stages or (), key=lambda stage: STAGES.index(stage["name"]))
    remaining = None
    if job.status not in FINAL and job.audio_seconds:
        progress = [StageState.from_row(stage) for stage in stages]
        devices = [stage["device"] for stage in stages if stage["state"] in ("pending", "running")]
        device = next(filter(None, devices), None)
        rates_there = rates.read(session, job.whisper_model, device)
        group_seconds = row.group_seconds or 0.0
        remaining = remaining_time(progress, job.audio_seconds, rates_there, row.now, group_seconds)
    waited_until = job.started_at or job.finished_at or row.now
    return JobDetails(
        job,
        stages,
        row.errors or [],
        row.recordings or [],
        remaining,
        queue_position(session, job),
        round((waited_until - job.created_at).total_seconds(), 1),
    )


def queue_position(session: DbSession, job: Job) -> int | None:
    if job.status not in ("queued", "waiting") or job.queue_job_id is None:
        return None
    ahead: int | None = session.scalar(AHEAD, {"id": job.queue_job_id})
    return ahead
