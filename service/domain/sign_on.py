"""Single sign-on: the accounts that people open by signing in at an OpenID Connect provider.

An administrator invites a person by e-mail address, or by the provider's identifier for them. The
first sign-in links the account to that identifier (issuer and subject); after that, the e-mail
address no longer matters. The database holds keyed hashes of both, so it tells no addresses. Nobody
gets in without an invitation.
"""

import hmac
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Unpack
from uuid import UUID

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session as DbSession

from service.database.tables import SignOn, Token
from service.domain.callers import Caller, refuse_invalid
from service.domain.sign_in import (
    Account,
    Link,
    SignedIn,
    create_account,
    sign_in_token,
    study_codes,
)
from service.errors import (
    SignOnNotConfigured,
    SignOnNotInvited,
    SignOnTaken,
    TokenExpired,
    TokenRevoked,
)
from service.settings import BadSettings, Settings
from service.vault.files import write_atomically

KEY_BYTES = 32
INVITATION_LASTS = timedelta(days=14)
# Two sign-ins of one person, or two invitations, one after the other.
LOCK = func.pg_advisory_xact_lock(func.hashtext("fieldscribe:sign-on"))
ENDED = "Your access has ended: ask your administrator for a new invitation"


@dataclass(frozen=True)
class Identity:
    """A person at the provider."""

    subject: str  # the provider's identifier, unique at the issuer
    email: str | None  # only if the provider has verified it


def read_client_secret(settings: Settings) -> str | None:
    """The secret with which the service identifies itself to the provider, if it has one.

    Raises:
        BadSettings
    """
    path = settings.sign_on_secret_file
    if path is None:
        return None
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise BadSettings("sign_on_secret_file cannot be read: check its path and mode") from None
    if not secret:
        raise BadSettings("sign_on_secret_file is empty: put the client's secret into it")
    return secret


def create_sign_on_key(settings: Settings) -> None:
    """Create the key of the hashes and of the cookies, unless there is one."""
    path = settings.sign_on_key
    if settings.sign_on_issuer is not None and not path.exists():
        with write_atomically(path) as file:
            file.write(os.urandom(KEY_BYTES))


def read_sign_on_key(settings: Settings) -> bytes:
    """
    Raises:
        SignOnNotConfigured
    """
    if settings.sign_on_issuer is None:
        raise SignOnNotConfigured(
            "Single sign-on is not set up: an administrator sets FIELDSCRIBE_SIGN_ON_ISSUER"
        )
    return settings.sign_on_key.read_bytes()


def invite(
    session: DbSession,
    settings: Settings,
    caller: Caller,
    *,
    email: str | None,
    subject: str | None,
    lasts: timedelta | None = None,
    **account: Unpack[Account],
) -> tuple[Link, list[UUID]]:
    """Create a token for a person, who opens it by signing in at the provider.

    Args:
        email: or `subject`, by which the provider's answer is recognised at the first sign-in.

    Raises:
        NotAllowed: see `create_account`.
        SignOnNotConfigured, SignOnTaken, StudyNotFound, Erased
    """
    expected = _hash(settings, "email", email.lower()) if email else None
    expected = expected or _hash(settings, "subject", str(subject))
    made = create_account(session, caller, **account)
    session.execute(select(LOCK))
    _free(session, expected)
    until = datetime.now(UTC) + (lasts or INVITATION_LASTS)
    until = min(until, made.token.expires_at or until)
    session.add(SignOn(token_id=made.token.id, expected=expected, expires_at=until))
    session.flush()
    return Link(made.token, study_codes(session, made.token), until, False), made.studies


def _free(session: DbSession, expected: bytes) -> None:
    """Remove an earlier invitation of the same person if it can no longer be used.

    Raises:
        SignOnTaken
    """
    earlier = session.scalar(select(SignOn).where(SignOn.expected == expected))
    if earlier is None:
        return
    pending = earlier.identity is None
    if _is_valid(session, earlier) and not (pending and earlier.expires_at <= datetime.now(UTC)):
        raise SignOnTaken(
            "This person already has an account: end it first with `fieldscribe token revoke "
            f"{earlier.token_id}`"
        )
    session.delete(earlier)
    session.flush()


def sign_in(
    session: DbSession, settings: Settings, identity: Identity, user_agent: str
) -> SignedIn:
    """Sign a browser in with the account of a person, and link the account at the first time.

    Raises:
        SignOnNotInvited: the person has no invitation, or the access has ended.
        NotAllowed
    """
    session.execute(select(LOCK))
    linked = _hash(settings, "identity", identity.subject)
    own = session.scalar(select(SignOn).where(SignOn.identity == linked))
    if own is None or not _is_valid(session, own):
        invited = _find_invitation(session, settings, identity)
        if invited is None:
            raise SignOnNotInvited(
                ENDED
                if own is not None
                else "You have no account here: ask your administrator to invite you",
                identity.subject,
            )
        if own is not None:
            session.execute(delete(SignOn).where(SignOn.token_id == own.token_id))
        invited.identity, invited.linked_at = linked, datetime.now(UTC)
        session.flush()
        own = invited
    return sign_in_token(session, settings, session.get_one(Token, own.token_id), user_agent)


def _find_invitation(session: DbSession, settings: Settings, identity: Identity) -> SignOn | None:
    expected = [_hash(settings, "subject", identity.subject)]
    # Only ASCII: other letters may become those of somebody else's address in lower case.
    if identity.email is not None and identity.email.isascii():
        expected.append(_hash(settings, "email", identity.email.lower()))
    pending = select(SignOn).where(
        or_(*(SignOn.expected == each for each in expected)),
        SignOn.identity.is_(None),
        SignOn.expires_at > func.clock_timestamp(),
    )
    found = {each.expected: each for each in session.scalars(pending)}
    usable = (found[each] for each in expected if each in found)
    return next((each for each in usable if _is_valid(session, each)), None)


def _is_valid(session: DbSession, sign_on: SignOn) -> bool:
    try:
        refuse_invalid(session.get_one(Token, sign_on.token_id))
    except (TokenRevoked, TokenExpired):
        return False
    return True


def _hash(settings: Settings, kind: str, value: str) -> bytes:
    """Of an e-mail address or an identifier at the configured issuer."""
    message = json.dumps([kind, settings.sign_on_issuer, value]).encode()
    return hmac.digest(read_sign_on_key(settings), message, sha256)
