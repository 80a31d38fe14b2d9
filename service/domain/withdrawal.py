"""Withdrawal of a participant: what exists is shown, removed step by step, verified and certified.

    removing   steps are left; a start of the service, or the same request again, goes on
    finished   the certificate says what was removed, and what was not

Each step can be repeated, and is recorded when it is done: a power cut at any point loses nothing.
Interviews of the participant are erased. In a group only the participant's voice leaves: see
`withdrawn_voice`. Mentions of the participant by others become open mentions of their reviews.

ServiceError
├── WithdrawalNotFound
├── WithdrawalNotConfirmed
└── of withdrawal_plan: WithdrawalUnknownCode, VoicesUnknown
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, get_args
from uuid import UUID, uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.leaks import NameSearch
from models.errors import SpeechError, Stopped
from models.transcript_json import from_json
from service.database.queries import lock_job, read_clock
from service.database.tables import (
    Entity,
    Job,
    Mention,
    Participant,
    Recording,
    Release,
    ReleaseFile,
    Review,
    StoredTranscript,
    Study,
    Withdrawal,
)
from service.domain import audit, releases, results, review
from service.domain.background import BackgroundWork
from service.domain.callers import Caller
from service.domain.certificates import (
    Check,
    Item,
    Passed,
    Statement,
    describe_backups,
    issue,
    last_backup_at,
)
from service.domain.engine_job import VOCABULARY
from service.domain.entities import (
    EntityRecord,
    fold,
    linkage,
    look_up,
    read_record,
)
from service.domain.entity_changes import erase_entity, lock_for_change
from service.domain.erasure import erase_job
from service.domain.job_errors import InternalError
from service.domain.jobs import job_recordings
from service.domain.locks import refuse_while_checked
from service.domain.mentions import place_of
from service.domain.playback import has_memory_for
from service.domain.recordings import OPERATIONAL_ERRORS, destroy, error_name, identified
from service.domain.release_content import Context, NamesLeft, find_leaks, without_places
from service.domain.releases import Renderer
from service.domain.review import ReviewEditor, ReviewNotReady, ReviewOpen
from service.domain.studies import find_study, read_vocabulary, write_vocabulary
from service.domain.transcripts import read_transcript
from service.domain.withdrawal_ledger import Entry, Place, remove_from_roster, reopen, write
from service.domain.withdrawal_plan import (
    Person,
    Unit,
    UnitCounts,
    about,
    count,
    count_consents,
    count_mentions,
    find_person,
    find_units,
    passed_on,
    require_known_voices,
)
from service.domain.withdrawn_voice import (
    Replaced,
    TranscriptsChanged,
    Voice,
    discard_written,
    erase_replaced,
    files_of,
    is_silent,
    plan_silence,
    still_heard,
    switch,
    write_silenced,
)
from service.errors import ServiceError, locate
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased, Sealed

Scope = Literal["data", "identified", "participation"]
Reason = Literal["no_reason", "changed_mind", "privacy", "distress", "harm_feared", "other"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
REASONS: tuple[Reason, ...] = get_args(Reason)
"""A fixed list, so that nobody can enter a name."""
STEPS = (
    "ledger",
    "voice",
    "interviews",
    "mentions",
    "vocabulary",
    "releases",
    "search",
    "names",
    "verify",
)
STEPS_OF: dict[str, tuple[str, ...]] = {
    "data": STEPS,
    "identified": STEPS,
    "participation": ("ledger",),
}
MAX_CHANGES = 5  # times that somebody may change who spoke while recordings are written
RETRY_AFTER = 30.0  # s

log = logging.getLogger(__name__)


class WithdrawalNotFound(ServiceError):
    """There is no such withdrawal, or it is not of your studies."""

    code: ClassVar[str] = "withdrawal_not_found"
    status: ClassVar[int] = 404


class WithdrawalNotConfirmed(ServiceError):
    """The code that confirms a withdrawal is not the participant's."""

    code: ClassVar[str] = "withdrawal_not_confirmed"
    status: ClassVar[int] = 422


class MemoryNeeded(ServiceError):
    """A recording of the withdrawal waits until others have been checked."""

    code: ClassVar[str] = "memory_needed"
    status: ClassVar[int] = 503


# --- what exists ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inventory:
    """What exists of a participant. `costs`: sentences to read before a withdrawal."""

    study: str
    code: str
    withdrawn_at: datetime | None
    units: tuple[UnitCounts, ...]
    has_names: bool
    n_consents: int
    n_mentions: int
    passed_on: tuple[Passed, ...]
    last_backup_at: datetime | None
    costs: tuple[str, ...]


def take_inventory(services: Services, caller: Caller, study: str, code: str) -> Inventory:
    """
    Raises:
        StudyNotFound, WithdrawalUnknownCode
    """
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
        person = find_person(session, found, code)
        units = find_units(session, person)
        entity, participant = person.entity, person.participant
        return Inventory(
            found.code,
            code,
            None if participant is None else participant.withdrawn_at,
            tuple(count(session, unit) for unit in units),
            entity is not None and entity.record_artefact_id is not None,
            count_consents(session, person),
            count_mentions(session, person),
            tuple(passed_on(session, found, about(session, person, units))),
            last_backup_at(services.settings),
            tuple(_costs(services, units)),
        )


