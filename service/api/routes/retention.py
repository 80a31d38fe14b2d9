"""Retention: how long a study keeps each class of data, legal holds, destruction by two people."""

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName
from service.database.tables import Destruction, LegalHold
from service.domain import retention
from service.domain.callers import Caller
from service.domain.retention import (
    AtEnd,
    Basis,
    DataClass,
    DestructionNotFound,
    DestructionOver,
    HoldReason,
    OnLegalHold,
    Retention,
    RetentionNotDue,
    SamePerson,
    State,
)
from service.errors import RecordingInUse, StudyNotFound
from service.vault.errors import Erased, UploadBusy

studies_router = APIRouter(
    prefix="/v1/studies/{study}", tags=["retention"], route_class=GuardedRoute
)
router = APIRouter(prefix="/v1/destructions", tags=["retention"], route_class=GuardedRoute)
Reader = Annotated[Caller, Depends(allow("researcher", "custodian", "admin", sealed_too=True))]
Keeper = Annotated[Caller, Depends(allow("researcher", "custodian", sealed_too=True))]
STUDY_ERRORS = (StudyNotFound, Erased)

RULE: dict[str, Any] = {"basis": "publication", "years": 7, "at_end": "destroy"}
HOLD: dict[str, Any] = {
    "id": "4c0f6a0c-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "reason": "legal_proceedings",
    "created_at": "2031-01-07T09:12:00Z",
}
DESTRUCTION: dict[str, Any] = {
    "id": "9d0f6a0c-3c0e-4f3b-9a39-5b3a0d9a7b11",
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "data_class": "identified",
    "requested_by": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
    "requested_at": "2038-01-08T09:12:00Z",
    "expires_at": "2038-01-15T09:12:00Z",
    "cancelled_at": None,
    "confirmed_by": None,
    "confirmed_at": None,
    "finished_at": None,
    "certificate_id": None,
}


class Rule(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [RULE]})

    basis: Basis = Field(description="What the years count from.")
    years: int = Field(ge=0, le=200)
    at_end: AtEnd = Field(description="What the study has decided to do then.")


class RuleView(Rule):
    data_class: DataClass
    due_on: date | None = Field(description="Null until the date of the basis is set.")
    state: State = Field(description="`held`: due, but a legal hold blocks it.")


class HoldView(BaseModel):
    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [HOLD]})

    id: UUID
    reason: HoldReason
    created_at: datetime

    @classmethod
    def of(cls, row: LegalHold) -> "HoldView":
        return cls.model_validate(row)


class DestructionView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [DESTRUCTION]})

    id: UUID
    study_id: UUID
    data_class: DataClass
    requested_by: UUID = Field(description="A token.")
    requested_at: datetime
    expires_at: datetime = Field(description="Until when somebody else must confirm it.")
    cancelled_at: datetime | None
    confirmed_by: UUID | None
    confirmed_at: datetime | None
    finished_at: datetime | None
    certificate_id: UUID | None

    @classmethod
    def of(cls, row: Destruction) -> "DestructionView":
        return cls(
            id=row.id,
            study_id=row.study_id,
            data_class=row.data_class,  # type: ignore[arg-type]
            requested_by=row.token_id,
            requested_at=row.requested_at,
            expires_at=row.expires_at,
            cancelled_at=row.cancelled_at,
            confirmed_by=row.confirmed_by,
            confirmed_at=row.confirmed_at,
            finished_at=row.finished_at,
            certificate_id=row.certificate_id,
        )


class RetentionView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "rules": [
                        {
                            "data_class": "identified",
                            **RULE,
                            "due_on": "2038-01-07",
                            "state": "kept",
                        }
                    ],
                    "dates": {"publication": "2031-01-07"},
                    "holds": [HOLD],
                    "destructions": [DESTRUCTION],
                }
            ]
        }
    )

    rules: list[RuleView]
    dates: dict[Basis, date]
    holds: list[HoldView]
    destructions: list[DestructionView]

    @classmethod
    def of(cls, found: Retention) -> "RetentionView":
        return cls(
            rules=[
                RuleView(
                    data_class=each.rule.data_class,  # type: ignore[arg-type]
                    basis=each.rule.basis,  # type: ignore[arg-type]
                    years=each.rule.years,
                    at_end=each.rule.at_end,  # type: ignore[arg-type]
                    due_on=each.due_on,
                    state=each.state,
                )
                for each in found.rules
            ],
            dates=found.dates,  # type: ignore[arg-type]
            holds=list(map(HoldView.of, found.holds)),
            destructions=list(map(DestructionView.of, found.destructions)),
        )


