"""Times ahead of the database's clock: they were written while it was wrong, and would hold for as
long as it was wrong. Each is brought back to the latest time that could be right.

Heartbeats of the queue's workers are corrected by the reaper (queue.py).
"""

import logging
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.settings import Settings

LEASE = timedelta(minutes=2)  # of a hand-off
LONGEST_DELAY = timedelta(minutes=1)  # before a job is tried again, and more
TOLERANCE = timedelta(seconds=30)

# The de-identifier that holds the hand-off has time to extend the lease.
LEASES = text("""
UPDATE handoff SET lease_until = now() + :lease
 WHERE status = 'claimed' AND lease_until > now() + :lease + :tolerance
""")

RETRIES = text("""
UPDATE procrastinate_jobs SET scheduled_at = now()
 WHERE status = 'todo' AND scheduled_at > now() + :longest
""")

UPLOADS = text("""
UPDATE recording SET expires_at = now() + make_interval(secs => :seconds)
 WHERE state = :state AND expires_at > now() + make_interval(secs => :seconds) + :tolerance
""")

log = logging.getLogger(__name__)


def correct_future_times(sessions: sessionmaker[DbSession], settings: Settings) -> int:
    """
    Returns:
        The number of times that were corrected.
    """
    expiries = {
        "receiving": settings.upload_expiry_hours * 3600,
        "refused": settings.refused_recording_days * 24 * 3600,
    }
    with sessions.begin() as session:
        leases = {"lease": LEASE, "tolerance": TOLERANCE}
        results = [
            session.execute(LEASES, leases),
            session.execute(RETRIES, {"longest": LONGEST_DELAY}),
            *(
                session.execute(
                    UPLOADS, {"state": state, "seconds": seconds, "tolerance": TOLERANCE}
                )
                for state, seconds in expiries.items()
            ),
        ]
        n_corrected = sum(result.rowcount for result in results)  # type: ignore[attr-defined]
    if n_corrected:
        log.warning("%d times lay in the future: the database's clock was put back", n_corrected)
    return n_corrected
