"""A name in every field of the review's routes is in no error, log, row or file in the clear."""

import logging
import re
from typing import Any

import pytest

from tests.api import open_api
from tests.deidentified import open_case, suggest
from tests.test_leaks import checkpoint, has_trace, rows_with_a_trace

# No other test uses this name: the server's log of changes keeps what they have written.
NAME = "Ottoline Vexworthy"
TRACE = re.compile(r"vexworthy|ottoline", re.I)
BYTES = re.compile(TRACE.pattern.encode(), re.I)
SAID = (
    ("SPEAKER_00", f"My name is {NAME}."),
    ("SPEAKER_01", "Ottoline, welcome. Is Vexworthy spelt with a y?"),
)


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


def found(case):
    """Everything that a careless de-identifier could send."""
    careless = {"rule": NAME, "entity": NAME, "tier": "sure", "score": 1.0}
    return [
        {"segment": "s0001", "start": 11, "end": 29, "label": "PERSON", **careless},
        {"segment": "s0002", "start": 0, "end": 8, "label": "OTTOLINE", **careless},
        {"segment": "s0002", "start": 22, "end": 31, "label": "PERSON", **careless},
    ]


def test_a_review_of_a_name_leaves_no_trace_of_it(api, postgres, module_settings, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    case = open_case(api.services, SAID, roster=[("participant", "P07", [NAME])])
    suggest(case, found)
    path = f"/v1/transcripts/{case.transcript_id}/review"
    view = api.get(path).json()
    assert {mention["label"] for mention in view["mentions"]} == {"PERSON", "OTHER"}

    requests: list[Any] = []
    for mention in view["mentions"]:
        for field in ("mention", "version", "action", "entity", "new_entity", "scope", NAME):
            body = {"mention": mention["id"], "version": mention["version"], "action": "accept"}
            requests.append({"decisions": [{**body, field: NAME}]})
        requests.append({"decisions": [{**body, "version": 99}]})
    for field in ("segment", "words", "span", "label", "entity", "new_entity", "scope", NAME):
        body = {"segment": "s0001", "words": [0, 1], "label": "PERSON"}
        requests.append({"additions": [{**body, field: NAME}], "transcript_version": 1})
    requests += [{"transcript_version": NAME}, {NAME: NAME}, [NAME], NAME]
    for body in requests:
        answer = api.post(f"{path}/decisions", json=body)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert not TRACE.search(answer.text), body

    for mention in api.get(path).json()["mentions"]:
        decision = {"mention": mention["id"], "version": mention["version"], "action": "accept"}
        answer = api.post(f"{path}/decisions", json={"decisions": [decision]})
        assert answer.status_code == 200, answer.text
    correction = {"json": {"text": f"Yes, {NAME}."}, "headers": {"If-Match": '"1"'}}
    segment = f"/v1/transcripts/{case.transcript_id}/segments/s0002"
    assert api.request("PATCH", segment, **correction).status_code == 200
    assert api.get(path).json()["n_open"] > 0
    for rest in ("/decisions", "/samples", "/unsuggested"):
        assert not TRACE.search(api.get(path + rest).text), rest
    assert not TRACE.search(api.get("/v1/reviews").text)
    refused = api.post(f"{path}/samples", json={"segments": 5})
    assert refused.status_code == 409 and not TRACE.search(refused.text)

    own = [each for each in caplog.records if not each.name.startswith(("httpx", "httpcore"))]
    logs = "\n".join(logging.Formatter("%(message)s %(args)s").format(each) for each in own)
    assert not TRACE.search(logs)
    captured = capfd.readouterr()
    assert not TRACE.search(captured.out + captured.err)
    url = module_settings.database_url.get_secret_value()
    assert rows_with_a_trace(url, BYTES) == []
    checkpoint(url)
    for folder in (postgres.folder, module_settings.data, module_settings.keys):
        files = [each for each in folder.rglob("*") if each.is_file()]
        assert [each for each in files if has_trace(each, BYTES)] == []


def test_erasing_the_job_deletes_the_review(api):
    case = open_case(api.services)
    suggest(case)
    path = f"/v1/transcripts/{case.transcript_id}/review"
    assert api.get(path).status_code == 200
    assert api.request("DELETE", f"/v1/jobs/{case.job_id}").status_code == 200

    assert (api.get(path).status_code, api.get(path).json()["code"]) == (410, "erased")
    assert case.mentions() == []
    listed = api.get("/v1/reviews").json()["items"]
    assert str(case.transcript_id) not in [each["transcript_id"] for each in listed]
