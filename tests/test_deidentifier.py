"""The reference de-identifier against the API, and a stage in plain Python from the docs."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from models.deidentification.optional_detectors import check_detectors
from models.weights.errors import ModelMissing, WeightsCorrupt
from scripts.stand_in.jobs import make_job
from service.database.tables import Entity, Handoff, Mention
from service.deidentifier import process
from service.deidentifier.handoff_client import (
    Claim,
    ClaimLost,
    HandoffClient,
    RequestRefused,
    Unavailable,
)
from service.domain.recordings import identified
from service.settings import Settings
from service.vault.store import Artefact
from tests.api import ADDRESS, BASE_URL, open_api
from tests.deidentified import make_transcript
from tests.finished import finish_job

DOCS = Path(__file__).parent.parent / "docs" / "developer" / "deidentifier.md"


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def offered(api):
    """A hand-off, and a client that may claim it."""
    study = api.study()["id"]
    job_id = make_job(api.services, UUID(study))
    finish_job(api.services, job_id)
    return SimpleNamespace(study=study, job_id=job_id, client=client_of(api, study))


def client_of(api, study):
    headers = {"Authorization": f"Bearer {api.token('deidentifier', study)}"}
    return HandoffClient(TestClient(api.app, BASE_URL, client=ADDRESS, headers=headers))


def status(api, offered):
    (handoff,) = api.get("/v1/handoffs", params={"study": offered.study}).json()["items"]
    return handoff["status"], handoff["failure_code"]


def stored(api, offered):
    """The occurrences that were stored."""
    (item,) = api.get("/v1/handoffs", params={"study": offered.study}).json()["items"]
    with api.services.sessionmaker() as session:
        row = session.get_one(Handoff, UUID(item["id"]))
    store, keyring = identified(api.services)
    artefact = Artefact(row.study_id, offered.job_id, "occurrences", row.occurrences_artefact_id)
    with store.open(artefact, keyring.data_key(row.study_id, offered.job_id)) as file:
        return json.loads(file.read())


def no_model():
    return ()


def test_it_completes_a_hand_off_with_what_the_rules_find(api, offered, caplog):
    caplog.set_level(logging.DEBUG)
    assert process.process_next(offered.client, no_model)
    assert not process.process_next(offered.client, no_model)

    assert status(api, offered) == ("completed", None)
    (occurrence,) = [o for o in stored(api, offered) if o["label"] == "PERSON"]
    assert (occurrence["segment"], occurrence["start"], occurrence["end"]) == ("s0002", 11, 21)
    assert (occurrence["tier"], occurrence["words"]) == ("sure", [0, 1])
    assert "Eva" not in caplog.text


def test_a_killed_one_is_replaced_when_its_lease_ends_and_its_late_result_is_refused(api, offered):
    lost = offered.client.claim()
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(Handoff, UUID(lost.id))
        row.lease_until = datetime.now(UTC) - timedelta(seconds=1)

    assert process.process_next(client_of(api, offered.study), no_model)
    with pytest.raises(ClaimLost):
        offered.client.complete(lost, [])
    assert status(api, offered) == ("completed", None)


def test_a_lost_claim_is_dropped_without_an_error(api, offered):
    def lose():
        with api.services.sessionmaker.begin() as session:
            session.execute(update(Handoff).values(fence=Handoff.fence + 1))
        return ()

    assert process.process_next(offered.client, lose)
    assert status(api, offered)[0] == "claimed"


def test_an_error_fails_the_hand_off_and_quotes_nothing(api, offered, caplog):
    class Broken:
        name = "broken"
        finds_names = True

        def find(self, texts):
            raise ValueError(f"cannot read {texts}")

    assert process.process_next(offered.client, lambda: [Broken()])
    assert status(api, offered) == ("failed", "internal_error")
    assert "ValueError" in caplog.text
    assert "Eva" not in caplog.text


def test_damaged_weights_fail_the_hand_off(api, offered):
    def load():
        raise WeightsCorrupt("damaged")

    assert process.process_next(offered.client, load)
    assert status(api, offered) == ("failed", "model_missing")


def test_another_language_and_too_many_occurrences_are_not_completed(api, offered, monkeypatch):
    claim = offered.client.claim()
    german = Claim(claim.id, claim.fence, "de", claim.segments, [])
    assert process.complete(offered.client, german, no_model) == "unsupported_language"
    monkeypatch.setattr(process, "MAX_OCCURRENCES", 0)
    assert process.complete(offered.client, claim, no_model) == "transcript_unusable"


def test_an_imported_roster_is_found_under_all_its_spellings(api, caplog):
    """The whole way: import, claim, detection, review. No name is in a log."""
    caplog.set_level(logging.DEBUG)
    study = api.study()["id"]
    roster = "kind,code,name,aliases,always\n"
    roster += "person,P07,Siobhan Gallagher,Shiv,\nplace,PLACE-1,Coffs Harbour,Coffs,yes\n"
    roster += "person,P08,Hope Abernathy,,\n"
    assert api.post(f"/v1/studies/{study}/roster", json={"csv": roster}).is_success
    said = (
        ("SPEAKER_00", "I spoke to Shiv and to Hope in Coffs, and I hope it helps."),
        ("SPEAKER_01", "Siobahn Gallagher said it does."),
    )
    transcript = finish_job(
        api.services, make_job(api.services, UUID(study)), make_transcript(said)
    )

    assert process.process_next(client_of(api, study), no_model)

    with api.services.sessionmaker() as session:
        query = select(Mention, Entity.pseudonym).join(Entity, Entity.id == Mention.entity_id)
        rows = session.execute(query.where(Mention.transcript_id == transcript)).all()
    found = sorted((m.segment, m.start, pseudonym, m.state) for m, pseudonym in rows)
    assert found == [
        ("s0001", 11, "P07", "suggested"),
        ("s0001", 23, "P08", "suggested"),
        ("s0001", 31, "PLACE-1", "accepted"),
        ("s0002", 0, "P07", "suggested"),
    ]
    assert not re.search("siob|shiv|gallagher|coffs|abernathy", caplog.text, re.I)


def test_the_roster_of_a_claim_is_used(api, offered):
    claim = offered.client.claim()
    entity = {"id": "e7", "kind": "person", "name": "Eva Muster", "aliases": []}
    claim = Claim(claim.id, claim.fence, "en", claim.segments, [entity])
    assert process.complete(offered.client, claim, no_model) is None
    assert "e7" in {o["entity"] for o in stored(api, offered)}


def test_the_lease_is_extended_while_it_works(api, offered):
    claim = offered.client.claim()
    beats = threading.Event()
    offered.client.heartbeat = lambda claim: beats.set()
    with process.KeptAlive(offered.client, claim, interval=0.01):
        assert beats.wait(5)


def test_it_tries_again_when_the_api_is_away_and_ends_when_idle(api, offered, monkeypatch, caplog):
    monkeypatch.setattr(process, "POLL", 0.01)
    connections = iter([OSError(2, "no token yet"), Unavailable("sealed"), offered.client])

    def connect():
        connection = next(connections)
        if isinstance(connection, Exception):
            raise connection
        return connection

    process.run(connect, no_model, threading.Event(), until_idle=True)
    assert status(api, offered) == ("completed", None)
    assert "sealed" in caplog.text


@pytest.mark.parametrize(
    ("answer", "error"),
    [(503, Unavailable), (429, Unavailable), (401, RequestRefused), (409, ClaimLost)],
)
def test_refusals_are_told_apart_and_their_text_is_dropped(answer, error):
    def respond(request):
        return httpx2.Response(answer, json={"code": "some_code", "detail": "Canary"})

    http = httpx2.Client(transport=httpx2.MockTransport(respond), base_url="http://x")
    claim = Claim("1", 1, "en", [], [])
    with pytest.raises(error) as caught:
        HandoffClient(http).heartbeat(claim)
    assert "Canary" not in str(caught.value)
    assert str(caught.value) == "some_code"


def test_a_model_that_was_named_must_be_there_before_anything_is_claimed(tmp_path):
    check_detectors("none", tmp_path)
    check_detectors(None, tmp_path)
    with pytest.raises(ModelMissing):
        check_detectors(str(tmp_path / "nowhere"), tmp_path)


def test_its_process_loads_no_torch_and_no_web_framework():
    code = (
        "import sys, service.deidentifier.process;"
        "print([m for m in ('torch', 'fastapi', 'sqlalchemy', 'spacy') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_serve_starts_one_unless_it_is_turned_off():
    data, keys = Path("/nowhere/data"), Path("/nowhere/keys")
    assert Settings(data=data, keys=keys).deidentifier
    variables = Settings(data=data, keys=keys, deidentifier=False).as_environment()
    assert variables["FIELDSCRIBE_DEIDENTIFIER"] == "False"


@contextmanager
def listening(api):
    """The API at an address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(api.app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_the_stage_of_40_lines_in_the_docs_works(api, offered):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 40
    with listening(api) as url:
        token = api.token("deidentifier", offered.study)
        environment = {**os.environ, "FIELDSCRIBE_URL": url, "FIELDSCRIBE_TOKEN": token}
        answer = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert status(api, offered) == ("completed", None)
    (occurrence,) = stored(api, offered)
    assert (occurrence["segment"], occurrence["start"], occurrence["end"]) == ("s0002", 11, 14)


def test_the_command_completes_what_waits_and_ends(api, offered):
    with listening(api) as url:
        environment = {
            **os.environ,
            "FIELDSCRIBE_URL": url,
            "FIELDSCRIBE_TOKEN": api.token("deidentifier", offered.study),
        }
        command = "from service.commands.main import main; main()"
        arguments = ["deidentifier", "--until-idle", "--model", "none"]
        answer = subprocess.run(
            [sys.executable, "-c", command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert answer.returncode == 0, answer.stderr
    assert status(api, offered) == ("completed", None)
    assert "reduced assistance" in answer.stderr
    assert "Eva" not in answer.stderr
