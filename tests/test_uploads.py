"""Uploads by tus 1.0, and the checks that follow."""

import base64
import hashlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.audio import limits
from models.audio.decode import measure
from scripts.stand_in.installation import wait_until
from service.database.tables import Recording
from service.domain import checking, playback, recordings
from service.domain.recordings import identified
from service.vault import store as vault_store
from service.vault import uploads
from service.vault.errors import ArtefactDamaged, DiskFull, Erased
from service.vault.files import locked
from service.vault.keys import KeyRing
from service.vault.store import Artefact
from tests.api import OCTETS, artefact_path, metadata, open_api, tone
from tests.audio_files import read_once
from tests.processes import kill_decoders
from tests.test_bad_input import RECORDINGS

VERSION = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module", autouse=True)
def known_readings():
    """Most of these tests upload the same recording."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        read_once(monkeypatch, "service.domain.checking.probe")
        yield


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


def begin(api, study, n_bytes, **headers):
    answer = api.post(
        f"/v1/uploads?study={study}",
        headers={**VERSION, "Upload-Length": str(n_bytes), **headers},
    )
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def patch(api, location, offset, content, **headers):
    return api.request(
        "PATCH",
        location,
        content=content,
        headers={**VERSION, **OCTETS, "Upload-Offset": str(offset), **headers},
    )


def checksum(content: bytes, algorithm: str = "sha1") -> str:
    digest = hashlib.new(algorithm, content).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"


def eventually(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.fixture(autouse=True, scope="module")
def no_playback_copies():
    """A copy that is made meanwhile would be among the files that tests compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playback, "QUIET", timedelta(days=1))
        yield


def files_in(api):
    """The vault's files, once the uploads of earlier tests are checked and their parts merged."""
    wait_until(lambda: not checking_now(api), 20, "the checks to end")
    folder = identified(api.services)[0].folder
    return [path.name for path in folder.rglob("*") if path.is_file()]


def checking_now(api):
    with api.services.sessionmaker() as session:
        query = select(func.count()).where(Recording.state == "checking")
        return session.scalar(query)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"content": b"RIFF", "headers": {"Content-Type": "audio/wav"}}, "recording itself"),
        ({"content": b"RIFF"}, "recording itself"),
        ({"content": iter([b"RIFF"]), "headers": {"Upload-Length": "4"}}, "recording itself"),
        ({"content": b"{}", "headers": {"Content-Type": "application/json"}}, "recording itself"),
    ],
)
def test_a_body_of_another_kind_is_refused_with_what_to_send(api, study, body, says):
    """A form was answered with "An upload needs the header Upload-Length"."""
    before = files_in(api)
    answer = api.post(f"/v1/uploads?study={study}", **body)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert says in answer.json()["detail"]
    assert "application/offset+octet-stream" in answer.json()["detail"]
    assert files_in(api) == before


def form(sound: bytes, **fields: str) -> dict[str, Any]:
    return {"files": {"file": ("INT-07.wav", sound, "audio/wav")}, "data": fields}


def test_a_form_with_a_recording_is_an_upload(api, study, session):
    place, sound = f"/v1/uploads?study={study}&session={session}", tone(1.0)
    answer = api.post(place, **form(sound))

    id = answer.json()["id"]
    assert (answer.status_code, answer.headers["Location"]) == (201, f"/v1/uploads/{id}")
    assert answer.headers["Upload-Offset"] == str(len(sound))
    assert api.get(f"/v1/recordings/{id}?wait=10").json()["state"] == "ready"
    assert api.get(f"/v1/recordings/{id}/audio").content == sound
    header = api.request("HEAD", f"/v1/uploads/{id}").headers["Upload-Metadata"]
    assert header == metadata(filename="INT-07.wav")
    again = api.post(place, **form(sound))
    assert (again.status_code, again.json()["id"]) == (200, id)
    copy = api.post(f"{place}&copy=true", **form(sound))
    assert (copy.status_code, copy.json()["id"] == id) == (201, False)


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (form(b"RIFF", session="INT-07"), "bad_form", "into the address"),
        (form(b""), "bad_form", "no bytes"),
        ({"files": {"audio": ("clip.wav", b"RIFF")}}, "bad_form", "field file"),
        (form(b"RIFF") | {"headers": {"Upload-Checksum": "sha1 x"}}, "bad_upload_header", "tus"),
    ],
)
def test_a_form_with_anything_but_a_recording_is_refused_and_leaves_nothing(
    api, study, body, code, says
):
    before = files_in(api)
    answer = api.post(f"/v1/uploads?study={study}", **body)

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert says in answer.json()["detail"]
    assert files_in(api) == before


