"""Signing in with a browser: one-time links, and the devices that they sign in.

A device is a browser with a cookie. What it may do is read from its token at every request, so a
token that is revoked signs all its devices out.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypedDict, Unpack
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Device, SignInLink, SignOn, Study, Token, TokenStudy
from service.domain import audit
from service.domain.callers import (
    USE_EVERY,
    Caller,
    caller_of,
    has_signed_out,
    hash_secret,
    new_secret,
    refuse_invalid,
)
from service.domain.tokens import CreatedToken, create_token
from service.errors import DeviceNotFound, NotAllowed, SignedOut, SignInLinkUnusable, TokenUnknown
from service.services import Services
from service.settings import Settings

BROWSER_ROLES = ("researcher", "coder", "listener", "custodian", "admin", "owner")
LINK_LASTS = timedelta(minutes=15)
INVITATION_LASTS = timedelta(days=1)
KEPT_FOR = timedelta(days=30)  # after its end: a link, or a device, which is listed for as long
UNUSABLE = "The link was used before or has expired: ask for a new one"
BROWSERS = (
    ("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrom", "Chrome"),
    ("Safari", "Safari"),
)  # fmt: skip
SYSTEMS = (
    ("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("Windows", "Windows"),
    ("Mac OS X", "Mac"), ("CrOS", "ChromeOS"), ("Linux", "Linux"),
)  # fmt: skip


@dataclass(frozen=True)
class Link:
    """What a sign-in link gives access to."""

    token: Token
    studies: list[str]  # codes
    expires_at: datetime
    gives_key: bool
    secret: str = ""  # only when the link is created


class Account(TypedDict):
    """The fields of a person's token."""

    role: str
    display_name: str | None
    studies: Sequence[str]
    all_studies: bool
    expires_at: datetime | None


@dataclass(frozen=True)
class SignedIn:
    device: Device
    token: Token
    cookie: str
    key: str | None = None  # the token's new secret, shown once


def create_link(
    session: DbSession,
    caller: Caller,
    token: Token,
    *,
    lasts: timedelta = LINK_LASTS,
    gives_key: bool = False,
) -> Link:
    """
    Args:
        gives_key: whether signing in also gives the token a new secret, for the next sign-in.
    """
    secret = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    expires_at = min(now + lasts, token.expires_at or now + lasts)
    session.add(
        SignInLink(
            id=uuid4(),
            token_id=token.id,
            hash=hash_secret(secret),
            gives_key=gives_key,
            expires_at=expires_at,
        )
    )
    audit.record(session, caller, "sign_in_link.created", None, {"token": token.id})
    return Link(token, study_codes(session, token), expires_at, gives_key, secret)


def create_own_link(session: DbSession, caller: Caller) -> Link:
    """A link with which the caller signs in a browser."""
    return create_link(session, caller, session.get_one(Token, caller.token_id))


def invite(
    session: DbSession,
    caller: Caller,
    *,
    lasts: timedelta | None = None,
    **account: Unpack[Account],
) -> tuple[Link, list[UUID]]:
    """Create a token for a person, and the link with which the person signs in first.

    Raises:
        NotAllowed: see `create_token`, or the role cannot sign in with a browser.
        StudyNotFound, Erased
    """
    made = create_account(session, caller, **account)
    lasts = lasts or INVITATION_LASTS
    return create_link(session, caller, made.token, lasts=lasts, gives_key=True), made.studies


def create_account(session: DbSession, caller: Caller, **account: Unpack[Account]) -> CreatedToken:
    """Create a token for a person.

    Raises:
        NotAllowed: see `create_token`, or the role cannot sign in with a browser.
        StudyNotFound, Erased
    """
    refuse_role(account["role"])
    made = create_token(
        session,
        caller,
        role=account["role"],
        studies=account["studies"],
        all_studies=account["all_studies"],
        expires_at=account["expires_at"],
    )
    made.token.display_name = account["display_name"]
    return made


def check_link(session: DbSession, secret: str) -> Link:
    """
    Raises:
        SignInLinkUnusable, TokenRevoked, TokenExpired
    """
    link, token = _find_link(session, secret)
    return Link(token, study_codes(session, token), link.expires_at, link.gives_key)


def use_link(session: DbSession, settings: Settings, secret: str, user_agent: str) -> SignedIn:
    """Sign a browser in. The link cannot be used again.

    Raises:
        SignInLinkUnusable, TokenRevoked, TokenExpired, NotAllowed
    """
    link, token = _find_link(session, secret, lock=True)
    link.used_at = datetime.now(UTC)
    key = None
    if link.gives_key:
        key = new_secret()
        token.hash = hash_secret(key)
    return sign_in_token(session, settings, token, user_agent, key)


def use_key(session: DbSession, settings: Settings, secret: str, user_agent: str) -> SignedIn:
    """Sign a browser in with the secret of a token.

    Raises:
        TokenUnknown, TokenRevoked, TokenExpired, NotAllowed
    """
    token = session.scalar(select(Token).where(Token.hash == hash_secret(secret)))
    if token is None:
        raise TokenUnknown("There is no such key: check that you have copied all of it")
    return sign_in_token(session, settings, token, user_agent)


