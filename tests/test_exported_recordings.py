"""Recordings in REFI-QDA projects: found by content, each with its own part of the text."""

import hashlib
import io
import zipfile
from dataclasses import replace
from uuid import UUID

import pytest
from lxml import etree
from typer.testing import CliRunner

from models.transcript import Source as Recording
from models.transcript_json import from_json, to_json
from service.batch.identity import KEY_FILE, ensure_key, identity_of
from service.commands.main import app
from service.exports import ExportOptions
from service.exports.parts import are_parallel, split_by_recording
from service.exports.qdpx import Source, write_project
from tests.api import connect_commands, open_api, tone
from tests.fakes import segment, transcript
from tests.finished import finish_job
from tests.test_qda_rules import LABEL, NS, SCHEMA

SOUNDS = (tone(1.0), tone(1.0, level=0.2))  # of one size


def recording_at(start, duration=30.0, **changes):
    return Recording(start, duration, "wav", "pcm_s16le", 16_000, 1, len(SOUNDS[0]), **changes)


def two_recordings(**changes):
    return transcript(
        [
            segment("I1", "Where were we?", 1.0),
            segment("P07", "At the hospital.", 29.4),
            segment("I1", "And then?", 42.0),
        ],
        duration=60.0,
        sources=(recording_at(0.0, **changes), recording_at(30.0, **changes)),
    )


def opened(file):
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    root = etree.fromstring(contents.pop("project.qde"))
    assert SCHEMA.validate(root), SCHEMA.error_log
    return root, contents


# --- several recordings ---------------------------------------------------------------------------


def test_each_recording_has_its_own_words_with_times_from_its_start():
    first, second = split_by_recording(two_recordings())

    assert [s.text for s in first.segments] == ["Where were we?", "At the"]
    assert [(s.text, s.start) for s in second.segments] == [("hospital.", 0.0), ("And then?", 12.0)]
    assert (first.duration, second.duration) == (30.0, 30.0)


def test_recordings_of_one_speaker_each_have_no_parts():
    assert not are_parallel([recording_at(0.0), recording_at(30.0)])
    assert are_parallel([recording_at(0.0), recording_at(2.0)])


def test_a_project_holds_every_recording_with_its_part_of_the_text(tmp_path):
    paths = [tmp_path / f"day{number}.wav" for number in (1, 2)]
    for path, sound in zip(paths, SOUNDS, strict=True):
        path.write_bytes(sound)
    file = io.BytesIO()
    write_project(file, [Source(two_recordings(), LABEL, tuple(paths))], ExportOptions())
    root, contents = opened(file)
    sources = root.findall(".//q:AudioSource", NS)

    assert [each.get("name") for each in sources] == [
        f"INT-07.v3.identified recording {number}.wav" for number in (1, 2)
    ]
    for source, sound in zip(sources, SOUNDS, strict=True):
        assert contents[source.get("path").replace("internal://", "sources/")] == sound
    text = sources[1].find("q:Transcript", NS)
    shown = contents[text.get("plainTextPath").replace("internal://", "sources/")].decode()
    assert shown == "[00:00:00] P07: hospital.\n[00:00:12] I1: And then?\n"
    times = [int(point.get("timeStamp")) for point in text.iterfind("q:SyncPoint", NS)]
    assert times[:3] == [0, 300, 12_000]
    cases = {each.get("name"): each for each in root.iterfind(".//q:Case", NS)}
    assert len(cases["P07"].findall("q:SourceRef", NS)) == 2


# --- batch mode -----------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """The folders of the transcripts, the recordings and the exports of one session."""
    transcripts, recordings = tmp_path / "transcripts", tmp_path / "recordings"
    for folder in (transcripts, recordings):
        folder.mkdir()
    key = ensure_key(transcripts, lambda: False)
    made = two_recordings()
    sources = tuple(
        replace(source, identity=identity_of(hashlib.sha256(sound).hexdigest(), key))
        for source, sound in zip(made.sources, SOUNDS, strict=True)
    )
    (transcripts / "INT-07.identified.json").write_text(to_json(replace(made, sources=sources)))
    for name, sound in zip(("b.wav", "a.wav"), SOUNDS, strict=True):
        (recordings / name).write_bytes(sound)
    return transcripts, recordings, tmp_path / "exports"


def export(*arguments, code=0):
    result = CliRunner().invoke(app, ["export", *map(str, arguments), "--for", "qualcoder"])
    assert result.exit_code == code, result.output
    return result


