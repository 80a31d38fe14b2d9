"""Callers and what their tokens allow. A token is stored as a hash, with a role and studies.

| role | may |
|---|---|
| researcher | use recordings, sessions, jobs and transcripts of its studies |
| coder | read the releases of its studies, and nothing else |
| listener | everything that a coder may, and hear masked audio |
| custodian | list its studies and sessions, look up names in the linkage store, export them |
| deidentifier | claim and finish the hand-offs of its studies |
| admin | manage tokens and studies, list jobs, unseal the vault; read no content |
| owner | everything, in every study |
| worker | get the data keys of the job that it has claimed |
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, false, func, select, update
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Device, Token, TokenStudy
from service.errors import ServiceError, SignedOut, TokenExpired, TokenRevoked, TokenUnknown
from service.services import Services
from service.settings import Settings

PREFIX = "fieldscribe_"  # lets secret scanners recognise a leaked token
OWNER = "owner"
CODER = "coder"
LISTENER = "listener"
WORKER = "worker"
CONTENT_ROLES = ("researcher", "listener", "deidentifier", "custodian", WORKER)
"""Roles that read content, or will. Only an owner creates their tokens, or allows admins to."""
USE_EVERY = timedelta(minutes=1)  # between two updates of a token's last use
STUDY_READERS = ("researcher", "custodian", "deidentifier", "admin")
RELEASE_READERS = ("researcher", CODER)  # and a listener, who may do all that a coder may

S = TypeVar("S", bound=Select[Any])


@dataclass(frozen=True)
class Caller:
    """The token that a request came with, and what it allows."""

    token_id: UUID
    role: str
    all_studies: bool
    studies: frozenset[UUID]
    device_id: UUID | None = None  # of the browser, if the request came with its cookie

    def may_see(self, study_id: UUID) -> bool:
        return self.all_studies or study_id in self.studies

    def restrict(self, statement: S, study_id: Any) -> S:
        """Limit a query to the caller's studies; `study_id` is a column."""
        if self.all_studies:
            return statement
        return statement.where(study_id.in_(self.studies) if self.studies else false())


def find_caller(session: DbSession, secret: str) -> Caller:
    """Find the token and record its use.

    Raises:
        TokenUnknown, TokenRevoked, TokenExpired
    """
    token = session.scalar(select(Token).where(Token.hash == hash_secret(secret)))
    return caller_of(session, token)


def caller_of(session: DbSession, token: Token | None, device_id: UUID | None = None) -> Caller:
    """
    Raises:
        TokenUnknown, TokenRevoked, TokenExpired
    """
    refuse_invalid(token)
    assert token is not None
    _record_use(session, token)
    studies = select(TokenStudy.study_id).where(TokenStudy.token_id == token.id)
    return Caller(
        token.id,
        token.role,
        token.all_studies,
        frozenset() if token.all_studies else frozenset(session.scalars(studies)),
        device_id,
    )


def _record_use(session: DbSession, token: Token) -> None:
    """Record that a token is used now, unless that was recorded within the last minute."""
    if token.last_used_at is not None and token.last_used_at > datetime.now(UTC) - USE_EVERY:
        return
    session.execute(
        update(Token)
        .where(Token.id == token.id)
        .where(
            Token.last_used_at.is_(None) | (Token.last_used_at < func.clock_timestamp() - USE_EVERY)
        )
        .values(last_used_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )


def require_valid_token(services: Services, caller: Caller) -> None:
    """Check again after a wait, during which the token may have expired or been revoked.

    Raises:
        TokenUnknown, TokenRevoked, TokenExpired, SignedOut
    """
    with services.sessionmaker() as session:
        refuse_invalid(session.get(Token, caller.token_id))
        if caller.device_id is not None and has_signed_out(
            session.get_one(Device, caller.device_id), services.settings
        ):
            raise SignedOut("You are signed out: sign in again")


def has_signed_out(device: Device, settings: Settings) -> bool:
    """Whether a browser was signed out, by its user or after a time."""
    now = datetime.now(UTC)
    idle = timedelta(minutes=settings.sign_in_idle_minutes)
    return (
        device.signed_out_at is not None
        or device.ends_at <= now
        or device.last_seen_at + idle <= now
    )


def refuse_invalid(token: Token | None) -> None:
    refusal: ServiceError | None = None
    if token is None:
        refusal = TokenUnknown("There is no such token")
    elif token.revoked_at is not None:
        refusal = TokenRevoked("The token was revoked")
    elif token.expires_at is not None and token.expires_at <= datetime.now(UTC):
        refusal = TokenExpired("The token has expired")
    if refusal is not None:
        raise refusal


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def hash_secret(secret: str) -> bytes:
    """Plain SHA-256 is enough: 256 random bits cannot be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
