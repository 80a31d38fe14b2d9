"""Data keys for a worker, for as long as it holds its claim of a job."""

import base64
import logging
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict
from service.domain.callers import WORKER, Caller
from service.domain.job_keys import read_job_keys
from service.errors import StaleFence
from service.vault.errors import KEY_ERRORS

router = APIRouter(prefix="/internal", tags=["workers"], route_class=GuardedRoute)
Worker = Annotated[Caller, Depends(allow(WORKER))]

log = logging.getLogger(__name__)


class ClaimedJob(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"fence": 3}]})

    fence: int = Field(ge=0, le=2**63 - 1)


class Keys(BaseModel):
    keys: dict[UUID, str] = Field(
        description="Data keys by id, base64: one per recording, and one for what the job makes.",
        examples=[
            {"3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
        ],
    )


@router.post("/jobs/{job_id}/keys", responses=problems(StaleFence, *KEY_ERRORS))
def read_keys(job_id: UUID, claim: ClaimedJob, caller: Worker, services: ServicesDep) -> Keys:
    """The keys of the job's recordings, and its own.

    A job that does not exist and a job of another worker get the same answer.
    """
    keys = read_job_keys(services, caller, job_id, claim.fence)
    log.info("job %s: %d keys given to token %s", job_id, len(keys), caller.token_id)
    return Keys(keys={id: base64.b64encode(key).decode() for id, key in keys.items()})