def test_a_recording_that_is_uploaded_again_is_answered_with_what_is_there(api, study):
    sound = tone(1.0)
    same = {"Upload-Metadata": metadata(sha256=hashlib.sha256(sound).hexdigest())}
    first = api.upload(study, sound)  # its checksum was not announced, but computed

    answer = api.post(f"/v1/uploads?study={study}", headers={**OCTETS, **same}, content=sound)
    assert (answer.status_code, answer.json()["id"]) == (200, first["id"])
    assert answer.headers["Location"] == f"/v1/uploads/{first['id']}"
    assert answer.headers["Upload-Offset"] == str(len(sound))
    other = f"/v1/uploads?study={study}&other_than={first['id']}"
    second = api.post(other, headers={**OCTETS, **same}, content=sound)
    assert (second.status_code, second.json()["id"] == first["id"]) == (201, False)


@pytest.fixture
def session(api, study):
    return api.post("/v1/sessions", json={"study": study}).json()["id"]


def recordings_of(api, session):
    return api.get(f"/v1/sessions/{session}").json()["recordings"]


def test_the_same_content_sent_again_without_a_checksum_is_answered_with_what_is_there(
    api, study, session
):
    """`curl -T FILE`, repeated, put the recording into the session twice."""
    sound, path = tone(1.0), f"/v1/uploads?study={study}&session={session}"
    first = api.post(path, headers=OCTETS, content=sound)
    before = files_in(api)
    at_once = api.post(path, headers=OCTETS, content=sound)  # while the first is being checked
    api.checked(first.json()["id"])
    later = api.post(path, headers=OCTETS, content=sound)

    assert [answer.status_code for answer in (first, at_once, later)] == [201, 200, 200]
    assert {answer.json()["id"] for answer in (at_once, later)} == {first.json()["id"]}
    assert later.headers["Location"] == f"/v1/uploads/{first.json()['id']}"
    assert recordings_of(api, session) == [first.json()["id"]]
    assert len(files_in(api)) <= len(before)  # nothing is left of the copies


def test_the_same_content_sent_again_in_parts_is_refused_and_names_the_recording(
    api, study, session
):
    sound = tone(1.0)
    first = api.upload(study, sound, query={"session": session})["id"]
    second = api.checked(send_in_parts(api, study, session, sound))

    assert second["state"] == "refused"
    assert second["refusal"]["code"] == "recording_duplicate"
    assert first in second["refusal"]["detail"]
    assert second["expires_at"] is not None
    assert recordings_of(api, session) == [first]
    api.post(f"/v1/recordings/{second['id']}/retry")
    assert api.checked(second["id"])["state"] == "refused"
    api.request("DELETE", f"/v1/recordings/{first}")
    api.post(f"/v1/recordings/{second['id']}/retry")
    assert api.checked(second["id"])["state"] == "ready"
    assert recordings_of(api, session) == [second["id"]]


def send_in_parts(api, study, session, sound):
    begin = {"Upload-Length": str(len(sound))}
    path = f"/v1/uploads?study={study}&session={session}"
    location = api.post(path, headers=begin).headers["Location"]
    for offset in range(0, len(sound), 10_000):
        headers = {**OCTETS, "Upload-Offset": str(offset)}
        part = sound[offset : offset + 10_000]
        assert api.request("PATCH", location, headers=headers, content=part).status_code == 204
    return location.rpartition("/")[2]


def test_a_second_copy_in_a_session_can_be_asked_for(api, study, session):
    sound = tone(1.0)
    same = {"Upload-Metadata": metadata(sha256=hashlib.sha256(sound).hexdigest())}
    path = f"/v1/uploads?study={study}&session={session}&copy=true"
    answers = [
        api.post(path, headers={**OCTETS, **extra}, content=sound) for extra in ({}, same, {})
    ]

    assert [answer.status_code for answer in answers] == [201] * 3
    ids = [answer.json()["id"] for answer in answers]
    assert [api.checked(id)["state"] for id in ids] == ["ready"] * 3
    assert recordings_of(api, session) == ids


def test_of_two_copies_that_are_checked_at_the_same_time_one_is_refused(
    api, study, session, monkeypatch
):
    sound = tone(1.0)
    monkeypatch.setattr(checking.Checker, "_find_waiting", lambda self: [])  # only below
    ids = [UUID(send_in_parts(api, study, session, sound)) for _ in range(2)]
    start = threading.Barrier(2)

    def check(id):
        start.wait()
        checked = checking.check(api.services, id)
        assert checked is not None
        return checked.state

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(check, ids)) == ["ready", "refused"]


def test_a_recording_of_another_session_or_study_is_not_the_same(api, study):
    sound = tone(1.0)
    same = {"Upload-Metadata": metadata(sha256=hashlib.sha256(sound).hexdigest())}
    session = api.post("/v1/sessions", json={"study": study}).json()["id"]
    places = [f"study={study}", f"study={study}&session={session}", f"study={api.study()['code']}"]
    answers = [
        api.post(f"/v1/uploads?{place}", headers={**OCTETS, **same}, content=sound)
        for place in (*places, *places)
    ]

    assert [answer.status_code for answer in answers] == [201, 201, 201, 200, 200, 200]
    ids = [UUID(answer.json()["id"]) for answer in answers]
    assert ids[:3] == ids[3:]
    with api.services.sessionmaker() as database:
        rows = [database.get_one(Recording, id) for id in ids[:3]]
    assert rows[0].digest == rows[1].digest != rows[2].digest  # keyed per study
    assert rows[0].digest != hashlib.sha256(sound).digest()