def sounds_of(path):
    root, contents = opened(path)
    paths = [each.get("path") for each in root.iterfind(".//q:AudioSource", NS)]
    return tuple(contents[path.replace("internal://", "sources/")] for path in paths)


def test_recordings_are_recognised_by_the_key_of_the_folder(folders):
    transcripts, recordings, out = folders
    export("--from", transcripts, "--recordings", recordings, "--out", out)

    assert sounds_of(out / "project.identified.qdpx") == SOUNDS


def test_a_file_of_the_same_size_is_not_taken_for_the_recording(folders):
    transcripts, recordings, out = folders
    (recordings / "a.wav").write_bytes(SOUNDS[1][:-1] + b"\x7f")
    result = export("--from", transcripts, "--recordings", recordings, "--out", out)

    assert (
        "INT-07: the project holds only the text, because recording 2 of 2 is not in the folder "
        "(a.wav has the same size, but other content)."
    ) in result.stderr
    assert sounds_of(out / "project.identified.qdpx") == ()


def test_without_the_key_of_the_folder_the_command_says_what_to_do(folders):
    transcripts, recordings, out = folders
    (transcripts / KEY_FILE).unlink()
    result = export("--from", transcripts, "--recordings", recordings, "--out", out, code=2)

    assert "folder_key_missing" in result.stderr and "copy it from the folder" in result.stderr


def test_recordings_made_at_the_same_time_are_left_out(folders):
    transcripts, recordings, out = folders
    path = transcripts / "INT-07.identified.json"
    made = from_json(path.read_text())
    sources = tuple(replace(source, start=0.0) for source in made.sources)
    path.write_text(to_json(replace(made, sources=sources)))
    result = export("--from", transcripts, "--recordings", recordings, "--out", out)

    assert "its recordings were made at the same time" in result.stderr


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def search(api, study, *sounds, **options):
    body = {"study": study, "sha256": [sha256(sound) for sound in sounds]}
    return api.post("/v1/recordings/search", json=body, **options)


def test_the_service_finds_a_recording_by_its_content(api, monkeypatch, tmp_path):
    """Any file of the same size once passed for the recording."""
    study = api.study()
    session = api.post("/v1/sessions", json={"study": study["id"]}).json()
    for sound in SOUNDS:
        api.upload(study["id"], sound, query={"session": session["id"]})
    job = api.post("/v1/jobs", json={"session": session["id"], "model": "demo"}).json()
    finish_job(api.services, UUID(job["id"]), two_recordings())
    recordings, out = tmp_path / "recordings", tmp_path / "exports"
    recordings.mkdir()
    for name, sound in zip(("b.wav", "a.wav"), SOUNDS, strict=True):
        (recordings / name).write_bytes(sound)
    (recordings / "0.wav").write_bytes(SOUNDS[0][:-1] + b"\x7f")
    connect_commands(api, monkeypatch)
    export(study["code"], "--recordings", recordings, "--out", out)

    assert sounds_of(out / f"{study['code']}.identified.qdpx") == SOUNDS


def test_a_search_finds_only_what_the_study_has(api):
    study, other = api.study(), api.study()
    first, copy = (api.upload(study["id"], SOUNDS[0], query={"copy": "true"}) for _ in range(2))

    (item,) = search(api, study["code"], SOUNDS[0], SOUNDS[1]).json()["items"]

    assert item["sha256"] == sha256(SOUNDS[0]) != item["identity"]
    assert item["recordings"] == [first["id"], copy["id"]]
    assert search(api, other["code"], SOUNDS[0]).json() == {"items": []}
    api.upload(other["id"], SOUNDS[0])
    (elsewhere,) = search(api, other["code"], SOUNDS[0]).json()["items"]
    assert elsewhere["identity"] != item["identity"]


def test_a_study_of_others_cannot_be_searched(api):
    study, other = api.study(), api.study()
    token = api.token("researcher", other["id"])

    answer = search(api, study["code"], SOUNDS[0], token=token)

    assert (answer.status_code, answer.json()["code"]) == (404, "study_not_found")


@pytest.mark.parametrize("sha256", [[], ["abc"], ["0" * 64] * 101, "0" * 64])
def test_a_search_needs_checksums(api, sha256):
    answer = api.post("/v1/recordings/search", json={"study": "PEER", "sha256": sha256})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_an_erased_recording_is_not_found(api):
    study = api.study()
    recording = api.upload(study["id"], SOUNDS[0])
    api.request("DELETE", f"/v1/recordings/{recording['id']}")

    assert search(api, study["code"], SOUNDS[0]).json() == {"items": []}
