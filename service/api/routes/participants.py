"""Participants: who takes part, their consents, approvals, and small cells.

Names, contacts and attributes arrive in bodies and are stored encrypted. Only look-ups answer with
names and contacts; they are recorded with their reason.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from models.deidentification.participants import (
    MAX_VALUE,
    GivenConsent,
    SmallCell,
    is_sheet_version,
    parse_participants,
    small_cells,
)
from models.errors import BadParticipants
from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.corrections import version_of
from service.api.routes.entities import IfMatch, Name
from service.api.routes.studies import AttributeName
from service.api.routes.views import SpeakerCode, Strict, StudyName, check_text
from service.database.tables import Approval, Consent
from service.domain import entities, participant_records, participants
from service.domain.callers import Caller
from service.domain.chosen_names import BadPseudonym, PseudonymTaken
from service.domain.entities import LookupReason
from service.domain.participant_records import (
    ParticipantChanged,
    ParticipantExists,
    ParticipantRecord,
    cancel_unconsented,
)
from service.domain.participants import (
    ApprovalNotFound,
    ParticipantNotFound,
    ParticipantState,
    find_participant,
)
from service.domain.studies import find_study
from service.errors import StudyNotFound, VersionMissing
from service.vault.errors import READ_ERRORS, DiskFull, Erased

studies_router = APIRouter(
    prefix="/v1/studies/{study}", tags=["participants"], route_class=GuardedRoute
)
router = APIRouter(prefix="/v1", tags=["participants"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Reader = Annotated[Caller, Depends(allow("researcher", "custodian"))]
Custodian = Annotated[Caller, Depends(allow("custodian"))]

ID = "2f7f8b1f-8a0e-4a0c-9a6e-b5d7a1f66c2d"
Scope = Literal["recording", "transcription", "quotation", "sharing", "future_use", "recontact"]
Value = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_VALUE, pattern=r"\S"),
    AfterValidator(check_text),
]
Line = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"\S"), AfterValidator(check_text)
]


def check_version(text: str) -> str:
    if not is_sheet_version(text):
        raise ValueError("at most 20 letters, digits, . and -")
    return text


SheetVersion = Annotated[str, AfterValidator(check_version), Field(max_length=20, examples=["2.1"])]
CONSENT: dict[str, Any] = {
    "sheet_version": "2.1",
    "given_on": "2031-01-07",
    "scopes": ["recording", "transcription", "quotation"],
}
EXAMPLE: dict[str, Any] = {
    "id": ID,
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "code": "P07",
    "sessions": ["INT-07", "FG-1"],
    "consents": [{**CONSENT, "recorded_at": "2031-01-07T09:12:00Z"}],
    "withdrawn_at": None,
    "erased_at": None,
    "version": 1,
}


class ConsentBody(Strict):
    """What the participant has consented to from now on: it replaces earlier consents."""

    model_config = ConfigDict(json_schema_extra={"examples": [CONSENT]})

    sheet_version: SheetVersion = Field(description="Of the information sheet.")
    given_on: date
    scopes: list[Scope] = Field(max_length=6, description="Empty if the consent has ended.")

    def given(self) -> GivenConsent:
        return GivenConsent(self.sheet_version, self.given_on, tuple(dict.fromkeys(self.scopes)))


class ConsentView(BaseModel):
    sheet_version: str
    given_on: date
    scopes: list[Scope]
    recorded_at: datetime

    @classmethod
    def of(cls, row: Consent) -> Self:
        return cls(
            sheet_version=row.sheet_version,
            given_on=row.given_on,
            scopes=row.scopes,
            recorded_at=row.created_at,
        )


class ParticipantView(BaseModel):
    """A participant without names, contacts and attributes."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: UUID
    study_id: UUID
    code: str
    sessions: list[str] = Field(description="Codes of those whose roster lists the participant.")
    consents: list[ConsentView] = Field(description="Newest first; the first counts.")
    withdrawn_at: datetime | None
    erased_at: datetime | None
    version: int

    @classmethod
    def of(cls, state: ParticipantState) -> Self:
        row = state.row
        return cls(
            id=row.id,
            study_id=row.study_id,
            code=row.code,
            sessions=list(state.sessions),
            consents=[ConsentView.of(each) for each in state.consents],
            withdrawn_at=row.withdrawn_at,
            erased_at=row.erased_at,
            version=row.version,
        )


class ParticipantList(BaseModel):
    items: list[ParticipantView]


class NewParticipant(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"code": "P07", "names": ["Siobhan Gallagher"]}]}
    )

    code: SpeakerCode
    names: list[Name] = Field(default=[], max_length=100)
    contacts: list[Value] = Field(default=[], max_length=10)
    attributes: dict[AttributeName, Value] = Field(default={}, max_length=20)


