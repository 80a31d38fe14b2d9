"""Masked audio: asked for, made, replaced, erased; what goes wrong, and who may hear it."""

import io
import json
import logging
import time
import wave
from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest
from typer.testing import CliRunner

from models.audio.masking import Unplaceable
from models.audio.recording import SAMPLE_RATE
from models.corrections import KEEP
from models.errors import Stopped
from models.transcript import Flag
from scripts.stand_in.jobs import make_job, make_recording, make_token
from service.commands.main import app
from service.database.tables import JobRecording, MaskedAudio, Recording
from service.domain import masked_audio
from service.domain.corrections import Editor
from service.domain.erasure import delete_job, erase_recording
from service.domain.jobs import job_recordings
from service.domain.masked_audio import (
    MaskedAudioNotFound,
    MaskedAudioNotReady,
    Masker,
    Masking,
    WordTimesUnsure,
    delete_masked_audio,
    find_masked_audio,
    is_outdated,
    list_masked_audio,
    make_masked_audio,
    open_masked_audio,
    request_masked_audio,
)
from service.domain.recordings import identified
from service.domain.review import ReviewEditor, ReviewOpen
from service.domain.strays import remove_strays
from service.services import open_services
from service.vault.errors import DiskFull, Erased
from service.vault.store import Artefact, Store
from tests.api import connect_commands, open_api
from tests.audio_files import noise, wav
from tests.deidentified import accept_all, make_transcript, open_case, suggest
from tests.finished import age, finish_job

SECONDS = 35
SOUND = (noise(SECONDS * SAMPLE_RATE) * 32767).astype("<i2")
WAV = wav(SOUND)
SILENCE = Masking(style="silence")


@pytest.fixture(scope="module")
def services(module_settings):
    services = open_services(module_settings)
    yield services
    services.close()


def make_case(services, *, contents=(WAV,), is_reviewed=True, **changes):
    """A reviewed transcript whose recordings hold noise."""
    case = open_case(services)
    job_id = make_job(services, case.study_id, content=contents[0])
    for position, content in enumerate(contents[1:], 1):
        id = make_recording(services, case.study_id, make_token(services), content)
        with services.sessionmaker.begin() as session:
            session.add(JobRecording(job_id=job_id, recording_id=id, position=position))
    transcript = replace(make_transcript(), **changes)
    transcript_id = finish_job(services, job_id, transcript)
    case = replace(case, job_id=job_id, transcript_id=transcript_id)
    suggest(case)
    if is_reviewed:
        accept_all(case)
    return case


@pytest.fixture
def case(services):
    return make_case(services)


def ask(case, masking=SILENCE):
    return request_masked_audio(case.services, case.caller, case.transcript_id, masking)


def current(case, row):
    with case.services.sessionmaker() as session:
        return session.get_one(MaskedAudio, row.id)


def sound_of(case, row):
    with open_masked_audio(case.services, case.caller, row.id).open() as file:
        return samples_of(file.read())


def samples_of(content):
    with wave.open(io.BytesIO(content)) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2")


def inside(spans, n_samples):
    masked = np.zeros(n_samples, dtype=bool)
    for span in spans:
        masked[round(span["start"] * SAMPLE_RATE) : round(span["end"] * SAMPLE_RATE)] = True
    return masked


def correct(case, segment, text):
    with case.services.sessionmaker.begin() as session:
        editor = Editor.open(session, case.services, case.caller, case.transcript_id)
        editor.edit(segment, editor.row.version, text=text, speaker=KEEP, checked_by=KEEP)


# --- asking and making ----------------------------------------------------------------------------


def test_accepted_mentions_are_masked_and_everything_else_is_the_recording(case):
    (row,) = ask(case)
    assert (row.state, make_masked_audio(case.services, row)) == ("pending", None)
    row = current(case, row)
    masked = inside(row.spans, len(SOUND))
    heard = sound_of(case, row)

    assert row.state == "ready"
    assert len(heard) == len(SOUND)
    assert not heard[masked].any()
    assert np.array_equal(heard[~masked], SOUND[~masked, 0])
    words = {word.text.strip(" .,?"): word for word in case.decided().transcript.words}
    for name in ("Gallagher", "Harbour", "Collective", "Tomasz", "eighty-six", "seven", "nineteen"):
        middle = round((words[name].start + words[name].end) / 2 * SAMPLE_RATE)
        assert masked[middle], name
    assert not masked[round(words["Would"].start * SAMPLE_RATE)]
    assert sum(span["n_mentions"] for span in row.spans) == len(case.decided().spans)
    assert not any(name in json.dumps(row.spans) for name in ("Siobhan", "Tomasz", "Coffs"))


