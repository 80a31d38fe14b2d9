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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, false, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Token, TokenStudy
from service.errors import (
    ServiceError,
    TokenExpired,
    TokenRevoked,
    TokenUnknown,
)
from service.services import Services
from service.settings import Settings
from service.vault.files import make_folder, write_atomically

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


def find_caller(session: DbSession, secret: str) -> Caller:
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
                with write_atomically(path) as file:
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
            with write_atomically(settings.owner_token) as file:
                file.write(old.read_bytes())
        old.unlink()
