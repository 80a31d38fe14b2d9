"""The API of whisper-asr-webservice, so that Speakr and others can use Fieldscribe as their engine.

Sources: ahmetoner/whisper-asr-webservice, app/webservice.py at ea12224e; the requests that Speakr's
ASR connector sends (tests/recorded).
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from models.options import MAX_SPEAKERS, JobOptions, SpeakerCount
from models.transcript import Transcript, text_of
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.one_request import (
    Finished,
    Place,
    Wanted,
    captions,
    transcribe_form,
    words_of_prompt,
)
from service.api.openapi import problems
from service.api.routes.audio import (
    ALIASES,
    FORM,
    JOB_HEADERS,
    ONE_REQUEST_ERRORS,
    SessionQuery,
    StudyQuery,
    text_response,
)
from service.api.routes.studies import Language
from service.domain.callers import Caller
from service.exports import Format

router = APIRouter(tags=["audio"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher", basic_too=True))]
WAIT = 1740.0  # s; Speakr gives up after 1800 s
Output = Literal["txt", "vtt", "srt", "tsv", "json"]
NO_EFFECT = Query(description="Has no effect.")


class AsrWord(BaseModel):
    word: str
    start: float
    end: float
    probability: float | None


class AsrSegment(BaseModel):
    id: int
    start: float
    end: float
    text: str
    speaker: str | None
    words: list[AsrWord] | None = None


class AsrAnswer(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "Good morning.",
                    "language": "en",
                    "segments": [
                        {
                            "id": 0,
                            "start": 0.4,
                            "end": 1.2,
                            "text": "Good morning.",
                            "speaker": "SPEAKER_00",
                        }
                    ],
                }
            ]
        }
    )

    text: str
    language: str
    segments: list[AsrSegment] = Field(description="`words` if `word_timestamps` asks for them.")


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "required": ["audio_file"],
                    "properties": {
                        "audio_file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The recording.",
                        }
                    },
                }
            }
        },
    }
}


@router.post(
    "/asr",
    response_class=Response,
    responses={
        200: {
            "description": "The transcript.",
            "model": AsrAnswer,
            "content": {"text/plain": {}},
            "headers": JOB_HEADERS,
        },
        **problems(*ONE_REQUEST_ERRORS),
    },
    openapi_extra=BODY,
)
async def transcribe_audio_file(
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: StudyQuery = None,
    session: SessionQuery = None,
    task: Literal["transcribe", "translate"] = "transcribe",
    language: Language | Literal["auto"] | None = None,
    initial_prompt: Annotated[
        str | None, Query(max_length=2000, description="Names and terms, separated by commas.")
    ] = None,
    hotwords: Annotated[str | None, Query(max_length=2000)] = None,
    model: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=64,
            description="An installed model, or `whisper-1` for the study's. Speakr can send one.",
        ),
    ] = None,
    word_timestamps: bool = False,
    min_speakers: Annotated[int | None, Query(ge=1, le=MAX_SPEAKERS)] = None,
    max_speakers: Annotated[int | None, Query(ge=1, le=MAX_SPEAKERS)] = None,
    output: Output = "txt",
    encode: Annotated[bool, NO_EFFECT] = True,
    vad_filter: Annotated[bool, NO_EFFECT] = False,
    diarize: Annotated[bool, NO_EFFECT] = False,
    enable_diarization: Annotated[bool, NO_EFFECT] = False,
    return_speaker_embeddings: Annotated[bool, NO_EFFECT] = False,
) -> Response:
    """Transcribe a recording as whisper-asr-webservice does; diarisation is always on.

    The token may also be the password of HTTP Basic. If the transcript is not finished after 29
    minutes, the answer is `still_running` with the job's id; the same request sent again waits for
    the same job.
    """
    chosen: dict[str, Any] = {"translate": True} if task == "translate" else {}
    if language is not None:
        chosen["language"] = None if language == "auto" else language
    if words := words_of_prompt(",".join(filter(None, (hotwords, initial_prompt)))):
        chosen["vocabulary"] = tuple(words)
    if min_speakers or max_speakers:
        chosen["speakers"] = SpeakerCount(min_speakers, max_speakers)
    wanted = Wanted(None if model in ALIASES else model, JobOptions(**chosen), tuple(chosen))
    finished, _ = await transcribe_form(
        request,
        caller,
        services,
        limits,
        file_field="audio_file",
        place=Place(study, session),
        read_form=lambda fields: None,
        wanted_of=lambda form: wanted,
        wait=WAIT,
    )
    return await asyncio.to_thread(render, finished, output, word_timestamps)


def render(finished: Finished, output: Output, with_words: bool) -> Response:
    transcript = finished.transcript
    headers = {"X-Job-Id": str(finished.job_id), "Location": f"/v1/jobs/{finished.job_id}"}
    if output == "json":
        answer = {
            "text": text_of(transcript.words),
            "language": transcript.language,
            "segments": list(segments(transcript, with_words)),
        }
        content = json.dumps(answer, ensure_ascii=False)
        return Response(content, media_type="application/json", headers=headers)
    if output in ("vtt", "srt"):
        return text_response(captions(finished, Format(output)), headers)
    write = tsv if output == "tsv" else txt
    return text_response("".join(f"{line}\n" for line in write(transcript)), headers)


def segments(transcript: Transcript, with_words: bool) -> Iterator[dict[str, Any]]:
    for number, segment in enumerate(transcript.segments):
        yield {
            "id": number,
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "speaker": segment.speaker,
        } | (
            {
                "words": [
                    {
                        "word": word.text,
                        "start": word.start,
                        "end": word.end,
                        "probability": word.probability,
                    }
                    for word in segment.words
                ]
            }
            if with_words
            else {}
        )


def txt(transcript: Transcript) -> Iterator[str]:
    for segment in transcript.segments:
        yield f"[{segment.speaker}]: {segment.text}" if segment.speaker else segment.text


def tsv(transcript: Transcript) -> Iterator[str]:
    """Times in milliseconds."""
    yield "start\tend\ttext"
    for segment in transcript.segments:
        text = segment.text.replace("\t", " ")
        yield f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{text}"