def test_a_review_with_open_suggestions_is_refused(services):
    with pytest.raises(ReviewOpen):
        ask(make_case(services, is_reviewed=False))


def test_words_without_certain_times_are_widened_or_refused(case):
    correct(case, "s0004", "My brother Tomasz Kowalczyk-Brown told me about it.")
    with case.services.sessionmaker.begin() as session:
        editor = ReviewEditor.open(session, case.services, case.caller, case.transcript_id)
        start = editor._texts["s0004"].index("Kowalczyk-Brown")
        for mention in editor.mentions:
            if mention.segment == "s0004":
                mention.start, mention.stop, mention.state = start, start + 15, "accepted"
    with pytest.raises(WordTimesUnsure, match="s0004") as caught:
        ask(case, Masking(unsure="refuse"))
    (row,) = ask(case)

    assert "Kowalczyk" not in str(caught.value)
    widened = [span for span in row.spans if span["reasons"] != ["words"]]
    assert len(widened) == 1 and "s0004" in widened[0]["segments"]


def test_mentions_that_cannot_be_placed_are_refused(case, monkeypatch):
    def lose(*_):
        raise Unplaceable([f"s{i:04}" for i in range(12)])

    monkeypatch.setattr(masked_audio, "find_passages", lose)
    with pytest.raises(WordTimesUnsure, match="s0009 and 2 more"):
        ask(case)


def test_speech_without_words_is_counted_or_masked(services):
    flags = (Flag("speech_without_words", 4.6, 4.9, {}),)
    case = make_case(services, flags=flags)
    (row,) = ask(case)
    (other,) = ask(case, replace(SILENCE, untranscribed=True))

    assert (row.n_unreviewed, other.n_unreviewed) == (1, 0)
    assert not any("untranscribed" in span["reasons"] for span in row.spans)
    assert any("untranscribed" in span["reasons"] for span in other.spans)


def test_each_recording_of_a_session_has_a_file(services):
    first, second = SOUND[: 20 * SAMPLE_RATE], SOUND[20 * SAMPLE_RATE :]
    base = make_transcript().sources[0]
    sources = (replace(base, duration=20.0), replace(base, start=20.0, duration=15.0))
    case = make_case(services, contents=(wav(first), wav(second)), sources=sources)
    rows = ask(case)
    for row, sound in zip(rows, (first, second), strict=True):
        make_masked_audio(services, row)
        heard, masked = sound_of(case, row), inside(row.spans, len(sound))

        assert np.array_equal(heard, np.where(masked, 0, sound[:, 0]))
    assert [row.recording_id for row in rows] == _recordings(case)
    masked_segments = {id for row in rows for span in row.spans for id in span["segments"]}
    assert masked_segments == {span.segment for span in case.decided().spans}


def _recordings(case):
    with case.services.sessionmaker() as session:
        return job_recordings(session, case.job_id)


def test_asking_again_returns_what_exists(case):
    (row,) = ask(case)
    assert ask(case)[0].id == row.id
    make_masked_audio(case.services, row)

    assert ask(case)[0].id == row.id
    assert ask(case, Masking(style="tone"))[0].id != row.id


def test_new_masked_audio_replaces_the_earlier_one_when_it_is_ready(case):
    (old,) = ask(case)
    make_masked_audio(case.services, old)
    artefact = current(case, old).artefact_id
    (new,) = ask(case, Masking(style="tone"))
    sound_of(case, old)  # still there
    make_masked_audio(case.services, new)

    with pytest.raises(Erased):
        sound_of(case, old)
    assert artefact not in identified(case.services)[0]
    assert len(sound_of(case, new)) == len(SOUND)


def test_a_pending_request_is_dropped_for_a_newer_one(case):
    (old,) = ask(case)
    (new,) = ask(case, Masking(style="tone"))

    assert current(case, old).erased_at is not None
    with case.services.sessionmaker() as session:
        found = list_masked_audio(session, case.caller, transcript_id=case.transcript_id, limit=9)
    assert [row.id for row in found.rows] == [new.id]


def test_masked_audio_is_outdated_after_a_later_decision_or_correction(case):
    (row,) = ask(case)

    def outdated():
        with case.services.sessionmaker() as session:
            return is_outdated(session, row)

    assert not outdated()
    correct(case, "s0001", "Good evening.")
    assert outdated()