def _costs(services: Services, units: Sequence[Unit]) -> Iterator[str]:
    groups = [unit for unit in units if unit.is_group]
    if groups:
        names = ", ".join(unit.name for unit in groups)
        yield (
            f"{names}: the others stay. Where the participant speaks, the recording is silent, "
            "also for those who speak at the same time. The copy has 16 kHz and one channel."
        )
        yield (
            "What was said is the participant's only where the transcript says so: check the "
            "speakers of the group first."
        )
        yield (
            f"{names}: backups from before the withdrawal can no longer restore this recording or "
            "its transcript, because their keys are destroyed. Make a new backup at once after it."
        )
    for unit in units:
        others = [job for job in unit.jobs if job.id not in {each.job_id for each in unit.voices}]
        if unit.is_group and unit.voices and others:
            yield (
                f"{unit.name}: {len(others)} jobs in which nobody is named by this code are erased "
                "with the old recording."
            )
    yield (
        "Words of others about the participant stay until a reviewer has decided: they become open "
        "mentions."
    )


# --- requesting -----------------------------------------------------------------------------------


def request_withdrawal(
    services: Services,
    caller: Caller,
    study: str,
    code: str,
    scope: Scope,
    reason: Reason | None,
    confirmation: str,
) -> Withdrawal:
    """Begin a withdrawal; a request that repeats an earlier one returns that.

    Raises:
        StudyNotFound, WithdrawalUnknownCode, WithdrawalNotConfirmed, VoicesUnknown
        Sealed, KeyMissing, KeyDamaged: nothing has been done then.
    """
    if confirmation != code:
        raise WithdrawalNotConfirmed("Type the participant's code to confirm, such as P07")
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        session.refresh(found, with_for_update={"key_share": True})
        person = find_person(session, found, code)
        earlier = session.scalars(
            select(Withdrawal)
            .where(Withdrawal.study_id == found.id, Withdrawal.code == code)
            .order_by(Withdrawal.requested_at.desc())
        ).all()
        for row in earlier:
            if row.state == "removing":
                return row
        units = find_units(session, person)
        if scope != "participation":
            require_known_voices(units)
            _require_keys(services, person, units)
        for row in earlier:
            if row.scope == scope and not _is_left(session, services, person, units, scope):
                return row
        now = read_clock(session)
        row = Withdrawal(
            id=uuid4(),
            study_id=found.id,
            participant_id=None if person.participant is None else person.participant.id,
            code=code,
            scope=scope,
            reason=reason,
            token_id=caller.token_id,
            role=caller.role,
            requested_at=now,
            state="removing",
            steps=[],
            results={"about": sorted(about(session, person, units))},
        )
        session.add(row)
        if person.participant is not None:
            person.participant.withdrawn_at = person.participant.withdrawn_at or now
        session.flush()
        audit.record(
            session,
            caller,
            "withdrawal.requested",
            found.id,
            {"withdrawal": row.id, "participant": code},
            reason=reason,
            detail={"scope": scope},
        )
    log.info("withdrawal %s: requested, scope %s", row.id, scope)
    return row


def _require_keys(services: Services, person: Person, units: Sequence[Unit]) -> None:
    """Check that what has to be read can be read, before anything is removed.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    if services.vault.sealed:
        raise Sealed("The vault is sealed: run `fieldscribe unseal`")
    _, keyring = identified(services)
    for unit in units:
        if unit.is_group:
            for id in (*(one.id for one in unit.recordings), *(job.id for job in unit.jobs)):
                keyring.data_key(person.study.id, id)
    if person.entity is not None and person.entity.record_artefact_id is not None:
        read_record(services, person.entity)


def _is_left(
    session: DbSession, services: Services, person: Person, units: Sequence[Unit], scope: Scope
) -> bool:
    """Whether anything is left that a withdrawal of this scope would remove."""
    if scope == "participation":
        return False
    for unit in units:
        if unit.is_group:
            if any(still_heard(services, session, voice) for voice in unit.voices):
                return True
        elif unit.recordings or unit.jobs:
            return True
    return person.entity is not None and person.entity.record_artefact_id is not None


def find_withdrawal(session: DbSession, caller: Caller, id: UUID) -> Withdrawal:
    """
    Raises:
        WithdrawalNotFound
    """
    row = session.get(Withdrawal, id)
    if row is None or not caller.may_see(row.study_id):
        raise WithdrawalNotFound("There is no such withdrawal, or it is not of your studies")
    return row


def list_withdrawals(session: DbSession, caller: Caller, study: str) -> Sequence[Withdrawal]:
    """Newest first.

    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    query = select(Withdrawal).where(Withdrawal.study_id == found.id)
    return session.scalars(query.order_by(Withdrawal.requested_at.desc())).all()


# --- running --------------------------------------------------------------------------------------


@dataclass
class Work:
    """A withdrawal that is being carried out. `done`: results of its steps, as JSON."""

    services: Services
    row: Withdrawal
    caller: Caller
    render: Renderer
    done: dict[str, Any]
    on_progress: Callable[[float], None] | None

    @property
    def keeps_releases(self) -> bool:
        return self.row.scope == "identified"

    def person(self, session: DbSession) -> Person:
        study = session.get_one(Study, self.row.study_id)
        return find_person_again(session, study, self.row)

    def save(self, session: DbSession) -> None:
        row = session.get_one(Withdrawal, self.row.id, with_for_update=True)
        row.results = dict(self.done)

    def save_now(self) -> None:
        with self.services.sessionmaker.begin() as session:
            self.save(session)

    def note(self, what: str, n: int, ids: Sequence[object] = ()) -> None:
        """Count something for the certificate; the same ids are counted once."""
        known = self.done.setdefault("removed", {}).setdefault(what, {"n": 0, "ids": []})
        if ids:
            fresh = [str(id) for id in ids if str(id) not in known["ids"]]
            known["ids"] += fresh
            known["n"] = len(known["ids"])
        else:
            known["n"] += n

    def gone(
        self, artefact_class: ArtefactClass, keys: Sequence[UUID], files: Sequence[UUID]
    ) -> None:
        """Remember keys and files that must not exist at the end."""
        for name, ids in (("keys", keys), ("files", files)):
            known = self.done.setdefault(name, {}).setdefault(str(artefact_class), [])
            known += [str(id) for id in ids if str(id) not in known]


