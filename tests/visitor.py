"""A client that uses the service over HTTP during power cuts and records what it answered."""

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx2

from service.settings import Settings
from tests.api import OCTETS, tone

TUS = {"Tus-Resumable": "1.0.0"}
PART = 5_000  # bytes
RETRY_LATER = (423, 429)


class Away(Exception):
    """No answer, or one to retry later: the request may or may not have been carried out."""


@dataclass
class Upload:
    content: bytes
    key: str = field(default_factory=lambda: str(uuid4()))
    location: str | None = None
    offset: int = 0  # acknowledged
    job_id: str | None = None  # acknowledged


class Visitor(threading.Thread):
    """
    Args:
        max_uploads: number of uploads, each of which becomes a job.
    """

    def __init__(self, settings: Settings, max_uploads: int) -> None:
        super().__init__()
        self._http = httpx2.Client(
            base_url=settings.local_url,
            headers={"Authorization": f"Bearer {settings.owner_token.read_text().strip()}"},
            timeout=30,
            trust_env=False,
        )
        made = self.ask("POST", "/v1/studies", json={"code": "POWER", "model": "demo"})
        self.study, self._max_uploads = UUID(made.json()["id"]), max_uploads
        self._leaving = threading.Event()
        self.uploads: list[Upload] = []
        self.completed: list[UUID] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._leaving.wait(0.1):
                try:
                    self.hand_off()
                    self.upload()
                except Away:
                    continue
        except Exception as error:  # noqa: BLE001  # raised again by `finish`
            self.error = error

    def finish(self) -> None:
        """Stop, then complete every upload. The service must be up from now on."""
        self._leaving.set()
        self.join()
        if self.error is not None:
            raise self.error
        end = time.monotonic() + 120
        for upload in self.uploads:
            while True:
                try:
                    self.resume(upload)
                    break
                except Away:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)

    def upload(self) -> None:
        unfinished = [each for each in self.uploads if each.job_id is None]
        if not unfinished:
            if len(self.uploads) >= self._max_uploads:
                return
            level = random.uniform(0.05, 0.5)  # no two alike
            unfinished = [Upload(tone(1.0, level))]
            self.uploads += unfinished
        self.resume(unfinished[0])

    def resume(self, upload: Upload) -> None:
        if upload.location is None:
            length = {**TUS, "Upload-Length": str(len(upload.content))}
            answer = self.ask("POST", f"/v1/uploads?study={self.study}", headers=length)
            upload.location = answer.headers["Location"]
        answer = self.ask("HEAD", upload.location, headers=TUS)
        offset = int(answer.headers["Upload-Offset"])
        assert offset >= upload.offset, "an acknowledged part is lost"
        while offset < len(upload.content):
            headers = {**TUS, **OCTETS, "Upload-Offset": str(offset)}
            part = upload.content[offset : offset + PART]
            answer = self.ask("PATCH", upload.location, content=part, headers=headers)
            assert answer.status_code == 204
            offset = upload.offset = int(answer.headers["Upload-Offset"])
        recording = upload.location.rpartition("/")[2]
        state = self.ask("GET", f"/v1/recordings/{recording}?wait=5").json()["state"]
        if state in ("receiving", "checking"):
            raise Away
        assert state == "ready"
        answer = self.ask(
            "POST",
            "/v1/jobs",
            json={"recordings": [recording]},
            headers={"Idempotency-Key": upload.key},
        )
        job_id = answer.json()["id"]
        assert upload.job_id in (None, job_id), "an acknowledged job is lost"
        upload.job_id = job_id

    def hand_off(self) -> None:
        answer = self.ask("POST", "/v1/handoffs/claim")
        if answer.status_code == 204:
            return
        claimed = answer.json()
        body = {"fence": claimed["fence"], "occurrences": []}
        self.ask("POST", f"/v1/handoffs/{claimed['id']}/complete", json=body)
        self.completed.append(UUID(claimed["id"]))

    def sound(self, upload: Upload) -> bytes:
        assert upload.location is not None
        recording = upload.location.rpartition("/")[2]
        return self.ask("GET", f"/v1/recordings/{recording}/audio").content

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """
        Raises:
            Away
        """
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.TransportError as error:
            raise Away from error
        if answer.status_code >= 500 or answer.status_code in RETRY_LATER:
            raise Away(answer.text)
        assert answer.is_success, (method, path, answer.text)
        return answer
