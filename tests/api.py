"""The API in the test's process, and tokens of every kind."""

import base64
import io
import itertools
import ssl
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session as DbSession

from service.api.app import create_app
from service.commands.client import Client
from service.database.tables import Table, Token, TokenStudy
from service.domain.callers import hash_secret, new_secret
from service.services import Services
from service.settings import Settings
from service.vault.objects import FolderObjects
from service.vault.store import Store

OCTETS = {"Content-Type": "application/offset+octet-stream"}
BASE_URL = "http://127.0.0.1:8321"
ADDRESS = ("127.0.0.1", 50000)
_numbers = itertools.count(1)


@dataclass
class Api:
    """A client that sends the owner's token by default."""

    app: FastAPI
    client: TestClient
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def request(self, method: str, path: str, *, token: str | None = None, **options: Any) -> Any:
        headers = {**self.headers, **options.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self.client.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Any:
        return self.request("POST", path, **options)

    def study(self) -> dict[str, Any]:
        made = self.post("/v1/studies", json={"code": f"STUDY-{next(_numbers)}"})
        assert made.status_code == 201, made.text
        study: dict[str, Any] = made.json()
        return study

    def token(
        self,
        role: str,
        *studies: str,
        expired: bool = False,
        revoked: bool = False,
        all_studies: bool = False,
    ) -> str:
        """Created in the database, because the API creates no invalid ones."""
        secret, now = new_secret(), datetime.now(UTC)
        with self.services.sessionmaker.begin() as session:
            token = Token(
                id=uuid4(),
                hash=hash_secret(secret),
                role=role,
                all_studies=all_studies,
                expires_at=now - timedelta(seconds=1) if expired else None,
                revoked_at=now if revoked else None,
            )
            session.add(token)
            session.flush()
            session.add_all(TokenStudy(token_id=token.id, study_id=UUID(id)) for id in studies)
        return secret

    def upload(self, study: str, content: bytes, **options: Any) -> dict[str, Any]:
        """Upload in one request and wait until it is checked."""
        headers = {**OCTETS, **options.pop("headers", {})}
        query = "".join(f"&{name}={value}" for name, value in options.pop("query", {}).items())
        path = f"/v1/uploads?study={study}{query}"
        begun = self.post(path, content=content, headers=headers, **options)
        assert begun.status_code == 201, begun.text
        return self.checked(begun.json()["id"])

    def checked(self, recording_id: str) -> dict[str, Any]:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            view: dict[str, Any] = self.get(f"/v1/recordings/{recording_id}?wait=10").json()
            if view["state"] not in ("receiving", "checking"):
                return view
        raise AssertionError(view)


def artefact_path(store: Store, artefact_id: UUID) -> Path:
    """The file of an artefact. Skips the test if artefacts are in a bucket (`--storage s3`)."""
    if not isinstance(store.objects, FolderObjects):
        pytest.skip("looks at files of the vault")
    return store.objects.path(artefact_id)


@contextmanager
def open_api(settings: Settings) -> Iterator[Api]:
    ended: list[bool] = []
    app = create_app(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.api.app.end_process", lambda: ended.append(True))
        with TestClient(
            app, base_url=BASE_URL, client=ADDRESS, raise_server_exceptions=False
        ) as client:
            api = Api(app, client)
            api.headers["Authorization"] = f"Bearer {api.token('owner', all_studies=True)}"
            yield api
    assert not ended, "a background task of the API ended"


def connect_commands(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line's commands use the API in this process, with its owner's token."""
    token = api.headers["Authorization"].removeprefix("Bearer ")

    class LocalClient(Client):
        def __init__(self, url: str, token_: str, *, tls: ssl.SSLContext | None) -> None:
            assert tls is None  # FIELDSCRIBE_URL is set
            super().__init__(url, token, transport=api.client._transport)

    monkeypatch.setattr("service.commands.connection.Client", LocalClient)
    monkeypatch.setattr("service.commands.connection.find_token", lambda settings: token)
    monkeypatch.setenv("FIELDSCRIBE_URL", "http://testserver")


def tone(seconds: float = 1.0, level: float = 0.1, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV."""
    t = np.arange(int(seconds * rate)) / rate
    samples = (level * np.sin(2 * np.pi * 220 * t) * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.repeat(samples, channels).tobytes())
    return file.getvalue()


def metadata(**values: str) -> str:
    return ",".join(
        f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items()
    )


def delete_all_rows(session: DbSession, *, keep: tuple[str, ...] = ()) -> None:
    """Empty every table, also the audit trail, whose trigger is switched off meanwhile."""
    session.execute(text("SET LOCAL session_replication_role = replica"))
    for table in reversed(Table.metadata.sorted_tables):
        if table.name not in keep:
            session.execute(table.delete())
