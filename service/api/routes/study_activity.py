"""Who works on a study's transcripts."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import StudyName
from service.domain.callers import Caller
from service.domain.presence import Activity, Presence
from service.domain.studies import find_study
from service.domain.study_activity import list_last_corrections
from service.domain.tokens import token_names
from service.errors import StudyNotFound
from service.vault.errors import Erased

router = APIRouter(prefix="/v1/studies/{study}", tags=["studies"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
EXAMPLE: dict[str, Any] = {
    "transcript_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
    "job_id": "0198f2a6-7c1e-4d3b-9a39-5b3a0d9a7b10",
    "people": [{"name": "Ada", "activity": "reviewing", "you": False}],
    "corrected_by": "Grace",
    "corrected_at": "2031-01-07T09:12:00Z",
}


class PersonAtWork(BaseModel):
    name: str | None = Field(description="Name of the token; null if it has none.")
    activity: Activity
    you: bool = Field(description="Whether the request came with the same token.")


class TranscriptActivity(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    transcript_id: UUID
    job_id: UUID
    people: list[PersonAtWork] = Field(description="Who has it open now.")
    corrected_by: str | None = Field(description="Name of the token of the last correction.")
    corrected_at: datetime | None = Field(description="null: it was never corrected.")


class StudyActivity(BaseModel):
    items: list[TranscriptActivity]


@router.get("/activity", responses=problems(StudyNotFound, Erased))
def read_activity(
    study: StudyName, request: Request, caller: Researcher, services: ServicesDep, limits: LimitsDep
) -> StudyActivity:
    """Who has the study's transcripts open, and who corrected each of them last."""
    limits.polls.require(str(caller.token_id))
    presence: Presence = request.app.state.presence
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        rows = list_last_corrections(session, found.id)
        names = token_names(session, {row.token_id for row in rows if row.token_id is not None})
    people = presence.people([row.transcript_id for row in rows])
    items = [
        TranscriptActivity(
            transcript_id=row.transcript_id,
            job_id=row.job_id,
            people=[
                PersonAtWork(
                    name=each.name, activity=each.activity, you=each.token_id == caller.token_id
                )
                for each in people.get(row.transcript_id, [])
            ],
            corrected_by=None if row.token_id is None else names.get(row.token_id),
            corrected_at=row.corrected_at,
        )
        for row in rows
    ]
    return StudyActivity(items=items)
