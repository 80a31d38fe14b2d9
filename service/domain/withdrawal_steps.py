"""The steps of a withdrawal. Each can be repeated after a power cut, and adds to `Work.done`.

ServiceError
└── MemoryNeeded
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.leaks import NameSearch
from models.transcript_json import from_json
from service.database.queries import lock_job
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
from service.domain import releases, results, review
from service.domain.callers import Caller
from service.domain.engine_job import VOCABULARY
from service.domain.entities import (
    EntityRecord,
    fold,
    linkage,
    look_up,
)
from service.domain.entity_changes import erase_entity, lock_for_change
from service.domain.erasure import erase_job
from service.domain.jobs import job_recordings
from service.domain.locks import refuse_while_checked
from service.domain.mentions import place_of
from service.domain.playback import has_memory_for
from service.domain.recordings import destroy, identified
from service.domain.release_content import Context, NamesLeft, find_leaks, without_places
from service.domain.releases import Renderer
from service.domain.review import ReviewEditor, ReviewNotReady, ReviewOpen
from service.domain.studies import read_vocabulary, write_vocabulary
from service.domain.transcripts import read_transcript
from service.domain.withdrawal_ledger import Entry, Place, remove_from_roster, reopen, write
from service.domain.withdrawal_plan import (
    Person,
    Unit,
    find_units,
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
from service.errors import ServiceError
from service.services import Services
from service.vault import ArtefactClass
from service.vault.errors import Erased

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

log = logging.getLogger(__name__)


class MemoryNeeded(ServiceError):
    """A recording of the withdrawal waits until others have been checked."""

    code: ClassVar[str] = "memory_needed"
    status: ClassVar[int] = 503


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


def at_boundary(step: str) -> None:
    """Between two steps. Tests cut the power here."""


def ledger_entry(work: Work, **changes: Any) -> Entry:
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


def write_ledger(work: Work) -> None:
    write(work.services.settings, ledger_entry(work))


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
    write_ledger(work)
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
    write_ledger(work)
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
    write_ledger(work)


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
    "ledger": write_ledger,
    "voice": _silence_groups,
    "interviews": _erase_interviews,
    "mentions": _open_mentions,
    "vocabulary": _clear_vocabularies,
    "releases": _reissue,
    "search": _search_texts,
    "names": _erase_names,
    "verify": _verify,
}
