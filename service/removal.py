"""Erasing a recording, and what was made of it."""

from contextlib import suppress
from uuid import UUID

import psycopg
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from service.auth import Caller
from service.database.tables import Job, JobRecording, Recording
from service.jobs import erase_job
from service.recordings import destroy, find_recording, refuse_in_use
from service.services import Services
from service.vault.errors import UploadBusy


def erase_recording(services: Services, caller: Caller, recording_id: UUID) -> None:
    """
    Raises:
        RecordingNotFound, Erased, RecordingInUse
        UploadBusy: it is being checked.
    """
    try:
        with services.sessionmaker.begin() as session:
            find_recording(session, caller, recording_id)
            recording = session.get_one(
                Recording, recording_id, with_for_update={"nowait": True}, populate_existing=True
            )
            refuse_in_use(session, recording)
            jobs = select(Job).join(JobRecording, JobRecording.job_id == Job.id)
            jobs = jobs.where(JobRecording.recording_id == recording_id, Job.status != "erased")
            for job in session.scalars(jobs).all():
                erase_job(session, services, job)
            recording.state = "erased"
            recording.refusal_code = recording.refusal_detail = None
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise UploadBusy("The recording is being checked: try again in a moment") from None
        raise
    with suppress(UploadBusy):  # a part is being written; it is deleted later, its key is gone
        destroy(services, recording)
