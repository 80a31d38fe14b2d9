"""The order of the queue: studies take turns, and within a study the oldest job comes first.

Each job has a turn, and the queue's priority is its negative. A new job gets the turn after its
study's last one, but never one that has passed: so a study gains nothing by queueing many jobs, and
an idle one saves up no turns. Nothing waits for ever, because new jobs get ever later turns.

Source: start-time fair queueing, Goyal, Vin and Cheng, 1996, with jobs of equal weight.
"""

from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

TASK = "fieldscribe.job"

# The latest turn that has started. Rows of finished jobs are pruned after a week; if none is left,
# it is the first turn that is waiting.
NOW = """
now AS MATERIALIZED (
  SELECT coalesce(
    (SELECT max(-priority) FROM procrastinate_jobs
      WHERE task_name = :task AND status <> 'cancelled' AND (status <> 'todo' OR attempts > 0)),
    (SELECT min(-priority) FROM procrastinate_jobs WHERE task_name = :task AND status = 'todo'),
    0) AS turn)
"""

NEXT = text(f"""
WITH {NOW}
SELECT greatest(now.turn, (
  SELECT 1 + max(-queued.priority) FROM procrastinate_jobs queued
    JOIN job ON job.queue_job_id = queued.id
   WHERE job.study_id = :study AND queued.status <> 'cancelled' AND -queued.priority >= now.turn))
  FROM now
""")

# Waiting jobs of a study take consecutive turns again after some of them were cancelled.
CLOSE_GAPS = text(f"""
WITH {NOW},
waiting AS (
  SELECT queued.id, job.study_id, -queued.priority AS turn,
         row_number() OVER (PARTITION BY job.study_id ORDER BY -queued.priority, queued.id) AS nth
    FROM procrastinate_jobs queued JOIN job ON job.queue_job_id = queued.id
   WHERE queued.task_name = :task AND queued.status = 'todo' AND queued.attempts = 0),
started AS (
  SELECT job.study_id, max(-queued.priority) AS turn
    FROM procrastinate_jobs queued JOIN job ON job.queue_job_id = queued.id, now
   WHERE queued.task_name = :task AND queued.status <> 'cancelled'
     AND (queued.status <> 'todo' OR queued.attempts > 0) AND -queued.priority >= now.turn
   GROUP BY job.study_id),
earlier AS (
  SELECT waiting.id, greatest(now.turn, 1 + started.turn) + waiting.nth - 1 AS turn
    FROM now, waiting LEFT JOIN started USING (study_id)
   WHERE greatest(now.turn, 1 + started.turn) + waiting.nth - 1 < waiting.turn),
free AS (  -- rows that another transaction holds are moved next time
  SELECT id FROM procrastinate_jobs
   WHERE id IN (SELECT id FROM earlier) AND status = 'todo' FOR UPDATE SKIP LOCKED)
UPDATE procrastinate_jobs queued SET priority = -earlier.turn
  FROM earlier JOIN free USING (id) WHERE queued.id = earlier.id
""")


def next_turn(session: DbSession, study_id: UUID) -> int:
    """The turn of the study's next job. No other request gets it before the transaction ends."""
    place = f"fieldscribe:turn:{study_id}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(place, 0))))
    turn: int = session.scalars(NEXT, {"task": TASK, "study": study_id}).one()
    return turn


def close_gaps(sessions: sessionmaker[DbSession]) -> None:
    """Move waiting jobs up to the turns of jobs that were cancelled."""
    with sessions.begin() as session:
        session.execute(CLOSE_GAPS, {"task": TASK})
