"""Withdrawals of participants: what exists, the request, and how far it has come."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import SpeakerCode, Strict, StudyName
from service.database.tables import Withdrawal
from service.domain import withdrawal
from service.domain.callers import Caller
from service.domain.withdrawal import (
    Inventory,
    Reason,
    Scope,
    WithdrawalNotConfirmed,
    WithdrawalNotFound,
    Withdrawer,
)
from service.domain.withdrawal_plan import VoicesUnknown, WithdrawalUnknownCode
from service.domain.withdrawal_steps import STEPS_OF
from service.errors import StudyNotFound
from service.vault.errors import READ_ERRORS, Erased, Sealed

studies_router = APIRouter(
    prefix="/v1/studies/{study}", tags=["withdrawals"], route_class=GuardedRoute
)
router = APIRouter(prefix="/v1/withdrawals", tags=["withdrawals"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]

WITHDRAWAL: dict[str, Any] = {
    "id": "0198f2a6-7c1e-4d3b-9a39-5b3a0d9a7b10",
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "participant": "P07",
    "scope": "data",
    "reason": "no_reason",
    "state": "removing",
    "steps_done": ["ledger", "voice"],
    "steps": ["ledger", "voice", "interviews"],
    "failure_code": None,
    "certificate_id": None,
    "requested_at": "2031-01-07T10:00:00Z",
    "finished_at": None,
}


class WithdrawalRequest(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"participant": "P07", "scope": "data", "confirmation": "P07"}]
        }
    )

    participant: SpeakerCode
    scope: Scope = Field(
        description="`data`: everything; `identified`: all but de-identified releases; "
        "`participation`: nothing, the participant only takes no further part."
    )
    reason: Reason | None = None
    confirmation: str = Field(max_length=20, description="The participant's code once more.")


class WithdrawalView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [WITHDRAWAL]})

    id: UUID
    study_id: UUID
    participant: str
    scope: Scope
    reason: Reason | None
    state: Literal["removing", "finished"]
    steps_done: list[str]
    steps: list[str] = Field(description="All steps of this scope, in order.")
    failure_code: str | None = Field(description="Why the next step is tried again later.")
    certificate_id: UUID | None
    requested_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Withdrawal) -> "WithdrawalView":
        return cls(
            id=row.id,
            study_id=row.study_id,
            participant=row.code,
            scope=row.scope,  # type: ignore[arg-type]
            reason=row.reason,  # type: ignore[arg-type]
            state=row.state,  # type: ignore[arg-type]
            steps_done=row.steps,
            steps=list(STEPS_OF[row.scope]),
            failure_code=row.failure_code,
            certificate_id=row.certificate_id,
            requested_at=row.requested_at,
            finished_at=row.finished_at,
        )


class WithdrawalList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [WITHDRAWAL]}]})

    items: list[WithdrawalView]


class UnitView(BaseModel):
    """What exists of one session, or of a job without a session."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    is_group: bool = Field(description="Others take part too: only the person's voice leaves.")
    n_recordings: int
    n_playback_copies: int
    n_transcripts: int
    n_versions: int
    n_running_jobs: int
    n_releases: int
    n_masked_audio: int
    n_handoffs: int
    problems: list[str] = Field(description="Why a group cannot be handled yet, and what to do.")


class PassedView(BaseModel):
    """Something that has left the service: somebody must ask its holder to delete it."""

    model_config = ConfigDict(from_attributes=True)

    what: str
    id: str
    by: str = Field(description="A role.")
    at: datetime


class InventoryView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    study: str
    participant: str = Field(validation_alias="code")
    withdrawn_at: datetime | None
    units: list[UnitView]
    has_names: bool
    n_consents: int
    n_mentions: int = Field(description="Known mentions of the person, in all transcripts.")
    passed_on: list[PassedView]
    last_backup_at: datetime | None
    costs: list[str] = Field(description="Sentences to read before a withdrawal.")

    @classmethod
    def of(cls, found: Inventory) -> "InventoryView":
        return cls.model_validate(found)


@studies_router.get(
    "/withdrawal-preview", responses=problems(StudyNotFound, WithdrawalUnknownCode, Erased)
)
def preview_withdrawal(
    study: StudyName,
    caller: Researcher,
    services: ServicesDep,
    participant: Annotated[SpeakerCode, Query()],
) -> InventoryView:
    """What exists of a participant, who has downloaded what, and what a withdrawal costs."""
    return InventoryView.of(withdrawal.take_inventory(services, caller, study, participant))


@studies_router.post(
    "/withdrawals",
    status_code=202,
    responses=problems(
        StudyNotFound,
        WithdrawalUnknownCode,
        WithdrawalNotConfirmed,
        VoicesUnknown,
        Sealed,
        *READ_ERRORS,
    ),
)
def request_withdrawal(
    study: StudyName,
    wanted: WithdrawalRequest,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
) -> WithdrawalView:
    """Withdraw a participant. Poll the answer's id until its state is `finished`.

    A request that repeats an earlier one returns that withdrawal.
    """
    row = withdrawal.request_withdrawal(
        services,
        caller,
        study,
        wanted.participant,
        wanted.scope,
        wanted.reason,
        wanted.confirmation,
    )
    withdrawer: Withdrawer = request.app.state.withdrawer
    withdrawer.wake()
    return WithdrawalView.of(row)


@studies_router.get("/withdrawals", responses=problems(StudyNotFound, Erased))
def list_withdrawals(study: StudyName, caller: Researcher, services: ServicesDep) -> WithdrawalList:
    """The withdrawals of a study, newest first."""
    with services.sessionmaker() as session:
        rows = withdrawal.list_withdrawals(session, caller, study)
        return WithdrawalList(items=list(map(WithdrawalView.of, rows)))


@router.get("/{withdrawal_id}", responses=problems(WithdrawalNotFound))
def read_withdrawal(
    withdrawal_id: UUID, caller: Researcher, services: ServicesDep
) -> WithdrawalView:
    """How far a withdrawal has come."""
    with services.sessionmaker() as session:
        return WithdrawalView.of(withdrawal.find_withdrawal(session, caller, withdrawal_id))