def test_a_refused_or_erased_recording_is_not_the_same(api, study):
    sound = tone(1.0)
    same = {"Upload-Metadata": metadata(sha256=hashlib.sha256(sound).hexdigest())}
    first = api.upload(study, sound, headers=same)
    api.request("DELETE", f"/v1/recordings/{first['id']}")
    answer = api.post(f"/v1/uploads?study={study}", headers={**OCTETS, **same}, content=sound)

    assert answer.status_code == 201
    with api.services.sessionmaker() as database:
        assert database.get_one(Recording, UUID(first["id"])).digest is None


def test_the_media_type_may_have_capitals_and_parameters(api, study):
    kind = {"Content-Type": "Application/Offset+Octet-Stream; charset=utf-8"}
    answer = api.post(f"/v1/uploads?study={study}", headers=kind, content=tone(1.0))

    assert answer.status_code == 201, answer.text
    assert answer.json()["n_received"] > 0


def test_an_upload_can_be_one_request(api, study):
    sound = tone(1.5)

    view = api.upload(study, sound, headers={"Upload-Metadata": metadata(filename="a.wav")})

    assert view["state"] == "ready"
    assert view["n_bytes"] == view["n_received"] == len(sound)
    assert view["metadata"] == {"filename": "a.wav"}
    assert view["container"] == "wav"
    assert view["codec"] == "pcm_s16le"
    assert (view["sample_rate"], view["channels"]) == (16000, 1)
    assert view["duration"] == pytest.approx(1.5)
    assert view["peak_dbfs"] == pytest.approx(-20, abs=0.1)
    assert view["mean_dbfs"] == pytest.approx(-23, abs=0.1)
    assert api.get(f"/v1/recordings/{view['id']}/audio").content == sound


def test_parts_are_merged_in_order(api, study):
    sound = tone()
    location = begin(api, study, len(sound))
    for offset in range(0, len(sound), 10_000):
        answer = patch(api, location, offset, sound[offset : offset + 10_000])
        assert answer.status_code == 204
        assert int(answer.headers["Upload-Offset"]) == min(offset + 10_000, len(sound))
        assert answer.headers["Tus-Resumable"] == "1.0.0"

    view = api.checked(location.rpartition("/")[2])

    assert view["state"] == "ready"
    assert api.get(f"/v1/recordings/{view['id']}/audio").content == sound


def test_an_upload_resumes_where_it_stopped(api, study):
    sound = tone()
    location = begin(api, study, len(sound), **{"Upload-Metadata": metadata(filename="b.wav")})
    patch(api, location, 0, sound[:100])

    answer = api.request("HEAD", location, headers=VERSION)

    assert answer.status_code == 200
    assert answer.headers["Upload-Offset"] == "100"
    assert answer.headers["Upload-Length"] == str(len(sound))
    assert answer.headers["Upload-Metadata"] == metadata(filename="b.wav")
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Upload-Expires" in answer.headers


def test_options_list_the_supported_features(api):
    answer = api.client.options("/v1/uploads")

    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert "creation-with-upload" in answer.headers["Tus-Extension"]
    assert answer.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
    assert int(answer.headers["Tus-Max-Size"]) > 0


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_part_that_matches_its_checksum_is_accepted(api, study, algorithm):
    sound = tone()
    location = begin(api, study, len(sound))

    answer = patch(api, location, 0, sound, **{"Upload-Checksum": checksum(sound, algorithm)})

    assert answer.status_code == 204
    assert api.checked(location.rpartition("/")[2])["state"] == "ready"


def test_a_part_that_does_not_match_its_checksum_leaves_nothing(api, study):
    location = begin(api, study, 100)

    answer = patch(api, location, 0, b"x" * 50, **{"Upload-Checksum": checksum(b"y" * 50)})

    assert (answer.status_code, answer.json()["code"]) == (460, "upload_damaged")
    assert api.request("HEAD", location).headers["Upload-Offset"] == "0"


def test_a_first_request_that_does_not_match_its_checksum_leaves_nothing(api, study):
    before = files_in(api)

    answer = api.post(
        f"/v1/uploads?study={study}",
        content=b"x" * 50,
        headers={**OCTETS, "Upload-Checksum": checksum(b"y" * 50)},
    )

    assert (answer.status_code, answer.json()["code"]) == (460, "upload_damaged")
    assert files_in(api) == before


def test_the_checksum_of_the_whole_is_checked_at_the_end(api, study):
    sound = tone()
    right = metadata(sha256=hashlib.sha256(sound).hexdigest())
    wrong = metadata(sha256=hashlib.sha256(b"").hexdigest())

    assert api.upload(study, sound, headers={"Upload-Metadata": right})["state"] == "ready"
    view = api.upload(study, sound, headers={"Upload-Metadata": wrong})
    assert (view["state"], view["refusal"]["code"]) == ("refused", "upload_damaged")