# --- what goes wrong ------------------------------------------------------------------------------


def test_what_is_pending_when_the_service_stops_is_made_after_the_start(case):
    (row,) = ask(case)
    masker = Masker(case.services)
    masker._stop.set()
    assert not masker._make_next()
    masker.close()
    masker = Masker(case.services)
    while masker._make_next():
        pass
    masker.close()

    assert current(case, row).state == "ready"


def test_it_waits_while_checks_of_uploads_need_the_memory(case, monkeypatch):
    (row,) = ask(case)
    monkeypatch.setattr(masked_audio, "has_memory_for", lambda *_: False)
    masker = Masker(case.services)
    assert not masker._make_next()
    masker.close()

    assert current(case, row).state == "pending"


def test_a_stop_in_the_middle_leaves_nothing_but_the_request(case):
    (row,) = ask(case)
    before = set(identified(case.services)[0].ids())

    def stop(share):
        if share > 0.5:
            raise Stopped("The service is stopping")

    with pytest.raises(Stopped):
        make_masked_audio(case.services, row, stop)
    assert set(identified(case.services)[0].ids()) == before
    assert current(case, row).state == "pending"


def test_deleting_stops_the_work_and_leaves_no_file(case, monkeypatch):
    (row,) = ask(case)
    before = set(identified(case.services)[0].ids())
    masker = Masker(case.services)
    monkeypatch.setattr(masked_audio, "CHECK_EVERY", -1)
    watch, shares = masker._watch(row.id), []

    def delete_halfway(share):
        watch(share)
        shares.append(share)
        if len(shares) == 2:
            delete_masked_audio(case.services, case.caller, row.id)

    with pytest.raises(Stopped):
        make_masked_audio(case.services, row, delete_halfway)
    masker.close()
    assert len(shares) == 2
    assert set(identified(case.services)[0].ids()) == before
    with pytest.raises(Erased):
        sound_of(case, row)


@pytest.mark.parametrize("erase", ["job", "recording"])
def test_an_erasure_takes_the_masked_audio_with_it(case, erase):
    (row,) = ask(case)
    make_masked_audio(case.services, row)
    artefact = current(case, row).artefact_id
    assert artefact in identified(case.services)[0]
    if erase == "job":
        with case.services.sessionmaker.begin() as session:
            delete_job(session, case.services, case.caller, case.job_id, force=False)
    else:
        erase_recording(case.services, case.caller, row.recording_id)

    assert artefact not in identified(case.services)[0]
    row = current(case, row)
    assert (row.artefact_id, row.spans) == (None, [])
    with pytest.raises(Erased):
        sound_of(case, row)


def test_an_erasure_while_it_is_made_leaves_no_file(case):
    (row,) = ask(case)
    before = set(identified(case.services)[0].ids())
    erased = list[UUID]()

    def erase(_):
        if not erased:
            erased.append(row.recording_id)
            erase_recording(case.services, case.caller, row.recording_id)

    make_masked_audio(case.services, row, erase)

    assert set(identified(case.services)[0].ids()) < before
    assert current(case, row).artefact_id is None


def test_a_full_disk_refuses_requests_and_delays_the_work(case, monkeypatch):
    (row,) = ask(case)
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise DiskFull("1 byte is needed")

        patch.setattr(Store, "require_space", refuse)
        with pytest.raises(DiskFull):
            ask(case, Masking(style="tone"))
        assert make_masked_audio(case.services, row) == "disk_full"
        row = current(case, row)
        assert (row.state, row.failure_code) == ("pending", "disk_full")
        with pytest.raises(MaskedAudioNotReady):
            sound_of(case, row)
    make_masked_audio(case.services, row)

    row = current(case, row)
    assert (row.state, row.failure_code) == ("ready", None)


def test_a_recording_that_cannot_be_decoded_fails_with_its_code(services):
    case = make_case(services, contents=(b"RIFF" + bytes(1000),))
    (row,) = ask(case)

    assert make_masked_audio(services, row) == "unreadable_audio"
    assert current(case, row).state == "failed"
    with pytest.raises(MaskedAudioNotReady, match="unreadable_audio"):
        sound_of(case, row)
    assert ask(case)[0].id != row.id  # asking again tries again


