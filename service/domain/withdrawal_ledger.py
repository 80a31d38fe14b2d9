"""The ledger of withdrawals, which a restore applies again.

It lies beside the ledger of erased keys, one small file per withdrawal, without names. An older
backup knows nothing of a withdrawal: its files cannot be read, since their keys were destroyed, but
its rows still name the participant, and its reviews have no list of mentions.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from service.database import tables
from service.database.tables import (
    Certificate,
    Entity,
    Job,
    Mention,
    Participant,
    Review,
    StoredTranscript,
    Study,
    Withdrawal,
)
from service.domain.entities import linkage
from service.domain.recordings import identified
from service.services import Services
from service.settings import Settings
from service.vault.files import write_atomically

FOLDER = "withdrawals"


@dataclass(frozen=True)
class Place:
    """A mention of the person by somebody else: characters of a segment in a version."""

    transcript: str
    version: int
    segment: str
    start: int
    stop: int
    label: str


@dataclass
class Entry:
    """A withdrawal. `kept_jobs`: erased ones whose releases stay. `groups`: ids of sessions."""

    id: str
    study: str
    code: str
    scope: str
    reason: str | None
    requested_at: str
    token: str
    role: str
    participant: str | None
    entity: str | None
    kept_jobs: list[str]
    groups: list[str]
    mentions: list[Place]
    finished_at: str | None = None
    certificate: dict[str, str] | None = None


def write(settings: Settings, entry: Entry) -> None:
    with write_atomically(_path(settings, entry.study, entry.id)) as file:
        file.write(json.dumps(asdict(entry)).encode())


def read_all(settings: Settings) -> Iterator[Entry]:
    """The entries, oldest first. Foreign files are left alone."""
    found = []
    for path in sorted((settings.ledger / FOLDER).glob("*/*")):
        try:
            document = json.loads(path.read_bytes())
            document["mentions"] = [Place(**each) for each in document["mentions"]]
            found.append(Entry(**document))
        except (ValueError, KeyError, TypeError):  # half-written, or not ours
            continue
    yield from sorted(found, key=lambda entry: entry.requested_at)


def kept_jobs(settings: Settings) -> set[UUID]:
    """Jobs that were erased without their releases."""
    return {UUID(id) for entry in read_all(settings) for id in entry.kept_jobs}


def _path(settings: Settings, study: str, id: str) -> Path:
    return settings.ledger / FOLDER / study / id


def apply_again(session: DbSession, services: Services) -> int:
    """Apply withdrawals to the rows of a restored backup. Possible while the vault is sealed.

    Recordings, jobs, releases and names are erased again by the ledger of keys; this does the rest.

    Returns:
        Number of withdrawals that the backup did not have as finished.
    """
    n = 0
    for entry in read_all(services.settings):
        study = session.get(Study, UUID(entry.study))
        if study is None or study.erased_at is not None:
            continue
        row = session.get(Withdrawal, UUID(entry.id))
        if row is not None and row.state == "finished":
            continue
        n += 1
        _mark(session, services, entry)
        if entry.scope != "participation":
            _forget_vocabularies(session, services, study, entry)
            _reopen_mentions(session, study, entry)
        _restore_row(session, entry, row)
    return n


def _mark(session: DbSession, services: Services, entry: Entry) -> None:
    requested_at = datetime.fromisoformat(entry.requested_at)
    participant = session.get(Participant, UUID(entry.participant)) if entry.participant else None
    if participant is not None:
        participant.withdrawn_at = participant.withdrawn_at or requested_at
        if entry.scope != "participation":
            if participant.record_artefact_id is not None:
                linkage(services)[0].delete(participant.record_artefact_id)
            participant.record_artefact_id = None
            participant.erased_at = participant.erased_at or datetime.now(UTC)
    for id in entry.groups:
        interview = session.get(tables.Session, UUID(id))
        if interview is not None:
            remove_from_roster(interview, entry.code)


def remove_from_roster(interview: tables.Session, code: str) -> None:
    """Remove a person whose voice has left. The last participant stays: somebody took part."""
    left = [one for one in interview.roster if one["code"] != code]
    if any(one["role"] == "participant" for one in left):
        interview.roster = left


def _forget_vocabularies(
    session: DbSession, services: Services, study: Study, entry: Entry
) -> None:
    """Delete old vocabularies: they may hold the name, and nobody knows it any more."""
    store, _ = identified(services)
    if study.vocabulary_artefact_id is not None:
        store.delete(study.vocabulary_artefact_id)
        study.vocabulary_artefact_id = None
    jobs = session.scalars(
        select(Job).where(Job.study_id == study.id, Job.vocabulary_artefact_id.is_not(None))
    )
    for job in jobs:
        assert job.vocabulary_artefact_id is not None
        store.delete(job.vocabulary_artefact_id)
        job.vocabulary_artefact_id = None


def _reopen_mentions(session: DbSession, study: Study, entry: Entry) -> None:
    entity = session.get(Entity, UUID(entry.entity)) if entry.entity else None
    if entity is not None:
        known = select(Mention).where(Mention.entity_id == entity.id, Mention.state == "accepted")
        for mention in session.scalars(known).all():
            reopen(mention)
    for place in entry.mentions:
        row = session.get(StoredTranscript, UUID(place.transcript))
        review = session.get(Review, UUID(place.transcript))
        fits = review is not None and review.transcript_version == place.version
        if row is None or not fits or session.get_one(Job, row.job_id).status == "erased":
            continue
        overlapping = select(Mention.id).where(
            Mention.transcript_id == row.id,
            Mention.segment == place.segment,
            Mention.start < place.stop,
            Mention.stop > place.start,
        )
        if session.scalar(overlapping.limit(1)) is None:
            session.add(
                Mention(
                    study_id=study.id,
                    transcript_id=row.id,
                    transcript_version=place.version,
                    segment=place.segment,
                    start=place.start,
                    stop=place.stop,
                    label=place.label,
                    entity_id=None if entity is None else entity.id,
                    origin="withdrawal",
                )
            )
        if review is not None:
            review.version += 1


def reopen(mention: Mention) -> None:
    """Let a reviewer decide again on a mention of somebody who has withdrawn."""
    mention.state, mention.origin = "suggested", "withdrawal"
    mention.token_id = mention.decided_at = None
    mention.version += 1


def _restore_row(session: DbSession, entry: Entry, row: Withdrawal | None) -> None:
    """The row of a withdrawal that the backup does not have, or not to its end.

    One that had not ended is taken up again when the service starts.
    """
    if row is None:
        if session.get(tables.Token, UUID(entry.token)) is None:
            token = tables.Token(
                id=UUID(entry.token),
                hash=UUID(entry.token).bytes * 2,  # of no secret
                role=entry.role,
                revoked_at=datetime.now(UTC),
            )
            session.add(token)
            session.flush()
        row = Withdrawal(
            id=UUID(entry.id),
            study_id=UUID(entry.study),
            participant_id=_existing(session, entry.participant),
            code=entry.code,
            scope=entry.scope,
            reason=entry.reason,
            token_id=UUID(entry.token),
            role=entry.role,
            requested_at=datetime.fromisoformat(entry.requested_at),
            steps=[],
            results={},
        )
        session.add(row)
        session.flush()
    if entry.finished_at is not None:
        row.state = "finished"
        row.finished_at = datetime.fromisoformat(entry.finished_at)
        row.failure_code = None
        if entry.certificate is not None:
            _restore_certificate(session, entry.certificate, entry)
            row.certificate_id = UUID(entry.certificate["id"])


def _existing(session: DbSession, participant: str | None) -> UUID | None:
    found = None if participant is None else session.get(Participant, UUID(participant))
    return None if found is None else found.id


def _restore_certificate(session: DbSession, signed: dict[str, str], entry: Entry) -> None:
    id = UUID(signed["id"])
    if session.get(Certificate, id) is None:
        session.add(
            Certificate(
                id=id,
                study_id=UUID(entry.study),
                kind="withdrawal",
                subject=entry.code,
                document=signed["document"],
                signature=signed["signature"],
                public_key=signed["public_key"],
            )
        )
        session.flush()
