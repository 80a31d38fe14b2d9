"""Transcribing in one request: a form with the recording in, the transcript out.

For clients of OpenAI's API and of whisper-asr-webservice. The recording goes into the vault as it
arrives and the job through the queue, as with any other client. A repeated request finds the same
recording and job, so a client that gives up too early can ask again.

ServiceError
├── StillRunning
└── TranscriptionFailed
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from fastapi import Request
from starlette.exceptions import HTTPException

from models.options import JobOptions
from models.speaker_names import show_names
from models.transcript import Transcript
from service.api.limits import Limits
from service.api.routes.recordings import UNFINISHED
from service.api.routes.uploads import receive_form
from service.api.watch import JOBS, RECORDINGS, Topic, Watch
from service.database.tables import Job
from service.domain import audit, jobs, recordings, transcripts
from service.domain.callers import Caller, require_valid_token
from service.domain.job_errors import error_title
from service.domain.jobs import JobRequest
from service.domain.studies import find_only_study
from service.errors import ServiceError
from service.exports import Format, Label, render
from service.services import Services

MAX_PROMPT_WORDS, MAX_WORD_LENGTH = 500, 100  # of a vocabulary


class StillRunning(ServiceError):
    """The transcript is not finished yet: send the same request again, or ask for the job."""

    code: ClassVar[str] = "still_running"
    status: ClassVar[int] = 504


class TranscriptionFailed(ServiceError):
    """The recording could not be transcribed."""

    code: ClassVar[str] = "transcription_failed"
    status: ClassVar[int] = 422


Form = TypeVar("Form")


@dataclass(frozen=True)
class Place:
    """Where the recording belongs. `study` may be None if the token has only one."""

    study: str | None
    session: str | None


@dataclass(frozen=True)
class Wanted:
    """How to transcribe; `chosen` names the options that are not the study's defaults."""

    model: str | None
    options: JobOptions
    chosen: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    job_id: UUID
    transcript: Transcript


async def transcribe_form(
    request: Request,
    caller: Caller,
    services: Services,
    limits: Limits,
    *,
    file_field: str,
    place: Place,
    read_form: Callable[[dict[str, list[str]]], Form],
    wanted_of: Callable[[Form], Wanted],
    wait: float,
) -> tuple[Finished, Form]:
    """Store the form's recording, submit a job and wait for its transcript.

    Args:
        read_form: called with the form's other fields once the whole body has arrived.
        wait: seconds after the body until `StillRunning` is raised.

    Raises:
        StillRunning, TranscriptionFailed, StudyUnclear, BadForm, WrongLength
        RequestValidationError, and the errors of uploads and jobs
    """
    limits.uploads.require(str(caller.token_id))
    study = place.study
    if study is None:
        study = await asyncio.to_thread(find_only_study, services, caller)
    forms: list[Form] = []
    recording_id, _ = await receive_form(
        request,
        caller,
        services,
        limits,
        lambda fields: forms.append(read_form(fields)),
        file_field=file_field,
        study=study,
        session=place.session,
    )
    (form,) = forms
    wanted = wanted_of(form)
    watch: Watch = request.app.state.watch
    end = asyncio.get_running_loop().time() + wait
    with limits.waiting(caller.token_id):
        await wait_until(
            request, watch, RECORDINGS, recording_id, lambda state: state not in UNFINISHED, end
        )
        await asyncio.to_thread(require_valid_token, services, caller)
        place = Place(study, place.session)
        job_id = await asyncio.to_thread(submit, services, caller, recording_id, place, wanted)
        await wait_until(request, watch, JOBS, job_id, lambda state: state.has_ended, end)
        await asyncio.to_thread(require_valid_token, services, caller)
    return await asyncio.to_thread(read_finished, services, caller, job_id), form


# --- the job --------------------------------------------------------------------------------------


def submit(
    services: Services, caller: Caller, recording_id: UUID, place: Place, wanted: Wanted
) -> UUID:
    """Submit the job, or find that of the same request unless it failed; returns its id.

    Raises:
        StillRunning: the recording is still being checked.
        TranscriptionFailed: it was refused.
    """
    with services.sessionmaker() as session:
        recording = recordings.find_recording(session, caller, recording_id)
    if recording.state in UNFINISHED:
        raise StillRunning(
            "The recording is still being checked: send the same request again, or ask for "
            f"/v1/recordings/{recording_id}"
        )
    if recording.state == "refused":
        raise TranscriptionFailed(f"{recording.refusal_code}: {recording.refusal_detail}")
    request = JobRequest(
        study=place.study,
        session=place.session,
        recordings=(recording_id,),
        model=wanted.model,
        options=wanted.options,
        chosen=wanted.chosen,
    )
    content = [jobs.canonical_fields(request), wanted.chosen]
    key = str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True, default=str)))
    with services.sessionmaker.begin() as session:
        submitted = jobs.submit_job(session, services, caller, request, key)
        job = session.get_one(Job, submitted.job_id)
        if job.status in ("failed", "cancelled", "erased"):
            submitted = jobs.submit_job(session, services, caller, request)
        return submitted.job_id


async def wait_until(
    request: Request,
    watch: Watch,
    topic: Topic,
    id: UUID,
    condition: Callable[[Any], bool],
    end: float,
) -> None:
    """Wait for a change, until the time `end` of the event loop or until the client is gone."""
    seconds = end - asyncio.get_running_loop().time()
    change = asyncio.ensure_future(watch.until(topic, id, condition, max(0.0, seconds)))
    gone = asyncio.ensure_future(until_disconnected(request))
    try:
        await asyncio.wait({change, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            raise HTTPException(400)  # nobody reads the answer
        await change
    finally:
        for task in (change, gone):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def read_finished(services: Services, caller: Caller, job_id: UUID) -> Finished:
    """The transcript of a job that has ended.

    Raises:
        StillRunning, TranscriptionFailed
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    with services.sessionmaker() as session:
        job = jobs.find_job(session, caller, job_id)
        if job.transcript_id is None:
            code = jobs.last_error_code(session, job_id)
        else:
            row = transcripts.find_transcript(session, caller, job.transcript_id)
            transcript = show_names(transcripts.read_transcript(session, services, row))
            place: dict[str, UUID | str] = {"transcript": row.id, "job": job_id}
    if job.status == "cancelled":
        raise TranscriptionFailed(f"Job {job_id} was cancelled")
    if job.status == "failed":
        raise TranscriptionFailed(f"Job {job_id} failed: {code}: {error_title(code or '')}")
    if job.transcript_id is None:
        raise StillRunning(
            f"The recording is still being transcribed: send the same request again, or ask for "
            f"/v1/jobs/{job_id}"
        )
    audit.record_now(
        services,
        caller,
        "transcript.exported",
        job.study_id,
        place,
        detail={"version": transcript.version, "format": "one_request"},
    )
    return Finished(job_id, transcript)


def captions(finished: Finished, format: Format) -> str:
    label = Label(session=str(finished.job_id), study="", version=finished.transcript.version)
    return render(finished.transcript, format, label).decode()


# --- options --------------------------------------------------------------------------------------


def words_of_prompt(prompt: str) -> list[str]:
    """The names and terms in a prompt, which other services accept as text."""
    pieces = [piece.strip() for piece in prompt.replace("\n", ",").replace(";", ",").split(",")]
    words = [
        piece[i : i + MAX_WORD_LENGTH].strip()
        for piece in pieces
        for i in range(0, len(piece), MAX_WORD_LENGTH)
    ]
    return [word.replace("\r", " ") for word in words if word][:MAX_PROMPT_WORDS]
