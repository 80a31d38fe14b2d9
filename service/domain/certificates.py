"""Certificates: dated and signed statements of what was removed, and how that was checked.

A certificate holds codes, ids, counts, times and roles, never names, so that it can be filed and
sent. It says only what was done and what is known: a check that failed is on it as such. The row
keeps the signed text, because another spelling of the same JSON would not match the signature.

ServiceError
└── CertificateNotFound
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, ClassVar, Literal
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from service import signing
from service.database.tables import Certificate, Study
from service.domain import audit
from service.domain.callers import Caller
from service.domain.studies import find_study
from service.errors import ServiceError
from service.services import Services
from service.settings import Settings
from service.vault.files import locked, write_atomically

SCHEMA = "fieldscribe.certificate/1"
Kind = Literal["withdrawal", "destruction"]
Outcome = Literal["passed", "failed", "not_checked"]


class CertificateNotFound(ServiceError):
    """There is no such certificate, or it is not of your studies."""

    code: ClassVar[str] = "certificate_not_found"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class Item:
    """Things of one kind. `what`: such as `recording`; `ids`: of the service, or codes.

    `note`: a plain sentence without names.
    """

    what: str
    n: int
    ids: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Check:
    """How something was verified. `what`: a plain sentence; `failures`: ids or codes."""

    what: str
    outcome: Outcome
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passed:
    """Something that had left the service before: somebody must ask its holder to delete it."""

    what: str
    id: str
    by: str  # a role
    at: str  # ISO 8601, UTC


@dataclass(frozen=True)
class Statement:
    """The content of a certificate.

    `subject`: a code, such as P07. `scope`: what was asked for. `backups`: sentences on what
    backups may still hold; see `describe_backups`.
    """

    kind: Kind
    study_id: UUID
    subject: str
    scope: str
    requested_at: datetime
    requested_by: str | None  # a role
    reason: str | None = None
    removed: tuple[Item, ...] = ()
    replaced: tuple[Item, ...] = ()
    kept: tuple[Item, ...] = ()
    not_removed: tuple[Item, ...] = ()
    checks: tuple[Check, ...] = ()
    passed_on: tuple[Passed, ...] = ()
    backups: tuple[str, ...] = ()


# --- the key --------------------------------------------------------------------------------------


def create_certificate_key(settings: Settings) -> bytes:
    """The private key of this installation, which is created at the first start."""
    path = settings.certificate_key
    if not path.exists():
        with locked(settings.keys, wait=True):
            if not path.exists():
                with write_atomically(path) as file:
                    file.write(os.urandom(signing.KEY_BYTES))
    return path.read_bytes()


def public_key(settings: Settings) -> str:
    """In base64."""
    return signing.public_key_of(create_certificate_key(settings))


# --- issuing and reading --------------------------------------------------------------------------


def issue(
    session: DbSession, services: Services, caller: Caller | None, statement: Statement
) -> Certificate:
    """Sign a statement and store it as a certificate."""
    study = session.get_one(Study, statement.study_id)
    id, now = uuid4(), datetime.now(UTC)
    about = {
        "schema": SCHEMA,
        "id": str(id),
        "issued_at": _written(now),
        "fieldscribe": version("fieldscribe"),
        "study": study.code,
        **asdict(statement),
        "study_id": str(statement.study_id),
        "requested_at": _written(statement.requested_at),
        "complete": not statement.not_removed
        and all(check.outcome == "passed" for check in statement.checks),
    }
    document = json.dumps(about, ensure_ascii=False, indent=1)
    key = create_certificate_key(services.settings)
    certificate = Certificate(
        id=id,
        study_id=study.id,
        kind=statement.kind,
        subject=statement.subject,
        document=document,
        signature=signing.sign(key, document),
        public_key=signing.public_key_of(key),
        created_at=now,
    )
    session.add(certificate)
    session.flush()
    audit.record(
        session,
        caller,
        "certificate.issued",
        study.id,
        {"certificate": id, "participant": statement.subject},
        detail={"kind": statement.kind, "complete": bool(about["complete"])},
    )
    return certificate


def find_certificate(session: DbSession, caller: Caller, id: UUID) -> Certificate:
    """
    Raises:
        CertificateNotFound
    """
    found = session.get(Certificate, id)
    if found is None or not caller.may_see(found.study_id):
        raise CertificateNotFound("There is no such certificate, or it is not of your studies")
    return found


def list_certificates(
    session: DbSession, caller: Caller, study: str | None = None
) -> Sequence[Certificate]:
    """The certificates of the caller's studies, newest first.

    Raises:
        StudyNotFound, Erased
    """
    query = caller.restrict(select(Certificate), Certificate.study_id)
    if study is not None:
        query = query.where(Certificate.study_id == find_study(session, caller, study).id)
    return session.scalars(query.order_by(Certificate.created_at.desc(), Certificate.id)).all()


def signed_json(certificate: Certificate) -> bytes:
    """The file that `fieldscribe certificate verify` reads."""
    return signing.signed_file(certificate.document, certificate.signature, certificate.public_key)


def content_of(certificate: Certificate) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(certificate.document)
    return content


# --- backups --------------------------------------------------------------------------------------


def last_backup_at(settings: Settings) -> datetime | None:
    """When the newest backup of the data was made, as far as the service knows."""
    try:
        written = json.loads((settings.data / "backup.json").read_bytes())["at"]
        return datetime.fromisoformat(written)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_backups(settings: Settings, destroyed_at: datetime) -> tuple[str, ...]:
    """Sentences on what backups may still hold: only what the service knows."""
    last = last_backup_at(settings)
    sentences = [
        "No backup is known to this service."
        if last is None
        else f"The newest backup of the data that this service knows of was made at "
        f"{_written(last)}.",
        f"Copies of files in backups made before {_written(destroyed_at)} are encrypted; what was "
        "removed can be read from them only with a key archive from before that time.",
    ]
    days = settings.backup_keep_days
    if days is None:
        sentences.append(
            "How long backups are kept is not recorded here: the administrator deletes key "
            "archives from before that time, and can state how long in "
            "FIELDSCRIBE_BACKUP_KEEP_DAYS."
        )
    else:
        until = destroyed_at + timedelta(days=days)
        sentences.append(
            f"By the administrator's setting, backups and key archives are deleted after "
            f"{days:g} days: those from before that time are gone by {_written(until)}."
        )
    sentences.append(
        "A backup from before that time can be restored only with the newest key archive: the "
        "restore then removes again what was removed."
    )
    return tuple(sentences)


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