def test_a_bug_fails_the_request_and_logs_nothing_identified(case, monkeypatch, caplog):
    (row,) = ask(case)

    def break_(*_, **__):
        raise ValueError("Siobhan Gallagher")

    monkeypatch.setattr(masked_audio, "write_masked", break_)
    with caplog.at_level(logging.DEBUG):
        assert make_masked_audio(case.services, row) == "internal_error"

    assert current(case, row).state == "failed"
    assert "ValueError" in caplog.text
    assert "Siobhan" not in caplog.text


def test_masked_audio_is_no_stray_and_what_a_kill_leaves_is_one(case):
    (row,) = ask(case)
    make_masked_audio(case.services, row)
    artefact = current(case, row).artefact_id
    store, keyring = identified(case.services)
    left = Artefact(case.study_id, case.job_id, masked_audio.MASKED_AUDIO)
    with store.write(left, keyring.data_key(case.study_id, case.job_id)) as file:
        file.write(b"half of it")
    age(case.services)
    remove_strays(case.services)

    assert artefact in store
    assert left.id not in store


def test_another_studys_masked_audio_looks_like_none(case):
    (row,) = ask(case)
    stranger = replace(case.caller, all_studies=False, studies=frozenset([uuid4()]))
    with case.services.sessionmaker() as session, pytest.raises(MaskedAudioNotFound):
        find_masked_audio(session, stranger, row.id)


# --- routes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def reviewed(api):
    return make_case(api.services)


@pytest.fixture(scope="module")
def ready(api, reviewed):
    """The view of masked audio that is ready."""
    path = f"/v1/transcripts/{reviewed.transcript_id}/masked-audio"
    made = api.post(path, json={"style": "silence"})
    assert made.status_code == 202, made.text
    (view,) = made.json()["items"]
    return wait_until_made(api, view["id"])


def wait_until_made(api, id):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        view = api.get(f"/v1/masked-audio/{id}").json()
        if view["state"] != "pending":
            assert view["state"] == "ready", view
            return view
        time.sleep(0.05)
    raise AssertionError(view)


def test_the_service_makes_it_and_says_what_is_masked(api, reviewed, ready):
    assert ready["n_spans"] == len(ready["spans"]) > 0
    assert ready["masked_seconds"] == pytest.approx(
        sum(span["end"] - span["start"] for span in ready["spans"]), abs=0.01
    )
    assert (ready["is_outdated"], ready["n_widened"], ready["n_unreviewed"]) == (False, 0, 0)
    assert {span["reasons"][0] for span in ready["spans"]} == {"words"}
    listed = api.get(f"/v1/masked-audio?transcript={reviewed.transcript_id}").json()["items"]
    assert listed == [{name: value for name, value in ready.items() if name != "spans"}]


def test_the_sound_is_served_in_byte_ranges(api, ready):
    path = f"/v1/masked-audio/{ready['id']}/audio"
    whole, part = api.get(path), api.get(path, headers={"Range": "bytes=44-143"})
    masked = inside(ready["spans"], len(SOUND))

    assert whole.headers["content-type"] == "audio/wav"
    assert len(whole.content) == ready["n_bytes"]
    assert np.array_equal(samples_of(whole.content), np.where(masked, 0, SOUND[:, 0]))
    assert (part.status_code, part.content) == (206, whole.content[44:144])
    assert api.get(path, headers={"Range": "bytes=99999999-"}).status_code == 416


def test_a_listener_hears_it_and_changes_nothing(api, reviewed, ready):
    listener = api.token("listener", str(reviewed.study_id))
    made = f"/v1/masked-audio/{ready['id']}"

    for path in (made, f"{made}/audio", "/v1/masked-audio", "/v1/releases"):
        assert api.get(path, token=listener).status_code == 200, path
    post = f"/v1/transcripts/{reviewed.transcript_id}/masked-audio"
    assert api.post(post, json={}, token=listener).status_code == 403
    assert api.request("DELETE", made, token=listener).status_code == 403
    with api.services.sessionmaker() as session:
        recording = session.get_one(Recording, UUID(ready["recording_id"]))
    for path in (
        f"/v1/recordings/{recording.id}/audio",
        f"/v1/recordings/{recording.id}/playback",
        f"/v1/transcripts/{reviewed.transcript_id}",
        f"/v1/jobs/{reviewed.job_id}",
    ):
        assert api.get(path, token=listener).status_code == 403, path


@pytest.mark.parametrize("role", ["coder", "custodian", "deidentifier", "admin"])
def test_nobody_else_hears_it(api, reviewed, ready, role):
    token = api.token(role, str(reviewed.study_id))
    made = f"/v1/masked-audio/{ready['id']}"

    for path in (made, f"{made}/audio", "/v1/masked-audio"):
        assert api.get(path, token=token).status_code == 403