@pytest.mark.parametrize(
    ("offset", "content", "headers", "status", "code"),
    [
        ("5", b"x", {}, 409, "wrong_offset"),
        ("-1", b"x", {}, 400, "bad_upload_header"),
        ("one", b"x", {}, 400, "bad_upload_header"),
        ("²", b"x", {}, 400, "bad_upload_header"),
        ("9" * 30, b"x", {}, 400, "bad_upload_header"),
        ("0", b"x" * 101, {}, 400, "wrong_length"),
        ("0", b"x", {"Upload-Checksum": "md5 AAAA"}, 400, "unknown_checksum"),
        ("0", b"x", {"Upload-Checksum": "sha1 AAAA"}, 400, "bad_upload_header"),
        ("0", b"x", {"Upload-Checksum": "sha1 ?"}, 400, "bad_upload_header"),
        ("0", b"x", {"Content-Type": "audio/wav"}, 415, "unsupported_media_type"),
        ("0", b"x", {"Tus-Resumable": "0.2.2"}, 412, "unsupported_tus_version"),
    ],
)
def test_a_bad_part_is_refused_and_leaves_nothing(
    api, study, offset, content, headers, status, code
):
    location = begin(api, study, 100)

    answer = api.request(
        "PATCH",
        location,
        content=content,
        headers={**VERSION, **OCTETS, "Upload-Offset": offset.encode(), **headers},
    )

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert api.request("HEAD", location).headers["Upload-Offset"] == "0"


