"""OpenAI's API and that of whisper-asr-webservice: a recording in, the transcript out."""

import io
import json
import threading
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
from sqlalchemy import select

from service.api.multipart import BadForm, FormReader
from service.api.one_request import words_of_prompt
from service.api.routes import asr, audio
from service.database.tables import Job
from service.domain import job_state
from tests.api import Api, open_api, tone
from tests.bridge import Bridge
from tests.finished import finish_job


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        api.post("/v1/studies", json={"code": "PEER", "model": "demo"})
        yield api


@pytest.fixture(scope="module")
def token(api):
    """Of a researcher with one study, as a program would have it."""
    return api.token("researcher", api.get("/v1/studies/PEER").json()["id"])


class Worker(threading.Thread):
    """Finishes every queued job, like a worker."""

    def __init__(self, api: Api) -> None:
        super().__init__(daemon=True)
        self.api, self.stopping, self.codes = api, threading.Event(), list[str]()

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            with self.api.services.sessionmaker() as session:
                ids = session.scalars(select(Job.id).where(Job.status == "queued")).all()
            for id in ids:
                if not self.codes:
                    finish_job(self.api.services, id)
                    continue
                with self.api.services.sessionmaker.begin() as session:
                    claim = job_state.claim_job(session, id)
                    assert claim is not None
                    job_state.record_failure(session, claim, self.codes.pop())


@pytest.fixture
def worker(api):
    worker = Worker(api)
    worker.start()
    yield worker
    worker.stopping.set()
    worker.join()


@pytest.fixture
def bridge(api):
    return Bridge(api)


@pytest.fixture
def client(bridge, token):
    http = httpx.Client(transport=bridge)
    return openai.OpenAI(api_key=token, base_url="http://testserver/v1", http_client=http)


seconds = iter(range(10_000))


@pytest.fixture
def recording():
    """No two are alike."""
    file = io.BytesIO(tone(1.0 + next(seconds) / 1000))
    file.name = "Eva Muster.wav"
    return file


def test_openais_client_gets_a_transcript(api, worker, client, bridge, recording):
    made = client.audio.transcriptions.create(file=recording, model="whisper-1", language="en")

    assert made.text.startswith("Good morning")
    assert made.usage.seconds == 20
    (job,) = api.get("/v1/jobs?study=PEER&limit=1").json()["items"]
    answer = bridge.requests[-1]
    assert job["status"] == "succeeded" and answer.url.path == "/v1/audio/transcriptions"
    assert api.get(f"/v1/jobs/{job['id']}").json()["options"]["language"] == "en"


