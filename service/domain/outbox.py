"""Events for webhooks, stored in the same transaction as the change that they report.

No event is sent for a change that did not happen, and none is lost in a crash. webhooks.py sends
them. An event holds ids and codes only.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import (
    Handoff,
    Job,
    JobError,
    Session,
    StoredTranscript,
    Study,
    WebhookDelivery,
    WebhookEndpoint,
)

PING = "webhook.ping"
EVENTS = (
    "job.queued",
    "job.started",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "handoff.completed",
    "handoff.failed",
)
JOB_EVENTS = {
    "queued": "job.queued",
    "running": "job.started",
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "cancelled": "job.cancelled",
}


def emit_job(session: DbSession, job: Job) -> None:
    """Announce the status of a job to the endpoints of its study."""
    event = JOB_EVENTS[job.status]
    endpoints = _listeners(session, job.study_id, event)
    if not endpoints:
        return
    session.flush()
    code = None
    if job.status == "failed":
        newest = select(JobError.code).where(JobError.job_id == job.id)
        code = session.scalar(newest.order_by(JobError.at.desc()).limit(1))
    data = {
        **_place(session, job),
        "status": job.status,
        "transcript_id": str(job.transcript_id) if job.transcript_id else None,
        "error_code": code,
    }
    _add(session, endpoints, event, data)


def emit_handoff(session: DbSession, handoff: Handoff) -> None:
    """Announce the end of a hand-off to the endpoints of its study."""
    event = f"handoff.{handoff.status}"
    endpoints = _listeners(session, handoff.study_id, event)
    if not endpoints:
        return
    transcript = session.get_one(StoredTranscript, handoff.transcript_id)
    data = {
        **_place(session, session.get_one(Job, transcript.job_id)),
        "handoff_id": str(handoff.id),
        "status": handoff.status,
        "transcript_id": str(transcript.id),
        "error_code": handoff.failure_code,
    }
    _add(session, endpoints, event, data)


def emit_ping(session: DbSession, endpoint: WebhookEndpoint) -> WebhookDelivery:
    study = session.get_one(Study, endpoint.study_id)
    (delivery,) = _add(
        session, [endpoint.id], PING, {"study_id": str(study.id), "study": study.code}
    )
    session.flush()
    return delivery


def _listeners(session: DbSession, study_id: UUID, event: str) -> list[UUID]:
    query = select(WebhookEndpoint.id, WebhookEndpoint.events)
    rows = session.execute(
        query.where(WebhookEndpoint.study_id == study_id, WebhookEndpoint.enabled)
    )
    return [row.id for row in rows if event in row.events]


def _place(session: DbSession, job: Job) -> dict[str, Any]:
    interview = session.get(Session, job.session_id) if job.session_id else None
    return {
        "job_id": str(job.id),
        "study_id": str(job.study_id),
        "study": session.get_one(Study, job.study_id).code,
        "session_id": str(job.session_id) if job.session_id else None,
        "session": interview.code if interview else None,
    }


def _add(
    session: DbSession, endpoints: list[UUID], event: str, data: dict[str, Any]
) -> list[WebhookDelivery]:
    made = [WebhookDelivery(endpoint_id=id, event=event, data=data) for id in endpoints]
    session.add_all(made)
    return made