def find_person_again(session: DbSession, study: Study, row: Withdrawal) -> Person:
    """The person of a withdrawal, of whom perhaps hardly anything is left."""
    participant = session.get(Participant, row.participant_id) if row.participant_id else None
    entity = session.scalar(
        select(Entity).where(Entity.study_id == study.id, Entity.pseudonym == row.code)
    )
    if participant is not None:
        entity = session.get(Entity, participant.entity_id)
    return Person(study, row.code, participant, entity)


def run(
    services: Services,
    withdrawal_id: UUID,
    render: Renderer,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Carry out the steps that are left, and issue the certificate. Safe to repeat.

    Raises:
        ServiceError, SpeechError: a step failed; what was done stays done.
        Stopped: by `on_progress`.
    """
    with services.sessionmaker() as session:
        row = session.get_one(Withdrawal, withdrawal_id)
    with _one_at_a_time(services, row.study_id):
        with services.sessionmaker() as session:
            row = session.get_one(Withdrawal, withdrawal_id)
        if row.state == "finished":
            return
        caller = Caller(row.token_id, row.role, False, frozenset([row.study_id]))
        work = Work(services, row, caller, render, dict(row.results), on_progress)
        for step in STEPS_OF[row.scope]:
            if step not in row.steps:
                STEP_FUNCTIONS[step](work)
                row = _record_step(work, step)
        _finish(work)


@contextmanager
def _one_at_a_time(services: Services, study_id: UUID) -> Iterator[None]:
    """Two members of a group may withdraw at once: the second waits for the first."""
    place = func.hashtextextended(f"fieldscribe:withdrawal:{study_id}", 0)
    with services.engine.connect() as connection:
        connection.execute(select(func.pg_advisory_lock(place)))
        connection.commit()
        try:
            yield
        finally:
            connection.execute(select(func.pg_advisory_unlock(place)))
            connection.commit()


def _record_step(work: Work, step: str) -> Withdrawal:
    with work.services.sessionmaker.begin() as session:
        row = session.get_one(Withdrawal, work.row.id, with_for_update=True)
        row.steps = [*row.steps, step]
        row.results = dict(work.done)
        row.failure_code = None
        audit.record(
            session,
            work.caller,
            "withdrawal.step_done",
            row.study_id,
            {"withdrawal": row.id, "participant": row.code},
            detail={"step": step},
        )
    at_boundary(step)
    log.info("withdrawal %s: %s done", row.id, step)
    return row


def at_boundary(step: str) -> None:
    """Between two steps. Tests cut the power here."""


def _ledger_entry(work: Work, **changes: Any) -> Entry:
    row = work.row
    with work.services.sessionmaker() as session:
        person = work.person(session)
    made = Entry(
        id=str(row.id),
        study=str(row.study_id),
        code=row.code,
        scope=row.scope,
        reason=row.reason,
        requested_at=row.requested_at.astimezone(UTC).isoformat(),
        token=str(row.token_id),
        role=row.role,
        participant=None if row.participant_id is None else str(row.participant_id),
        entity=None if person.entity is None else str(person.entity.id),
        kept_jobs=list(work.done.get("kept_jobs", [])),
        groups=list(work.done.get("groups", [])),
        mentions=[Place(**each) for each in work.done.get("mentions", [])],
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _write_ledger(work: Work) -> None:
    write(work.services.settings, _ledger_entry(work))


# --- the steps ------------------------------------------------------------------------------------


def _silence_groups(work: Work) -> None:
    """Take the person's voice out of each group."""
    for each in work.done.get("replaced", []):
        _erase_replaced(work, each)
    for _ in range(MAX_CHANGES):
        with work.services.sessionmaker() as session:
            groups = _groups(work, session)
        if not groups:
            break
        for unit in groups:
            _silence(work, unit)
    else:
        raise TranscriptsChanged
    _discard_left_copies(work)


def _groups(work: Work, session: DbSession) -> list[Unit]:
    """Groups in which the person is still heard."""
    units = [unit for unit in find_units(session, work.person(session)) if unit.is_group]
    for unit in units:
        if unit.session is not None and str(unit.session.id) not in work.done.get("groups", []):
            work.done.setdefault("groups", []).append(str(unit.session.id))
    require_known_voices(units)
    return [
        unit
        for unit in units
        if any(still_heard(work.services, session, voice) for voice in unit.voices)
    ]


def _silence(work: Work, unit: Unit) -> None:
    services = work.services
    with services.sessionmaker() as session:
        ids = {id for voice in unit.voices for id in job_recordings(session, voice.job_id)}
        spans = plan_silence(session, services, unit.voices)
        recordings = [each for each in unit.recordings if each.id in ids]
        jobs = [job.id for job in unit.jobs if ids & set(job_recordings(session, job.id))]
    new_ids = work.done.setdefault("new_ids", {})
    for recording in recordings:
        new_ids.setdefault(str(recording.id), str(uuid4()))
    if work.keeps_releases:
        kept = work.done.setdefault("kept_jobs", [])
        kept += [str(id) for id in jobs if str(id) not in kept]
    work.save_now()  # before files are written that nobody else knows of
    _write_ledger(work)
    written = {}
    for recording in recordings:
        if not has_memory_for(services, recording):
            raise MemoryNeeded("Recordings that are being checked need the memory: wait for them")
        new_id = UUID(new_ids[str(recording.id)])
        written[recording.id] = write_silenced(
            services, recording, new_id, spans[recording.id], work.on_progress
        )
        at_boundary("copy")

    def record(session: DbSession, done: Replaced) -> None:
        replaced = work.done.get("replaced", [])
        work.done["replaced"] = [*replaced, _replaced_to_json(done, unit, spans)]
        work.save(session)
        if unit.session is not None:
            interview = session.merge(unit.session, load=True)
            remove_from_roster(interview, work.row.code)

    before = list(work.done.get("replaced", []))
    try:
        done = switch(
            services, work.caller, work.row.code, jobs, unit.voices, spans, written, record
        )
    except TranscriptsChanged:
        work.done["replaced"] = before
        return  # the caller looks again
    except BaseException:
        work.done["replaced"] = before
        raise
    at_boundary("switch")
    log.info("withdrawal %s: %d recordings replaced", work.row.id, len(done.recordings))
    _erase_replaced(work, work.done["replaced"][-1])


def _replaced_to_json(done: Replaced, unit: Unit, spans: Mapping[UUID, Any]) -> dict[str, Any]:
    return {
        "name": unit.name,
        "recordings": [[str(a), str(b)] for a, b in done.recordings],
        "transcripts": [[str(a), str(b)] for a, b in done.transcripts],
        "jobs": [str(id) for id in done.jobs],
        "releases": [str(id) for id in done.releases],
        "reissue": [[str(id), context] for id, context in done.reissue],
        "files": [str(id) for id in done.files],
        "n_spans": done.n_spans,
        "silent": round(done.silent, 1),
        "spans": {str(new): [list(each) for each in spans[old]] for old, new in done.recordings},
        "voices": [
            [str(new), sorted(voice.labels)]
            for voice in unit.voices
            for old, new in done.transcripts
            if old == voice.transcript_id
        ],
    }


def _erase_replaced(work: Work, each: Mapping[str, Any]) -> None:
    done = Replaced(
        tuple((UUID(a), UUID(b)) for a, b in each["recordings"]),
        tuple((UUID(a), UUID(b)) for a, b in each["transcripts"]),
        tuple(map(UUID, each["jobs"])),
        tuple(map(UUID, each["releases"])),
        tuple((UUID(a), b) for a, b in each["reissue"]),
        tuple(map(UUID, each["files"])),
        each["n_spans"],
        each["silent"],
    )
    old = [a for a, _ in done.recordings]
    if not work.keeps_releases:
        with work.services.sessionmaker() as session:
            _note_releases(work, session, done.releases)
    work.gone(ArtefactClass.IDENTIFIED, [*old, *done.jobs], done.files)
    work.save_now()
    erase_replaced(work.services, done, keep_releases=work.keeps_releases)


def _note_releases(work: Work, session: DbSession, ids: Sequence[UUID]) -> None:
    files = session.scalars(
        select(ReleaseFile.artefact_id).where(ReleaseFile.release_id.in_(ids))
    ).all()
    reports = session.scalars(select(Release.report_artefact_id).where(Release.id.in_(ids))).all()
    work.gone(ArtefactClass.DEIDENTIFIED, ids, [*files, *(id for id in reports if id is not None)])
    work.note("release", len(ids), ids)


def _discard_left_copies(work: Work) -> None:
    """Delete copies of recordings that somebody else's withdrawal replaced meanwhile."""
    used = {b for each in work.done.get("replaced", []) for _, b in each["recordings"]}
    for new_id in work.done.get("new_ids", {}).values():
        if new_id not in used:
            with work.services.sessionmaker() as session:
                if session.get(Recording, UUID(new_id)) is None:
                    discard_written(work.services, work.row.study_id, UUID(new_id))


def _erase_interviews(work: Work) -> None:
    """Erase what is the person's alone."""
    services = work.services
    for id in work.done.get("recordings", []):
        with services.sessionmaker() as session:
            recording = session.get_one(Recording, UUID(id))
        if recording.state == "erased":
            destroy(services, recording)
    with services.sessionmaker() as session:
        units = [unit for unit in find_units(session, work.person(session)) if not unit.is_group]
    for unit in units:
        _erase_interview(work, unit)
        at_boundary("interview")
    with services.sessionmaker.begin() as session:
        person = work.person(session)
        if person.participant is not None:  # their part is gone: see `consent`
            person.participant.erased_at = person.participant.erased_at or datetime.now(UTC)


def _erase_interview(work: Work, unit: Unit) -> None:
    services, study_id = work.services, work.row.study_id
    jobs, recordings = [job.id for job in unit.jobs], [each.id for each in unit.recordings]
    with services.sessionmaker() as session:
        files = files_of(session, jobs, recordings)
        transcripts = session.scalars(
            select(StoredTranscript.id).where(StoredTranscript.job_id.in_(jobs))
        ).all()
        of_transcripts = session.scalars(
            select(Release.id).where(
                Release.transcript_id.in_(transcripts), Release.erased_at.is_(None)
            )
        ).all()
        if work.keeps_releases:
            kept = work.done.setdefault("kept_jobs", [])
            kept += [str(id) for id in jobs if str(id) not in kept]
            work.done.setdefault("kept_releases", []).extend(map(str, of_transcripts))
        else:
            _note_releases(work, session, of_transcripts)
    work.gone(ArtefactClass.IDENTIFIED, [*recordings, *jobs], files)
    work.note("recording", len(recordings), recordings)
    work.note("transcript", len(transcripts), transcripts)
    work.done.setdefault("recordings", []).extend(map(str, recordings))
    if unit.session is not None and not work.keeps_releases:
        work.note("session", 1, [unit.session.code])
    work.save_now()
    _write_ledger(work)
    with refuse_while_checked(), services.sessionmaker.begin() as session:
        locked = [lock_job(session, id) for id in sorted(jobs)]
        doomed = session.scalars(
            select(Recording)
            .where(Recording.id.in_(recordings), Recording.state != "erased")
            .with_for_update(nowait=True)
            .execution_options(populate_existing=True)
        ).all()
        for job in filter(None, locked):
            erase_job(session, services, job, keep_releases=work.keeps_releases)
        now = datetime.now(UTC)
        if not work.keeps_releases:
            for release in session.scalars(select(Release).where(Release.id.in_(of_transcripts))):
                release.revoked_at = release.revoked_at or now
        for recording in doomed:
            recording.state = "erased"
            recording.refusal_code = recording.refusal_detail = None
        if unit.session is not None and not work.keeps_releases:
            identified(services)[1].erase(study_id, unit.session.id)
            interview = session.merge(unit.session, load=True)
            interview.erased_at, interview.roster = now, []
    for recording in doomed:
        destroy(services, recording)


def _open_mentions(work: Work) -> None:
    """Make mentions of the person by others open mentions, while the names can be searched for."""
    services = work.services
    record = _read_names(work)
    if record is None:
        return
    with services.sessionmaker.begin() as session:
        entity = work.person(session).entity
        assert entity is not None
        lock_for_change(session, entity)
        entity.always = False  # nothing is accepted without a person from now on
    search = _name_search(record)
    mentions: list[dict[str, Any]] = []
    for transcript_id in _transcripts(work):
        with services.sessionmaker.begin() as session:
            row = session.get_one(StoredTranscript, transcript_id)
            if session.get(Review, transcript_id) is None:
                if not find_leaks(search, read_transcript(session, services, row)):
                    continue
                review.begin(session, services, work.caller, transcript_id)
            mentions += _open_in(work, session, transcript_id, record)
    work.done["mentions"] = mentions
    _write_ledger(work)


def _open_in(
    work: Work, session: DbSession, transcript_id: UUID, record: EntityRecord
) -> list[dict[str, Any]]:
    entity = work.person(session).entity
    assert entity is not None
    editor = ReviewEditor.open(session, work.services, work.caller, transcript_id, scan=False)
    editor.search({entity.id: record})
    found = []
    for mention in editor.ordered():
        is_meant = editor.canonical(mention.entity_id) == entity.id
        is_meant = is_meant or str(entity.id) in mention.choices
        if not is_meant or mention.state == "rejected":
            continue
        if (mention.state, mention.origin) != ("suggested", "withdrawal"):
            before = mention.state
            reopen(mention)
            editor.record(mention, "reopen", before, "withdrawal")
        place = place_of(mention)
        found.append(
            asdict(
                Place(
                    str(transcript_id),
                    mention.transcript_version,
                    place.segment,
                    place.start,
                    place.stop,
                    mention.label,
                )
            )
        )
    if found:
        editor.touch()
    return found


def _transcripts(work: Work) -> list[UUID]:
    """All transcripts of the study that are not erased."""
    with work.services.sessionmaker() as session:
        query = select(StoredTranscript.id).join(Job, Job.id == StoredTranscript.job_id)
        query = query.where(StoredTranscript.study_id == work.row.study_id, Job.status != "erased")
        return list(session.scalars(query.order_by(StoredTranscript.created_at)))


def _read_names(work: Work) -> EntityRecord | None:
    """The person's names, recorded as a look-up; None if they are gone or there are none."""
    with work.services.sessionmaker.begin() as session:
        entity = work.person(session).entity
        if entity is None or entity.record_artefact_id is None:
            return None
        records = look_up(session, work.services, work.caller, [entity], "withdrawal")
        return records.get(entity.id)


def _name_search(record: EntityRecord) -> NameSearch[UUID]:
    return NameSearch({UUID(int=0): record.surfaces})


def _clear_vocabularies(work: Work) -> None:
    """Remove the person's names from the vocabularies of the study and of its jobs."""
    services, study_id = work.services, work.row.study_id
    record = _read_names(work)
    if record is None:
        return
    words = {word for surface in record.surfaces for word in fold(surface).split() if len(word) > 1}

    def is_free(term: str) -> bool:
        return not words & set(fold(term).replace("-", " ").replace("'s", "").split())

    store, _ = identified(services)
    removed = 0
    with services.sessionmaker.begin() as session:
        study = session.get_one(Study, study_id, with_for_update={"key_share": True})
        terms = read_vocabulary(services, study)
        kept = [term for term in terms if is_free(term)]
        old = study.vocabulary_artefact_id
        if len(kept) < len(terms):
            removed += len(terms) - len(kept)
            study.vocabulary_artefact_id = write_vocabulary(services, study_id, kept)
            work.gone(ArtefactClass.IDENTIFIED, [], [old] if old else [])
            work.save(session)
    if old is not None and len(kept) < len(terms):
        store.delete(old)
    with services.sessionmaker() as session:
        jobs = session.scalars(
            select(Job.id).where(
                Job.study_id == study_id,
                Job.status != "erased",
                Job.vocabulary_artefact_id.is_not(None),
            )
        ).all()
    for job_id in jobs:
        with services.sessionmaker.begin() as session:
            job = lock_job(session, job_id)
            if job is None or job.vocabulary_artefact_id is None:
                continue
            old = job.vocabulary_artefact_id
            text = results.read(services, study_id, job_id, VOCABULARY, old).decode()
            kept = [term for term in text.split("\n") if is_free(term)]
            if len(kept) == len(text.split("\n")):
                continue
            removed += len(text.split("\n")) - len(kept)
            job.vocabulary_artefact_id = results.write(
                services, study_id, job_id, VOCABULARY, "\n".join(kept).encode()
            )
            work.gone(ArtefactClass.IDENTIFIED, [], [old])
            work.save(session)
        store.delete(old)
    if removed:
        work.note("vocabulary_entry", removed)


def _reissue(work: Work) -> None:
    """Release the new transcripts of groups again, for the readers of the old releases."""
    if work.keeps_releases:
        return
    done = work.done.setdefault("reissued", {})
    for each in work.done.get("replaced", []):
        for transcript_id, context in each["reissue"]:
            key = f"{transcript_id} {context}"
            if key in done:
                continue
            done[key] = _release_again(work, UUID(transcript_id), context)
            work.save_now()
            at_boundary("release")


def _release_again(work: Work, transcript_id: UUID, context: Context) -> str:
    """
    Returns:
        The id of the release, or a code that says why it was not made.
    """
    with work.services.sessionmaker() as session:
        row = session.get_one(StoredTranscript, transcript_id)
        if session.get_one(Job, row.job_id).status == "erased":
            return "erased"  # somebody else has withdrawn too
        made = session.scalar(
            select(Release.id).where(
                Release.transcript_id == transcript_id,
                Release.context == context,
                Release.erased_at.is_(None),
            )
        )
    if made is not None:  # before a power cut
        return str(made)
    try:
        state = releases.create_release(
            work.services, work.caller, transcript_id, context, work.render
        )
    except (ReviewOpen, ReviewNotReady, NamesLeft) as error:
        return error.code
    except ServiceError as error:
        if error.code in ("consent_missing", "approval_missing"):
            return error.code
        raise
    return str(state.row.id)


def _search_texts(work: Work) -> None:
    """Search what is left for the person's names, as long as they are known."""
    services = work.services
    record = _read_names(work)
    if record is None:
        work.done.setdefault("search", {"is_done": False})
        return
    search = _name_search(record)
    known = {
        (each["transcript"], each["segment"], each["start"], each["stop"])
        for each in work.done.get("mentions", [])
    }
    unlisted, n_transcripts = [], 0
    for transcript_id in _transcripts(work):
        with services.sessionmaker() as session:
            row = session.get_one(StoredTranscript, transcript_id)
            transcript = read_transcript(session, services, row)
            rejected = [
                (m.segment, m.start, m.stop)
                for m in session.scalars(
                    select(Mention).where(
                        Mention.transcript_id == transcript_id,
                    )
                )
                if m.state == "rejected"
            ]
        n_transcripts += 1
        listed = [(s, a, b) for t, s, a, b in known if t == str(transcript_id)]
        left = without_places(find_leaks(search, transcript), [*listed, *rejected])
        if left:
            unlisted.append(str(transcript_id))
    in_releases, n_releases = [], 0
    with services.sessionmaker() as session:
        rows = session.scalars(
            select(Release).where(
                Release.study_id == work.row.study_id, Release.erased_at.is_(None)
            )
        ).all()
        for release in rows:
            file = session.get(ReleaseFile, (release.id, releases.TRANSCRIPT))
            if file is None:
                continue
            n_releases += 1
            content = releases.read_artefact(services, release, releases.FILE, file.artefact_id)
            leaks = find_leaks(search, from_json(content.decode()))
            n_kept = _names_kept(work, session, release)
            if len(leaks) > n_kept:
                in_releases.append(str(release.id))
    work.done["search"] = {
        "is_done": True,
        "n_transcripts": n_transcripts,
        "unlisted": unlisted,
        "n_releases": n_releases,
        "in_releases": in_releases,
    }


def _names_kept(work: Work, session: DbSession, release: Release) -> int:
    """How often a reviewer left the person's name in a release, since it names somebody else."""
    entity = work.person(session).entity
    return 0 if entity is None else int(release.names_kept.get(str(entity.id), 0))


def _erase_names(work: Work) -> None:
    """Destroy the key of the person's names, contacts and attributes."""
    services = work.services
    with services.sessionmaker.begin() as session:
        person = work.person(session)
        files = []
        if person.participant is not None and person.participant.record_artefact_id is not None:
            files.append(person.participant.record_artefact_id)
        if person.entity is None:
            return
        merged = session.scalars(
            select(Entity).where(
                (Entity.id == person.entity.id) | (Entity.merged_into == person.entity.id)
            )
        ).all()
        files += [each.record_artefact_id for each in merged if each.record_artefact_id]
        work.gone(ArtefactClass.LINKAGE, [each.id for each in merged], files)
        work.note("names", 1, [work.row.code])
        work.save(session)
    with services.sessionmaker.begin() as session:
        person = work.person(session)
        assert person.entity is not None
        erase_entity(session, services, person.entity)
        if person.participant is not None:
            if person.participant.record_artefact_id is not None:
                linkage(services)[0].delete(person.participant.record_artefact_id)
            person.participant.record_artefact_id = None
            person.participant.version += 1
            person.participant.erased_at = person.participant.erased_at or datetime.now(UTC)


def _verify(work: Work) -> None:
    """Try to open what was removed. The outcome is on the certificate as it is."""
    services = work.services
    opened, found = [], []
    for artefact_class in ArtefactClass:
        keyring = services.vault.keyrings[artefact_class]
        for id in work.done.get("keys", {}).get(str(artefact_class), []):
            try:
                keyring.data_key(work.row.study_id, UUID(id))
            except Erased:
                continue
            opened.append(id)
        store = services.vault.stores[artefact_class]
        for id in work.done.get("files", {}).get(str(artefact_class), []):
            if UUID(id) in store:
                found.append(id)
    heard, spoken = [], []
    with services.sessionmaker() as session:
        for each in work.done.get("replaced", []):
            for id, spans in each["spans"].items():
                recording = session.get_one(Recording, UUID(id))
                if recording.state == "ready" and not is_silent(services, recording, spans):
                    heard.append(id)
            for id, labels in each["voices"]:
                row = session.get_one(StoredTranscript, UUID(id))
                job = session.get_one(Job, row.job_id)
                if job.status != "erased" and still_heard(
                    services, session, Voice(row.job_id, row.id, frozenset(labels))
                ):
                    spoken.append(id)
    work.done["verified"] = {
        "opened": opened,
        "found": found,
        "heard": heard,
        "spoken": spoken,
        "has_groups": bool(work.done.get("replaced")),
    }


STEP_FUNCTIONS: dict[str, Callable[[Work], None]] = {
    "ledger": _write_ledger,
    "voice": _silence_groups,
    "interviews": _erase_interviews,
    "mentions": _open_mentions,
    "vocabulary": _clear_vocabularies,
    "releases": _reissue,
    "search": _search_texts,
    "names": _erase_names,
    "verify": _verify,
}


# --- the certificate ------------------------------------------------------------------------------


def _finish(work: Work) -> None:
    with work.services.sessionmaker.begin() as session:
        row = session.get_one(Withdrawal, work.row.id, with_for_update=True)
        if row.state == "finished":
            return
        certificate = issue(session, work.services, work.caller, _statement(work, session))
        row.state, row.finished_at = "finished", read_clock(session)
        row.certificate_id, row.failure_code = certificate.id, None
        audit.record(
            session,
            work.caller,
            "withdrawal.finished",
            row.study_id,
            {"withdrawal": row.id, "participant": row.code, "certificate": certificate.id},
        )
        finished_at = row.finished_at
    signed = {
        "id": str(certificate.id),
        "document": certificate.document,
        "signature": certificate.signature,
        "public_key": certificate.public_key,
    }
    entry = _ledger_entry(work, finished_at=finished_at.isoformat(), certificate=signed)
    write(work.services.settings, entry)
    log.info("withdrawal %s: finished", work.row.id)


def _statement(work: Work, session: DbSession) -> Statement:
    row, done = work.row, work.done
    study = session.get_one(Study, row.study_id)
    person = work.person(session)
    ids = {*done.get("about", []), *about(session, person, find_units(session, person))}
    statement = Statement(
        kind="withdrawal",
        study_id=row.study_id,
        subject=row.code,
        scope=row.scope,
        requested_at=row.requested_at,
        requested_by=row.role,
        reason=row.reason,
        removed=tuple(
            Item(what, each["n"], tuple(each["ids"]))
            for what, each in done.get("removed", {}).items()
            if each["n"]
        ),
        replaced=tuple(_replaced_items(done)),
        kept=tuple(_kept_items(work, session, person)),
        not_removed=tuple(_left_items(done)),
        checks=tuple(_checks(work)),
        passed_on=tuple(passed_on(session, study, ids)),
        backups=()
        if row.scope == "participation"
        else (*describe_backups(work.services.settings, datetime.now(UTC)), *_group_backups(done)),
    )
    return statement


def _replaced_items(done: Mapping[str, Any]) -> Iterator[Item]:
    for each in done.get("replaced", []):
        yield Item(
            "group_recording",
            len(each["recordings"]),
            tuple(old for old, _ in each["recordings"]),
            f"{each['name']}: {each['n_spans']} passages, {each['silent']:g} s in all, are silent "
            "in the copy that stands in its place. The original was destroyed.",
        )
        yield Item(
            "group_transcript",
            len(each["transcripts"]),
            tuple(old for old, _ in each["transcripts"]),
            f"{each['name']}: the participant's words are not in the new transcript; those of "
            "others, and their corrections, stay. Earlier versions were destroyed.",
        )
    made = [id for id in done.get("reissued", {}).values() if "-" in id]
    if made:
        yield Item("release", len(made), tuple(made), "Made again without the participant.")


def _kept_items(work: Work, session: DbSession, person: Person) -> Iterator[Item]:
    done = work.done
    n_consents = count_consents(session, person)
    if n_consents:
        yield Item("consent_record", n_consents, (), "As evidence that consent was given.")
    if work.row.scope == "participation":
        units = [unit.name for unit in find_units(session, person)]
        yield Item("session", len(units), tuple(units), "Recorded data stays, by this scope.")
        return
    kept = [*done.get("kept_releases", [])]
    for each in done.get("replaced", []) if work.keeps_releases else ():
        kept += each["releases"]
    if kept:
        yield Item("release", len(kept), tuple(kept), "De-identified, kept by this scope.")
    yield Item("code", 1, (work.row.code,), "Never used again; in the audit trail and in releases.")
    if mentions := done.get("mentions", []):
        places = {each["transcript"] for each in mentions}
        yield Item(
            "mention_by_others",
            len(mentions),
            tuple(sorted(places)),
            "What others said about the participant: open for a reviewer in these transcripts.",
        )
    waiting = [code for code in done.get("reissued", {}).values() if "-" not in code]
    if waiting:
        reasons = ", ".join(sorted({code.replace("_", " ") for code in waiting}))
        yield Item(
            "release_not_made_again", len(waiting), (), f"Revoked, not made again yet: {reasons}."
        )


def _left_items(done: Mapping[str, Any]) -> Iterator[Item]:
    verified = done.get("verified", {})
    for name, what, note in (
        ("opened", "key", "It can still be opened."),
        ("found", "file", "It is still in the vault."),
        ("heard", "recording", "The participant's passages are not silent."),
        ("spoken", "transcript", "It still has words of the participant."),
    ):
        if ids := verified.get(name):
            yield Item(what, len(ids), tuple(ids), note)
    if ids := done.get("search", {}).get("in_releases"):
        yield Item("release", len(ids), tuple(ids), "It still has the participant's name.")
    if ids := done.get("search", {}).get("unlisted"):
        yield Item(
            "transcript", len(ids), tuple(ids), "The name stands where no reviewer was asked."
        )


def _checks(work: Work) -> Iterator[Check]:
    if work.row.scope == "participation":
        return
    done = work.done
    verified, search = done["verified"], done.get("search", {"is_done": False})
    n_keys = sum(map(len, done.get("keys", {}).values()))
    n_files = sum(map(len, done.get("files", {}).values()))
    yield _check(
        f"{plural(n_keys, 'key')} of what was removed: none can be opened.", verified["opened"]
    )
    yield _check(
        f"{plural(n_files, 'file')} of what was removed: none is in the vault.", verified["found"]
    )
    if verified["has_groups"]:
        yield _check(
            "Each passage in which the participant spoke in a group is digital silence.",
            verified["heard"],
        )
        yield _check("No transcript has words of the participant.", verified["spoken"])
    if search["is_done"]:
        yield _check(
            f"{plural(search['n_transcripts'], 'transcript')} of the study searched for the "
            "participant's names: each place is on a reviewer's list.",
            search["unlisted"],
        )
        yield _check(
            f"{plural(search['n_releases'], 'release')} of the study searched for the "
            "participant's names: none has them.",
            search["in_releases"],
        )
    elif "names" in done.get("removed", {}):
        yield Check("The study was searched for the participant's names.", "not_checked")


def plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _check(what: str, failures: Sequence[str]) -> Check:
    return Check(what, "failed" if failures else "passed", tuple(failures))


def _group_backups(done: Mapping[str, Any]) -> Iterator[str]:
    names = [each["name"] for each in done.get("replaced", [])]
    if names:
        yield (
            f"Backups from before this withdrawal cannot restore {', '.join(names)}, for the other "
            "members either: a new backup should be made at once."
        )


# --- in the background ----------------------------------------------------------------------------


class Withdrawer(BackgroundWork):
    """Carries out withdrawals, one after the other; those that a stop interrupted first."""

    what = "withdrawals"

    def __init__(self, services: Services, render: Renderer) -> None:
        super().__init__()
        self._services = services
        self._render = render
        self._tried_at: dict[UUID, float] = {}

    def _make_next(self) -> bool:
        if self._stop.is_set() or self._services.vault.sealed:
            return False
        due = time.monotonic() - RETRY_AFTER
        self._tried_at = {id: at for id, at in self._tried_at.items() if at > due}
        with self._services.sessionmaker() as session:
            id = session.scalar(
                select(Withdrawal.id)
                .where(Withdrawal.state == "removing", Withdrawal.id.not_in(self._tried_at))
                .order_by(Withdrawal.requested_at)
                .limit(1)
            )
        if id is None:
            return False
        self._tried_at[id] = time.monotonic()
        try:
            run(self._services, id, self._render, self._look)
        except Stopped:
            return False
        except (ServiceError, SpeechError, *OPERATIONAL_ERRORS) as error:
            code = error.code if isinstance(error, (ServiceError, SpeechError)) else None
            log.warning("withdrawal %s: will be tried again: %s", id, code or error_name(error))
            self._record_failure(id, code or InternalError.code)
        except Exception as error:  # noqa: BLE001  # the top level of this thread
            log.error("withdrawal %s: %s at %s", id, type(error).__name__, locate(error))
            self._record_failure(id, InternalError.code)
        return True

    def _look(self, share: float) -> None:
        if self._stop.is_set():
            raise Stopped("The service is stopping")

    def _record_failure(self, id: UUID, code: str) -> None:
        with self._services.sessionmaker.begin() as session:
            row = session.get_one(Withdrawal, id, with_for_update=True)
            if row.state == "removing":
                row.failure_code = code
