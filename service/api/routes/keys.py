"""Data keys for a worker: of the job that it has claimed, as long as it is its own."""

import base64
import logging
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from service.api.access import ServicesDep, allow
from service.api.openapi import problems
from service.api.routes.views import Strict
from service.database.queries import locked_job
from service.database.tables import JobRecording
from service.domain.callers import WORKER, Caller
from service.domain.recordings import identified
from service.errors import StaleFence
from service.vault.errors import KEY_ERRORS

router = APIRouter(prefix="/internal", tags=["workers"])
Worker = Annotated[Caller, Depends(allow(WORKER))]

log = logging.getLogger(__name__)


class ClaimedJob(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"fence": 3}]})

    fence: int = Field(ge=0, le=2**63 - 1)


class Keys(BaseModel):
    keys: dict[UUID, str] = Field(
        description="By id: the data key of each recording, and that of the job for what it makes; "
        "base64.",
        examples=[
            {"3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
        ],
    )


@router.post("/jobs/{job_id}/keys", responses=problems(StaleFence, *KEY_ERRORS))
def read_keys(job_id: UUID, claim: ClaimedJob, caller: Worker, services: ServicesDep) -> Keys:
    """Those of its recordings, and its own. No job and somebody else's job look the same."""
    with services.sessionmaker.begin() as session:
        job = locked_job(session, job_id)
        if job is None or job.fence != claim.fence or job.status not in ("running", "cancelling"):
            raise StaleFence("The job is not this worker's")
        rows = select(JobRecording.recording_id).where(JobRecording.job_id == job_id)
        recordings = session.scalars(rows.order_by(JobRecording.position)).all()
    _, keyring = identified(services)
    keys = {id: keyring.data_key(job.study_id, id).secret for id in (*recordings, job.id)}
    log.info("job %s: %d keys given to token %s", job_id, len(keys), caller.token_id)
    return Keys(keys={id: base64.b64encode(key).decode() for id, key in keys.items()})
