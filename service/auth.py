"""Who may do what: bearer tokens, kept as hashes, each with a role, studies and perhaps an end.

| role | may |
|---|---|
| researcher | recordings, sessions, jobs and transcripts of its studies |
| coder, custodian | see its studies and sessions |
| deidentifier | claim and finish the hand-offs of its studies |
| admin | tokens and studies, unseal; no content |
| owner | everything, in every study |
| worker | the data keys of the job that it has claimed |
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from sqlalchemy import Select, false, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.database.tables import ROLES, Token, TokenStudy
from service.errors import (
    NotAllowed,
    ServiceError,
    TokenExpired,
    TokenMissing,
    TokenRevoked,
    TokenUnknown,
)
from service.limits import Limits
from service.services import Services
from service.settings import Settings
from service.vault.errors import Sealed
from service.vault.files import make_folder, whole_file

PREFIX = "fieldscribe_"  # so that a program that looks for leaked secrets can find one
OWNER = "owner"
WORKER = "worker"
SEES_STUDIES = ("researcher", "coder", "custodian", "deidentifier", "admin")

S = TypeVar("S", bound=Select[Any])


@dataclass(frozen=True)
class Caller:
    """Whose request it is."""

    token_id: UUID
    role: str
    all_studies: bool
    studies: frozenset[UUID]

    def may_see(self, study_id: UUID) -> bool:
        return self.all_studies or study_id in self.studies

    def limit(self, statement: S, study_id: Any) -> S:
        """The same query for the caller's studies only; `study_id` is a column."""
        if self.all_studies:
            return statement
        return statement.where(study_id.in_(self.studies) if self.studies else false())


# These are `async` so that FastAPI calls them at once: a plain function gets a thread of its own.
async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def get_limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


ServicesDep = Annotated[Services, Depends(get_services)]
LimitsDep = Annotated[Limits, Depends(get_limits)]


@dataclass(frozen=True)
class Allowed:
    """The one dependency that lets a request in. It comes before a body is read.

    Raises:
        TokenMissing, TokenUnknown, TokenExpired, TokenRevoked: 401
        TooManyRequests: 429, too many bad tokens from one address
        NotAllowed: 403
        Sealed: 503
        RequestValidationError: 422
    """

    roles: frozenset[str]
    sealed_too: bool

    def __call__(self, request: Request, services: ServicesDep, limits: LimitsDep) -> Caller:
        try:
            secret = bearer(request)
            with services.sessionmaker() as session:
                caller = find_caller(session, secret)
        except (TokenMissing, TokenUnknown, TokenExpired, TokenRevoked):
            limits.bad_tokens.require(request.client.host if request.client else "")
            raise
        if caller.role not in self.roles:
            raise NotAllowed(f"The role {caller.role} does not allow this")
        if services.vault.sealed and not self.sealed_too:
            raise Sealed("The vault is sealed: `fieldscribe unseal`")
        refuse_unknown_parameters(request)
        return caller


def allow(*roles: str, sealed_too: bool = False) -> Callable[..., Caller]:
    """
    Args:
        roles: besides the owner, who may do everything but be a worker.
        sealed_too: also while nobody has unsealed the vault.
    """
    unknown = set(roles) - set(ROLES)
    if unknown:
        raise ValueError(f"no roles: {unknown}")
    owner = () if roles == (WORKER,) else (OWNER,)
    return Allowed(frozenset([*roles, *owner]), sealed_too)


def refuse_unknown_parameters(request: Request) -> None:
    """A filter that is misspelt is not overlooked: its list would be taken for the filtered one.

    Raises:
        RequestValidationError
    """
    if not request.query_params:
        return
    unknown = set(request.query_params) - query_parameters(request.scope["route"].dependant)
    if unknown:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name)} for name in unknown]
        )


def query_parameters(dependant: Dependant) -> set[str]:
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*map(query_parameters, dependant.dependencies))


def bearer(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise TokenMissing("Send a token: `Authorization: Bearer ...`")
    return secret


def find_caller(session: Session, secret: str) -> Caller:
    """
    Raises:
        TokenUnknown, TokenRevoked, TokenExpired
    """
    token = session.scalar(select(Token).where(Token.hash == hash_of(secret)))
    refuse_useless(token)
    assert token is not None
    studies = select(TokenStudy.study_id).where(TokenStudy.token_id == token.id)
    return Caller(
        token.id,
        token.role,
        token.all_studies,
        frozenset() if token.all_studies else frozenset(session.scalars(studies)),
    )


def require_still(services: Services, caller: Caller) -> None:
    """For a request that has waited: its token may have ended meanwhile.

    Raises:
        TokenUnknown, TokenRevoked, TokenExpired
    """
    with services.sessionmaker() as session:
        refuse_useless(session.get(Token, caller.token_id))


def refuse_useless(token: Token | None) -> None:
    refusal: ServiceError | None = None
    if token is None:
        refusal = TokenUnknown("There is no such token")
    elif token.revoked_at is not None:
        refusal = TokenRevoked("The token was revoked")
    elif token.expires_at is not None and token.expires_at <= datetime.now(UTC):
        refusal = TokenExpired("The token's end date has passed")
    if refusal is not None:
        raise refusal


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(secret: str) -> bytes:
    """Plain SHA-256 is enough for 256 random bits: nobody can try them out."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


# --- the tokens of the first start ----------------------------------------------------------------


def make_first_tokens(services: Services) -> None:
    """An owner's token at the first start, and a worker's whenever its file is missing.

    A token that is in its file and not in the database (it was restored, say) is made known again;
    a revoked one stays revoked.
    """
    settings = services.settings
    take_from_data(settings)
    with services.sessionmaker.begin() as session:
        # One API at a time: two would each make a file and one of them would be wrong.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext("fieldscribe:tokens"))))
        owned = session.scalar(select(Token.id).where(Token.role == OWNER).limit(1)) is not None
        for role, path in ((OWNER, settings.owner_token), (WORKER, settings.worker_token)):
            if not path.exists():
                if role == OWNER and owned:
                    continue  # somebody took the file away on purpose
                make_folder(path.parent)
                with whole_file(path) as file:
                    file.write(f"{new_secret()}\n".encode())
            secret = path.read_text().strip()
            session.execute(
                insert(Token)
                .values(
                    id=UUID(bytes=os.urandom(16), version=4),
                    hash=hash_of(secret),
                    role=role,
                    all_studies=True,
                )
                .on_conflict_do_nothing(index_elements=[Token.hash])
            )


def take_from_data(settings: Settings) -> None:
    """The owner's token once lay in the data folder, which workers read."""
    old = settings.data / settings.owner_token.name
    if old.exists():
        if not settings.owner_token.exists():
            make_folder(settings.keys)
            with whole_file(settings.owner_token) as file:
                file.write(old.read_bytes())
        old.unlink()
