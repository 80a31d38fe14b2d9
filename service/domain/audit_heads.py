"""Heads of the audit trail outside the database, by which a cut or replaced trail is found.

The newest head is written to a file among the keys every minute, and the last of each day stays
there. Whoever can change both the database and that file is found out by a head that has left the
machine: once a day it is sent by e-mail, or to an address of the administrator's.
"""

import asyncio
import json
import logging
import smtplib
import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from email.message import EmailMessage

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session as DbSession

from service import audit_chain
from service.audit_chain import Checked, Head
from service.database.tables import AuditEntry
from service.domain import audit
from service.services import Services
from service.settings import Settings
from service.vault.files import locked, write_atomically

RECORD_EVERY = 60.0  # s
RETRY_AFTER = 3600.0  # s, after a head that could not be sent
SEND_SECONDS = 30.0

log = logging.getLogger(__name__)


def read_recorded(settings: Settings) -> list[Head]:
    """The heads in the file among the keys, oldest first."""
    if not settings.audit_heads.exists():
        return []
    return list(audit_chain.read_heads(settings.audit_heads.read_text().splitlines()))


def record_head(services: Services) -> Head | None:
    """Add the newest head to the file. It replaces an earlier one of the same day.

    A head that the trail does not contain any more is kept, because it is the evidence.

    Returns:
        The newest head; None if there is no entry yet.
    """
    settings = services.settings
    with services.sessionmaker() as session:
        newest = audit.read_head(session)
        known = read_recorded(settings)
        if newest is None or (known and str(known[-1]) == str(newest)):
            return newest
        head = Head(newest.position, newest.hash, datetime.now(UTC).isoformat(timespec="seconds"))
        if known and not is_in_trail(session, known[-1]):
            log.error(
                "audit trail: entry %d is not the one recorded outside the database: run "
                "`fieldscribe audit --verify`",
                known[-1].position,
            )
        elif known and _day(known[-1]) == _day(head):
            known.pop()
    with locked(settings.keys, wait=True):
        _write(settings, [*known, head])
    return head


def is_in_trail(session: DbSession, head: Head) -> bool:
    query = select(AuditEntry.hash).where(AuditEntry.position == head.position)
    found = session.scalar(query)
    return found is not None and found.hex() == head.hash


def verify(services: Services, heads: Sequence[Head] = ()) -> Checked:
    """Check the trail against the heads in the file among the keys, and against others."""
    with services.sessionmaker() as session:
        return audit.verify(session, [*read_recorded(services.settings), *heads])


def _day(head: Head) -> str:
    return (head.at or "")[:10]


def _write(settings: Settings, heads: Sequence[Head]) -> None:
    with write_atomically(settings.audit_heads) as file:
        file.writelines(f"{json.dumps(asdict(head))}\n".encode() for head in heads)


# --- sending --------------------------------------------------------------------------------------


def is_sent_anywhere(settings: Settings) -> bool:
    return settings.audit_mail_to is not None or settings.audit_head_url is not None


def send_head(settings: Settings, head: Head) -> None:
    """Send a head by e-mail, to an address, or both.

    Raises:
        OSError, smtplib.SMTPException
    """
    if settings.audit_mail_to is not None:
        _mail(settings, head)
    if settings.audit_head_url is not None:
        request = urllib.request.Request(
            settings.audit_head_url,
            json.dumps({"type": "audit.head", **asdict(head)}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=SEND_SECONDS) as answer:
            answer.read(1)


def _mail(settings: Settings, head: Head) -> None:
    message = EmailMessage()
    message["Subject"] = f"Fieldscribe audit trail: head {head.position}"
    message["From"] = settings.audit_mail_from
    message["To"] = settings.audit_mail_to
    message.set_content(
        f"Newest entry of the audit trail at {head.at} (UTC):\n\n{head}\n\n"
        "Keep this message. If the trail is cut, replaced or rewritten later, this finds it:\n\n"
        f"fieldscribe audit --verify --head {head}\n"
    )
    context = ssl.create_default_context()
    host, port = settings.audit_mail_host, settings.audit_mail_port
    if settings.audit_mail_tls == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=SEND_SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, port, timeout=SEND_SECONDS)
    with server:
        if settings.audit_mail_tls == "starttls":
            server.starttls(context=context)
        if settings.audit_mail_user is not None and settings.audit_mail_password_file is not None:
            password = settings.audit_mail_password_file.read_text().strip()
            server.login(settings.audit_mail_user, password)
        server.send_message(message)


def send_daily(services: Services, today: date) -> bool:
    """Send the head unless that was done today, on this installation.

    Returns:
        False if it must be tried again.
    """
    settings = services.settings
    marker = settings.keys / "audit-head-sent"
    if not is_sent_anywhere(settings):
        return True
    if marker.exists() and marker.read_text().strip() == today.isoformat():
        return True
    head = record_head(services)
    if head is None:
        return True
    try:
        send_head(settings, head)
    except (OSError, smtplib.SMTPException) as error:
        # Without the message, which may quote addresses.
        log.error("audit trail: its head could not be sent: %s", type(error).__name__)
        return False
    with write_atomically(marker) as file:
        file.write(f"{today.isoformat()}\n".encode())
    log.info("audit trail: head %d sent", head.position)
    return True


async def keep_heads(services: Services) -> None:
    """Record the head every minute, and send it once a day, for ever."""
    retry_at = 0.0
    loop = asyncio.get_running_loop()
    while True:
        try:
            await asyncio.to_thread(record_head, services)
            if loop.time() >= retry_at:
                today = datetime.now(UTC).date()
                sent = await asyncio.to_thread(send_daily, services, today)
                retry_at = 0.0 if sent else loop.time() + RETRY_AFTER
        except (OperationalError, InterfaceError) as error:
            log.warning("audit trail: its head was not recorded: %s", type(error).__name__)
        await asyncio.sleep(RECORD_EVERY)
