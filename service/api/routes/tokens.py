"""Tokens: made, listed, revoked. The secret is told once."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self, cast
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from service.api.access import ServicesDep, allow
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName
from service.database.tables import Token, TokenStudy
from service.domain.callers import OWNER, SEES_STUDIES, WORKER, Caller, hash_of, new_secret
from service.domain.studies import find_study
from service.errors import NotAllowed, StudyNotFound, TokenNotFound
from service.vault.errors import Erased

router = APIRouter(prefix="/v1", tags=["tokens"])
Administrator = Annotated[Caller, Depends(allow("admin", sealed_too=True))]
Anybody = Annotated[Caller, Depends(allow(*SEES_STUDIES, WORKER, sealed_too=True))]
Role = Literal["researcher", "coder", "custodian", "deidentifier", "admin", "owner", "worker"]
HIGH = ("owner", "admin")


class NewToken(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "role": "researcher",
                    "studies": ["PEER"],
                    "expires_at": "2031-12-31T23:59:59Z",
                }
            ]
        }
    )

    role: Role
    studies: list[StudyName] = Field(default=[], max_length=1000)
    all_studies: bool = False
    expires_at: AwareDatetime | None = None

    @field_validator("expires_at")
    @classmethod
    def _lies_ahead(cls, value: datetime | None) -> datetime | None:
        if value is not None and value <= datetime.now(UTC):
            raise ValueError("the end date has passed")
        return value


class TokenView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
                    "role": "researcher",
                    "studies": ["6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10"],
                    "all_studies": False,
                    "created_at": "2031-01-07T09:12:00Z",
                    "expires_at": "2031-12-31T23:59:59Z",
                    "revoked_at": None,
                }
            ]
        }
    )

    id: UUID
    role: Role
    studies: list[UUID]
    all_studies: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, token: Token, studies: list[UUID]) -> Self:
        return cls(
            id=token.id,
            role=cast(Role, token.role),
            studies=studies,
            all_studies=token.all_studies,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
        )


class MadeToken(TokenView):
    secret: str = Field(
        description="Shown this once; only its hash is kept.", examples=["fieldscribe_..."]
    )


class Tokens(BaseModel):
    items: list[TokenView]


@router.post("/tokens", status_code=201, responses=problems(StudyNotFound, Erased))
def create_token(wanted: NewToken, caller: Administrator, services: ServicesDep) -> MadeToken:
    """Make a token for a person or a program. Only an owner makes owners and admins."""
    if wanted.role in HIGH and caller.role != OWNER:
        raise NotAllowed(f"Only an owner makes a token of the role {wanted.role}")
    secret = new_secret()
    with services.sessionmaker.begin() as session:
        studies = sorted({find_study(session, caller, name).id for name in wanted.studies})
        token = Token(
            id=uuid4(),
            hash=hash_of(secret),
            role=wanted.role,
            all_studies=wanted.all_studies or wanted.role in (*HIGH, WORKER),
            expires_at=wanted.expires_at,
        )
        session.add(token)
        session.flush()
        session.add_all(TokenStudy(token_id=token.id, study_id=id) for id in studies)
    return MadeToken(**TokenView.of(token, studies).model_dump(), secret=secret)


@router.get("/tokens")
def list_tokens(caller: Administrator, services: ServicesDep) -> Tokens:
    """All tokens, the newest first, without their secrets."""
    with services.sessionmaker() as session:
        rows = session.execute(
            select(Token, func.array_remove(func.array_agg(TokenStudy.study_id), None))
            .outerjoin(TokenStudy, TokenStudy.token_id == Token.id)
            .group_by(Token.id)
            .order_by(Token.created_at.desc(), Token.id)
        )
        return Tokens(items=[TokenView.of(token, studies) for token, studies in rows])


@router.get("/token")
def read_own_token(caller: Anybody, services: ServicesDep) -> TokenView:
    """What the token of this request may do."""
    with services.sessionmaker() as session:
        return view_of(session, session.get_one(Token, caller.token_id))


@router.delete("/tokens/{token_id}", responses=problems(TokenNotFound))
def revoke_token(token_id: UUID, caller: Administrator, services: ServicesDep) -> TokenView:
    """From now on the token is refused everywhere. It stays in the list."""
    with services.sessionmaker.begin() as session:
        token = session.get(Token, token_id, with_for_update=True)
        if token is None:
            raise TokenNotFound("There is no token of this id")
        if token.role in HIGH and caller.role != OWNER:
            raise NotAllowed(f"Only an owner revokes a token of the role {token.role}")
        token.revoked_at = token.revoked_at or datetime.now(UTC)
        return view_of(session, token)


def view_of(session: DbSession, token: Token) -> TokenView:
    query = select(TokenStudy.study_id).where(TokenStudy.token_id == token.id)
    return TokenView.of(token, list(session.scalars(query)))
