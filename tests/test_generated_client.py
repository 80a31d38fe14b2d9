"""A client that openapi-python-client generates from the API's description."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import jsonschema_rs
import pytest

from models.transcript_json import to_json
from service.api.routes.transcript_document import TranscriptDocument
from tests.api import open_api, tone
from tests.bridge import Bridge
from tests.finished import conversation, finish_job

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def generated(api, tmp_path_factory):
    """Imports a module of the generated client."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(api.app.openapi()))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"),
            *("--path", "openapi.json", "--output-path", "fieldscribe_client"),
            *("--config", str(ROOT / "docs/developer/openapi-python-client.yaml")),
        ],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield lambda name: importlib.import_module(f"fieldscribe_client.{name}")
    for name in [name for name in sys.modules if name.startswith("fieldscribe_client")]:
        del sys.modules[name]


@pytest.fixture
def client(api, generated):
    token = api.headers["Authorization"].removeprefix("Bearer ")
    client = generated("client").AuthenticatedClient("http://testserver", token)
    http = httpx.Client(
        base_url="http://testserver", transport=Bridge(api), headers=dict(api.headers)
    )
    client.set_httpx_client(http)
    yield client
    http.close()


def test_it_uploads_polls_and_reads(api, generated, client, tmp_path):
    study = api.study()["code"]

    def call(path: str, **values: Any) -> Any:
        return generated(f"api.{path}").sync(client=client, **values)

    path = tmp_path / "interview.wav"
    path.write_bytes(tone())

    with path.open("rb") as file:
        body = generated("types").File(payload=file)
        recording = call("uploads.create_upload", study=study, body=body)
    recording = call("recordings.read_recording", recording_id=recording.id, wait=20)
    assert recording.state == "ready"
    wanted = generated("models.new_job").NewJob(recordings=[recording.id], model="demo")
    job = call("jobs.submit_job", body=wanted)
    assert job.status == "queued"
    finish_job(api.services, job.id)
    job = call("jobs.read_job", job_id=job.id, wait=5)
    transcript = call("transcripts.read_transcript", transcript_id=job.transcript_id)

    assert (job.status, transcript.schema) == ("succeeded", "fieldscribe.transcript/1")
    assert transcript.segments[0].words[0].text
    claim = call("handoffs.claim_handoff")
    assert claim.transcript.segments[0].id == "s0001"
    problem = call("jobs.read_job", job_id=UUID(int=1))
    assert problem.code == "job_not_found"


def test_every_operation_has_a_short_id(api):
    ids = [
        operation["operationId"]
        for methods in api.app.openapi()["paths"].values()
        for operation in methods.values()
    ]

    assert len(set(ids)) == len(ids)
    assert all(id.isidentifier() and len(id) <= 32 and "_v1_" not in id for id in ids)
    assert {"submit_job", "read_transcript", "claim_handoff"} <= set(ids)


def test_every_model_has_a_name_of_its_own(api):
    """FastAPI puts the module before the name of a class that has a namesake."""
    names = api.app.openapi()["components"]["schemas"]

    assert [name for name in names if "__" in name] == []


def refuse_others(schema: Any) -> None:
    """Make a description refuse fields that it does not name."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema["additionalProperties"] = False
        for value in schema.values():
            refuse_others(value)
    elif isinstance(schema, list):
        for value in schema:
            refuse_others(value)


def test_the_transcript_is_described_in_full(api):
    schema = TranscriptDocument.model_json_schema(by_alias=True)
    refuse_others(schema)
    document = json.loads(to_json(conversation()))

    jsonschema_rs.validator_for(schema).validate(document)
    claim = api.app.openapi()["components"]["schemas"]["ClaimedView"]
    assert "/TranscriptDocument" in json.dumps(claim["properties"]["transcript"])


def test_a_language_can_be_given_to_the_api_by_name(api):
    for given, code in (("German", "de"), ("de", "de"), ("haitian creole", "ht"), ("Auto", None)):
        study = api.post(
            "/v1/studies", json={"code": f"L{len(given)}-{code}".upper(), "language": given}
        )
        assert study.json().get("language") == code, study.text
    refused = api.post("/v1/studies", json={"code": "KLINGON", "language": "Klingon"})
    assert refused.status_code == 422
