"""Releases: make them from reviewed transcripts, list them, and read their files."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.studies import AgeRecipient
from service.api.routes.views import SessionCode, Strict, StudyName
from service.domain import audit, release_check, releases
from service.domain.callers import RELEASE_READERS, Caller
from service.domain.consent import ConsentMissing
from service.domain.pages import BadCursor
from service.domain.release_content import Context, NamesLeft
from service.domain.releases import (
    FormatNotReleased,
    NothingReleased,
    Outdated,
    ReleaseNotFound,
    ReleaseState,
)
from service.domain.review import ReviewNotReady, ReviewOpen
from service.domain.transcripts import TranscriptNotFound
from service.errors import StudyNotFound
from service.exports import SPECS
from service.exports.archive import zip_for_recipients, zip_with_password
from service.exports.releases import (
    RELEASE_FORMATS,
    media_type,
    release_file_name,
    render_release,
)
from service.vault.errors import READ_ERRORS, DiskFull, Erased

studies_router = APIRouter(prefix="/v1/studies", tags=["releases"], route_class=GuardedRoute)
making = APIRouter(prefix="/v1/transcripts", tags=["releases"], route_class=GuardedRoute)
router = APIRouter(prefix="/v1/releases", tags=["releases"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Checker = Annotated[Caller, Depends(allow("researcher", "custodian"))]
Reader = Annotated[Caller, Depends(allow(*RELEASE_READERS))]
ReleaseFormat = Literal[RELEASE_FORMATS]  # type: ignore[valid-type]

RELEASE: dict[str, Any] = {
    "id": "3f7a9f11-6f0f-4a52-8f5c-0c5f0b0f7a52",
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "study": "PEER",
    "session": "INT-07",
    "number": 1,
    "context": "team",
    "created_at": "2031-01-07T10:00:00Z",
    "is_newest": True,
    "files": [
        {
            "format": "docx",
            "name": "INT-07.release-1.docx",
            "n_bytes": 18_211,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    ],
    "transcript_id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
    "transcript_version": 4,
    "outdated": [],
}


class ReleaseRequest(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"context": "team"}]})

    context: Context = Field(
        default="team", description="For whom the release is made; its report says so."
    )


class ReleaseFileView(BaseModel):
    format: str
    name: str = Field(description="A name for the file, without anything identified.")
    n_bytes: int
    sha256: str


class ReleaseView(BaseModel):
    """A release. The last three fields are null for roles that read releases only."""

    model_config = ConfigDict(json_schema_extra={"examples": [RELEASE]})

    id: UUID
    study_id: UUID
    study: str = Field(description="The study's code.")
    session: str = Field(description="The session's code.")
    number: int = Field(description="1 for the first release of the transcript.")
    context: Context
    created_at: datetime
    is_newest: bool = Field(description="Whether the transcript has no later release.")
    files: list[ReleaseFileView]
    transcript_id: UUID | None
    transcript_version: int | None
    outdated: list[Outdated] | None = Field(
        description="Why the release no longer agrees with what it was made from."
    )

    @classmethod
    def of(cls, state: ReleaseState, caller: Caller) -> "ReleaseView":
        row = state.row
        is_reviewer = caller.role in ("researcher", "owner")
        return cls(
            id=row.id,
            study_id=row.study_id,
            study=state.study,
            session=state.session,
            number=row.number,
            context=row.context,  # type: ignore[arg-type]
            created_at=row.created_at,
            is_newest="newer_release" not in state.outdated,
            files=[
                ReleaseFileView(
                    format=file.format,
                    name=release_file_name(state.session, row.number, file.format),
                    n_bytes=file.n_bytes,
                    sha256=file.sha256,
                )
                for file in state.files
            ],
            transcript_id=row.transcript_id if is_reviewer else None,
            transcript_version=row.transcript_version if is_reviewer else None,
            outdated=list(state.outdated) if is_reviewer else None,
        )


class ReleaseList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [RELEASE], "next_cursor": None}]}
    )

    items: list[ReleaseView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@making.post(
    "/{transcript_id}/releases",
    status_code=201,
    responses=problems(
        TranscriptNotFound,
        ReviewNotReady,
        ReviewOpen,
        NamesLeft,
        ConsentMissing,
        *READ_ERRORS,
        DiskFull,
    ),
)
def create_release(
    transcript_id: UUID, wanted: ReleaseRequest, caller: Researcher, services: ServicesDep
) -> ReleaseView:
    """Freeze the de-identified transcript as a release. Every suggestion must be decided on."""
    made = releases.create_release(services, caller, transcript_id, wanted.context, render_release)
    return ReleaseView.of(made, caller)


@router.get("", responses=problems(StudyNotFound, BadCursor, Erased))
def list_releases(
    caller: Reader,
    services: ServicesDep,
    study: Annotated[StudyName | None, Query()] = None,
    session: Annotated[SessionCode | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> ReleaseList:
    """The releases of your studies, newest first."""
    with services.sessionmaker() as db:
        page = releases.list_releases(
            db, caller, study=study, interview=session, limit=limit, cursor=cursor
        )
        states = releases.describe(db, page.rows)
    return ReleaseList(
        items=[ReleaseView.of(state, caller) for state in states], next_cursor=page.next_cursor
    )


@router.get("/{release_id}", responses=problems(ReleaseNotFound, Erased))
def read_release(release_id: UUID, caller: Reader, services: ServicesDep) -> ReleaseView:
    """One release and its files."""
    with services.sessionmaker() as session:
        found = releases.find_release(session, caller, release_id)
        return ReleaseView.of(releases.describe(session, [found])[0], caller)


@router.get(
    "/{release_id}/files/{format}",
    response_class=Response,
    responses={
        200: {
            "description": "The file, as it was rendered when the release was made.",
            "content": {spec.media_type.partition(";")[0]: {} for spec in SPECS.values()},
        },
        **problems(ReleaseNotFound, FormatNotReleased, *READ_ERRORS),
    },
)
def read_release_file(
    release_id: UUID,
    format: ReleaseFormat,
    caller: Reader,
    services: ServicesDep,
    limits: LimitsDep,
) -> Response:
    """A file of a release: the transcript in one format, or with `report`, the report in Word."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker.begin() as session:
        row, content = releases.read_file(session, services, caller, release_id, str(format))
        state = releases.describe(session, [row])[0]
        audit.record(
            session,
            caller,
            "release.exported",
            row.study_id,
            releases.place_of(row),
            detail={"format": str(format), "sha256": hashlib.sha256(content).hexdigest()},
        )
    name = release_file_name(state.session, row.number, str(format))
    return Response(
        content,
        media_type=media_type(str(format)),
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/{release_id}/report", responses=problems(ReleaseNotFound, *READ_ERRORS))
def read_report(release_id: UUID, caller: Reader, services: ServicesDep) -> dict[str, Any]:
    """The residual-risk report: what was replaced, and what could still identify somebody."""
    with services.sessionmaker.begin() as session:
        report = releases.read_report(session, services, caller, release_id)
        row = releases.find_release(session, caller, release_id)
        place, detail = releases.place_of(row), {"part": "report"}
        audit.record(session, caller, "release.read", row.study_id, place, detail=detail)
        return report


@router.delete("/{release_id}", status_code=204, responses=problems(ReleaseNotFound))
def withdraw_release(release_id: UUID, caller: Researcher, services: ServicesDep) -> None:
    """Destroy a release and its key. The transcript can be released again, with the next number."""
    releases.withdraw_release(services, caller, release_id)


class NamesFoundView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    release_id: UUID
    format: str
    entity_id: UUID
    n: int
    is_doubtful: bool = Field(description="The name is a common word, such as Hope or June.")


class CheckedView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"releases": 25, "files": 475, "found": []}]},
        from_attributes=True,
    )

    releases: int
    files: int
    found: list[NamesFoundView] = Field(description="Empty if no file has a name.")