def test_more_bytes_than_announced_are_refused_even_without_a_content_length(api, study):
    location = begin(api, study, 100)

    def body() -> Iterator[bytes]:  # has no Content-Length
        yield b"x" * 60
        yield b"x" * 60

    answer = patch(api, location, 0, body())

    assert (answer.status_code, answer.json()["code"]) == (400, "wrong_length")
    assert api.request("HEAD", location).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 400, "wrong_length"),
        ({"Upload-Length": "x"}, 400, "bad_upload_header"),
        ({"Upload-Length": "-1"}, 400, "bad_upload_header"),
        ({"Upload-Length": str(2**52)}, 413, "upload_too_large"),
        ({"Upload-Length": "1", "Upload-Metadata": "filename ?"}, 400, "bad_upload_header"),
        ({"Upload-Length": "1", "Upload-Metadata": "sha256 eHh4"}, 400, "bad_upload_header"),
        ({"Upload-Length": "1", "Upload-Metadata": "a" * 9000}, 400, "bad_upload_header"),
        ({"Upload-Length": "1", "Tus-Resumable": "2.0.0"}, 412, "unsupported_tus_version"),
    ],
)
def test_an_upload_with_bad_headers_is_refused(api, study, headers, status, code):
    before = files_in(api)

    answer = api.post(f"/v1/uploads?study={study}", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert files_in(api) == before


def test_an_unknown_study_or_session_is_refused(api, study):
    headers = {"Upload-Length": "1"}
    unknown = api.post("/v1/uploads?study=NOWHERE", headers=headers)
    no_session = api.post(f"/v1/uploads?study={study}&session=INT-99", headers=headers)

    assert (unknown.status_code, unknown.json()["code"]) == (404, "study_not_found")
    assert (no_session.status_code, no_session.json()["code"]) == (404, "session_not_found")


OF_NO_USE = RECORDINGS | {
    "digital silence": ("silent_audio", lambda _: tone(level=0.0)),
    "a click": ("audio_too_short", lambda _: tone(0.01)),
    "half a wav": ("truncated_audio", lambda _: tone(2.0)[:20_000]),
    "a locked dictation": ("encrypted_audio", lambda _: b"\x03ds2" + bytes(1000)),
}


@pytest.mark.parametrize("kind", OF_NO_USE)
def test_an_unusable_recording_is_refused_with_the_reason_and_kept(api, study, kind, tmp_path):
    """It used to be destroyed, though the check may be wrong and the file nowhere else."""
    code, make = OF_NO_USE[kind]
    content = make(tmp_path)

    view = api.upload(study, content, headers={"Upload-Metadata": metadata(filename="x.wav")})

    assert view["state"] == "refused"
    assert view["refusal"]["code"] == code
    assert view["refusal"]["detail"].endswith(".")
    assert view["metadata"] == {"filename": "x.wav"}
    kept_for = datetime.fromisoformat(view["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29.9) < kept_for < timedelta(days=30)
    recordings.tidy_uploads(api.services)
    store, keyring = identified(api.services)
    with store.open(*artefact_and_key(keyring, study, view)) as file:
        assert file.read() == content
    audio = api.get(f"/v1/recordings/{view['id']}/audio")
    assert (audio.status_code, audio.json()["code"]) == (409, "recording_refused")


def artefact_and_key(keyring, study, view):
    study_id, id = UUID(study), UUID(view["id"])
    return Artefact(study_id, id, "recording", id), keyring.data_key(study_id, id)


def test_a_refused_recording_is_destroyed_after_its_days_are_over(api, study, monkeypatch):
    before = files_in(api)
    monkeypatch.setitem(vars(api.services.settings), "refused_recording_days", 0)
    view = api.upload(study, tone(level=0.0), headers={"Upload-Metadata": metadata(filename="x")})
    recordings.tidy_uploads(api.services)

    assert files_in(api) == before
    after = api.get(f"/v1/recordings/{view['id']}").json()
    assert (after["state"], after["refusal"]["code"]) == ("refused", "silent_audio")
    assert after["metadata"] is None
    retried = api.post(f"/v1/recordings/{view['id']}/retry")
    assert (retried.status_code, retried.json()["code"]) == (410, "erased")


def test_a_refused_recording_is_checked_again_on_request(api, study, monkeypatch):
    with monkeypatch.context() as too_strict:
        too_strict.setattr(limits, "SILENCE_DBFS", 0.0)
        view = api.upload(study, tone())
    assert view["state"] == "refused"

    retried = api.post(f"/v1/recordings/{view['id']}/retry")

    assert (retried.status_code, retried.json()["state"]) == (202, "checking")
    checked = api.checked(view["id"])
    assert (checked["state"], checked["refusal"], checked["expires_at"]) == ("ready", None, None)
    again = api.post(f"/v1/recordings/{view['id']}/retry")
    assert (again.status_code, again.json()["state"]) == (202, "ready")


def test_an_unfinished_upload_cannot_be_retried(api, study):
    id = begin(api, study, 100).rpartition("/")[2]
    answer = api.post(f"/v1/recordings/{id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "recording_not_ready")


def test_a_refused_recording_can_be_deleted(api, study):
    before = files_in(api)
    view = api.upload(study, tone(level=0.0))
    assert api.request("DELETE", f"/v1/recordings/{view['id']}").status_code == 204
    assert files_in(api) == before
    assert api.get(f"/v1/recordings/{view['id']}").status_code == 410


def test_a_silent_recording_shows_its_levels(api, study):
    view = api.upload(study, tone(level=0.0005))

    assert view["peak_dbfs"] == pytest.approx(-66, abs=0.3)
    assert "-66" in view["refusal"]["detail"]
    assert view["duration"] == pytest.approx(1.0)


def test_an_upload_is_refused_before_the_database_runs_out_of_space(api, study, monkeypatch):
    location = begin(api, study, 100)
    monkeypatch.setattr(vault_store, "RESERVED_SPACE", 2**60)

    beginning = api.post(f"/v1/uploads?study={study}", headers={"Upload-Length": "100"})
    part = patch(api, location, 0, b"x" * 50)

    for answer in (beginning, part):
        assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert api.get("/readyz").status_code == 507
    monkeypatch.undo()
    assert patch(api, location, 0, b"x" * 50).status_code == 204


def test_a_recording_waits_for_disk_space_and_is_then_checked(api, study, monkeypatch):
    sound = tone()
    location = begin(api, study, len(sound))
    patch(api, location, 0, sound[:1000])
    monkeypatch.setattr(checking, "RETRY_AFTER", 0.1)
    monkeypatch.setattr(checking, "CHECK_EVERY", 0.1)
    real = uploads.merge

    def no_room(*arguments, **options):
        raise DiskFull("no room")

    monkeypatch.setattr(uploads, "merge", no_room)
    patch(api, location, 1000, sound[1000:])
    id = location.rpartition("/")[2]
    waiting = api.get(f"/v1/recordings/{id}?wait=1").json()
    assert waiting["state"] == "checking"
    assert waiting["waiting_for"]["code"] == "disk_full"

    monkeypatch.setattr(uploads, "merge", real)
    assert api.checked(id)["state"] == "ready"


def test_a_recording_waits_while_the_folder_of_keys_is_not_mounted(api, study, quick):
    """It used to be refused permanently because a folder was not mounted."""
    sound = tone()
    location = begin(api, study, len(sound))
    patch(api, location, 0, sound[:1000])
    id = location.rpartition("/")[2]
    with api.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(id))
    parts = iter([sound[1000:], b""])
    recordings.receive(api.services, row, lambda: next(parts), offset=1000, checksum=None)
    keys = api.services.settings.wrapped_keys
    away = keys.rename(keys.with_name("elsewhere"))
    recordings.acknowledge(api.services, row, len(sound))

    waiting_for = waits(api, id)
    assert waiting_for["code"] == "key_missing"
    away.rename(keys)
    assert api.checked(id)["state"] == "ready"


def test_a_recording_is_not_checked_while_a_late_request_writes_to_it(api, study, quick):
    """The last part may be sent twice, if its response was lost."""
    sound = tone()
    location = begin(api, study, len(sound))
    patch(api, location, 0, sound[:1000])
    id = location.rpartition("/")[2]
    folder = uploads._folder(identified(api.services)[0], UUID(id))
    with api.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(id))
    parts = iter([sound[1000:], b""])
    recordings.receive(api.services, row, lambda: next(parts), offset=1000, checksum=None)
    with locked(folder, wait=False):
        recordings.acknowledge(api.services, row, len(sound))
        waiting_for = waits(api, id)

    assert waiting_for["code"] == "upload_busy"
    assert api.checked(id)["state"] == "ready"


def waits(api, id):
    path = f"/v1/recordings/{id}"
    eventually(lambda: api.get(path).json()["waiting_for"], 10)
    view = api.get(path).json()
    assert view["state"] == "checking"
    return view["waiting_for"]


def killed_decoder(monkeypatch, times):
    """Kill the ffmpeg of this many checks, as a kernel short of memory does."""
    monkeypatch.setattr(checking, "RETRY_AFTER", 0.1)
    monkeypatch.setattr(checking, "CHECK_EVERY", 0.1)
    tries = itertools.count(1)

    def measure_or_die(file, info, *, on_progress):
        if next(tries) <= times:
            return measure(file, info, on_progress=lambda _: kill_decoders())
        return measure(file, info, on_progress=on_progress)

    monkeypatch.setattr(checking, "measure", measure_or_die)
    return tries


def test_a_recording_whose_decoder_was_killed_is_checked_again(api, study, monkeypatch):
    """It used to be refused and destroyed although every part was acknowledged."""
    killed_decoder(monkeypatch, times=checking.MAX_DECODER_KILLS - 1)
    sound = tone(60)

    view = api.upload(study, sound)

    assert (view["state"], view["refusal"]) == ("ready", None)
    assert api.get(f"/v1/recordings/{view['id']}/audio").content == sound


def test_a_recording_whose_decoder_is_always_killed_is_refused_but_not_destroyed(
    api, study, monkeypatch
):
    tries = killed_decoder(monkeypatch, times=100)

    view = api.upload(study, tone(60))

    assert (view["state"], view["refusal"]["code"]) == ("refused", "decoder_killed")
    assert next(tries) == checking.MAX_DECODER_KILLS + 1
    recordings.tidy_uploads(api.services)
    store, keyring = identified(api.services)
    assert UUID(view["id"]) in store
    assert keyring.data_key(UUID(study), UUID(view["id"]))


def test_a_recording_that_waits_for_its_decoder_says_so(api, study, monkeypatch):
    killed_decoder(monkeypatch, times=100)
    monkeypatch.setattr(checking, "RETRY_AFTER", 60)
    sound = tone(60)
    location = begin(api, study, len(sound))
    patch(api, location, 0, sound)
    path = f"/v1/recordings/{location.rpartition('/')[2]}"

    eventually(lambda: api.get(path).json()["waiting_for"])
    view = api.get(path).json()
    assert (view["state"], view["waiting_for"]["code"]) == ("checking", "decoder_killed")


def test_a_check_runs_at_low_priority(api, study, monkeypatch):
    """Decoding occupies a processor for minutes, while other requests poll jobs."""
    priorities = []

    def note(*arguments, **options):
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return measure(*arguments, **options)

    monkeypatch.setattr(checking, "measure", note)
    assert api.upload(study, tone())["state"] == "ready"

    assert priorities > [os.getpriority(os.PRIO_PROCESS, os.getpid())]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(checking, "RETRY_AFTER", 0.1)
    monkeypatch.setattr(checking, "CHECK_EVERY", 0.1)
    monkeypatch.setattr(checking, "TIDY_EVERY", 0.1)


def test_a_full_disk_of_the_keys_does_not_end_the_checks(api, study, quick, monkeypatch, caplog):
    """The checker used to end, and nothing was checked until the API was restarted."""
    monkeypatch.setitem(vars(api.services.settings), "refused_recording_days", 0)
    with monkeypatch.context() as full:
        full.setattr(KeyRing, "erase", fail_with(DiskFull("Eva's disk is full")))
        silent = api.upload(study, tone(level=0.0))
        assert silent["refusal"]["code"] == "silent_audio"

        assert api.upload(study, tone())["state"] == "ready"
        eventually(lambda: "will be retried" in caplog.text)
    assert f"recording {silent['id']}: will be retried: disk_full" in caplog.text
    assert "Eva" not in caplog.text
    store, _ = identified(api.services)
    eventually(lambda: UUID(silent["id"]) not in store, 10)


@pytest.mark.parametrize(
    "error", [OSError(5, "Eva's disk"), PoolTimeout("Eva"), ArtefactDamaged("Eva")]
)
def test_an_error_of_one_recording_does_not_delay_the_others(
    api, study, quick, monkeypatch, caplog, error
):
    location = begin(api, study, 100)
    unlucky, check = UUID(location.rpartition("/")[2]), checking.check
    patch(api, location, 0, b"x" * 99)

    def check_others(services, recording_id, *arguments, **options):
        if recording_id == unlucky:
            raise error
        return check(services, recording_id, *arguments, **options)

    monkeypatch.setattr(checking, "check", check_others)
    patch(api, location, 99, b"x")

    assert api.upload(study, tone())["state"] == "ready"
    assert f"recording {unlucky}: will be retried" in caplog.text
    assert "Eva" not in caplog.text
    monkeypatch.setattr(checking, "check", check)
    assert api.checked(str(unlucky))["refusal"]["code"] == "unreadable_audio"


@pytest.mark.parametrize("number", [5, 28], ids=["input/output error", "no space"])
def test_an_error_of_the_disk_does_not_refuse_a_recording(api, study, quick, monkeypatch, number):
    """After an hour of faults, one recording was refused because the disk had been full."""
    rmtree = shutil.rmtree
    failed: list[bool] = []

    def fail_once(*arguments, **options):
        if not failed:
            failed.append(True)
            raise OSError(number, "Eva's disk")
        return rmtree(*arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", fail_once)

    assert api.upload(study, tone())["state"] == "ready"
    assert failed


def test_a_damaged_part_of_one_upload_does_not_stop_others_being_tidied(api, study):
    damaged, expired = (begin(api, study, 100) for _ in range(2))
    patch(api, damaged, 0, b"x" * 50)
    (part,) = uploads._folder(
        identified(api.services)[0], UUID(damaged.rpartition("/")[2])
    ).iterdir()
    part.write_bytes(part.read_bytes()[:10])
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(Recording, UUID(expired.rpartition("/")[2]))
        row.expires_at = datetime.now(UTC) - timedelta(seconds=1)

    recordings.tidy_uploads(api.services)

    assert api.request("HEAD", expired).status_code == 410


def fail_with(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(5, "Eva's disk"), PoolTimeout("Eva"), DiskFull("Eva")])
def test_the_checker_survives_temporary_errors(api, study, quick, monkeypatch, caplog, error):
    with monkeypatch.context() as broken:
        broken.setattr(checking, "tidy_uploads", fail_with(error))
        eventually(lambda: "recordings cannot be checked" in caplog.text, seconds=20)

    assert api.upload(study, tone())["state"] == "ready"
    assert "Eva" not in caplog.text


@pytest.fixture
def slow_check(api, study, monkeypatch):
    """A recording whose check lasts until the event is set."""
    go_on, begun = threading.Event(), threading.Event()

    def slowly(*arguments, **options):
        begun.set()
        assert go_on.wait(60)
        return measure(*arguments, **options)

    monkeypatch.setattr(checking, "measure", slowly)
    sound = tone()
    location = begin(api, study, len(sound))
    patch(api, location, 0, sound)
    assert begun.wait(30)
    yield location.rpartition("/")[2], go_on
    go_on.set()


def test_a_recording_cannot_be_deleted_while_it_is_being_checked(api, slow_check):
    id, go_on = slow_check

    answer = api.request("DELETE", f"/v1/recordings/{id}")

    assert (answer.status_code, answer.json()["code"]) == (423, "upload_busy")
    go_on.set()
    assert api.checked(id)["state"] == "ready"
    assert api.request("DELETE", f"/v1/recordings/{id}").status_code == 204


def test_a_study_cannot_be_deleted_while_one_of_its_recordings_is_being_checked(
    api, study, slow_check
):
    id, go_on = slow_check

    answer = api.request("DELETE", f"/v1/studies/{study}")

    assert (answer.status_code, answer.json()["code"]) == (423, "upload_busy")
    go_on.set()
    assert api.checked(id)["state"] == "ready"


def test_ordering_a_session_does_not_wait_for_a_check(api, study, slow_check):
    """The request used to hang for minutes, occupying one of the few connections."""
    id, go_on = slow_check
    made = api.post("/v1/sessions", json={"study": study}).json()["id"]
    path, order = f"/v1/sessions/{made}/recordings", {"recordings": [id]}
    threading.Timer(5, go_on.set).start()
    began = time.monotonic()

    answer = api.request("PUT", path, json=order)

    assert time.monotonic() - began < 4
    assert (answer.status_code, answer.json()["code"]) == (423, "upload_busy")
    assert api.checked(id)["state"] == "ready"
    assert api.request("PUT", path, json=order).json()["recordings"] == [id]


def test_an_upload_that_another_request_is_writing_to_is_busy(api, study):
    location = begin(api, study, 100)
    folder = uploads._folder(identified(api.services)[0], UUID(location.rpartition("/")[2]))

    with locked(folder, wait=False):
        answer = patch(api, location, 0, b"x" * 50)

    assert (answer.status_code, answer.json()["code"]) == (423, "upload_busy")
    assert patch(api, location, 0, b"x" * 50).status_code == 204


def test_a_terminated_upload_is_gone(api, study):
    before = files_in(api)
    location = begin(api, study, 100)
    patch(api, location, 0, b"x" * 50)

    assert api.request("DELETE", location, headers=VERSION).status_code == 204

    assert files_in(api) == before
    for method in ("HEAD", "PATCH", "DELETE"):
        headers = {**VERSION, **OCTETS, "Upload-Offset": "50"}
        assert api.request(method, location, headers=headers).status_code == 410


def test_an_abandoned_upload_expires(api, study):
    location = begin(api, study, 100)
    patch(api, location, 0, b"x" * 50)
    id = UUID(location.rpartition("/")[2])
    with api.services.sessionmaker.begin() as session:
        session.get_one(Recording, id).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    before = files_in(api)

    recordings.tidy_uploads(api.services)

    assert len(files_in(api)) < len(before)
    answer = api.request("HEAD", location)
    assert answer.status_code == 410


def test_an_upload_whose_last_response_was_lost_is_complete(api, study):
    """The service was killed after the last part and before the change of state."""
    sound = tone()
    location = begin(api, study, len(sound))
    patch(api, location, 0, sound)
    id = location.rpartition("/")[2]
    api.checked(id)
    location = begin(api, study, len(sound))
    id = location.rpartition("/")[2]
    with api.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(id))
    parts = iter([sound, b""])
    recordings.receive(api.services, row, lambda: next(parts), offset=0, checksum=None)
    assert api.get(f"/v1/recordings/{id}").json()["state"] == "receiving"

    assert api.request("HEAD", location).headers["Upload-Offset"] == str(len(sound))
    assert api.checked(id)["state"] == "ready"


def test_a_long_request_is_stored_in_parts(api, study, monkeypatch):
    monkeypatch.setattr(recordings, "PART_BYTES", 1000)
    blocks = [b"a" * 600] * 5 + [b""]
    location = begin(api, study, 3000)
    with api.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(location.rpartition("/")[2]))
    given = iter(blocks)

    end = recordings.receive(api.services, row, lambda: next(given), offset=0, checksum=None)

    assert end == 3000
    folder = uploads._folder(identified(api.services)[0], row.id)
    assert [int(path.name) for path in sorted(folder.iterdir())] == [0, 1200, 2400]