def _find_link(session: DbSession, secret: str, *, lock: bool = False) -> tuple[SignInLink, Token]:
    query = select(SignInLink).where(SignInLink.hash == hash_secret(secret))
    link = session.scalar(query.with_for_update() if lock else query)
    if link is None or link.used_at is not None or link.expires_at <= datetime.now(UTC):
        raise SignInLinkUnusable(UNUSABLE)
    token = session.get_one(Token, link.token_id)
    refuse_invalid(token)
    return link, token


def sign_in_token(
    session: DbSession, settings: Settings, token: Token, user_agent: str, key: str | None = None
) -> SignedIn:
    """Sign a browser in with a token.

    Raises:
        TokenRevoked, TokenExpired, NotAllowed
    """
    refuse_invalid(token)
    refuse_role(token.role)
    cookie, now = secrets.token_urlsafe(32), datetime.now(UTC)
    ends_at = now + timedelta(hours=settings.sign_in_hours)
    device = Device(
        id=uuid4(),
        token_id=token.id,
        hash=hash_secret(cookie),
        browser=browser_name(user_agent),
        created_at=now,
        last_seen_at=now,
        ends_at=min(ends_at, token.expires_at or ends_at),
    )
    session.add(device)
    session.flush()
    caller = Caller(token.id, token.role, token.all_studies, frozenset(), device.id)
    audit.record(session, caller, "browser.signed_in", None, {"browser": device.id})
    return SignedIn(device, token, cookie, key)


def refuse_role(role: str) -> None:
    """
    Raises:
        NotAllowed
    """
    if role not in BROWSER_ROLES:
        raise NotAllowed(f"The role {role} is for programs: it cannot sign in with a browser")


def find_device_caller(
    session: DbSession, settings: Settings, cookie: str, *, active: bool
) -> Caller:
    """The caller whose browser sent a cookie.

    Args:
        active: whether the request counts as activity, which postpones the time-out.

    Raises:
        SignedOut, TokenUnknown, TokenRevoked, TokenExpired
    """
    device = session.scalar(select(Device).where(Device.hash == hash_secret(cookie)))
    if device is None or has_signed_out(device, settings):
        raise SignedOut("You are signed out: sign in again")
    caller = caller_of(session, session.get(Token, device.token_id), device.id)
    if active and device.last_seen_at < datetime.now(UTC) - USE_EVERY:
        session.execute(
            update(Device)
            .where(Device.id == device.id)
            .values(last_seen_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )
    return caller


def list_devices(session: DbSession, caller: Caller) -> list[Device]:
    """The browsers signed in with the caller's token, and those of the last 30 days."""
    recent = Device.last_seen_at > func.clock_timestamp() - KEPT_FOR
    query = select(Device).where(Device.token_id == caller.token_id, recent)
    return list(session.scalars(query.order_by(Device.last_seen_at.desc(), Device.id).limit(100)))


def sign_out(session: DbSession, caller: Caller, device_id: UUID) -> Device:
    """
    Raises:
        DeviceNotFound
    """
    device = session.get(Device, device_id, with_for_update=True)
    if device is None or device.token_id != caller.token_id:
        raise DeviceNotFound("You have no signed-in browser with this id")
    device.signed_out_at = device.signed_out_at or datetime.now(UTC)
    audit.record(session, caller, "browser.signed_out", None, {"browser": device.id})
    return device


def delete_old_sign_ins(services: Services) -> int:
    """Delete links, invitations and browsers that ended a month ago, which no list shows any more.

    Returns:
        The number of rows.
    """
    # Longer without a sign of life than a browser may be idle, it is signed out in any case.
    idle = timedelta(minutes=services.settings.sign_in_idle_minutes)
    before = func.clock_timestamp() - KEPT_FOR
    old = (
        delete(SignInLink).where(SignInLink.expires_at < before),
        delete(SignOn).where(SignOn.identity.is_(None), SignOn.expires_at < before),
        delete(Device).where(Device.last_seen_at < before - idle),
    )
    with services.sessionmaker.begin() as session:
        return sum(session.execute(each).rowcount for each in old)  # type: ignore[attr-defined]


def study_codes(session: DbSession, token: Token) -> list[str]:
    """Codes of a token's studies, without those that were erased."""
    query = select(Study.code).join(TokenStudy, TokenStudy.study_id == Study.id)
    query = query.where(TokenStudy.token_id == token.id, Study.erased_at.is_(None))
    return list(session.scalars(query.order_by(Study.code)))


def browser_name(user_agent: str) -> str:
    """Such as "Firefox on Windows". Nothing more of the header is stored."""
    browser = next((name for mark, name in BROWSERS if re.search(mark, user_agent)), "A browser")
    system = next((name for mark, name in SYSTEMS if mark in user_agent), None)
    return f"{browser} on {system}" if system else browser