@studies_router.post("/{study}/release-check", responses=problems(StudyNotFound, *READ_ERRORS))
def check_releases(study: StudyName, caller: Checker, services: ServicesDep) -> CheckedView:
    """Search every file of the study's releases for every name and alias of its entities."""
    with services.sessionmaker.begin() as session:
        found = release_check.check_releases(session, services, caller, study)
    return CheckedView.model_validate(found)


class ArchiveRequest(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"formats": ["docx", "report"], "password": "an example, 12 or more"}]
        }
    )

    formats: list[ReleaseFormat] = Field(default=["docx", "report"], min_length=1, max_length=30)
    password: SecretStr | None = Field(
        default=None, min_length=12, max_length=200, description="For a zip file with AES-256."
    )
    recipients: list[AgeRecipient] = Field(
        default=[], max_length=20, description="For an age file: public keys, `age1...`."
    )

    @model_validator(mode="after")
    def _has_one_lock(self) -> Self:
        if (self.password is None) == (not self.recipients):
            raise PydanticCustomError("lock", "give either a password or recipients")
        return self


@studies_router.post(
    "/{study}/release-archive",
    response_class=Response,
    responses={
        200: {
            "description": "The newest release of each transcript, in an encrypted archive.",
            "content": {"application/zip": {}, "application/octet-stream": {}},
        },
        **problems(StudyNotFound, NothingReleased, *READ_ERRORS),
    },
)
def read_release_archive(
    study: StudyName, wanted: ArchiveRequest, caller: Reader, services: ServicesDep
) -> Response:
    """Read the study's releases as an encrypted archive, to hand over to somebody."""
    files: dict[str, bytes] = {}
    ids: list[str] = []
    with services.sessionmaker() as session:
        for state in releases.describe(session, releases.newest_releases(session, caller, study)):
            for format in dict.fromkeys(wanted.formats):
                name = release_file_name(state.session, state.row.number, format)
                _, files[name] = releases.read_file(session, services, caller, state.row.id, format)
            code, study_id = state.study, state.row.study_id
            ids.append(str(state.row.id))
    if wanted.password is not None:
        content = zip_with_password(files, wanted.password.get_secret_value())
        name, type = f"{code}.releases.zip", "application/zip"
    else:
        content = zip_for_recipients(files, wanted.recipients)
        name, type = f"{code}.releases.zip.age", "application/octet-stream"
    audit.record_now(
        services,
        caller,
        "release.exported",
        study_id,
        {},
        detail={
            "releases": ids,
            "formats": list(dict.fromkeys(wanted.formats)),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    )
    return Response(
        content,
        media_type=type,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