def test_without_a_token_or_with_another_studys_there_is_nothing(api, ready):
    made = f"/v1/masked-audio/{ready['id']}"
    stranger = api.token("listener", str(api.study()["id"]))

    for path in (made, f"{made}/audio"):
        assert api.request("GET", path, headers={"Authorization": ""}).status_code == 401
        assert api.get(path, token=stranger).json()["code"] == "masked_audio_not_found"
    assert api.get("/v1/masked-audio", token=stranger).json()["items"] == []


@pytest.mark.parametrize("body", [{"style": "bleep"}, {"unsure": True}, {"pad": 1}, []])
def test_bad_requests_are_refused(api, reviewed, body):
    path = f"/v1/transcripts/{reviewed.transcript_id}/masked-audio"

    assert api.post(path, json=body).status_code == 422


def test_problems_have_their_codes(api, reviewed):
    unreviewed = make_case(api.services, is_reviewed=False)
    path = "/v1/transcripts/{}/masked-audio"

    assert api.post(path.format(uuid4()), json={}).json()["code"] == "transcript_not_found"
    refused = api.post(path.format(unreviewed.transcript_id), json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "review_open")
    assert api.get(f"/v1/masked-audio/{uuid4()}").json()["code"] == "masked_audio_not_found"
    assert api.get("/v1/masked-audio?cursor=x").json()["code"] == "bad_cursor"


def test_a_deleted_one_is_gone(api):
    case = make_case(api.services)
    (view,) = api.post(f"/v1/transcripts/{case.transcript_id}/masked-audio", json={}).json()[
        "items"
    ]
    path = f"/v1/masked-audio/{view['id']}"
    assert api.request("DELETE", path).status_code == 204

    for answer in (api.get(path), api.get(f"{path}/audio"), api.request("DELETE", path)):
        assert (answer.status_code, answer.json()["code"]) == (410, "erased")


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture
def run(api, monkeypatch):
    connect_commands(api, monkeypatch)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(app, ["masked-audio", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_the_command_makes_and_downloads_it(api, reviewed, ready, run, tmp_path, monkeypatch):
    monkeypatch.setattr("service.commands.masked_audio.BLOCK_BYTES", 300_000)
    out = tmp_path / "masked"
    made = run("make", reviewed.job_id, "--style", "silence", "--out", out)
    (path,) = out.iterdir()

    assert f"{ready['n_spans']} passages masked" in made.stdout
    assert "voices are still" in made.stderr
    assert path.read_bytes() == api.get(f"/v1/masked-audio/{ready['id']}/audio").content
    assert path.stat().st_mode & 0o077 == 0
    again = run("get", ready["id"], "--out", out, code=1)
    assert f"Overwrite {path.name}?" in again.output
    assert run("get", ready["id"], "--out", out, "--yes").stdout.strip() == str(path)


def test_the_commands_list_show_and_delete(api, run):
    case = make_case(api.services)
    made = json.loads(run("make", case.job_id, "--json").stdout)["items"][0]
    listed = run("list", "--study", case.study_id).stdout
    shown = run("show", made["id"]).stdout

    assert made["id"] in listed and "ready" in listed
    assert shown.count("PERSON") >= 4 and "s0004" in shown
    assert run("delete", made["id"], "--yes").stdout == "deleted\n"
    assert made["id"] not in run("list", "--study", case.study_id).stdout


def test_a_listeners_token_is_enough_to_list_and_download(api, reviewed, ready, run, tmp_path):
    token = api.token("listener", str(reviewed.study_id))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(api.headers, "Authorization", f"Bearer {token}")
        connect_commands(api, patch)

        assert ready["id"] in run("list").stdout
        assert "PERSON" in run("show", ready["id"]).stdout
        run("get", ready["id"], "--out", tmp_path / "heard")


def test_the_command_says_why_it_makes_nothing(api, run):
    unreviewed = make_case(api.services, is_reviewed=False)
    damaged = make_case(api.services, contents=(b"RIFF" + bytes(1000),))
    unfinished = make_job(api.services)

    assert "review_open" in run("make", unreviewed.job_id, code=1).stderr
    assert "unreadable_audio" in run("make", damaged.job_id, code=1).stderr
    assert "transcript_not_ready" in run("make", unfinished, code=2).stderr
    run("get", "nonsense", "--out", ".", code=2)
