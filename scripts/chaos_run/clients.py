"""The clients, with a record of their requests and the answers.

Each repeats a request until it is answered, as the project's own commands do, and records what must
be true from then on. `count.py` compares these records with the final state.
"""

import io
import random
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
import numpy as np

from scripts.chaos_run.engine import name_of

PART = 6_000  # bytes
OCTETS = {"Content-Type": "application/offset+octet-stream"}
TUS = {"Tus-Resumable": "1.0.0"}
ANSWERS_BY = 240.0  # s in which a request must be answered, in spite of all faults
RETRY = (408, 429, 503, 507)
CANARY = "canary-eva-muster"  # part of every file name; must not appear in any log


class Unanswered(Exception):
    """No answer, or one that asks for a retry: the request may or may not have been carried out."""


class Stopped(Exception):
    """The run ends without an answer."""


@dataclass
class Upload:
    """A recording as its client knows it."""

    name: str
    content: bytes
    study: str
    session: str | None
    id: str | None = None
    n_begun: int = 0  # requests that may each have begun an upload
    is_ready: bool = False
    deletion: str | None = None  # "asked", then "done"


@dataclass
class Submission:
    """A job as its client knows it."""

    key: str
    study: str
    uploads: list[Upload]
    id: str | None = None
    succeeded: bool = False
    cancelled: bool = False
    deletion: str | None = None


@dataclass
class HandedOff:
    """How a hand-off ended."""

    outcome: str  # "completed" or "failed"
    occurrences: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Book:
    """Everything that was acknowledged."""

    studies: dict[str, str] = field(default_factory=dict)  # code: id
    sessions: dict[tuple[str, str], str] = field(default_factory=dict)  # study, code: id
    uploads: list[Upload] = field(default_factory=list)
    jobs: list[Submission] = field(default_factory=list)
    handoffs: dict[str, HandedOff] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)  # name: requests to create it
    vocabularies: dict[str, list[str]] = field(default_factory=dict)  # study id: words
    erased_studies: set[str] = field(default_factory=set)
    erased_sessions: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)  # by status or exception

    def report(self, text: str) -> None:
        self.violations.append(text)
        print(f"WRONG: {text}", flush=True)