class ParticipantChange(Strict):
    """Fields that are left out are not changed; the others are replaced as a whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"attributes": {"role": "nurse"}}]})

    contacts: list[Value] | None = Field(default=None, max_length=10)
    attributes: dict[AttributeName, Value] | None = Field(default=None, max_length=20)


class ParticipantsFile(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"csv": "code,name,sessions\nP07,Siobhan Gallagher,INT-07;FG-1\n"}]
        }
    )

    csv: str = Field(max_length=4 * 2**20)


class SmallCellView(BaseModel):
    attributes: dict[str, str]
    n: int

    @classmethod
    def of(cls, cell: SmallCell) -> Self:
        return cls(attributes=dict(cell.values), n=cell.n)


class SmallCells(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"attributes": {"role": "nurse", "sector": "rural"}, "n": 2}]}]
        }
    )

    items: list[SmallCellView]


class ParticipantsImported(BaseModel):
    created: int
    updated: int
    unchanged: int
    consents: int = Field(description="Consents that were new.")
    small_cells: list[SmallCellView] = Field(
        description="Combinations of attributes that fewer than five people share."
    )


class ParticipantLookUp(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"codes": ["P07"], "reason": "member_checking"}]}
    )

    codes: list[SpeakerCode] = Field(min_length=1, max_length=200)
    reason: LookupReason


class FoundParticipant(BaseModel):
    code: str
    names: list[str]
    contacts: list[str]
    attributes: dict[str, str]


class FoundParticipants(BaseModel):
    items: list[FoundParticipant]


class ApprovalBody(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "committee": "Human Research Ethics Committee",
                    "number": "2031/044",
                    "valid_from": "2031-01-01",
                    "valid_until": "2033-12-31",
                }
            ]
        }
    )

    committee: Line = Field(description="Stored in the clear, like site and number: no people.")
    number: Line = Field(description="The committee's reference.")
    site: Line | None = Field(default=None, description="Null: for all sites.")
    valid_from: date
    valid_until: date | None = None

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError("the approval ends before it begins")
        return self


class ApprovalView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    committee: str
    number: str
    site: str | None
    valid_from: date
    valid_until: date | None

    @classmethod
    def of(cls, row: Approval) -> Self:
        return cls.model_validate(row)


class ApprovalList(BaseModel):
    items: list[ApprovalView]


@studies_router.get("/participants", responses=problems(StudyNotFound, Erased))
def list_participants(study: StudyName, caller: Reader, services: ServicesDep) -> ParticipantList:
    """Everybody who takes part, by code, without names."""
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        rows = participants.list_participants(session, found.id)
        states = participants.describe(session, rows)
    return ParticipantList(items=[ParticipantView.of(state) for state in states])


@studies_router.post(
    "/participants",
    status_code=201,
    responses=problems(
        StudyNotFound,
        ParticipantExists,
        PseudonymTaken,
        BadPseudonym,
        BadParticipants,
        *READ_ERRORS,
        DiskFull,
    ),
)
def create_participant(
    study: StudyName, wanted: NewParticipant, caller: Researcher, services: ServicesDep
) -> ParticipantView:
    """Add a participant. The entity with this code is theirs; without one, it is created."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        made = participant_records.create_participant(
            session,
            services,
            caller,
            found.id,
            wanted.code,
            names=wanted.names,
            record=ParticipantRecord(tuple(wanted.contacts), wanted.attributes),
        )
        return ParticipantView.of(participants.describe(session, [made])[0])


@studies_router.post(
    "/participants/import",
    responses=problems(
        StudyNotFound,
        ParticipantExists,
        PseudonymTaken,
        BadPseudonym,
        BadParticipants,
        *READ_ERRORS,
        DiskFull,
    ),
)
def import_participants(
    study: StudyName, wanted: ParticipantsFile, caller: Researcher, services: ServicesDep
) -> ParticipantsImported:
    """Add a list of participants. Nothing is removed; a second import changes nothing.

    Columns: code, name, aliases, contact, sessions, consent_version, consent_date, consent_scopes,
    and the study's attributes.
    """
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        rows = parse_participants(wanted.csv, found.attributes)
        done = participant_records.import_participants(session, services, caller, found.id, rows)
        cells = _small_cells(
            participant_records.read_attributes(session, services, caller, found.id).values()
        )
    return ParticipantsImported(
        created=done.created,
        updated=done.updated,
        unchanged=done.unchanged,
        consents=done.consents,
        small_cells=cells,
    )


