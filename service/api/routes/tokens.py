"""Tokens: create, list, revoke. The secret is shown once."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName, UtcTime
from service.database.tables import Token
from service.domain import tokens
from service.domain.callers import RELEASE_READERS, STUDY_READERS, WORKER, Caller
from service.domain.pages import BadCursor
from service.errors import StudyNotFound, TokenNotFound
from service.vault.errors import Erased

router = APIRouter(prefix="/v1", tags=["tokens"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(allow("admin", sealed_too=True))]
AnyRole = Annotated[
    Caller, Depends(allow(*STUDY_READERS, *RELEASE_READERS, WORKER, sealed_too=True))
]
Role = Literal[
    "researcher", "coder", "listener", "custodian", "deidentifier", "admin", "owner", "worker"
]


TokenName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9]{1,16}(-[a-z0-9]{1,16}){0,3}$"),
    Field(examples=["upload-laptop"]),
]
NO_STUDY = "The token has no study, so it sees nothing: create one that names its studies"


class NewToken(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "role": "researcher",
                    "name": "upload-laptop",
                    "studies": ["PEER"],
                    "expires_at": "2031-12-31T23:59:59Z",
                }
            ]
        }
    )

    role: Role
    name: TokenName | None = Field(
        default=None, description="Of a machine or a purpose, not of a person."
    )
    studies: list[StudyName] = Field(default=[], max_length=1000)
    all_studies: bool = False
    expires_at: UtcTime | None = None

    @field_validator("expires_at")
    @classmethod
    def _lies_ahead(cls, value: datetime | None) -> datetime | None:
        if value is not None and value <= datetime.now(UTC):
            raise ValueError("the end date is in the past")
        return value


class TokenView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
                    "name": "upload-laptop",
                    "display_name": None,
                    "role": "researcher",
                    "studies": ["6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10"],
                    "all_studies": False,
                    "created_at": "2031-01-07T09:12:00Z",
                    "last_used_at": "2031-01-08T10:30:00Z",
                    "expires_at": "2031-12-31T23:59:59Z",
                    "revoked_at": None,
                    "warning": None,
                }
            ]
        }
    )

    id: UUID
    name: str | None
    display_name: str | None = Field(description="Of a person who was invited.")
    role: Role
    studies: list[UUID]
    all_studies: bool
    created_at: datetime
    last_used_at: datetime | None = Field(description="To the minute; null: never.")
    expires_at: datetime | None
    revoked_at: datetime | None
    warning: str | None = Field(description="Why the token gives access to nothing, if so.")

    @classmethod
    def of(cls, token: Token, studies: list[UUID]) -> Self:
        return cls(
            id=token.id,
            name=token.name,
            display_name=token.display_name,
            role=cast(Role, token.role),
            studies=studies,
            all_studies=token.all_studies,
            created_at=token.created_at,
            last_used_at=token.last_used_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
            warning=None if token.all_studies or studies else NO_STUDY,
        )


class MadeToken(TokenView):
    secret: str = Field(
        description="Shown only here: the service stores its hash.", examples=["fieldscribe_..."]
    )


class Tokens(BaseModel):
    items: list[TokenView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.post("/tokens", status_code=201, responses=problems(StudyNotFound, Erased))
def create_token(wanted: NewToken, caller: Administrator, services: ServicesDep) -> MadeToken:
    """Create a token for a person or a program.

    Only an owner can create owners, admins and workers, and tokens that read content: the roles
    researcher, deidentifier and custodian. An admin can create those for studies that allow it
    (`admins_may_create`).
    """
    with services.sessionmaker.begin() as session:
        made = tokens.create_token(session, caller, **wanted.model_dump())
    return MadeToken(**TokenView.of(made.token, made.studies).model_dump(), secret=made.secret)


@router.get("/tokens", responses=problems(BadCursor))
def list_tokens(
    caller: Administrator,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> Tokens:
    """All tokens without their secrets, newest first."""
    with services.sessionmaker() as session:
        page = tokens.list_tokens(session, limit=limit, cursor=cursor)
        items = [TokenView.of(*row) for row in page.rows]
        return Tokens(items=items, next_cursor=page.next_cursor)


@router.get("/token")
def read_own_token(caller: AnyRole, services: ServicesDep) -> TokenView:
    """What the token of this request allows."""
    with services.sessionmaker() as session:
        return TokenView.of(*tokens.find_own_token(session, caller))


@router.delete("/tokens/{token_id}", responses=problems(TokenNotFound))
def revoke_token(token_id: UUID, caller: Administrator, services: ServicesDep) -> TokenView:
    """Revoke a token: it is refused from now on, and stays in the list."""
    with services.sessionmaker.begin() as session:
        return TokenView.of(*tokens.revoke_token(session, caller, token_id))
