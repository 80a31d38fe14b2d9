"""A study with a group and interviews, of which one member withdraws. Made without models.

Every name and every word that only one person says is unique, so that the drill can search
everything that is left for it.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import select

from models.deidentification.risk_report import RiskReport
from models.transcript import Flag, SpeakerName, Transcript
from models.transcript_json import to_json
from scripts.stand_in.jobs import STAND_IN_MODELS, make_recording, make_study, make_token
from service.database.engine import conninfo
from service.database.tables import (
    CONSENT_SCOPES,
    STAGES,
    Consent,
    Job,
    JobRecording,
    JobStage,
    Participant,
    Recording,
    Session,
    Study,
    Table,
    Withdrawal,
)
from service.domain import releases, withdrawal
from service.domain.callers import Caller
from service.domain.corrections import Editor
from service.domain.entities import create_entity
from service.domain.queue import defer_job
from service.domain.results import create_key
from service.domain.transcripts import read_transcript
from service.errors import ServiceError
from service.services import Services, database_url
from service.vault import ArtefactClass
from service.vault.store import Artefact
from tests.api import tone
from tests.deidentified import Case, accept_all, make_transcript, suggest
from tests.finished import finish_job

INTERVIEWER, FIRST, SECOND, THIRD = (f"SPEAKER_{number:02d}" for number in range(4))


@dataclass(frozen=True)
class Group:
    """`words`: one that only each participant says, by code; `names`: their names."""

    services: Services
    study_id: UUID
    study: str
    caller: Caller
    words: dict[str, str]
    names: dict[str, str]
    group: Case
    interview: Case
    other: Case  # an interview with P05, who mentions P07


def render(transcript: Transcript, report: RiskReport) -> Mapping[str, bytes]:
    """Only the format with the transcript itself: documents take seconds."""
    return {releases.TRANSCRIPT: to_json(transcript).encode()}


def canary(code: str) -> str:
    """A word that no dictionary has."""
    letters = uuid4().hex.translate(str.maketrans("0123456789", "ghijklmnop"))
    return f"qu{letters[:10]}{code[-1]}x"


def name(code: str) -> str:
    return f"{canary(code).capitalize()} {canary(code).capitalize()}"


def open_group(
    services: Services,
    *,
    mention: bool = True,
    named: bool = True,
    split: bool = False,
    more: Sequence[str] = (),
) -> Group:
    """A focus group of P05 and P07, an interview with each, reviews and releases.

    Args:
        mention: whether P05 mentions P07 in the group and in their own interview.
        named: whether somebody has said who spoke in the group.
        split: whether diarisation has split P07 in two.
        more: codes of further interviews with P07.
    """
    study_id = make_study(services)
    caller = Caller(make_token(services), "owner", True, frozenset())
    words = {code: canary(code) for code in ("P05", "P07")}
    names = {code: name(code) for code in ("P05", "P07")}
    with services.sessionmaker.begin() as session:
        study = session.get_one(Study, study_id).code
        entities = {}
        for code in words:
            entity = create_entity(
                session, services, caller, study_id, "participant", [names[code]], pseudonym=code
            )
            entities[names[code]] = entity.id
            participant = Participant(
                study_id=study_id, code=code, entity_id=entity.id, token_id=caller.token_id
            )
            session.add(participant)
            session.flush()
            session.add(
                Consent(
                    study_id=study_id,
                    participant_id=participant.id,
                    sheet_version="1",
                    given_on=date(2031, 1, 7),
                    scopes=list(CONSENT_SCOPES),
                    token_id=caller.token_id,
                )
            )
    met = f"I met {names['P07']} there." if mention else "I met somebody there."
    group = _case(
        services, study_id, caller, entities, "FG-1", ("I1", "P05", "P07"),
        (
            (INTERVIEWER, "Welcome to both of you."),
            (FIRST, f"Thank you. We were {words['P05']} people."),
            (SECOND, f"And we were {words['P07']} people, I would say."),
            (FIRST, met),
            (THIRD if split else SECOND, f"We did. It was {words['P07']} again."),
            (INTERVIEWER, "Thank you both."),
        ),
        {INTERVIEWER: "I1", FIRST: "P05", SECOND: "P07", **({THIRD: "P07"} if split else {})}
        if named else {},
    )  # fmt: skip
    for each in more:
        _case(
            services, study_id, caller, entities, each, ("I1", "P07"),
            ((INTERVIEWER, "And now?"), (FIRST, f"Still {words['P07']}.")),
            {INTERVIEWER: "I1", FIRST: "P07"},
        )  # fmt: skip
    interview = _case(
        services, study_id, caller, entities, "INT-07", ("I1", "P07"),
        ((INTERVIEWER, "How are you?"), (FIRST, f"I feel {words['P07']} today.")),
        {INTERVIEWER: "I1", FIRST: "P07"},
    )  # fmt: skip
    said = f"{names['P07']} told me so." if mention else "Somebody told me so."
    other = _case(
        services, study_id, caller, entities, "INT-05", ("I1", "P05"),
        ((INTERVIEWER, "How are you?"), (FIRST, f"I am {words['P05']}. {said}")),
        {INTERVIEWER: "I1", FIRST: "P05"},
    )  # fmt: skip
    return Group(services, study_id, study, caller, words, names, group, interview, other)


def _case(
    services: Services,
    study_id: UUID,
    caller: Caller,
    entities: dict[str, UUID],
    code: str,
    people: Sequence[str],
    said: Sequence[tuple[str, str]],
    speakers: dict[str, str],
) -> Case:
    """A session with a recording and a transcript that is reviewed and released."""
    kind = "focus_group" if code.startswith("FG") else "interview"
    with services.sessionmaker.begin() as session:
        interview = Session(
            study_id=study_id,
            code=code,
            kind=kind,
            roster=[
                {"code": each, "role": "interviewer" if each == "I1" else "participant"}
                for each in people
            ],
        )
        session.add(interview)
        session.flush()
        session_id = interview.id
    job_id = add_job(services, study_id, session_id, caller.token_id, 5.0 * len(said))
    transcript = make_transcript(said)
    last = transcript.segments[-1]
    flagged = [
        Flag("crammed_words", each.start, each.end, {"text": each.text})
        for each in transcript.segments
        if each.speaker == SECOND
    ]
    transcript = replace(transcript, flags=tuple(flagged), duration=last.end + 0.5)
    transcript_id = finish_job(services, job_id, transcript)
    with services.sessionmaker.begin() as session:
        editor = Editor.open(session, services, caller, transcript_id)
        if speakers:
            editor.name_speakers({label: SpeakerName(code=c) for label, c in speakers.items()})
    case = Case(services, study_id, job_id, transcript_id, caller, entities)
    suggest(case, [])
    accept_all(case)
    releases.create_release(services, caller, transcript_id, "team", render)
    return case


def add_job(
    services: Services, study_id: UUID, session_id: UUID | None, token_id: UUID, seconds: float
) -> UUID:
    """A queued job of a new recording that sounds all the time."""
    recording = make_recording(services, study_id, token_id, tone(seconds))
    job_id = uuid4()
    create_key(services, study_id, job_id)
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, recording)
        row.session_id, row.position, row.duration = session_id, 0, seconds
        session.add(
            Job(
                id=job_id,
                study_id=study_id,
                session_id=session_id,
                token_id=token_id,
                audio_seconds=seconds,
                **STAND_IN_MODELS,
            )
        )
        session.flush()
        session.add(JobRecording(job_id=job_id, recording_id=recording, position=0))
        session.add_all(JobStage(job_id=job_id, name=stage) for stage in STAGES)
        defer_job(session, job_id, study_id)
    return job_id


def begin(study: Group, code: str = "P07", scope: Any = "data") -> UUID:
    row = withdrawal.request_withdrawal(
        study.services, study.caller, study.study, code, scope, None, code
    )
    return row.id


def withdraw(study: Group, code: str = "P07", scope: Any = "data") -> Withdrawal:
    id = begin(study, code, scope)
    withdrawal.run(study.services, id, render)
    return read_row(study.services, id)


def read_row(services: Services, id: UUID) -> Withdrawal:
    with services.sessionmaker() as session:
        return session.get_one(Withdrawal, id)


def certificate(services: Services, row: Withdrawal) -> dict[str, Any]:
    from service.database.tables import Certificate
    from service.domain.certificates import content_of

    with services.sessionmaker() as session:
        return content_of(session.get_one(Certificate, row.certificate_id))


def transcript_of(study: Group, session_code: str) -> Any:
    """The newest transcript of a session that is not erased."""
    from service.database.tables import StoredTranscript

    with study.services.sessionmaker() as session:
        row = session.scalars(
            select(StoredTranscript)
            .join(Job, Job.id == StoredTranscript.job_id)
            .join(Session, Session.id == Job.session_id)
            .where(Session.study_id == study.study_id, Session.code == session_code)
            .where(Job.status != "erased")
            .order_by(StoredTranscript.created_at.desc())
        ).first()
        assert row is not None
        return row, read_transcript(session, study.services, row)


# --- searching everything -------------------------------------------------------------------------


def everything(services: Services, study_id: UUID) -> dict[str, bytes]:
    """All that an owner of keys and disks can read: artefacts, rows, and the files of the keys.

    Args:
        study_id: whose keys are tried.
    """
    found = dict(decrypted(services, study_id))
    found["database"] = dumped(services)
    for path in services.settings.keys.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def decrypted(services: Services, study_id: UUID) -> Iterator[tuple[str, bytes]]:
    """Every artefact that any key opens."""
    for artefact_class in ArtefactClass:
        store = services.vault.stores[artefact_class]
        keyring = services.vault.keyrings[artefact_class]
        keys = {}
        for subject in {*keyring.keys().get(study_id, ()), study_id}:
            with suppress(ServiceError):
                keys[subject] = keyring.data_key(study_id, subject)
        for id in store.ids():
            for (subject, key), kind in product(keys.items(), KINDS):
                artefact = Artefact(study_id, subject, kind, id)
                with suppress(ServiceError), store.open(artefact, key) as file:
                    yield f"{artefact_class} {kind} {id}", unzipped(file.read())


KINDS = (
    "recording",
    "transcript",
    "correction",
    "snapshot",
    "vocabulary",
    "occurrences",
    "entity",
    "participant_record",
    "release_file",
    "release_report",
    "masked_audio",
    "playback",
    "peaks",
    "upload_metadata",
)


def unzipped(content: bytes) -> bytes:
    """The content, and if it is a zip that of its members."""
    if not content.startswith(b"PK"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return b"\n".join([content, *(archive.read(name) for name in archive.namelist())])


def dumped(services: Services) -> bytes:
    """Every row of every table, as text."""
    lines = []
    with psycopg.connect(conninfo(database_url(services.settings))) as connection:
        for table in Table.metadata.sorted_tables:
            rows = connection.execute(f'SELECT t::text FROM "{table.name}" t').fetchall()
            lines += [f"{table.name} {row[0]}" for row in rows]
    return "\n".join(lines).encode()


def places_of(study: "Group", *words: str, services: Services | None = None) -> list[str]:
    """Where one of the words is found, in any case."""
    return [
        place
        for place, content in everything(services or study.services, study.study_id).items()
        if any(word.casefold().encode() in content.lower() for word in words)
    ]
