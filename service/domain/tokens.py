"""Tokens: created, listed, revoked, and those of the first start."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Study, Token, TokenStudy
from service.domain import audit
from service.domain.callers import CONTENT_ROLES, OWNER, WORKER, Caller, hash_secret, new_secret
from service.domain.pages import page_of
from service.domain.studies import find_study
from service.errors import NotAllowed, TokenNotFound
from service.services import Services
from service.settings import Settings
from service.vault.files import make_folder, write_atomically

DEIDENTIFIER = "deidentifier"
PRIVILEGED = ("owner", "admin")


@dataclass(frozen=True)
class CreatedToken:
    token: Token
    studies: list[UUID]
    secret: str  # only its hash is stored


def create_token(
    session: DbSession,
    caller: Caller,
    *,
    role: str,
    name: str | None = None,
    studies: Sequence[str] = (),
    all_studies: bool = False,
    expires_at: datetime | None = None,
) -> CreatedToken:
    """
    Args:
        studies: ids or codes.

    Raises:
        NotAllowed: only an owner creates owners, admins and workers, and tokens that read the
            content of a study, unless an owner has allowed admins to for that study.
        StudyNotFound, Erased
    """
    if role in PRIVILEGED and caller.role != OWNER:
        raise NotAllowed(f"Only an owner may create a token with the role {role}")
    secret = new_secret()
    found = {study.id: study for study in (find_study(session, caller, code) for code in studies)}
    if role in CONTENT_ROLES and caller.role != OWNER:
        refuse_content_token(role, list(found.values()), all_studies)
    study_ids = sorted(found)
    token = Token(
        id=uuid4(),
        name=name,
        hash=hash_secret(secret),
        role=role,
        all_studies=all_studies or role in (*PRIVILEGED, WORKER),
        expires_at=expires_at,
    )
    session.add(token)
    session.flush()
    session.add_all(TokenStudy(token_id=token.id, study_id=id) for id in study_ids)
    detail: dict[str, audit.Value] = {
        "role": role,
        "studies": [str(id) for id in study_ids],
        "all_studies": token.all_studies,
    }
    audit.record(session, caller, "token.created", None, {"token": token.id}, detail=detail)
    return CreatedToken(token, study_ids, secret)


def refuse_content_token(role: str, studies: Sequence[Study], all_studies: bool) -> None:
    """Refuse an admin's token that reads content, unless every study it is for allows it.

    Raises:
        NotAllowed
    """
    if role == WORKER or all_studies or not studies:
        raise NotAllowed(
            f"Only an owner may create a token with the role {role} without naming its studies"
        )
    if any(role not in study.admins_may_create for study in studies):
        raise NotAllowed(
            f"Only an owner may create a token with the role {role} for this study; the owner can "
            f"allow admins to: fieldscribe study allow CODE --admins-may-create {role}"
        )


@dataclass(frozen=True)
class TokenPage:
    """Tokens, each with the ids of its studies."""

    rows: list[tuple[Token, list[UUID]]]
    next_cursor: str | None


def list_tokens(session: DbSession, *, limit: int, cursor: str | None) -> TokenPage:
    """A page of all tokens, newest first.

    Raises:
        BadCursor
    """
    page = page_of(session, Token, select(Token), limit=limit, cursor=cursor)
    studies: dict[UUID, list[UUID]] = {token.id: [] for token in page.rows}
    access = select(TokenStudy).where(TokenStudy.token_id.in_(studies))
    for row in session.scalars(access.order_by(TokenStudy.study_id)):
        studies[row.token_id].append(row.study_id)
    return TokenPage([(token, studies[token.id]) for token in page.rows], page.next_cursor)


def find_own_token(session: DbSession, caller: Caller) -> tuple[Token, list[UUID]]:
    return session.get_one(Token, caller.token_id), token_studies(session, caller.token_id)


def token_studies(session: DbSession, token_id: UUID) -> list[UUID]:
    query = select(TokenStudy.study_id).where(TokenStudy.token_id == token_id)
    return list(session.scalars(query))


def revoke_token(session: DbSession, caller: Caller, token_id: UUID) -> tuple[Token, list[UUID]]:
    """
    Raises:
        TokenNotFound
        NotAllowed: only an owner revokes owners and admins.
    """
    token = session.get(Token, token_id, with_for_update=True)
    if token is None:
        raise TokenNotFound("There is no token with this id")
    if token.role in PRIVILEGED and caller.role != OWNER:
        raise NotAllowed(f"Only an owner may revoke a token with the role {token.role}")
    token.revoked_at = token.revoked_at or datetime.now(UTC)
    audit.record(session, caller, "token.revoked", None, {"token": token.id})
    return token, token_studies(session, token_id)


# --- the tokens of the first start ----------------------------------------------------------------


def make_first_tokens(services: Services) -> None:
    """Create the owner's token at the first start, and those of programs whose file is missing.

    A token that is in its file but not in the database, perhaps after a restore, is added again.
    A revoked one stays revoked.
    """
    settings = services.settings
    move_from_data_folder(settings)
    with services.sessionmaker.begin() as session:
        # One API at a time: two would each write a file, and one of them would be wrong.
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext("fieldscribe:tokens"))))
        has_owner = session.scalar(select(Token.id).where(Token.role == OWNER).limit(1)) is not None
        for role, path in (
            (OWNER, settings.owner_token),
            (WORKER, settings.worker_token),
            (DEIDENTIFIER, settings.deidentifier_token),
        ):
            if not path.exists():
                if role == OWNER and has_owner:
                    continue  # the file was removed on purpose
                make_folder(path.parent)
                with write_atomically(path) as file:
                    file.write(f"{new_secret()}\n".encode())
            secret = path.read_text().strip()
            session.execute(
                insert(Token)
                .values(
                    id=UUID(bytes=os.urandom(16), version=4),
                    hash=hash_secret(secret),
                    role=role,
                    all_studies=True,
                )
                .on_conflict_do_nothing(index_elements=[Token.hash])
            )


def move_from_data_folder(settings: Settings) -> None:
    """Move the owner's token from the data folder, which workers read, to the keys folder.

    Earlier versions wrote it there.
    """
    old = settings.data / settings.owner_token.name
    if old.exists():
        if not settings.owner_token.exists():
            make_folder(settings.keys)
            with write_atomically(settings.owner_token) as file:
                file.write(old.read_bytes())
        old.unlink()


def token_names(session: DbSession, ids: Collection[UUID]) -> dict[UUID, str | None]:
    """The names of accounts, or else of tokens, to show who did something."""
    rows = session.scalars(select(Token).where(Token.id.in_(ids)))
    return {row.id: row.display_name or row.name for row in rows}
