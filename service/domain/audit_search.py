"""Questions to the audit trail: who has read this, and what has happened to it.

A question is about a session, a participant, a token or anything with an id. What belongs to it is
found in the database: a session's recordings, transcripts, releases and so on. Answers name codes,
ids and roles, no content.

ServiceError
└── AboutNothing
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, get_args
from uuid import UUID

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session as DbSession

from service.database import tables
from service.database.tables import (
    AuditEntry,
    Entity,
    Handoff,
    Job,
    JobRecording,
    MaskedAudio,
    Participant,
    Recording,
    Release,
    StoredTranscript,
    Study,
    Token,
)
from service.domain.audit import Action
from service.domain.callers import Caller
from service.domain.studies import find_study, parse_id
from service.errors import ServiceError

READING: tuple[Action, ...] = (
    "vocabulary.read",
    "recording.details_read",
    "recording.played",
    "masked_audio.played",
    "job.keys_given",
    "transcript.read",
    "transcript.exported",
    "handoff.claimed",
    "names.exported",
    "names.read",
    "names.searched",
    "review.read",
    "sample.drawn",
    "release.read",
    "release.exported",
    "deposit.exported",
)
"""What gives somebody content. Whoever corrects, reviews or uploads has it too."""
OTHER_WORDS = {
    "sign_in.refused": "tried to sign in",
    "recording.played": "played",
    "masked_audio.played": "played masked audio",
    "recording.details_read": "read the details and the file name of a recording",
    "job.keys_given": "got the keys of a job's recordings",
    "names.read": "read names",
    "names.searched": "searched for a name",
    "handoff.claimed": "got the transcript to find names",
    "sample.drawn": "read a blind sample",
    "transcript.corrected": "corrected the transcript",
    "session.recordings_set": "set the recordings of a session",
}


class AboutNothing(ServiceError):
    """The study has no such session, participant or token."""

    code: ClassVar[str] = "about_nothing"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class Scope:
    """What a question is about: ids by kind of object, codes of participants, tokens."""

    ids: Mapping[str, Collection[UUID]] = field(default_factory=dict)
    participants: Collection[str] = ()
    tokens: Collection[UUID] = ()


@dataclass(frozen=True)
class Answer:
    """An entry in plain words. `who`: the token's name, or `the service`; `session`: its code."""

    entry: AuditEntry
    who: str
    what: str
    session: str | None
    is_reading: bool


def search(
    session: DbSession,
    caller: Caller,
    study: str,
    *,
    about: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    readings_only: bool = False,
    after: int = 0,
    limit: int,
) -> list[Answer]:
    """The entries of a study, oldest first.

    Args:
        study: id or code.
        about: a session's or participant's code, a token's name, or an id; None for everything.
        after: a position, for the next page.

    Raises:
        StudyNotFound, Erased, AboutNothing
    """
    found = find_study(session, caller, study)
    query = select(AuditEntry).where(AuditEntry.position > after)
    own: ColumnElement[bool] = AuditEntry.study_id == found.id
    if about is not None:
        scope = resolve(session, found, about)
        if scope.tokens:  # also what it did outside studies, such as signing in
            own |= AuditEntry.study_id.is_(None)
        query = query.where(or_(*_conditions(scope)))
    query = query.where(own)
    if since is not None:
        query = query.where(AuditEntry.at >= since)
    if until is not None:
        query = query.where(AuditEntry.at < until)
    if readings_only:
        query = query.where(AuditEntry.action.in_(READING))
    rows = session.scalars(query.order_by(AuditEntry.position).limit(limit)).all()
    return list(_describe(session, rows))


def _conditions(scope: Scope) -> Iterable[ColumnElement[bool]]:
    for kind, ids in scope.ids.items():
        for id in ids:
            yield AuditEntry.objects.contains({kind: str(id)})
            if kind in ("recording", "release", "entity"):  # several in one entry
                plural = {"entity": "entities"}.get(kind, f"{kind}s")
                yield AuditEntry.detail.contains({plural: [str(id)]})
    for code in scope.participants:
        yield AuditEntry.objects.contains({"participant": code})
        yield AuditEntry.detail.contains({"codes": [code]})
    if scope.tokens:
        yield AuditEntry.token_id.in_(scope.tokens)
        for id in scope.tokens:
            yield AuditEntry.objects.contains({"token": str(id)})


# --- what belongs to it ---------------------------------------------------------------------------


def resolve(session: DbSession, study: Study, about: str) -> Scope:
    """
    Raises:
        AboutNothing
    """
    id = parse_id(about)
    if id is not None:
        token = session.get(Token, id)
        if token is not None:
            return Scope(tokens=[id])
        interview = session.get(tables.Session, id)
        if interview is not None and interview.study_id == study.id:
            return Scope(things_of(session, [id]))
        kinds = ("recording", "job", "transcript", "release", "masked_audio", "entity", "handoff")
        return Scope({kind: [id] for kind in kinds})
    own = tables.Session.study_id == study.id
    interview = session.scalar(select(tables.Session).where(own, tables.Session.code == about))
    if interview is not None:
        return Scope(things_of(session, [interview.id]))
    if scope := _participant(session, study, about):
        return scope
    named = select(Token.id).where((Token.name == about) | (Token.display_name == about))
    tokens = session.scalars(named).all()
    if not tokens:
        raise AboutNothing(
            "The study has no such session or participant, and no token has this name: give a "
            "code such as INT-07 or P07, a token's name, or an id"
        )
    return Scope(tokens=tokens)


