"""The final count: compares database, vault and keys with the answers that the clients got.

It runs after the last fault, when every job has ended. Everything must agree exactly.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as DbSession

from scripts.chaos_run.clients import CANARY, Book
from scripts.chaos_run.engine import STORED_STAGES, name_of
from scripts.chaos_run.restored import read_name, read_words
from service.database.tables import (
    FINAL,
    STAGES,
    Handoff,
    Idempotency,
    Job,
    JobError,
    JobRecording,
    JobStage,
    Recording,
    Session,
    StoredTranscript,
    Study,
    Token,
)
from service.domain import results
from service.domain.handoffs import OCCURRENCES
from service.domain.job_state import MAX_CRASHES
from service.domain.recordings import identified, parse_metadata, read_metadata
from service.domain.strays import STRAY_AFTER, remove_strays
from service.domain.studies import read_vocabulary
from service.services import Services
from service.vault import ArtefactClass, uploads
from service.vault.files import PARTIAL, files_below

UNFINISHED = """
SELECT count(*) FROM procrastinate_jobs
 WHERE status IN ('todo', 'doing') AND task_name = 'fieldscribe.job'
"""


class Count:
    """Compares, and records every difference."""

    def __init__(self, services: Services, book: Book) -> None:
        self._services, self._book = services, book
        self.wrong: list[str] = []
        self.figures: dict[str, int] = {}
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        with self._services.sessionmaker() as session:
            self._count_places(session)
            self._count_recordings(session)
            self._count_jobs(session)
            self._count_handoffs(session)
            self._count_tokens(session)
        self._count_files()

    def _expect(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            if isinstance(found, set) and isinstance(expected, set):
                extra, lacking = found - expected, expected - found
                self.wrong.append(
                    f"{what}: {len(extra)} too many {some(extra)}, "
                    f"{len(lacking)} missing {some(lacking)}"
                )
            else:
                self.wrong.append(f"{what}: found {found}, expected {expected}")

    # --- rows -------------------------------------------------------------------------------------

    def _count_places(self, session: DbSession) -> None:
        book = self._book
        studies = session.scalars(select(Study)).all()
        self._expect("studies", {str(row.id) for row in studies}, set(book.studies.values()))
        erased = {str(row.id) for row in studies if row.erased_at}
        self._expect("erased studies", erased, book.erased_studies)
        sessions = session.scalars(select(Session)).all()
        self._expect("sessions", {str(row.id) for row in sessions}, set(book.sessions.values()))
        erased = {str(row.id) for row in sessions if row.erased_at}
        self._expect("erased sessions", erased, book.erased_sessions)
        self.figures |= {"studies": len(studies), "sessions": len(sessions)}
        for study_id, words in book.vocabularies.items():
            study = session.get_one(Study, UUID(study_id))
            self._expect("a vocabulary", read_vocabulary(self._services, study), words)

    def _count_recordings(self, session: DbSession) -> None:
        rows = {str(row.id): row for row in session.scalars(select(Recording))}
        by_name: dict[str, list[Recording]] = {}
        unknown_erased = 0
        acknowledged = {each.id for each in self._book.uploads}
        for id, row in rows.items():
            if row.erased_at is not None:
                unknown_erased += id not in acknowledged
                continue
            name = parse_metadata(read_metadata(self._services, row)).get("filename", "")
            by_name.setdefault(name, []).append(row)
        names = {each.name for each in self._book.uploads}
        self._expect("names of recordings", set(by_name) - names, set())
        n_unacknowledged = 0
        for upload in self._book.uploads:
            found = by_name.get(upload.name, [])
            own = rows.get(upload.id or "")
            if upload.deletion == "done":
                if own is None or own.erased_at is None:
                    self.wrong.append(f"recording {upload.id} was deleted but still exists")
            elif own is None or own.state != "ready":
                self.wrong.append(f"recording {upload.id} is {own and own.state}, not ready")
            elif (content := read_name(self._services, own)) != name_of(upload.content):
                self.wrong.append(f"the sound of recording {upload.id}: {content}")
            others = [each for each in found if str(each.id) != upload.id]
            n_unacknowledged += len(others)
            if len(others) > upload.n_begun - 1:
                self.wrong.append(f"{upload.name}: {len(found)} of {upload.n_begun} requests")
            for each in others:  # of requests whose answer was lost
                if each.state not in ("receiving", "ready", "refused"):
                    self.wrong.append(f"recording {each.id}, unacknowledged, is {each.state}")
        n_lost = sum(max(0, each.n_begun - 1) for each in self._book.uploads)
        if unknown_erased + n_unacknowledged > n_lost:
            self.wrong.append(f"{unknown_erased + n_unacknowledged} recordings of {n_lost} answers")
        self.figures |= {
            "recordings acknowledged": len(acknowledged),
            "of these deleted": sum(each.deletion == "done" for each in self._book.uploads),
            "uploads whose first answer was lost": n_unacknowledged + unknown_erased,
        }

    def _count_jobs(self, session: DbSession) -> None:
        jobs = {str(row.id): row for row in session.scalars(select(Job))}
        asked = {job.id or "": job for job in self._book.jobs}
        self._expect("jobs", set(jobs), set(asked))
        keys = session.scalar(select(func.count()).select_from(Idempotency))
        self._expect("idempotency keys", keys, len(asked))
        self._expect("rows in the queue", session.scalar(text(UNFINISHED)), 0)
        self.errors.update(session.scalars(select(JobError.code)))
        statuses: Counter[str] = Counter()
        for id, row in jobs.items():
            job = asked.get(id)
            if job is None:
                continue
            statuses[row.status] += 1
            if row.status not in FINAL:
                self.wrong.append(f"job {id} is {row.status}")
            elif job.deletion == "done":
                self._expect(f"job {id}, deleted", row.status, "erased")
            elif row.status == "cancelled":
                self._expect(f"job {id} was cancelled", job.cancelled, True)
            elif row.status == "failed":
                self._explain(session, row)
            else:
                self._expect(f"job {id}", row.status, "succeeded")
            if row.status == "succeeded":
                names = [name_of(each.content) for each in job.uploads]
                self._expect(
                    f"the transcript of job {id}", read_words(self._services, row.id), names
                )
        n_stages = session.scalar(select(func.count()).select_from(JobStage))
        self._expect("stages", n_stages, len(STAGES) * len(jobs))
        n_sources = session.scalar(select(func.count()).select_from(JobRecording))
        self._expect("sources", n_sources, sum(len(job.uploads) for job in asked.values()))
        self.figures |= {"jobs": len(jobs)} | {f"jobs {s}": n for s, n in sorted(statuses.items())}

    def _explain(self, session: DbSession, job: Job) -> None:
        """A job may fail only after three attempts, each killed before it finished a stage."""
        query = select(JobError.code).where(JobError.job_id == job.id).order_by(JobError.at)
        codes = list(session.scalars(query))
        killed = [code for code in codes if code in ("worker_died", "engine_died")]
        if codes[-1:] != ["gave_up"] or len(killed) < MAX_CRASHES:
            self.wrong.append(f"job {job.id} failed: {codes}")

    def _count_handoffs(self, session: DbSession) -> None:
        rows = session.execute(
            select(Handoff, StoredTranscript, Job)
            .join(StoredTranscript, StoredTranscript.id == Handoff.transcript_id)
            .join(Job, Job.id == StoredTranscript.job_id)
        ).all()
        per_job = Counter(transcript.job_id for _, transcript, _ in rows)
        twice = {job_id for job_id, n in per_job.items() if n > 1}
        self._expect("jobs with two hand-offs", twice, set())
        done = set(session.scalars(select(Job.id).where(Job.status == "succeeded")))
        open_jobs = {t.job_id for _, t, job in rows if job.status != "erased"}
        self._expect("jobs with a hand-off", open_jobs, done)
        ended: Counter[str] = Counter()
        acknowledged = dict(self._book.handoffs)
        for handoff, transcript, job in rows:
            known = acknowledged.pop(str(handoff.id), None)
            if job.status == "erased":
                continue
            if known is None:
                self.wrong.append(
                    f"hand-off {handoff.id} is {handoff.status}, which was never acknowledged"
                )
                continue
            ended[known.outcome] += 1
            self._expect(f"hand-off {handoff.id}", handoff.status, known.outcome)
            if handoff.status == "completed" and handoff.occurrences_artefact_id:
                content = results.read(
                    self._services,
                    handoff.study_id,
                    transcript.job_id,
                    OCCURRENCES,
                    handoff.occurrences_artefact_id,
                )
                sent = [
                    {key: value for key, value in each.items() if value is not None}
                    for each in json.loads(content)
                ]
                self._expect(f"the occurrences of {handoff.id}", sent, known.occurrences)
        self._expect("hand-offs that are gone", set(acknowledged), set())
        self.figures |= {"transcripts": len(rows), "hand-offs": len(rows)}
        self.figures |= {f"hand-offs {outcome}": n for outcome, n in sorted(ended.items())}

    def _count_tokens(self, session: DbSession) -> None:
        names = Counter(
            name for name in session.scalars(select(Token.name)) if name in self._book.tokens
        )
        for name, n_asked in self._book.tokens.items():
            if not 1 <= names[name] <= n_asked:
                self.wrong.append(f"token {name}: {names[name]} of {n_asked} requests")
        self.figures["tokens"] = len(names)

    # --- files ------------------------------------------------------------------------------------

    def _count_files(self) -> None:
        """Files and keys against rows, before and after the sweep of those without a row."""
        before = self._strays()
        self.figures |= {f"{name} without a row": len(ids) for name, ids in before.items()}
        age(self._services)
        remove_strays(self._services)
        for name, ids in self._strays().items():
            self._expect(f"{name} without a row after the sweep", ids, set())
        settings = self._services.settings
        partial = {
            path.name
            for folder in (settings.vault, settings.keys)
            for path in files_below(folder)
            if path.name.endswith(PARTIAL)
        }
        self._expect("half-written files", partial, set())

    def _strays(self) -> dict[str, set[UUID]]:
        """Files and keys that no row names. Rows that name a missing one are recorded."""
        store, keyring = identified(self._services)
        named, owners, studies, parts = set(), set(), set(), set()
        with self._services.sessionmaker() as session:
            for study in session.scalars(select(Study).where(Study.erased_at.is_(None))):
                studies.add(study.id)
                owners.add(study.id)
                named |= {study.vocabulary_artefact_id}
            for row in session.scalars(select(Recording).where(Recording.erased_at.is_(None))):
                owners.add(row.id)
                named |= {row.metadata_artefact_id}
                named |= {row.playback_artefact_id, row.peaks_artefact_id}
                if row.state == "receiving":
                    parts.add(row.id)
                else:
                    named.add(row.id)
            for job in session.scalars(select(Job).where(Job.status != "erased")):
                owners.add(job.id)
                named |= {job.vocabulary_artefact_id}
                query = select(StoredTranscript.artefact_id).where(
                    StoredTranscript.job_id == job.id
                )
                named |= set(session.scalars(query))
            named |= set(session.scalars(select(JobStage.artefact_id)))
            named |= set(session.scalars(select(Handoff.occurrences_artefact_id)))
            n_results = session.scalar(
                select(func.count()).where(
                    JobStage.name.in_(STORED_STAGES), JobStage.artefact_id.is_not(None)
                )
            )
        named.discard(None)
        files = set(store.ids())
        self._expect("files that rows name", named - files, set())
        self._expect("keys that rows need", owners - keyring.subjects(), set())
        self.figures |= {
            "artefacts": len(named),
            "stage results": n_results or 0,
            "data keys": len(owners),
        }
        found = {
            "artefacts": files - named,
            "uploads": set(uploads.ids(store, time.time() + 10**6)) - parts,
            "keys": keyring.subjects() - owners,
        }
        for name in ArtefactClass:
            each = self._services.vault.keyrings[name]
            found[f"{name} study keys"] = set(each.keys()) - studies
            self._expect(f"{name} study keys that are missing", studies - set(each.keys()), set())
        return found


def some(values: Iterable[Any]) -> str:
    listed = sorted(map(str, values))
    return ", ".join(listed[:5])


def age(services: Services) -> None:
    """Make every file and key older than a week, as if that time had passed."""
    then = time.time() - STRAY_AFTER - 60
    for folder in (identified(services)[0].folder, services.settings.keys):
        for path in folder.rglob("*"):
            os.utime(path, (then, then))


def read_logs(paths: Iterable[Path]) -> list[str]:
    """Check that the logs hold no tracebacks and no file names."""
    wrong = []
    for path in paths:
        said = path.read_text(errors="replace") if path.exists() else ""
        if n := said.count("Traceback (most recent call last)"):
            first = said.index("Traceback (most recent call last)")
            wrong.append(f"{path.name}: {n} tracebacks: {said[first : first + 3000]}")
        if CANARY in said:
            wrong.append(f"{path.name}: a file name")
    return wrong
