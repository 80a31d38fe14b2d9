"""Which of a study's transcripts were corrected last by whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Correction, Job, StoredTranscript


@dataclass(frozen=True)
class LastCorrection:
    """A transcript, and its last correction: null where it has none."""

    transcript_id: UUID
    job_id: UUID
    token_id: UUID | None
    corrected_at: datetime | None


def list_last_corrections(session: DbSession, study_id: UUID) -> Sequence[LastCorrection]:
    """The transcripts of a study, without erased ones, each with its last correction."""
    newest = (
        select(Correction.transcript_id, func.max(Correction.version).label("version"))
        .join(StoredTranscript, StoredTranscript.id == Correction.transcript_id)
        .where(StoredTranscript.study_id == study_id)
        .group_by(Correction.transcript_id)
        .subquery()
    )
    columns = StoredTranscript.id, StoredTranscript.job_id, Correction.token_id
    query = (
        select(*columns, Correction.created_at)
        .join(Job, Job.id == StoredTranscript.job_id)
        .outerjoin(newest, newest.c.transcript_id == StoredTranscript.id)
        .outerjoin(
            Correction,
            (Correction.transcript_id == newest.c.transcript_id)
            & (Correction.version == newest.c.version),
        )
        .where(StoredTranscript.study_id == study_id, Job.status != "erased")
        .order_by(StoredTranscript.created_at)
    )
    return [LastCorrection(*row) for row in session.execute(query)]
