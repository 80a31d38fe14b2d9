"""What a withdrawal concerns: the participant, sessions, transcripts, what has left the service.

ServiceError
├── WithdrawalUnknownCode
└── VoicesUnknown
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from service.database import tables
from service.database.tables import (
    FINAL,
    AuditEntry,
    Consent,
    Correction,
    Entity,
    Handoff,
    Job,
    JobRecording,
    LinkageLookup,
    MaskedAudio,
    Mention,
    Participant,
    Recording,
    Release,
    StoredTranscript,
    Study,
    Token,
)
from service.domain.certificates import Passed
from service.domain.withdrawn_voice import Voice, find_voices
from service.errors import ServiceError

PEOPLE = ("participant", "interviewer", "person")  # kinds of entities; no place withdraws
INTERVIEWING = ("interviewer", "moderator", "observer")
PASSED_ON = {
    "transcript.exported": "transcript exported",
    "recording.played": "recording played or downloaded",
    "masked_audio.played": "masked audio played or downloaded",
    "release.read": "release read or downloaded",
    "release.exported": "releases exported",
    "deposit.exported": "deposit for an archive",
    "names.exported": "names exported",
    "handoff.claimed": "transcript given to a de-identifier",
    "packet.created": "transcript sent to the participant",
    "packet.opened": "transcript opened by the participant",
    "packet.read": "text or answer of a participant read",
}
"""What an entry of the audit trail says has left the service."""


MAIN_OBJECTS = (
    "release",
    "masked_audio",
    "transcript",
    "recording",
    "handoff",
    "entity",
    "session",
)


class WithdrawalUnknownCode(ServiceError):
    """Nobody in the study has this code."""

    code: ClassVar[str] = "withdrawal_unknown_code"
    status: ClassVar[int] = 404


class VoicesUnknown(ServiceError):
    """Nobody has said which voice in a group is the participant's."""

    code: ClassVar[str] = "voices_unknown"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class Person:
    """Who withdraws. One of the three rows may be all that the study has."""

    study: Study
    code: str
    participant: Participant | None
    entity: Entity | None


@dataclass
class Unit:
    """Recordings that are removed together: those of a session, or of a job without a session.

    `is_group`: others take part too, so only the person's voice leaves. `voices`: transcripts in
    which a speaker has the person's code. `unnamed`: why a group cannot be handled yet.
    """

    session: tables.Session | None
    recordings: list[Recording]
    jobs: list[Job]
    voices: list[Voice]
    is_group: bool
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        if self.session is not None:
            return self.session.code
        return f"job {self.jobs[0].id}" if self.jobs else "a recording without a session"


def find_person(session: DbSession, study: Study, code: str) -> Person:
    """
    Raises:
        WithdrawalUnknownCode
    """
    participant = session.scalar(
        select(Participant).where(Participant.study_id == study.id, Participant.code == code)
    )
    entity = session.scalar(
        select(Entity).where(
            Entity.study_id == study.id, Entity.pseudonym == code, Entity.kind.in_(PEOPLE)
        )
    )
    if participant is not None and participant.entity_id is not None:
        entity = session.get(Entity, participant.entity_id)
    person = Person(study, code, participant, entity)
    if participant is None and entity is None and not find_units(session, person):
        raise WithdrawalUnknownCode(
            f"Nobody in the study has the code {code}: see `fieldscribe participant list`"
        )
    return person


# --- sessions -------------------------------------------------------------------------------------


def find_units(session: DbSession, person: Person) -> list[Unit]:
    """The sessions whose roster or speakers have the person's code, by code, then other jobs."""
    jobs = session.scalars(
        select(Job).where(Job.study_id == person.study.id, Job.status != "erased")
    ).all()
    voices = find_voices(session, jobs, person.code)
    speaking = {voice.job_id for voice in voices}
    sessions = session.scalars(
        select(tables.Session).where(
            tables.Session.study_id == person.study.id, tables.Session.erased_at.is_(None)
        )
    ).all()
    links: dict[UUID, set[UUID]] = {}
    query = select(JobRecording.job_id, JobRecording.recording_id).join(
        Job, Job.id == JobRecording.job_id
    )
    for job_id, recording_id in session.execute(query.where(Job.study_id == person.study.id)):
        links.setdefault(job_id, set()).add(recording_id)
    recordings = {
        each.id: each
        for each in session.scalars(
            select(Recording).where(
                Recording.study_id == person.study.id, Recording.state != "erased"
            )
        )
    }
    heard = {
        recordings[id].session_id
        for job_id in speaking
        for id in links.get(job_id, ())
        if id in recordings
    } | {job.session_id for job in jobs if job.id in speaking}
    units, used = [], set()
    for interview in sorted(sessions, key=lambda each: (len(each.code), each.code)):
        on_roster = any(one["code"] == person.code for one in interview.roster)
        if not on_roster and interview.id not in heard:
            continue
        own = {id for id, each in recordings.items() if each.session_id == interview.id}
        own |= {
            id
            for job in jobs
            if job.id in speaking and job.session_id == interview.id
            for id in links.get(job.id, ())
            if id in recordings
        }
        if not own and not any(job.session_id == interview.id for job in jobs) and not on_roster:
            continue
        unit = _unit(session, person, interview, own, jobs, links, recordings, voices)
        used |= {job.id for job in unit.jobs}
        units.append(unit)
    for job in jobs:
        if job.id in speaking and job.id not in used:
            own = {id for id in links.get(job.id, ()) if id in recordings}
            unit = _unit(session, person, None, own, jobs, links, recordings, voices)
            used |= {each.id for each in unit.jobs}
            units.append(unit)
    return units


