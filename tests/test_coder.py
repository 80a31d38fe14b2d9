"""A coder reads releases and nothing else: every route, id, error, count and header is tried."""

import json
import re
from itertools import product
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from service.database.tables import Entity, Handoff, Mention, StoredTranscript, Table
from tests.api import OCTETS, open_api, tone
from tests.deidentified import accept_all, open_case, suggest
from tests.test_access import OPERATIONS
from tests.test_releases import NAMES, plain

ALLOWED = {
    ("GET", "/v1/releases"),
    ("GET", "/v1/releases/{release_id}"),
    ("GET", "/v1/releases/{release_id}/files/{format}"),
    ("GET", "/v1/releases/{release_id}/report"),
    ("POST", "/v1/studies/{study}/release-archive"),
}
OF_THE_TOKEN = {  # the caller's own token and browsers, and the state of the service
    ("GET", "/v1/token"),
    ("POST", "/v1/sign-in-links"),
    ("POST", "/v1/sign-in"),
    ("POST", "/v1/sign-in/check"),
    ("GET", "/v1/sign-on"),
    ("POST", "/v1/sign-on"),
    ("POST", "/v1/packet/open"),  # with a participant's secret, not a token
    ("POST", "/v1/packet/answer"),
    ("GET", "/v1/sign-in"),
    ("POST", "/v1/sign-out"),
    ("GET", "/v1/devices"),
    ("DELETE", "/v1/devices/{device_id}"),
    ("OPTIONS", "/v1/uploads"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def case(api):
    """A released transcript of a study in which every kind of thing exists."""
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    assert api.post(f"/v1/transcripts/{case.transcript_id}/releases", json={}).status_code == 201
    return case


@pytest.fixture(scope="module")
def coder(api, case):
    return api.token("coder", str(case.study_id))


@pytest.fixture(scope="module")
def secrets(api, case):
    """Ids of everything identified, by the name of a path's parameter, and names."""
    recording = api.upload(str(case.study_id), tone())
    session = api.post("/v1/sessions", json={"study": str(case.study_id)}).json()
    with api.services.sessionmaker() as database:
        handoff = database.scalar(
            select(Handoff).where(Handoff.transcript_id == case.transcript_id)
        )
        mention = database.scalar(
            select(Mention).where(Mention.transcript_id == case.transcript_id)
        )
        row = database.get_one(StoredTranscript, case.transcript_id)
        entity = database.scalar(select(Entity).where(Entity.study_id == case.study_id))
    return {
        "transcript_id": str(case.transcript_id),
        "job_id": str(case.job_id),
        "recording_id": recording["id"],
        "upload_id": recording["id"],
        "session_id": session["id"],
        "handoff_id": str(handoff.id),
        "mention_id": str(mention.id),
        "entity_id": str(entity.id),
        "artefact_id": str(row.artefact_id),
    }


def fill(path, case, secrets, release_id):
    known = {
        **secrets,
        "study": str(case.study_id),
        "release_id": release_id,
        "segment_id": "s0002",
        "label": "SPEAKER_00",
        "format": "json",
    }
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], str(uuid4())), path)


def release_id(api, coder):
    (item,) = api.get("/v1/releases", token=coder).json()["items"]
    return item["id"]


def test_a_coder_may_use_the_routes_of_releases_and_no_others(api, case, coder, secrets):
    release = release_id(api, coder)
    bodies: tuple[dict[str, str] | None, ...] = (None, {})
    for method, path, operation in OPERATIONS:
        is_allowed = (method, path) in ALLOWED | OF_THE_TOKEN
        if "security" in operation:
            assert ("coder" in operation["x-roles"]) == is_allowed, (method, path)
        if is_allowed:
            continue
        for query, body in product(("", "?format=txt"), bodies):
            answer = api.request(
                method,
                fill(path, case, secrets, release) + query,
                token=coder,
                json=body,
                headers={"If-Match": '"1"', "Upload-Offset": "0", **OCTETS},
            )
            assert answer.status_code == 403, (method, path)
            assert_nothing_identified(answer, secrets)


def assert_nothing_identified(answer, secrets, *, own=()):
    """No name, no id of anything identified, in the body and the headers."""
    body = plain(answer.content)
    shown = f"{body}\n{json.dumps(dict(answer.headers))}".casefold()
    for name in (*NAMES, "Woolgoolga"):
        assert name.casefold() not in shown or name in own
    for id in secrets.values():
        assert id not in shown and UUID(id).hex not in shown


