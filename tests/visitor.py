"""Somebody who uses the service over HTTP while its power is cut, and notes what was answered."""

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
LATER = (423, 429)


class Away(Exception):
    """No answer, or one that says later: whether it was done is not known."""


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
        most: uploads, each of which becomes a job.
    """

    def __init__(self, settings: Settings, most: int) -> None:
        super().__init__()
        self._http = httpx2.Client(
            base_url=settings.local_url,
            headers={"Authorization": f"Bearer {settings.owner_token.read_text().strip()}"},
            timeout=30,
            trust_env=False,
        )
        made = self.ask("POST", "/v1/studies", json={"code": "POWER", "model": "demo"})
        self.study, self._most = UUID(made.json()["id"]), most
        self._leaving = threading.Event()
        self.uploads: list[Upload] = []
        self.completed: list[UUID] = []
        self.mistake: Exception | None = None

    def run(self) -> None:
        try:
            while not self._leaving.wait(0.1):
                try:
                    self.hand_off()
                    self.upload()
                except Away:
                    continue
        except Exception as error:  # noqa: BLE001  # for the test, which `finish` tells
            self.mistake = error

    def finish(self) -> None:
        """Stop, and do what was left undone; the service answers from now on."""
        self._leaving.set()
        self.join()
        if self.mistake is not None:
            raise self.mistake
        end = time.monotonic() + 120
        for upload in self.uploads:
            while True:
                try:
                    self.go_on(upload)
                    break
                except Away:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)

    def upload(self) -> None:
        unfinished = [each for each in self.uploads if each.job_id is None]
        if not unfinished:
            if len(self.uploads) >= self._most:
                return
            level = random.uniform(0.05, 0.5)  # no two alike
            unfinished = [Upload(tone(1.0, level))]
            self.uploads += unfinished
        self.go_on(unfinished[0])

    def go_on(self, upload: Upload) -> None:
        if upload.location is None:
            length = {**TUS, "Upload-Length": str(len(upload.content))}
            answer = self.ask("POST", f"/v1/uploads?study={self.study}", headers=length)
            upload.location = answer.headers["Location"]
        answer = self.ask("HEAD", upload.location, headers=TUS)
        offset = int(answer.headers["Upload-Offset"])
        assert offset >= upload.offset, "a part that was acknowledged is gone"
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
        assert upload.job_id in (None, job_id), "a job that was acknowledged is gone"
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

    def ask(self, method: str, path: str, **wish: Any) -> httpx2.Response:
        """
        Raises:
            Away
        """
        try:
            answer = self._http.request(method, path, **wish)
        except httpx2.TransportError as error:
            raise Away from error
        if answer.status_code >= 500 or answer.status_code in LATER:
            raise Away(answer.text)
        assert answer.is_success, (method, path, answer.text)
        return answer