def test_every_format_of_openais_api_is_answered(worker, client, recording):
    create = client.audio.transcriptions.create
    content = ("a.wav", recording.getvalue())

    assert create(file=content, model="demo", response_format="text").startswith("Good morning")
    assert "-->" in create(file=content, model="demo", response_format="srt")
    assert create(file=content, model="demo", response_format="vtt").startswith("WEBVTT")
    verbose = create(
        file=content,
        model="demo",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (verbose.language, verbose.duration) == ("english", 20.0)
    assert verbose.segments[0].text and verbose.segments[0].compression_ratio > 0
    assert (
        verbose.words[0].word == "Good morning." and verbose.words[0].end > verbose.words[0].start
    )
    diarized: Any = create(
        file=content, model="gpt-4o-transcribe-diarize", response_format="diarized_json"
    )
    assert {segment.speaker for segment in diarized.segments} >= {"A", "B"}


def test_a_translation_is_a_job_that_translates(api, worker, client, recording):
    client.audio.translations.create(file=recording, model="whisper-1")

    (job,) = api.get("/v1/jobs?study=PEER&limit=1").json()["items"]
    assert api.get(f"/v1/jobs/{job['id']}").json()["options"]["translate"] is True


def test_openais_client_lists_the_models(client):
    assert "demo" in [model.id for model in client.models.list()]


def test_a_client_that_gives_up_and_asks_again_gets_the_same_job(
    api, client, recording, monkeypatch
):
    """OpenAI's client sends a recording three times; each would otherwise be a job."""
    n_jobs = len(api.get("/v1/jobs?study=PEER&limit=200").json()["items"])
    n_recordings = len(api.get("/v1/recordings?study=PEER&limit=200").json()["items"])
    monkeypatch.setattr(audio, "WAIT", 2.0)
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", lambda *_, **__: None)

    with pytest.raises(openai.InternalServerError) as raised:
        client.audio.transcriptions.create(file=recording, model="whisper-1", prompt="Seroquel")

    body: Any = raised.value.body
    assert (raised.value.status_code, body["code"]) == (504, "still_running")
    jobs = api.get("/v1/jobs?study=PEER&limit=200").json()["items"]
    assert len(jobs) == n_jobs + 1 and jobs[0]["id"] in body["message"]
    found = api.get("/v1/recordings?study=PEER&limit=200").json()["items"]
    assert len(found) == n_recordings + 1
    finish_job(api.services, UUID(jobs[0]["id"]))
    recording.seek(0)
    made = client.audio.transcriptions.create(file=recording, model="whisper-1", prompt="Seroquel")
    assert made.text


def test_a_clients_own_timeout_is_respected(client):
    request: Any = type("R", (), {"headers": {"x-stainless-read-timeout": "60"}})
    assert audio.patience_of(request) == 30.0
    request.headers = {"x-stainless-read-timeout": "nan"}
    assert audio.patience_of(request) == audio.WAIT


def test_a_failed_job_is_reported_and_not_sent_again(api, worker, client, bridge, recording):
    worker.codes.append("no_speech")
    n_requests = len(bridge.requests)

    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.audio.transcriptions.create(file=recording, model="whisper-1")

    body: Any = raised.value.body
    assert body["code"] == "transcription_failed" and "no_speech" in body["message"]
    assert len(bridge.requests) == n_requests + 1
    recording.seek(0)
    assert client.audio.transcriptions.create(file=recording, model="whisper-1").text


def test_a_recording_that_cannot_be_used_is_refused_with_the_reason(client):
    with pytest.raises(openai.UnprocessableEntityError, match="silent_audio"):
        client.audio.transcriptions.create(file=("a.wav", tone(1.0, level=0.0)), model="whisper-1")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"model": "large-v9"}, "model_not_found"),
        ({"model": "whisper-1", "language": "klingon"}, "invalid_request"),
        ({"model": "whisper-1", "stream": True}, "invalid_request"),
        ({"model": "whisper-1", "extra_body": {"known_speaker_names": ["Eva"]}}, "invalid_request"),
        ({"model": "whisper-1", "extra_query": {"study": "NOSUCH"}}, "study_not_found"),
    ],
    ids=lambda value: str(value),
)
def test_a_bad_request_keeps_no_recording(api, client, bridge, recording, options, code):
    before = api.get("/v1/recordings?study=PEER&limit=200").json()["items"]
    with pytest.raises(openai.APIStatusError) as raised:
        client.audio.transcriptions.create(file=recording, **options)

    body: Any = raised.value.body
    assert body["code"] == code and "Eva" not in json.dumps(body)
    after = api.get("/v1/recordings?study=PEER&limit=200").json()["items"]
    assert len(after) - len(before) == (code == "model_not_found")  # found when it is submitted


def test_a_token_of_several_studies_must_name_one(api, recording):
    other = api.study()["code"]
    http = httpx.Client(transport=Bridge(api))
    owner = api.headers["Authorization"].removeprefix("Bearer ")
    client = openai.OpenAI(api_key=owner, base_url="http://testserver/v1", http_client=http)

    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.audio.transcriptions.create(file=recording, model="whisper-1")
    body: Any = raised.value.body
    assert body["code"] == "study_unclear"
    assert other != "PEER"


def test_nothing_of_a_form_is_written_to_a_temporary_file(
    api, worker, client, recording, tmp_path, monkeypatch
):
    """Readers of forms put large files into one, in plain text."""
    monkeypatch.setattr("tempfile.SpooledTemporaryFile", refuse)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    sound = recording.getvalue()

    client.audio.transcriptions.create(file=recording, model="whisper-1")

    settings = api.services.settings
    for path in [*settings.data.rglob("*"), *settings.keys.rglob("*")]:
        if path.is_file() and path.stat().st_size > 100:
            assert sound[5000:5100] not in path.read_bytes(), path
            assert b"Eva Muster" not in path.read_bytes(), path


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a temporary file was opened")


# --- whisper-asr-webservice -----------------------------------------------------------------------

# Recorded from Speakr's own code by scripts/record_speakr.py; see tests/recorded/README.md.
RECORDED = Path(__file__).parent / "recorded"