@studies_router.get("/retention", responses=problems(*STUDY_ERRORS))
def read_retention(study: StudyName, caller: Reader, services: ServicesDep) -> RetentionView:
    """How long each class of the study's data is kept, and what is due."""
    with services.sessionmaker() as session:
        return RetentionView.of(retention.read_retention(session, caller, study))


@studies_router.put("/retention/rules/{data_class}", responses=problems(*STUDY_ERRORS))
def set_rule(
    study: StudyName, data_class: DataClass, rule: Rule, caller: Keeper, services: ServicesDep
) -> RetentionView:
    """Set how long a class is kept."""
    with services.sessionmaker.begin() as session:
        retention.set_rule(session, caller, study, data_class, rule.basis, rule.years, rule.at_end)
        session.flush()
        return RetentionView.of(retention.read_retention(session, caller, study))


@studies_router.delete(
    "/retention/rules/{data_class}", status_code=204, responses=problems(*STUDY_ERRORS)
)
def remove_rule(
    study: StudyName, data_class: DataClass, caller: Keeper, services: ServicesDep
) -> None:
    """Remove the rule of a class: it is kept until somebody deletes it."""
    with services.sessionmaker.begin() as session:
        retention.remove_rule(session, caller, study, data_class)


class BasisDate(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"on": "2031-01-07"}]})

    on: date | None = Field(description="Null removes it.")


@studies_router.put("/retention/dates/{basis}", responses=problems(*STUDY_ERRORS))
def set_date(
    study: StudyName, basis: Basis, wanted: BasisDate, caller: Keeper, services: ServicesDep
) -> RetentionView:
    """Set when the study was published, completed, or last contacted somebody."""
    with services.sessionmaker.begin() as session:
        retention.set_date(session, caller, study, basis, wanted.on)
        session.flush()
        return RetentionView.of(retention.read_retention(session, caller, study))


class NewHold(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "legal_proceedings"}]})

    reason: HoldReason


@studies_router.post("/holds", status_code=201, responses=problems(*STUDY_ERRORS))
def place_hold(
    study: StudyName, wanted: NewHold, caller: Keeper, services: ServicesDep
) -> HoldView:
    """Block destruction in the study, for example while records may be needed in court."""
    with services.sessionmaker.begin() as session:
        return HoldView.of(retention.place_hold(session, caller, study, wanted.reason))


@studies_router.delete(
    "/holds/{hold_id}", status_code=204, responses=problems(*STUDY_ERRORS, DestructionNotFound)
)
def lift_hold(study: StudyName, hold_id: UUID, caller: Keeper, services: ServicesDep) -> None:
    """Lift a legal hold. It stays in the audit trail."""
    with services.sessionmaker.begin() as session:
        retention.lift_hold(session, caller, study, hold_id)


class NewDestruction(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"data_class": "identified"}]})

    data_class: DataClass


@studies_router.post(
    "/destructions",
    status_code=201,
    responses=problems(*STUDY_ERRORS, RetentionNotDue, OnLegalHold, RecordingInUse),
)
def request_destruction(
    study: StudyName, wanted: NewDestruction, caller: Keeper, services: ServicesDep
) -> DestructionView:
    """Ask for the destruction of a class that is due. Somebody else confirms it within a week."""
    with services.sessionmaker.begin() as session:
        made = retention.request_destruction(session, caller, study, wanted.data_class)
        return DestructionView.of(made)


@router.post(
    "/{destruction_id}/confirm",
    responses=problems(
        DestructionNotFound,
        DestructionOver,
        SamePerson,
        RetentionNotDue,
        OnLegalHold,
        RecordingInUse,
        UploadBusy,
    ),
)
def confirm_destruction(
    destruction_id: UUID, caller: Keeper, services: ServicesDep
) -> DestructionView:
    """Destroy what another person has asked for, and issue a certificate. Safe to repeat."""
    return DestructionView.of(retention.confirm_destruction(services, caller, destruction_id))


@router.delete("/{destruction_id}", responses=problems(DestructionNotFound, DestructionOver))
def cancel_destruction(
    destruction_id: UUID, caller: Keeper, services: ServicesDep
) -> DestructionView:
    """Take a request back before it is confirmed."""
    with services.sessionmaker.begin() as session:
        return DestructionView.of(retention.cancel_destruction(session, caller, destruction_id))