def test_what_a_coder_reads_has_no_name_and_no_id_of_anything_identified(api, case, coder, secrets):
    release = release_id(api, coder)
    view = api.get(f"/v1/releases/{release}", token=coder)
    answers = [view, api.get("/v1/releases", token=coder), api.get("/v1/token", token=coder)]
    answers += [
        api.get(f"/v1/releases/{release}/files/{file['format']}", token=coder)
        for file in view.json()["files"]
    ]
    answers.append(api.get(f"/v1/releases/{release}/report", token=coder))

    for answer in answers:
        assert answer.status_code == 200
        # the town that nobody knew of is left in the text, as the report says
        assert_nothing_identified(answer, secrets, own=["Woolgoolga"])
    item = view.json()
    assert (item["transcript_id"], item["transcript_version"], item["outdated"]) == (
        None,
        None,
        None,
    )


def test_errors_tell_a_coder_nothing_about_what_exists(api, case, coder, secrets):
    """Another study's release, an id of something identified, and no id at all look the same."""
    other = open_case(api.services)
    suggest(other)
    accept_all(other)
    made = api.post(f"/v1/transcripts/{other.transcript_id}/releases", json={}).json()
    answers = [
        api.get(f"/v1/releases/{id}", token=coder)
        for id in (made["id"], *secrets.values(), str(uuid4()))
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    assert len(api.get("/v1/releases", token=coder).json()["items"]) == 1
    for study in (str(other.study_id), str(uuid4())):
        for answer in (
            api.get(f"/v1/releases?study={study}", token=coder),
            api.post(
                f"/v1/studies/{study}/release-archive", json={"password": "a" * 12}, token=coder
            ),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "study_not_found")


def test_a_coder_sees_no_counts_of_anything_identified(api, case, coder):
    """A correction, a decision and a new transcript change nothing that a coder sees."""
    release = release_id(api, coder)

    def seen():
        return [
            api.get(path, token=coder).text
            for path in (
                "/v1/releases",
                f"/v1/releases/{release}",
                f"/v1/releases/{release}/report",
                "/v1/token",
            )
        ]

    before = seen()
    patch = {"json": {"text": "Good evening."}, "headers": {"If-Match": '"1"'}}
    path = f"/v1/transcripts/{case.transcript_id}/segments/s0001"
    assert api.request("PATCH", path, **patch).status_code == 200
    case.add_transcript((("SPEAKER_00", "Hello."),))

    assert seen() == before


def test_the_database_has_no_name_after_a_release(api, case):
    """Nor has it any pseudonym in connection with a name, or a word of the text."""
    with api.services.sessionmaker() as session:
        rows = [
            str(row)
            for table in Table.metadata.tables.values()
            for row in session.execute(select(table))
        ]
    for name in (*NAMES, "Woolgoolga", "Good morning"):
        assert not any(name.casefold() in row.casefold() for row in rows)


CANARY = "Zacharias Quendolin"


def test_no_answer_and_no_log_repeats_a_name_that_was_sent(api, case, caplog):
    """A canary in every field, parameter and header of the routes of releases."""
    caplog.set_level("DEBUG")
    release = api.get("/v1/releases").json()["items"][0]["id"]
    transcript, study = f"/v1/transcripts/{case.transcript_id}", f"/v1/studies/{case.study_id}"
    answers = [
        api.post(f"{transcript}/releases", json=body)
        for body in ({"context": CANARY}, {CANARY: 1}, [CANARY], CANARY)
    ]
    answers += [
        api.post(f"{study}/release-archive", json=body)
        for body in (
            {"password": CANARY, "recipients": [CANARY]},
            {"recipients": [CANARY]},
            {"formats": [CANARY], "password": CANARY},
            {"password": CANARY, CANARY: CANARY},
        )
    ]
    answers += [
        api.get("/v1/releases", params={name: CANARY})
        for name in ("study", "session", "limit", "cursor", CANARY)
    ]
    answers += [
        api.get(path)
        for path in (
            f"/v1/releases/{CANARY}",
            f"/v1/releases/{release}/files/{CANARY}",
            f"/v1/releases/{release}/{CANARY}",
            f"/v1/studies/{CANARY}/release-check",
        )
    ]
    answers.append(api.post(f"/v1/studies/{CANARY}/release-check"))
    answers.append(api.get(f"/v1/releases/{release}", headers={"X-Name": CANARY}))

    for answer in answers[:-1]:
        assert answer.status_code in (404, 405, 422), answer.url
    for answer in answers:
        assert "uendolin" not in answer.text + str(answer.headers)
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "asyncio"))]
    assert not any("uendolin" in record.getMessage() for record in ours)