def _unit(
    session: DbSession,
    person: Person,
    interview: tables.Session | None,
    own: set[UUID],
    jobs: Sequence[Job],
    links: dict[UUID, set[UUID]],
    recordings: dict[UUID, Recording],
    voices: Sequence[Voice],
) -> Unit:
    of_unit = [
        job
        for job in jobs
        if links.get(job.id, set()) & own
        or (interview is not None and job.session_id == interview.id)
    ]
    ids = {job.id for job in of_unit}
    transcripts = {
        row.job_id: row
        for row in session.scalars(select(StoredTranscript).where(StoredTranscript.job_id.in_(ids)))
    }
    unit = Unit(
        interview,
        sorted((recordings[id] for id in own), key=lambda each: (each.position or 0, each.id)),
        of_unit,
        [voice for voice in voices if voice.job_id in ids],
        _is_group(session, person, interview, transcripts.values()),
    )
    if unit.is_group:
        unit.problems += _problems(person, unit, links, transcripts)
    return unit


def _is_group(
    session: DbSession,
    person: Person,
    interview: tables.Session | None,
    transcripts: Iterable[StoredTranscript],
) -> bool:
    """Whether anybody but interviewers takes part beside the person."""
    roster = [] if interview is None else interview.roster
    named = [name for row in transcripts for name in row.speakers.values()]
    others = {
        each["code"]
        for each in (*roster, *named)
        if each.get("code") and each["code"] != person.code
    }
    roles = {each["code"]: each.get("role") for each in (*named, *roster) if each.get("code")}
    kinds = {
        code: kind
        for code, kind in session.execute(
            select(Entity.pseudonym, Entity.kind).where(
                Entity.study_id == person.study.id, Entity.pseudonym.in_(others)
            )
        )
    }
    if any(_takes_part(code, roles.get(code), kinds.get(code)) for code in others):
        return True
    return interview is None or interview.kind == "focus_group"


def _takes_part(code: str, role: str | None, kind: str | None) -> bool:
    if role in INTERVIEWING or kind == "interviewer":
        return False
    return role == "participant" or kind == "participant" or code[0] not in "IM"


def _problems(
    person: Person,
    unit: Unit,
    links: dict[UUID, set[UUID]],
    transcripts: dict[UUID, StoredTranscript],
) -> list[str]:
    """Why the person's voice in a group cannot be told from the others'."""
    problems = []
    for recording in unit.recordings:
        if recording.state in ("receiving", "checking"):
            problems.append(f"recording {recording.id} is still being uploaded or checked")
            continue
        made = [
            (job.created_at, transcripts[job.id])
            for job in unit.jobs
            if job.id in transcripts and recording.id in links.get(job.id, ())
        ]
        if not made:
            problems.append(
                f"recording {recording.id} has no transcript: transcribe it, or delete it with "
                f"`fieldscribe recording delete {recording.id}`"
            )
            continue
        newest = max(made, key=lambda each: each[0])[1]
        codes = [name.get("code") for name in newest.speakers.values()]
        if person.code not in codes and None in codes:
            problems.append(
                f"nobody has said who spoke: name every speaker with `fieldscribe speakers "
                f"{newest.job_id}`"
            )
    return list(dict.fromkeys(problems))


def require_known_voices(units: Iterable[Unit]) -> None:
    """
    Raises:
        VoicesUnknown
    """
    problems = [f"{unit.name}: {problem}" for unit in units for problem in unit.problems]
    if problems:
        raise VoicesUnknown("; ".join(problems))


# --- what exists, and what was passed on ----------------------------------------------------------


@dataclass(frozen=True)
class UnitCounts:
    """What exists of a session. `n_versions`: of its transcripts, by people and models."""

    name: str
    is_group: bool
    n_recordings: int
    n_playback_copies: int
    n_transcripts: int
    n_versions: int
    n_running_jobs: int
    n_releases: int
    n_masked_audio: int
    n_handoffs: int
    problems: tuple[str, ...]