def _participant(session: DbSession, study: Study, code: str) -> Scope | None:
    """A participant, with everything of the sessions in which the person takes part."""
    sessions = select(tables.Session.id).where(
        tables.Session.study_id == study.id, tables.Session.roster.contains([{"code": code}])
    )
    ids = set(session.scalars(sessions))
    spoken = select(StoredTranscript, Job.session_id).join(Job, Job.id == StoredTranscript.job_id)
    transcripts = set()
    for row, session_id in session.execute(spoken.where(StoredTranscript.study_id == study.id)):
        if any(speaker.get("code") == code for speaker in row.speakers.values()):
            transcripts.add(row.id)
            ids |= {session_id} if session_id is not None else set()
    entities = session.scalars(
        select(Entity.id).where(Entity.study_id == study.id, Entity.pseudonym == code)
    ).all()
    people = select(Participant.id).where(
        Participant.study_id == study.id, Participant.code == code
    )
    if not ids and not entities and not transcripts and session.scalar(people) is None:
        return None
    things = dict(things_of(session, ids))
    things["transcript"] = transcripts.union(things.get("transcript", ()))
    things["entity"] = entities
    return Scope(things, [code])


def things_of(session: DbSession, sessions: Collection[UUID]) -> dict[str, Collection[UUID]]:
    """Ids of all that belongs to sessions, by kind, also of what is erased."""
    recordings = session.scalars(
        select(Recording.id).where(Recording.session_id.in_(sessions))
    ).all()
    of_recordings = select(JobRecording.job_id).where(JobRecording.recording_id.in_(recordings))
    jobs = session.scalars(
        select(Job.id).where(Job.session_id.in_(sessions) | Job.id.in_(of_recordings))
    ).all()
    transcripts = session.scalars(
        select(StoredTranscript.id).where(StoredTranscript.job_id.in_(jobs))
    ).all()

    def made(table: type[Handoff] | type[Release] | type[MaskedAudio]) -> Sequence[UUID]:
        return session.scalars(select(table.id).where(table.transcript_id.in_(transcripts))).all()

    return {
        "session": sessions,
        "recording": recordings,
        "job": jobs,
        "transcript": transcripts,
        "handoff": made(Handoff),
        "release": made(Release),
        "masked_audio": made(MaskedAudio),
    }


# --- in plain words -------------------------------------------------------------------------------


def _describe(session: DbSession, rows: Sequence[AuditEntry]) -> Iterable[Answer]:
    ids = {row.token_id for row in rows if row.token_id is not None}
    names = {
        token.id: token.display_name or token.name or f"token {str(token.id)[:8]}"
        for token in session.scalars(select(Token).where(Token.id.in_(ids)))
    }
    codes = _session_codes(session, rows)
    for row in rows:
        who = "the service" if row.token_id is None else names.get(row.token_id, str(row.token_id))
        if row.token_id is None and row.action == "sign_in.refused":
            who = "somebody"
        code = next((codes[id] for id in map(str, row.objects.values()) if id in codes), None)
        yield Answer(row, who, describe(row), code, row.action in READING)


def _session_codes(session: DbSession, rows: Sequence[AuditEntry]) -> dict[str, str]:
    """Codes of sessions by the id of what belongs to them."""
    wanted = [
        UUID(id)
        for row in rows
        for kind, id in row.objects.items()
        if kind in ("session", "recording", "job", "transcript")
    ]
    code = tables.Session.code
    queries = (
        select(tables.Session.id, code).where(tables.Session.id.in_(wanted)),
        select(Recording.id, code).join(tables.Session, tables.Session.id == Recording.session_id)
        .where(Recording.id.in_(wanted)),
        select(Job.id, code).join(tables.Session, tables.Session.id == Job.session_id)
        .where(Job.id.in_(wanted)),
        select(StoredTranscript.id, code).join(Job, Job.id == StoredTranscript.job_id)
        .join(tables.Session, tables.Session.id == Job.session_id)
        .where(StoredTranscript.id.in_(wanted)),
    )  # fmt: skip
    return {str(id): code for query in queries for id, code in session.execute(query)}


def describe(entry: AuditEntry) -> str:
    """What happened: `played 00:10:00 to 00:20:00`, `read the transcript, version 3`."""
    noun, _, verb = entry.action.partition(".")
    default = f"{verb.replace('_', ' ')} the {noun.replace('_', ' ')}"
    words = OTHER_WORDS.get(entry.action, default)
    return words + "".join(f", {each}" for each in _details(entry.objects, entry.detail))


def _details(objects: Mapping[str, Any], detail: Mapping[str, Any]) -> Iterable[str]:
    for start, end in detail.get("seconds", ()):
        yield f"{clock(start)} to {clock(end)}"
    if "version" in detail:
        yield f"version {detail['version']}"
    if detail.get("all"):
        yield "of everybody in the study"
    for name in ("participant", "paper", "format", "formats", "code", "codes", "kind", "state"):
        value = objects.get(name, detail.get(name))
        if value:
            yield ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if "whisper_model" in detail:
        yield f"with {detail['whisper_model']} and {detail['diarisation_pipeline']}"
    if "fields" in detail:
        yield ", ".join(detail["fields"])


def clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


assert set(READING) <= set(get_args(Action))