class Client(threading.Thread):
    """One client, which acts until `leaving` is set and then completes what it has begun."""

    def __init__(self, name: str, port: int, token: str, book: Book, seed: int) -> None:
        super().__init__(daemon=True, name=name)
        self.book, self.random = book, random.Random(f"{name} {seed}")
        self.leaving, self.giving_up = threading.Event(), threading.Event()
        self._http = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}", "Connection": "close"},
            limits=httpx2.Limits(max_keepalive_connections=0),
            timeout=30,
            trust_env=False,
        )

    def act(self) -> None:
        raise NotImplementedError

    def complete(self) -> None:
        """Complete what is left, after the last fault."""

    def run(self) -> None:
        try:
            while not self.leaving.wait(self.random.uniform(0.1, 1.5)):
                self.act()
            self.complete()
        except Stopped:
            self.book.report(f"{self.name}: a request was never answered")
        except Exception as error:  # noqa: BLE001  # a bug of ours must not look like success
            self.book.report(f"{self.name}: {type(error).__name__}: {error}")

    def try_once(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """
        Raises:
            Unanswered
        """
        self.book.requests[f"{method} {path.split('/')[2].partition('?')[0]}"] += 1
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:  # no answer, or half of one
            self.book.unanswered[type(error).__name__] += 1
            raise Unanswered(f"{method} {path}: {error!r}") from None
        if answer.status_code in RETRY:
            self.book.unanswered[str(answer.status_code)] += 1
            raise Unanswered(f"{method} {path}: {answer.text}")
        try:
            code = answer.json().get("code") if answer.status_code >= 400 else None
        except (ValueError, AttributeError):
            code = None
        if answer.status_code >= 500:
            self.book.report(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            raise Unanswered(str(answer.status_code))
        if code == "upload_busy":
            raise Unanswered("upload_busy")
        return answer

    def ask(
        self, method: str, path: str, *, accept: Collection[int] = (), **options: Any
    ) -> httpx2.Response:
        """The answer, after as many attempts as needed.

        Args:
            accept: statuses of refusals that are correct here.
        """
        answer = self.until_answered(lambda: self.try_once(method, path, **options))
        if not answer.is_success and answer.status_code not in accept:
            self.book.report(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer

    def until_answered(self, attempt: Callable[[], httpx2.Response]) -> httpx2.Response:
        end = time.monotonic() + ANSWERS_BY
        while True:
            try:
                return attempt()
            except Unanswered as error:
                if time.monotonic() > end and self.leaving.is_set():
                    self.book.report(f"{self.name}: unanswered for {ANSWERS_BY} s: {error}")
                    raise Stopped from None
                if self.giving_up.wait(self.random.uniform(0.2, 0.8)):
                    raise Stopped from None


class Researcher(Client):
    """Uploads, submits, reruns, cancels and deletes, in a study of its own."""

    def __init__(self, number: int, port: int, token: str, book: Book, seed: int) -> None:
        super().__init__(f"researcher {number}", port, token, book, seed)
        self._number, self._count = number, 0
        self.study = ""
        self.uploads: list[Upload] = []
        self.jobs: list[Submission] = []

    def act(self) -> None:
        if not self.study:
            self.study = self.create_study(f"CHAOS-{self._number}")
        actions = {
            self.upload_and_submit: 10,
            self.submit_session: 3,
            self.read_results: 3,
            self.repeat: 1,
            self.rerun: 2,
            self.cancel: 1,
            self.delete_job: 1,
            self.delete_recording: 1,
            self.replace_vocabulary: 1,
            self.erase_session: 0.3,
            self.erase_study: 0.3,
        }
        self.random.choices(list(actions), list(actions.values()))[0]()

    # --- creating ---------------------------------------------------------------------------------

    def create_study(self, code: str) -> str:
        answer = self.ask("POST", "/v1/studies", json={"code": code, "model": "demo"}, accept=[409])
        if answer.status_code == 409:  # an earlier attempt, whose answer was lost
            answer = self.ask("GET", f"/v1/studies/{code}")
        id: str = answer.json()["id"]
        self.book.studies[code] = id
        return id

    def create_session(self, study: str) -> str:
        self._count += 1
        code = f"{chr(65 + self._number)}-{self._count}"
        body = {"study": study, "code": code}
        answer = self.ask("POST", "/v1/sessions", json=body, accept=[409])
        if answer.status_code == 409:
            items: list[Any] = []
            cursor: str | None = ""
            while cursor is not None:
                page = self.ask("GET", f"/v1/sessions?study={study}&limit=200{cursor}").json()
                items += page["items"]
                cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
            id: str = next(each["id"] for each in items if each["code"] == code)
        else:
            id = answer.json()["id"]
        self.book.sessions[study, code] = id
        return id

    def upload(self, study: str, session: str | None = None) -> Upload:
        self._count += 1
        name = f"{CANARY}-{self._number}-{self._count}.wav"
        content = noise(self.random)
        upload = Upload(name, content, study, session)
        self.book.uploads.append(upload)
        self.uploads.append(upload)
        pairs = {"filename": name}
        if self.random.random() < 0.5:
            pairs["sha256"] = name_of(content)
        headers = {**TUS, "Upload-Metadata": metadata(pairs)}
        path = f"/v1/uploads?study={study}" + (f"&session={session}" if session else "")
        if self.random.random() < 0.3:
            self._send_at_once(upload, path, headers)
        else:
            self._send_in_parts(upload, path, headers)
        self._wait_until_ready(upload)
        return upload

    def _send_at_once(self, upload: Upload, path: str, headers: dict[str, str]) -> None:
        def attempt() -> httpx2.Response:
            upload.n_begun += 1
            return self.try_once("POST", path, content=upload.content, headers=headers | OCTETS)

        answer = self.until_answered(attempt)
        if answer.status_code not in (200, 201):
            self.book.report(f"POST {path}: {answer.status_code} {answer.text[:200]}")
            raise Stopped
        upload.id = answer.json()["id"]
        if answer.json()["state"] == "receiving":  # the request was cut short
            self._send_rest(upload)

    def _send_in_parts(self, upload: Upload, path: str, headers: dict[str, str]) -> None:
        length = {"Upload-Length": str(len(upload.content))}

        def attempt() -> httpx2.Response:
            upload.n_begun += 1
            return self.try_once("POST", path, headers=headers | length)

        upload.id = self.until_answered(attempt).json()["id"]
        self._send_rest(upload)

    def _send_rest(self, upload: Upload) -> None:
        path, acknowledged = f"/v1/uploads/{upload.id}", 0
        while True:
            answer = self.ask("HEAD", path, headers=TUS)
            offset = int(answer.headers["Upload-Offset"])
            if offset < acknowledged:
                self.book.report(f"{path}: {acknowledged} bytes acknowledged, {offset} stored")
            if offset >= len(upload.content):
                return
            try:
                while offset < len(upload.content):
                    part = upload.content[offset : offset + PART]
                    headers = {**TUS, **OCTETS, "Upload-Offset": str(offset)}
                    answer = self.try_once("PATCH", path, content=part, headers=headers)
                    if answer.status_code != 204:  # 409: another offset, after a lost answer
                        if answer.status_code != 409:
                            self.book.report(f"PATCH: {answer.status_code} {answer.text[:200]}")
                        break
                    offset = acknowledged = int(answer.headers["Upload-Offset"])
            except Unanswered:
                if self.giving_up.wait(0.3):
                    raise Stopped from None

    def _wait_until_ready(self, upload: Upload) -> None:
        end = time.monotonic() + ANSWERS_BY
        while True:
            view = self.ask("GET", f"/v1/recordings/{upload.id}?wait=5").json()
            if view["state"] not in ("receiving", "checking"):
                break
            if time.monotonic() > end and self.leaving.is_set():
                break
            if self.giving_up.is_set():
                raise Stopped
        upload.is_ready = view["state"] == "ready"
        if not upload.is_ready:
            self.book.report(f"recording {upload.id}: {view['state']} {view['refusal']}")

    def submit(self, study: str, uploads: list[Upload], body: dict[str, Any]) -> Submission:
        job = Submission(str(uuid4()), study, uploads)
        self._body_of[job.key] = body
        self.book.jobs.append(job)
        answer = self.ask("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": job.key})
        job.id = answer.json()["id"]
        self.jobs.append(job)
        return job

    _body_of: dict[str, dict[str, Any]] = {}

    # --- acting -----------------------------------------------------------------------------------

    def upload_and_submit(self) -> None:
        upload = self.upload(self.study)
        if upload.is_ready:
            self.submit(self.study, [upload], {"recordings": [upload.id]})

    def submit_session(self) -> None:
        session = self.create_session(self.study)
        uploads = [self.upload(self.study, session) for _ in range(2)]
        if all(each.is_ready for each in uploads):
            # Not the session: it may have a third upload, of a request whose answer was lost.
            body = {"session": session, "recordings": [each.id for each in uploads]}
            self.submit(self.study, uploads, body)

    def repeat(self) -> None:
        """Send a request for a job again: it must be the same job."""
        if job := self._choose(lambda job: job.key in self._body_of):
            headers = {"Idempotency-Key": job.key}
            body = self._body_of[job.key]
            answer = self.ask("POST", "/v1/jobs", json=body, headers=headers, accept=[410])
            if answer.is_success and answer.json()["id"] != job.id:
                self.book.report(f"job {job.id}: a repeated request made another job")

    def read_results(self) -> None:
        for job in self.random.sample(self.jobs, min(3, len(self.jobs))):
            if job.deletion or job.succeeded:
                continue
            view = self.ask("GET", f"/v1/jobs/{job.id}").json()
            if view["status"] == "succeeded":
                path = f"/v1/transcripts/{view['transcript_id']}?format=json"
                document = self.ask("GET", path).json()
                words = [word["text"].strip() for word in document["segments"][0]["words"]]
                if words != [name_of(each.content) for each in job.uploads]:
                    self.book.report(f"job {job.id}: the transcript of other recordings")
                job.succeeded = True

    def cancel(self) -> None:
        if job := self._choose(lambda job: not job.succeeded):
            job.cancelled = True
            self.ask("POST", f"/v1/jobs/{job.id}/cancel")

    def rerun(self) -> None:
        if old := self._choose(lambda job: job.succeeded):
            stage = self.random.choice(("ingest", "transcribe", "diarise", "check"))
            job = Submission(str(uuid4()), old.study, old.uploads)
            headers = {"Idempotency-Key": job.key}
            path = f"/v1/jobs/{old.id}/rerun"
            self.book.jobs.append(job)
            job.id = self.ask("POST", path, json={"from": stage}, headers=headers).json()["id"]
            self.jobs.append(job)

    def delete_job(self) -> None:
        if job := self._choose():
            force = "?force=true" * self.random.randrange(2)
            job.deletion = "asked"
            answer = self.ask("DELETE", f"/v1/jobs/{job.id}{force}", accept=[410, 423])
            job.deletion = None if answer.status_code == 423 else "done"

    def delete_recording(self) -> None:
        ready = [each for each in self.uploads if each.is_ready and not each.deletion]
        if not ready:
            return
        upload = self.random.choice(ready)
        jobs = [job for job in self.jobs if upload in job.uploads and not job.deletion]
        doomed: list[Upload | Submission] = [upload, *jobs]
        for each in doomed:
            each.deletion = "asked"
        answer = self.ask("DELETE", f"/v1/recordings/{upload.id}", accept=[409, 410])
        for each in doomed:
            each.deletion = None if answer.status_code == 409 else "done"

    def replace_vocabulary(self) -> None:
        words = [f"Word{self.random.randrange(10**6)}" for _ in range(5)]
        self.ask("PUT", f"/v1/studies/{self.study}/vocabulary", json={"words": words})
        self.book.vocabularies[self.study] = words

    def erase_session(self) -> None:
        session = self.create_session(self.study)
        upload = self.upload(self.study, session)
        upload.deletion = "asked"
        self.ask("DELETE", f"/v1/sessions/{session}", accept=[410])
        upload.deletion = "done"
        self.book.erased_sessions.add(session)

    def erase_study(self) -> None:
        self._count += 1
        study = self.create_study(f"GONE-{self._number}-{self._count}")
        upload = self.upload(study)
        upload.deletion = "asked"
        self.ask("DELETE", f"/v1/studies/{study}", accept=[410])
        upload.deletion = "done"
        self.book.erased_studies.add(study)

    def _choose(
        self, condition: Callable[[Submission], bool] = lambda job: True
    ) -> Submission | None:
        found = [job for job in self.jobs if not job.deletion and condition(job)]
        return self.random.choice(found) if found else None


class Deidentifier(Client):
    """Claims hand-offs and completes them; abandons one in ten and fails one in ten."""

    may_abandon = True

    def act(self) -> None:
        answer = self.ask("POST", "/v1/handoffs/claim")
        if answer.status_code == 204:
            self.leaving.wait(1)
            return
        claimed = answer.json()
        if self.random.random() < 0.1 and self.may_abandon:
            return
        body: dict[str, Any] = {"fence": claimed["fence"]}
        path = f"/v1/handoffs/{claimed['id']}"
        if self.random.random() < 0.3:
            self.ask("POST", f"{path}/heartbeat", json=body, accept=[409, 410])
        if self.random.random() < 0.1:
            ended = HandedOff("failed")
            answer = self.ask(
                "POST",
                f"{path}/fail",
                json={**body, "code": "unsupported_language"},
                accept=[409, 410],
            )
        else:
            length = self.random.randrange(1, 60)
            segment = claimed["transcript"]["segments"][0]["id"]
            found = [{"segment": segment, "start": 0, "end": length, "label": "PERSON"}]
            ended = HandedOff("completed", found)
            body["occurrences"] = found
            answer = self.ask("POST", f"{path}/complete", json=body, accept=[409, 410])
        if answer.is_success:
            if claimed["id"] in self.book.handoffs:
                self.book.report(f"hand-off {claimed['id']}: given out after it had ended")
            self.book.handoffs[claimed["id"]] = ended


class Administrator(Client):
    """Creates and revokes tokens, and reads every list."""

    def act(self) -> None:
        name = f"t{self.random.randrange(16**8):08x}"
        self.book.tokens[name] = 0

        def create() -> httpx2.Response:
            self.book.tokens[name] += 1
            return self.try_once("POST", "/v1/tokens", json={"role": "coder", "name": name})

        token = self.until_answered(create).json()
        if self.random.random() < 0.5:
            self.ask("DELETE", f"/v1/tokens/{token['id']}")
        for path in ("jobs?limit=50", "sessions?limit=50", "studies", "tokens"):
            self.ask("GET", f"/v1/{path}")
        self.leaving.wait(5)


def noise(generator: random.Random) -> bytes:
    """A unique WAV of half a second to one second."""
    numbers = np.random.default_rng(generator.getrandbits(64))
    samples = numbers.normal(0, 3000, int(generator.uniform(8000, 16000))).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def metadata(pairs: dict[str, str]) -> str:
    import base64

    return ",".join(
        f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in pairs.items()
    )