def count(session: DbSession, unit: Unit) -> UnitCounts:
    jobs = [job.id for job in unit.jobs]
    transcripts = session.scalars(
        select(StoredTranscript.id).where(StoredTranscript.job_id.in_(jobs))
    ).all()

    def number(table: Any, *conditions: Any) -> int:
        query = select(func.count()).select_from(table)
        query = query.where(table.transcript_id.in_(transcripts), *conditions)
        return int(session.scalars(query).one())

    return UnitCounts(
        unit.name,
        unit.is_group,
        len(unit.recordings),
        sum(each.playback_artefact_id is not None for each in unit.recordings),
        len(transcripts),
        len(transcripts) + number(Correction),
        sum(job.status not in FINAL for job in unit.jobs),
        number(Release, Release.erased_at.is_(None)),
        number(MaskedAudio, MaskedAudio.erased_at.is_(None)),
        number(Handoff),
        tuple(unit.problems),
    )


def count_mentions(session: DbSession, person: Person) -> int:
    """Mentions of the person that are known already, in all transcripts."""
    if person.entity is None:
        return 0
    query = select(func.count()).where(
        Mention.entity_id == person.entity.id, Mention.state != "rejected"
    )
    return int(session.scalars(query).one())


def count_consents(session: DbSession, person: Person) -> int:
    if person.participant is None:
        return 0
    query = select(func.count()).where(Consent.participant_id == person.participant.id)
    return int(session.scalars(query).one())


def about(session: DbSession, person: Person, units: Iterable[Unit]) -> set[str]:
    """The ids and codes by which entries of the audit trail name what is the person's."""
    ids: set[UUID] = set()
    for unit in units:
        ids |= {each.id for each in unit.recordings} | {job.id for job in unit.jobs}
        if unit.session is not None:
            ids.add(unit.session.id)
    rows = session.scalars(select(StoredTranscript).where(StoredTranscript.job_id.in_(ids)))
    transcripts = {row.id for row in rows}
    while True:  # those that others stand in place of, since somebody else withdrew
        query = select(StoredTranscript.replaces).where(
            StoredTranscript.id.in_(transcripts), StoredTranscript.replaces.is_not(None)
        )
        more = {id for id in session.scalars(query) if id is not None} - transcripts
        if not more:
            break
        transcripts |= more
    ids |= transcripts
    tables_of: tuple[Any, ...] = (Release, MaskedAudio, Handoff)
    for table in tables_of:
        ids |= set(session.scalars(select(table.id).where(table.transcript_id.in_(transcripts))))
    if person.entity is not None:
        ids.add(person.entity.id)
    return {*map(str, ids), person.code}


def passed_on(session: DbSession, study: Study, ids: set[str]) -> list[Passed]:
    """Who has read, played or downloaded what, oldest first: whom to ask to delete it.

    One line for each token, kind and object: the last time counts.
    """
    found: dict[tuple[str, str, object], Passed] = {}
    entries = session.scalars(
        select(AuditEntry)
        .where(AuditEntry.study_id == study.id, AuditEntry.action.in_(PASSED_ON))
        .order_by(AuditEntry.position)
    )
    for entry in entries:
        id = _main_object(entry, ids)
        if id is not None:
            found[entry.action, id, entry.token_id] = Passed(
                PASSED_ON[entry.action], id, entry.role or "the service", _written(entry.at)
            )
    roles = {id: role for id, role in session.execute(select(Token.id, Token.role))}
    claims = session.scalars(
        select(Handoff).where(Handoff.study_id == study.id, Handoff.token_id.is_not(None))
    )
    for claim in claims:  # from before the audit trail
        key = "handoff.claimed", str(claim.transcript_id), claim.token_id
        if key[1] in ids and claim.token_id is not None:
            at = _written(claim.finished_at or claim.created_at)
            role = roles.get(claim.token_id, "unknown")
            found.setdefault(key, Passed(PASSED_ON[key[0]], key[1], role, at))
    lookups = session.scalars(
        select(LinkageLookup).where(
            LinkageLookup.study_id == study.id, LinkageLookup.reason != "withdrawal"
        )
    )
    for lookup in lookups:
        if lookup.entity_id is not None and str(lookup.entity_id) in ids:
            what = f"names looked up: {lookup.reason.replace('_', ' ')}"
            role = roles.get(lookup.token_id, "unknown")
            found["lookup", str(lookup.entity_id), lookup.token_id] = Passed(
                what, str(lookup.entity_id), role, _written(lookup.at)
            )
    return sorted(found.values(), key=lambda each: each.at)


def _main_object(entry: AuditEntry, ids: set[str]) -> str | None:
    """What an entry is about, if that is the person's: one id, the most telling."""
    concerned = [kind for kind in MAIN_OBJECTS if entry.objects.get(kind) in ids]
    if concerned:
        return str(entry.objects[concerned[0]])
    listed = [*entry.objects.values(), *entry.detail.values()]
    flat = [str(id) for each in listed for id in (each if isinstance(each, list) else [each])]
    return next((id for id in flat if id in ids), None)


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
