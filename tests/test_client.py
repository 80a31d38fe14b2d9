"""The command line's HTTP client: tokens, outages, and uploads that resume."""

import time
from contextlib import ExitStack

import httpx2
import pytest
from pydantic import SecretStr

from service.commands import tus_client
from service.commands.client import Client, Refused, ServiceUnreachable
from service.commands.connection import NoToken, find_token
from service.commands.tus_client import (
    FileNotReadable,
    UnfinishedUploads,
    UploadSource,
    UploadStuck,
    upload,
)
from service.commands.upload import ensure_session, wait_for_recording
from service.domain.recordings import identified
from service.vault import uploads
from service.vault.files import locked
from tests.api import open_api, tone


class LossyTransport(httpx2.BaseTransport):
    """The application in this process; `lose` says which requests or responses are lost."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner
        self.requests: list[str] = []
        self.lose: dict[int, str] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        number = len(self.requests)
        self.requests.append(f"{request.method} {request.url.path}")
        if self.lose.get(number) == "request":
            raise httpx2.ConnectError("lost")
        response = self._inner.handle_request(request)
        if self.lose.get(number) == "response":
            raise httpx2.ReadError("lost")
        return response

    def count(self, method: str) -> int:
        return sum(line.startswith(method) for line in self.requests)


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def network(api):
    return LossyTransport(api.client._transport)


@pytest.fixture
def client(api, network):
    token = api.headers["Authorization"].removeprefix("Bearer ")
    client = Client("http://testserver", token, transport=network)
    yield client
    client.close()


@pytest.fixture
def unfinished(tmp_path):
    return UnfinishedUploads(tmp_path / "uploads.json")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(tus_client, "PART_BYTES", 10_000)
    monkeypatch.setattr("service.commands.client.time.sleep", lambda seconds: None)


@pytest.fixture
def source(api, tmp_path):
    path = tmp_path / "Eva Muster.wav"
    path.write_bytes(tone(1.0))  # four parts
    return UploadSource(path, api.study()["code"])


def test_a_file_is_uploaded_in_parts(client, network, source, unfinished):
    reached: list[int] = []
    id = upload(client, source, unfinished, reached.append)

    assert wait_for_recording(client, id)["state"] == "ready"
    assert reached == [0, 10_000, 20_000, 30_000, 32_044]
    assert network.count("PATCH") == 4


@pytest.mark.parametrize("lost", ["request", "response"])
def test_only_lost_parts_are_sent_again(client, network, source, unfinished, lost):
    network.lose = {2: lost}
    id = upload(client, source, unfinished)

    assert wait_for_recording(client, id)["state"] == "ready"
    assert network.count("PATCH") == (5 if lost == "request" else 4)
    assert network.count("HEAD") == 1


def test_the_same_command_resumes_an_upload(client, network, source, unfinished):
    def interrupt(n_bytes):
        if n_bytes == 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(client, source, unfinished, interrupt)
    n_sent = network.count("PATCH")
    id = upload(client, source, unfinished)

    assert wait_for_recording(client, id)["state"] == "ready"
    assert network.count("POST") == 1
    assert network.count("PATCH") - n_sent == 2


def test_a_stalled_upload_ends_and_the_same_command_resumes_it(
    api, client, network, source, unfinished, monkeypatch
):
    monkeypatch.setattr(tus_client, "STALL_LIMIT", 0.5)
    store, _ = identified(api.services)
    busy = ExitStack()

    def hold(n_bytes):
        if n_bytes == 20_000:
            (id,) = uploads.ids(store, time.time() + 1)
            busy.enter_context(locked(uploads._folder(store, id), wait=False))

    with busy, pytest.raises(UploadStuck) as raised:
        upload(client, source, unfinished, hold)
    assert raised.value.code == "upload_stuck"
    assert "Eva" not in str(raised.value)

    id = upload(client, source, unfinished)
    assert wait_for_recording(client, id)["state"] == "ready"
    assert network.count("POST") == 1


def test_a_changed_file_is_a_new_upload(client, network, source, unfinished):
    first = upload(client, source, unfinished)
    source.path.write_bytes(tone(0.5))

    assert upload(client, source, unfinished) != first


def test_an_upload_that_the_service_no_longer_knows_starts_again(api, client, source, unfinished):
    first = upload(client, source, unfinished)
    wait_for_recording(client, first)
    api.request("DELETE", f"/v1/recordings/{first}")

    second = upload(client, source, unfinished)

    assert second != first
    assert wait_for_recording(client, second)["state"] == "ready"


def test_remembered_uploads_hold_no_file_names(client, source, unfinished, tmp_path):
    upload(client, source, unfinished)

    assert "Eva" not in (tmp_path / "uploads.json").read_text()


def test_a_missing_file_is_reported_without_its_name(client, unfinished, tmp_path):
    with pytest.raises(FileNotReadable) as raised:
        upload(client, UploadSource(tmp_path / "Eva Muster.wav", "PEER"), unfinished)
    assert "Eva" not in str(raised.value)


def test_a_refused_request_is_not_retried(client, network, tmp_path, unfinished):
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")

    with pytest.raises(Refused) as raised:
        upload(client, UploadSource(path, "NOSUCH"), unfinished)
    assert raised.value.code == "study_not_found"
    assert len(network.requests) == 1


def test_an_outage_is_waited_out_without_repeating_unsafe_requests(client, network):
    network.lose = {0: "request", 1: "response"}

    assert client.get("/v1/studies")["items"] is not None
    network.lose = {3: "response"}
    with pytest.raises(ServiceUnreachable):
        client.post("/v1/studies", {"code": "ONCE"})
    assert network.requests[3:] == ["POST /v1/studies"]
    assert [study["code"] for study in client.get("/v1/studies")["items"]].count("ONCE") == 1


def test_a_longer_outage_is_announced_once(client, network, monkeypatch, capsys):
    monkeypatch.setattr("service.commands.client.NOTICE_AFTER", 0.0)
    network.lose = {0: "request", 1: "request"}

    client.get("/v1/studies")

    assert capsys.readouterr().err.count("No answer from") == 1


def test_an_answer_from_another_program_is_recognised():
    response = httpx2.Response(500, text="<h1>A proxy</h1>")
    client = Client("http://x", "t", transport=httpx2.MockTransport(lambda request: response))

    with pytest.raises(Refused) as raised:
        client.get("/v1/jobs")
    assert raised.value.code == "not_fieldscribe"


def test_a_token_comes_from_the_settings_or_the_file_of_this_machine(settings):
    with pytest.raises(NoToken):
        find_token(settings)
    settings.owner_token.write_text("of the file\n")
    assert find_token(settings) == "of the file"
    with_token = settings.model_copy(update={"token": SecretStr("of the settings")})
    assert find_token(with_token) == "of the settings"


def test_a_session_that_another_command_creates_meanwhile_is_used(api, client, monkeypatch):
    study = api.study()["code"]
    ensure_session(client, study, "INT-07", [])
    list_all = client.list_all
    answers: list[list[object]] = [[]]

    def list_none_at_first(*path, **query):
        return answers.pop() if answers else list_all(*path, **query)

    monkeypatch.setattr(client, "list_all", list_none_at_first)

    ensure_session(client, study, "INT-07", [])

    assert [each["code"] for each in list_all("/v1/sessions", study=study)] == ["INT-07"]


def test_the_code_of_an_erased_session_stays_taken(api, client):
    study = api.study()["code"]
    ensure_session(client, study, "INT-07", [])
    (session,) = client.list_all("/v1/sessions", study=study)
    api.request("DELETE", f"/v1/sessions/{session['id']}")

    with pytest.raises(Refused) as refused:
        ensure_session(client, study, "INT-07", [])
    assert refused.value.code == "session_code_taken"
