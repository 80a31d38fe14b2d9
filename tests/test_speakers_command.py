"""`fieldscribe speakers`: who is who, in the service and in files."""

import json
import wave
from dataclasses import replace
from uuid import UUID

import pytest
from typer.testing import CliRunner

from models.transcript import SpeakerName
from models.transcript_json import from_json
from service.batch.outputs import write_outputs
from service.commands.main import app
from service.commands.speakers import BadSpeakerName, rename
from service.exports import Format, Label
from tests.api import connect_commands, open_api, tone
from tests.finished import conversation, finish_job


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def job(api):
    study = api.study()["id"]
    roster = [{"code": "I1", "role": "interviewer"}, {"code": "P07", "role": "participant"}]
    body = {"study": study, "code": "INT-07", "roster": roster}
    session = api.post("/v1/sessions", json=body).json()
    api.upload(study, tone(20.0), query={"session": session["id"]})
    job = api.post("/v1/jobs", json={"session": session["id"], "model": "demo"}).json()
    finish_job(api.services, UUID(job["id"]))
    return job["id"]


@pytest.fixture
def run(api, monkeypatch):
    connect_commands(api, monkeypatch)
    return invoke


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, ["speakers", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_each_voice_is_shown_with_talk_time_quotes_and_the_roster(job, run):
    shown = run("INT-07")

    assert "SPEAKER_01: 0:00:05 (" in shown.stdout
    assert "[0:00:02] My name is Eva Muster." in shown.stdout
    assert "Roster: I1 interviewer, P07 participant" in shown.stdout
    assert "--set SPEAKER_00=I1" in shown.stderr


def test_a_code_of_the_roster_brings_its_role_and_shows_in_every_format(api, job, run):
    named = run("INT-07", "--set", "SPEAKER_00=i1", "--set", "SPEAKER_01=Ida")
    transcript = api.get(f"/v1/jobs/{job}").json()["transcript_id"]

    assert "SPEAKER_00 = I1, interviewer: " in named.stdout
    assert "SPEAKER_01 = Ida: " in named.stdout
    for format in ("json", "txt", "vtt", "srt", "csv", "maxqda", "atlas", "f4", "eaf", "textgrid"):
        answer = api.get(f"/v1/transcripts/{transcript}?format={format}")
        assert "Ida" in answer.text and "SPEAKER_0" not in answer.text, format
    later = run(job, "--set", "SPEAKER_01=", "--role", "SPEAKER_01=participant", "--json")
    answer = json.loads(later.stdout)["speakers"]
    assert answer["SPEAKER_00"]["name"] == "I1"
    assert answer["SPEAKER_01"]["name"] == "participant"


def test_clips_are_saved_for_each_speaker(job, run, tmp_path):
    run("INT-07", "--clips", tmp_path / "clips")
    saved = sorted(path.name for path in (tmp_path / "clips").iterdir())

    assert saved == ["SPEAKER_00.identified.wav", "SPEAKER_01.identified.wav"]
    with wave.open(str(tmp_path / "clips" / saved[1])) as file:
        assert file.getnframes() == pytest.approx(5.5 * 16_000)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("SPEAKER_09=I1", "The speakers are SPEAKER_00, SPEAKER_01"),
        ("SPEAKER_00", "Write LABEL=NAME"),
        ("SPEAKER_00=<b>", "one to three capitals and a number"),
        ("SPEAKER_00=07", "one to three capitals and a number"),
    ],
)
def test_a_name_that_is_not_allowed_is_refused_with_the_reason(pair, message):
    labels = {"SPEAKER_00": SpeakerName(), "SPEAKER_01": SpeakerName()}

    with pytest.raises(BadSpeakerName, match=message):
        rename(labels, [pair], [], {})
    with pytest.raises(BadSpeakerName, match="A role is one of"):
        rename(labels, [], ["SPEAKER_00=boss"], {})


@pytest.fixture
def folder(tmp_path):
    made = conversation()
    options = {"roster": [{"code": "P07", "role": "participant"}]}
    made = replace(made, made_with=replace(made.made_with, options=options))
    formats = (Format.TXT, Format.VTT, Format.SRT)
    write_outputs(made, tmp_path / "INT-07.identified", formats, Label(session="INT-07"))
    return tmp_path


def test_naming_the_speakers_of_a_file_rewrites_the_exports_beside_it(folder):
    path = folder / "INT-07.identified.json"
    named = invoke(path, "--set", "SPEAKER_00=I1", "--set", "SPEAKER_01=P07")

    assert "SPEAKER_01 = P07, participant" in named.stdout
    for extension in ("txt", "vtt", "srt"):
        text = (folder / f"INT-07.identified.{extension}").read_text()
        assert "P07" in text and "SPEAKER" not in text
    made = from_json(path.read_text())
    assert made.speakers == ("SPEAKER_00", "SPEAKER_01")
    assert (made.names["SPEAKER_01"].code, made.version) == ("P07", 2)
    assert len(list(folder.iterdir())) == 4
    again = invoke(path, "--set", "SPEAKER_00=I2")
    assert "kept" not in again.stderr
    assert "I2: Good morning." in (folder / "INT-07.identified.txt").read_text()


def test_an_export_that_a_person_changed_is_kept_and_it_is_said(folder):
    text = folder / "INT-07.identified.txt"
    text.write_text("mine")
    named = invoke(folder / "INT-07.identified.json", "--set", "SPEAKER_00=I1")

    assert text.read_text() == "mine"
    assert "INT-07.identified.txt is kept" in named.stderr
    assert "I1: Good morning." in (folder / "INT-07.identified-2.txt").read_text()


def test_the_speakers_of_a_file_are_shown_without_changing_it(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    shown = invoke(folder / "INT-07.identified.json")

    assert "My name is Eva Muster." in shown.stdout
    assert "Roster: P07 participant" in shown.stdout
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    as_json = json.loads(invoke(folder / "INT-07.identified.json", "--json").stdout)
    assert as_json["SPEAKER_01"]["talk_time"] == 5.5


def test_a_file_that_is_no_transcript_is_refused(tmp_path):
    path = tmp_path / "notes.json"
    path.write_text("{}")

    assert "not a transcript" in invoke(path, code=2).stderr
    assert "only the service can save clips" in invoke(path, "--clips", tmp_path, code=2).output
