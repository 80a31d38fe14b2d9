"""OpenAI's transcription API, for programs that support no other.

A form with a recording in, the transcript out, in one request. Values that Fieldscribe does not
have, such as `no_speech_prob`, are left out of the answers.
"""

import asyncio
import json
import math
import string
import zlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from models.languages import LANGUAGES
from models.options import MAX_SPEAKERS, JobOptions, SpeakerCount
from models.transcript import Segment, Transcript, text_of
from models.weights.errors import ModelMissing, UnknownModel, WeightsCorrupt
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.limits import Limits
from service.api.multipart import BadForm
from service.api.one_request import (
    Finished,
    Place,
    StillRunning,
    TranscriptionFailed,
    Wanted,
    captions,
    transcribe_form,
    words_of_prompt,
)
from service.api.openapi import problems
from service.api.routes.studies import Language
from service.api.routes.views import SessionName, Strict, StudyName
from service.domain.callers import Caller
from service.errors import (
    SessionNotFound,
    StudyNotFound,
    StudyUnclear,
    TooManyWaiting,
    UploadTooLarge,
    WrongLength,
)
from service.exports import Format
from service.services import Services
from service.vault.errors import READ_ERRORS, WRITE_ERRORS, UploadBusy, UploadDamaged

router = APIRouter(prefix="/v1/audio", tags=["audio"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]

# OpenAI's client gives up after 600 s without an answer, unless it says otherwise in a header.
WAIT = 570.0  # s
MARGIN = 30.0  # s
TIMEOUT_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")
ALIASES = (
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-transcribe",
)
"""OpenAI's names, for which the study's model is used."""

ONE_REQUEST_ERRORS = (
    BadForm,
    WrongLength,
    UploadTooLarge,
    UploadBusy,
    UploadDamaged,
    StudyNotFound,
    StudyUnclear,
    SessionNotFound,
    UnknownModel,
    ModelMissing,
    WeightsCorrupt,
    TooManyWaiting,
    TranscriptionFailed,
    StillRunning,
    *READ_ERRORS,
    *WRITE_ERRORS,
)

FORM = "multipart/form-data"

StudyQuery = Annotated[
    StudyName | None, Query(description="Needed if the token has several studies.")
]
SessionQuery = Annotated[
    SessionName | None, Query(description="An existing session that the recording belongs to.")
]


# --- requests -------------------------------------------------------------------------------------


class AudioForm(Strict):
    """The fields of a form besides `file`. `temperature` has no effect."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="An installed model, or `whisper-1` for the study's.", examples=["whisper-1"]
    )
    prompt: str | None = Field(
        default=None, max_length=10_000, description="Names and terms, separated by commas."
    )
    temperature: float | None = Field(default=None, ge=0, le=1)
    min_speakers: int | None = Field(default=None, ge=1, le=MAX_SPEAKERS)
    max_speakers: int | None = Field(default=None, ge=1, le=MAX_SPEAKERS)


class TranslationForm(AudioForm):
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"


class TranscriptionForm(AudioForm):
    """`chunking_strategy` and `include` have no effect; `stream` is refused."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    language: Language | Literal["auto"] | None = Field(
        default=None, description="Code or name; by default the study's."
    )
    languages: list[Language] = Field(default=[], max_length=10)
    keywords: list[Annotated[str, StringConstraints(min_length=1, max_length=100)]] = Field(
        default=[], max_length=500
    )
    timestamp_granularities: list[Literal["word", "segment"]] = Field(default=[], max_length=2)
    include: list[Literal["logprobs"]] = Field(default=[], max_length=1)
    chunking_strategy: list[str] = Field(default=[], max_length=10)
    stream: Literal["false"] = "false"


Form = TranscriptionForm | TranslationForm
LISTS = ("languages", "keywords", "timestamp_granularities", "include", "chunking_strategy")


def parse_form(kind: type[Form], fields: dict[str, list[str]]) -> Form:
    """
    Raises:
        RequestValidationError
    """
    values = {name: each if name in LISTS else each[-1] for name, each in fields.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        listed = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in listed]
        ) from None


def options_of(form: Form, *, translate: bool) -> Wanted:
    chosen: dict[str, Any] = {}
    words = words_of_prompt(form.prompt or "")
    if isinstance(form, TranscriptionForm):
        language = form.language or (form.languages[0] if len(form.languages) == 1 else None)
        if language is not None:
            chosen["language"] = None if language == "auto" else language
        words = [*form.keywords, *words]
    if words:
        chosen["vocabulary"] = tuple(words[:500])
    if form.min_speakers or form.max_speakers:
        chosen["speakers"] = SpeakerCount(form.min_speakers, form.max_speakers)
    if translate:
        chosen["translate"] = True
    model = None if form.model in ALIASES else form.model
    return Wanted(model, JobOptions(**chosen), tuple(chosen))


def patience_of(request: Request) -> float:
    """How long the client waits for an answer, less a margin, in seconds."""
    for name in TIMEOUT_HEADERS:
        text = request.headers.get(name, "")
        if text.replace(".", "", 1).isdigit() and len(text) < 10:
            return max(0.0, min(WAIT, float(text) - MARGIN, 0.9 * float(text)))
    return WAIT


