"""The data keys that a worker gets for the job it has claimed, while it holds the claim."""

from uuid import UUID

from service.database.queries import lock_job
from service.domain import audit
from service.domain.callers import Caller
from service.domain.jobs import job_recordings
from service.domain.recordings import identified
from service.errors import StaleFence
from service.services import Services


def read_job_keys(
    services: Services, caller: Caller, job_id: UUID, fence: int
) -> dict[UUID, bytes]:
    """The keys of the job's recordings and its own, by id.

    A job that does not exist and a job of another worker look the same.

    Raises:
        StaleFence, Erased, KeyMissing, KeyDamaged
    """
    with services.sessionmaker.begin() as session:
        job = lock_job(session, job_id)
        if job is None or job.fence != fence or job.status not in ("running", "cancelling"):
            raise StaleFence("This worker does not hold the job")
        recordings = job_recordings(session, job_id)
        _, keyring = identified(services)
        keys = {id: keyring.data_key(job.study_id, id).secret for id in (*recordings, job.id)}
        audit.record(
            session,
            caller,
            "job.keys_given",
            job.study_id,
            {"job": job.id},
            detail={"recordings": [str(id) for id in recordings]},
        )
    return keys