def send_recorded(api, name, token, sound):
    """Send a recorded request as it is, but with a token and a recording that exist."""
    head, _, body = (RECORDED / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    method, target, _ = request.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    scheme, encoded = headers["Authorization"].split(" ")
    sent = b64decode(encoded).decode()
    headers["Authorization"] = (
        f"{scheme} " + b64encode(sent.replace("THE-TOKEN", token).encode()).decode()
    )
    body = body.replace(b"THE BYTES OF THE RECORDING", sound)
    headers |= {"Content-Length": str(len(body)), "Host": "testserver"}
    return api.client.request(method, target, headers=headers, content=body)


@pytest.mark.parametrize(
    ("name", "speakers"),
    [("speakr-usual", {"min": None, "max": None}), ("speakr-full", {"min": 2, "max": 3})],
)
def test_a_request_recorded_from_speakr_gets_segments_with_speakers(
    api, worker, token, recording, name, speakers
):
    answer = send_recorded(api, name, token, recording.getvalue())

    assert answer.status_code == 200, answer.text
    data = answer.json()
    assert data["language"] == "en" and data["text"].startswith("Good morning")
    first = data["segments"][0]
    assert first["speaker"] == "SPEAKER_00" and first["text"] and first["end"] > first["start"]
    options = api.get(f"/v1/jobs/{answer.headers['X-Job-Id']}").json()["options"]
    assert options["speakers"] == speakers


def test_speakr_is_told_which_models_it_can_ask_for(api, token, worker, recording):
    """It sends its token to /v1/models as to /asr; once, a request with `model` was refused."""
    basic = {"Authorization": "Basic " + b64encode(f"asr:{token}".encode()).decode()}
    names = [each["id"] for each in api.client.get("/v1/models", headers=basic).json()["data"]]
    files = {"audio_file": ("a.wav", recording.getvalue())}

    assert "demo" in names
    for model, status in (("demo", 200), ("whisper-1", 200), ("nobody-has-this", 422)):
        answer = api.post("/asr", params={"study": "PEER", "model": model}, files=files)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    ("output", "beginning"),
    [("txt", "[SPEAKER_00]: Good"), ("vtt", "WEBVTT"), ("srt", "1\n"), ("tsv", "start\tend\ttext")],
)
def test_every_output_of_the_webservice_is_answered(api, worker, output, beginning):
    answer = api.post(
        "/asr",
        params={"study": "PEER", "output": output, "word_timestamps": True},
        files={"audio_file": ("a.wav", tone(0.7))},  # checked and transcribed once
    )

    assert answer.text.startswith(beginning)
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_a_job_that_takes_longer_is_named(api, recording, monkeypatch):
    monkeypatch.setattr(asr, "WAIT", 0.5)
    files = {"audio_file": ("a.wav", recording.getvalue())}
    for _ in range(20):  # on a busy machine the check of the recording takes longer
        answer = api.post("/asr", params={"study": "PEER"}, files=files)
        assert (answer.status_code, answer.json()["code"]) == (504, "still_running")
        if "/v1/jobs/" in answer.json()["detail"]:
            break

    (job,) = api.get("/v1/jobs?study=PEER&limit=1").json()["items"]
    assert job["id"] in answer.json()["detail"]


def test_basic_authentication_works_nowhere_else(api, token):
    basic = {"Authorization": "Basic " + b64encode(f"asr:{token}".encode()).decode()}

    assert api.client.get("/v1/jobs", headers=basic).json()["code"] == "token_missing"
    assert api.client.post("/asr", headers=basic).json()["code"] in ("wrong_length", "bad_form")


# --- forms ----------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes], boundary: bytes = b"xyz") -> bytes:
    body = b""
    for disposition, content in parts:
        body += b"--" + boundary + b"\r\nContent-Disposition: form-data; "
        body += disposition.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + b"--" + boundary + b"--\r\n"


async def read(body: bytes, size: int = 7) -> tuple[FormReader, bytes]:
    async def blocks():
        for i in range(0, len(body), size):
            yield body[i : i + size]

    reader = FormReader("multipart/form-data; boundary=xyz", "file")
    return reader, b"".join([block async for block in reader.file_blocks(blocks())])


FILE = ('name="file"; filename="a.wav"', bytes(range(256)) + b"\r\n--xy")
MODEL = ('name="model"', b"whisper-1")


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_form_is_read_in_blocks_of_any_size(size):
    parts = [('name="keywords[]"', b"Ada"), FILE, MODEL, ('name="keywords[]"', b"Eva")]
    reader, content = await read(form(*parts), size)

    assert content == FILE[1]
    assert reader.file_name == "a.wav"
    assert reader.fields == {"keywords": ["Ada", "Eva"], "model": ["whisper-1"]}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(MODEL), "no file in the field file"),
        (form(FILE, FILE), "one recording"),
        (form(FILE)[:-10], "cut off"),
        (form(('name="audio"; filename="a.wav"', b"1")), "Put the recording into the field file"),
        (form(FILE, ('name="prompt"', b"x" * 70_000)), "65536 bytes in total"),
        (form(FILE, *[MODEL] * 300), "at most 200 fields"),
        (form(FILE, ('name="prompt"', b"\xff")), "malformed"),
        (b"nonsense", "malformed"),
    ],
    ids=range(8),
)
async def test_a_bad_form_is_refused(body, message):
    with pytest.raises(BadForm, match=message):
        await read(body, 1000)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_the_names_in_a_prompt_are_separated():
    assert words_of_prompt("Seroquel, Birkenau;\nEva Muster\n") == [
        "Seroquel",
        "Birkenau",
        "Eva Muster",
    ]
    assert len(words_of_prompt("x" * 250)) == 3