def form_body(kind: type[Form], file_field: str = "file") -> dict[str, Any]:
    """The request body as the OpenAPI document describes it."""
    schema = kind.model_json_schema()
    schema["properties"] = {
        file_field: {"type": "string", "format": "binary", "description": "The recording."},
        **schema["properties"],
    }
    schema["required"] = [file_field, *schema.get("required", [])]
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}


# --- answers --------------------------------------------------------------------------------------


class TranscriptionAnswer(BaseModel):
    """Every format has `text`; the others depend on `response_format`."""

    text: str
    task: Literal["transcribe", "translate"] | None = None
    language: str | None = Field(default=None, description="English name, in lower case.")
    duration: float | None = None
    segments: list[dict[str, Any]] | None = None
    words: list[dict[str, Any]] | None = None
    usage: dict[str, Any] | None = None


JOB_HEADERS = {
    "X-Job-Id": {"schema": {"type": "string"}},
    "Location": {"schema": {"type": "string"}, "description": "/v1/jobs/{id}"},
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript.",
        "model": TranscriptionAnswer,
        "content": {"text/plain": {}},
        "headers": JOB_HEADERS,
    },
    **problems(*ONE_REQUEST_ERRORS),
}


@router.post(
    "/transcriptions",
    response_class=Response,
    responses=RESPONSES,
    openapi_extra=form_body(TranscriptionForm),
)
async def create_transcription(
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: StudyQuery = None,
    session: SessionQuery = None,
) -> Response:
    """Transcribe a recording as OpenAI's API does.

    If the transcript is not finished before the client gives up, the answer is `still_running` with
    the job's id; the same request sent again waits for the same job.
    """
    place = Place(study, session)
    return await _answer(request, caller, services, limits, place, TranscriptionForm)


@router.post(
    "/translations",
    response_class=Response,
    responses=RESPONSES,
    openapi_extra=form_body(TranslationForm),
)
async def create_translation(
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: StudyQuery = None,
    session: SessionQuery = None,
) -> Response:
    """Transcribe a recording and translate it into English, as OpenAI's API does."""
    place = Place(study, session)
    return await _answer(request, caller, services, limits, place, TranslationForm)


async def _answer(
    request: Request,
    caller: Caller,
    services: Services,
    limits: Limits,
    place: Place,
    kind: type[Form],
) -> Response:
    translate = kind is TranslationForm
    finished, form = await transcribe_form(
        request,
        caller,
        services,
        limits,
        file_field="file",
        place=place,
        read_form=lambda fields: parse_form(kind, fields),
        wanted_of=lambda form: options_of(form, translate=translate),
        wait=patience_of(request),
    )
    task = "translate" if translate else "transcribe"
    return await asyncio.to_thread(render, finished, form, task=task)


def render(finished: Finished, form: Form, *, task: str) -> Response:
    transcript = finished.transcript
    headers = {"X-Job-Id": str(finished.job_id), "Location": f"/v1/jobs/{finished.job_id}"}
    kind = form.response_format
    if kind in ("srt", "vtt"):
        return text_response(captions(finished, Format(kind)), headers)
    text = text_of(transcript.words)
    if kind == "text":
        return text_response(text + "\n", headers)
    answer: dict[str, Any] = {"text": text}
    if kind != "json":
        answer = {"task": task, "duration": transcript.duration, **answer}
    if kind == "verbose_json":
        answer["language"] = LANGUAGES.get(transcript.language, transcript.language)
        asked = form.timestamp_granularities if isinstance(form, TranscriptionForm) else []
        granularities = asked or ["segment"]
        if "segment" in granularities:
            answer["segments"] = [
                verbose_segment(i, segment) for i, segment in enumerate(transcript.segments)
            ]
        if "word" in granularities:
            answer["words"] = [
                {"word": word.text.strip(), "start": word.start, "end": word.end}
                for word in transcript.words
            ]
    if kind == "diarized_json":
        answer["segments"] = list(diarized_segments(transcript))
    answer["usage"] = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    content = json.dumps(answer, ensure_ascii=False)
    return Response(content, media_type="application/json", headers=headers)


def text_response(text: str, headers: dict[str, str]) -> Response:
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)


def verbose_segment(number: int, segment: Segment) -> dict[str, Any]:
    text = segment.text.encode()
    known = [word.probability for word in segment.words if word.probability]
    found = {
        "id": number,
        "seek": round(segment.start * 100),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "speaker": segment.speaker,
    }
    if known:
        found["avg_logprob"] = sum(map(math.log, known)) / len(known)
    return found


def diarized_segments(transcript: Transcript) -> Iterator[dict[str, Any]]:
    """Segments with speakers A, B, ...; people who have a name in the transcript keep it."""
    letters = dict(zip(transcript.speakers, string.ascii_uppercase, strict=False))
    for number, segment in enumerate(transcript.segments):
        speaker = segment.speaker or "unknown"
        yield {
            "type": "transcript.text.segment",
            "id": f"seg_{number:03d}",
            "start": segment.start,
            "end": segment.end,
            "speaker": letters.get(speaker, speaker) if speaker.startswith("SPEAKER_") else speaker,
            "text": segment.text,
        }