def test_uploads_of_a_session_are_in_the_order_they_were_started(api, study):
    made = api.post("/v1/sessions", json={"study": study}).json()
    first = api.upload(study, tone(), query={"session": made["code"]})
    second = api.upload(study, tone(2.0), query={"session": made["id"]})

    assert (first["position"], second["position"]) == (0, 1)
    session = api.get(f"/v1/sessions/{made['id']}").json()
    assert session["recordings"] == [first["id"], second["id"]]


def test_audio_is_served_in_byte_ranges(api, study):
    sound = tone(8.0)
    path = f"/v1/recordings/{api.upload(study, sound)['id']}/audio"

    def ranged(value):
        return api.get(path, headers={"Range": value})

    part = ranged("bytes=70000-199999")
    assert part.status_code == 206
    assert part.content == sound[70000:200000]
    assert part.headers["Content-Range"] == f"bytes 70000-199999/{len(sound)}"
    assert part.headers["Content-Type"] == "audio/wav"
    assert part.headers["Cache-Control"] == "no-store"
    assert ranged("bytes=-44").content == sound[-44:]
    assert ranged("bytes=256000-").content == sound[256000:]
    assert ranged(f"bytes=0-{10**12}").content == sound
    assert ranged("bytes=0-1,5-6").status_code == 200
    assert ranged("lines=1-2").status_code == 200
    beyond = ranged(f"bytes={len(sound)}-")
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["Content-Range"] == f"bytes */{len(sound)}"