def _small_cells(attributes: Any) -> list[SmallCellView]:
    return [SmallCellView.of(cell) for cell in small_cells(list(attributes))]


@studies_router.get("/small-cells", responses=problems(StudyNotFound, *READ_ERRORS))
def list_small_cells(study: StudyName, caller: Reader, services: ServicesDep) -> SmallCells:
    """Combinations of attributes that fewer than five participants share: they may identify."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        read = participant_records.read_attributes(session, services, caller, found.id)
    return SmallCells(items=_small_cells(read.values()))


@studies_router.post(
    "/participants/look-up", responses=problems(StudyNotFound, ParticipantNotFound, *READ_ERRORS)
)
def look_up_participants(
    study: StudyName, wanted: ParticipantLookUp, caller: Custodian, services: ServicesDep
) -> FoundParticipants:
    """Names, contacts and attributes behind codes. The look-up is recorded with its reason."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        rows = [participants.find_by_code(session, found.id, code) for code in wanted.codes]
        owners = {row.id: entities.find_entity(session, caller, row.entity_id) for row in rows}
        records = entities.look_up(session, services, caller, owners.values(), wanted.reason)
        read = {row.id: participant_records.read_participant(services, row) for row in rows}
    return FoundParticipants(
        items=[
            FoundParticipant(
                code=row.code,
                names=list(records[owners[row.id].id].surfaces),
                contacts=list(read[row.id].contacts),
                attributes=dict(read[row.id].attributes),
            )
            for row in rows
        ]
    )


@router.get("/participants/{participant_id}", responses=problems(ParticipantNotFound))
def read_participant(
    participant_id: UUID, caller: Reader, services: ServicesDep, response: Response
) -> ParticipantView:
    """One participant, with sessions and consents."""
    with services.sessionmaker() as session:
        row = find_participant(session, caller, participant_id)
        response.headers["ETag"] = f'"{row.version}"'
        return ParticipantView.of(participants.describe(session, [row])[0])


@router.patch(
    "/participants/{participant_id}",
    responses=problems(
        ParticipantNotFound,
        ParticipantChanged,
        VersionMissing,
        BadParticipants,
        *READ_ERRORS,
        DiskFull,
    ),
)
def change_participant(
    participant_id: UUID,
    change: ParticipantChange,
    caller: Researcher,
    services: ServicesDep,
    if_match: IfMatch = None,
) -> ParticipantView:
    """Replace contacts or attributes. Names are changed with the entity."""
    based_on = version_of(if_match)
    sent = {key: value for key, value in change.model_dump().items() if value is not None}
    if "contacts" in sent:
        sent["contacts"] = tuple(sent["contacts"])
    with services.sessionmaker.begin() as session:
        row = find_participant(session, caller, participant_id)
        participant_records.change_participant(session, services, caller, row, based_on, sent)
        return ParticipantView.of(participants.describe(session, [row])[0])


@router.post(
    "/participants/{participant_id}/consents",
    status_code=201,
    responses=problems(ParticipantNotFound, Erased),
)
def record_consent(
    participant_id: UUID, wanted: ConsentBody, caller: Researcher, services: ServicesDep
) -> ParticipantView:
    """Record a consent. Unfinished jobs that it no longer covers are cancelled."""
    with services.sessionmaker.begin() as session:
        row = find_participant(session, caller, participant_id)
        participants.record_consent(session, caller, row, wanted.given())
        cancel_unconsented(session, row)
        return ParticipantView.of(participants.describe(session, [row])[0])


@studies_router.get("/approvals", responses=problems(StudyNotFound, Erased))
def list_approvals(study: StudyName, caller: Reader, services: ServicesDep) -> ApprovalList:
    """The committees' approvals of the study."""
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        rows: Sequence[Approval] = participants.list_approvals(session, found.id)
    return ApprovalList(items=[ApprovalView.of(row) for row in rows])


@studies_router.post("/approvals", status_code=201, responses=problems(StudyNotFound, Erased))
def record_approval(
    study: StudyName, wanted: ApprovalBody, caller: Researcher, services: ServicesDep
) -> ApprovalView:
    """Record an approval. From then on, uploads and jobs need one that is valid."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        made = participants.record_approval(session, caller, found.id, **wanted.model_dump())
    return ApprovalView.of(made)


@router.delete("/approvals/{approval_id}", status_code=204, responses=problems(ApprovalNotFound))
def remove_approval(approval_id: UUID, caller: Researcher, services: ServicesDep) -> None:
    """Remove an approval that was recorded by mistake."""
    with services.sessionmaker.begin() as session:
        participants.remove_approval(session, caller, approval_id)