def test_a_deleted_recording_cannot_be_read_again(api, study):
    view = api.upload(study, tone())
    path = f"/v1/recordings/{view['id']}"

    assert api.request("DELETE", path).status_code == 204

    for each in (path, f"{path}/audio"):
        answer = api.get(each)
        assert (answer.status_code, answer.json()["code"]) == (410, "erased")
    assert api.request("DELETE", path).status_code == 410
    store, keyring = identified(api.services)
    assert UUID(view["id"]) not in store
    with pytest.raises(Erased):
        keyring.data_key(UUID(study), UUID(view["id"]))


def test_a_damaged_artefact_is_reported_and_not_served(api, study):
    view = api.upload(study, tone())
    path = artefact_path(identified(api.services)[0], UUID(view["id"]))
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    answer = api.get(f"/v1/recordings/{view['id']}/audio")

    assert (answer.status_code, answer.json()["code"]) == (500, "artefact_damaged")


def test_an_erasure_that_a_crash_interrupted_is_completed(api, study):
    view = api.upload(study, tone())
    with api.services.sessionmaker.begin() as session:
        session.get_one(Recording, UUID(view["id"])).state = "erased"

    recordings.tidy_uploads(api.services)

    assert UUID(view["id"]) not in identified(api.services)[0]
    with api.services.sessionmaker() as session:
        assert session.get_one(Recording, UUID(view["id"])).erased_at is not None


def test_an_unknown_recording_is_not_found(api):
    for path in (f"/v1/recordings/{uuid4()}", f"/v1/recordings/{uuid4()}/audio"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "recording_not_found")
