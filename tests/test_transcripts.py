"""The routes of transcripts: formats and the names of speakers."""

import hashlib
import io
import wave
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from models.overlaps import find_overlaps
from models.speaker_names import is_code, is_pseudonym, names_of, show_names
from models.statistics import compute_statistics
from models.transcript import Overlap, Source, SpeakerName, Turn
from scripts.stand_in.jobs import make_job
from service.database.tables import Correction, StoredTranscript
from service.domain.recordings import identified
from service.domain.transcripts import longest_turns
from tests.api import open_api, tone
from tests.fakes import segment, transcript
from tests.finished import conversation, finish_job
from tests.test_jobs import codes


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


@pytest.fixture
def path(api, study):
    return path_of(finish_job(api.services, make_job(api.services, UUID(study))))


def path_of(transcript_id):
    return f"/v1/transcripts/{transcript_id}"


NAMED = {
    "SPEAKER_00": {"role": "interviewer", "code": "I1"},
    "SPEAKER_01": {"role": "participant", "code": "P07"},
}


def test_a_transcript_is_available_in_every_format(api, path):
    answers = {format: api.get(f"{path}?format={format}") for format in ("txt", "vtt", "srt")}

    assert api.get(path).json()["segments"][1]["text"] == "My name is Eva Muster."
    assert "SPEAKER_01: My name is Eva Muster." in answers["txt"].text
    assert answers["vtt"].text.startswith("WEBVTT")
    assert answers["srt"].text.startswith("1\n00:00:00,000 --> ")
    assert [answer.headers["Content-Type"] for answer in answers.values()] == [
        "text/plain; charset=utf-8",
        "text/vtt; charset=utf-8",
        "application/x-subrip; charset=utf-8",
    ]
    assert {answer.headers["Cache-Control"] for answer in answers.values()} == {"no-store"}
    assert ".identified.txt" in answers["txt"].headers["Content-Disposition"]


def test_the_transcript_has_the_keyed_checksum_of_its_recording(api, study):
    """Two recorders' ZOOM0001.WAV have one name, and cannot be told apart by it."""
    identities = []
    for content in (tone(1.0), tone(1.2)):
        recording = api.upload(study, content)
        body = {"recordings": [recording["id"]], "model": "demo"}
        job_id = UUID(api.post("/v1/jobs", json=body).json()["id"])
        document = api.get(path_of(finish_job(api.services, job_id))).json()
        (source,) = document["sources"]
        identities.append(source["identity"])
        assert source["sha256"] is None
        assert source["identity"] != hashlib.sha256(content).hexdigest()

    assert len(set(identities)) == 2 and None not in identities


def test_a_transcript_is_exported_as_the_query_asks(api, path):
    document = api.get(f"{path}?format=docx")
    plain = api.get(f"{path}?format=txt&timestamps=none&overlaps=false&punctuation=de").text

    assert document.content.startswith(b"PK")
    assert ".identified.docx" in document.headers["Content-Disposition"]
    assert "\nSPEAKER_01: My name is Eva Muster.\n" in plain
    for wrong in ("pauses=0", "pauses=nan", "punctuation=DE", "notation=mine", "timestamps=hour"):
        assert codes(api.get(f"{path}?format=txt&{wrong}")) == (422, "invalid_request")


def test_an_unknown_format_is_refused(api, path):
    assert codes(api.get(f"{path}?format=odt")) == (422, "invalid_request")


def test_codes_of_speakers_appear_in_every_format(api, path):
    answer = api.request("PUT", f"{path}/speakers", json=NAMED)

    assert answer.status_code == 200
    assert answer.json()["speakers"]["SPEAKER_01"]["name"] == "P07"
    assert api.get(path).json()["speakers"] == ["I1", "P07"]
    for format in ("txt", "vtt", "srt"):
        text = api.get(f"{path}?format={format}").text
        assert "P07" in text and "SPEAKER" not in text
    assert "[overlap with P07]" in api.get(f"{path}?format=txt").text


def test_each_speaker_comes_with_three_turns_to_listen_to(api, path):
    speakers = api.get(f"{path}/speakers").json()["speakers"]
    turns = speakers["SPEAKER_00"]["turns"]

    assert [(turn["start"], turn["end"]) for turn in turns] == [(0, 2), (8, 9), (9.5, 14)]
    assert api.get(f"/v1/recordings/{turns[0]['recording_id']}").status_code == 200
    assert speakers["SPEAKER_00"]["name"] == "SPEAKER_00"


@pytest.fixture(scope="module")
def heard(api):
    """The path of a transcript whose session and recording exist."""
    study = api.study()["id"]
    roster = [{"code": "I1", "role": "interviewer"}, {"code": "P07", "role": "participant"}]
    session = api.post("/v1/sessions", json={"study": study, "roster": roster}).json()
    query = {"session": session["id"]}
    api.upload(study, tone(20.0), query=query)
    job = api.post("/v1/jobs", json={"session": session["id"], "model": "demo"}).json()
    return path_of(finish_job(api.services, UUID(job["id"])))


def test_speakers_come_with_talk_times_quotes_and_the_roster(api, heard):
    answer = api.get(f"{heard}/speakers").json()
    voice = answer["speakers"]["SPEAKER_01"]

    assert voice["talk_time"] == 5.5
    assert voice["quotes"] == [
        {"segment": "s0002", "start": 2.5, "end": 8.0, "text": "My name is Eva Muster."}
    ]
    assert [person["code"] for person in answer["roster"]] == ["I1", "P07"]


def test_a_clip_of_each_speaker_can_be_listened_to(api, heard):
    answer = api.get(f"{heard}/speakers/SPEAKER_01/clip")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "audio/wav")
    assert answer.headers["Cache-Control"] == "no-store"
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(5.5)
    assert api.get(f"{heard}/speakers/SPEAKER_00/clip?turn=2").status_code == 200
    for rest in ("SPEAKER_01/clip?turn=1", "SPEAKER_09/clip"):
        assert codes(api.get(f"{heard}/speakers/{rest}")) == (404, "turn_not_found")


def test_one_clip_is_cut_at_a_time(api, heard):
    with api.app.state.limits.cutting():
        answer = api.get(f"{heard}/speakers/SPEAKER_01/clip")

    assert codes(answer) == (429, "too_many_requests")
    assert api.get(f"{heard}/speakers/SPEAKER_01/clip").status_code == 200


def test_no_clip_is_cut_from_a_recording_that_would_fill_the_memory(api, heard, monkeypatch):
    monkeypatch.setattr("service.domain.clips.MAX_BYTES", 1000)

    assert codes(api.get(f"{heard}/speakers/SPEAKER_01/clip")) == (422, "too_large_for_clip")


def test_a_speaker_whom_a_person_has_heard_has_turns_too(api, path):
    headers = {"If-Match": '"1"'}
    body = {"speaker": "SPEAKER_02"}
    api.request("PATCH", f"{path}/segments/s0002", json=body, headers=headers)
    turns = api.get(f"{path}/speakers").json()["speakers"]["SPEAKER_02"]["turns"]

    assert [(turn["start"], turn["end"]) for turn in turns] == [(2.5, 8.0)]


def test_a_turn_has_its_position_in_its_recording():
    first, second = uuid4(), uuid4()
    made = replace(
        conversation(),
        turns=(Turn(12.0, 15.0, "SPEAKER_00"),),
        sources=tuple(
            Source(start, 10.0, "wav", "pcm_s16le", 16000, 1, 1) for start in (0.0, 10.0)
        ),
    )
    (turn,) = longest_turns(made, [first, second])["SPEAKER_00"]

    assert (turn.recording_id, turn.recording_start) == (second, 2.0)


def test_naming_speakers_again_replaces_all_names(api, path):
    api.request("PUT", f"{path}/speakers", json=NAMED)
    later = api.request("PUT", f"{path}/speakers", json={"SPEAKER_00": {"role": "moderator"}})

    assert later.json()["version"] == 3
    assert later.json()["speakers"]["SPEAKER_00"]["name"] == "moderator"
    assert later.json()["speakers"]["SPEAKER_01"]["name"] == "SPEAKER_01"


def test_a_pseudonym_is_shown_and_kept_out_of_the_database(api, path):
    answer = api.request("PUT", f"{path}/speakers", json={"SPEAKER_01": {"pseudonym": "Ida"}})

    assert answer.json()["speakers"]["SPEAKER_01"]["name"] == "Ida"
    assert "] Ida: My name is" in api.get(f"{path}?format=txt").text
    with api.services.sessionmaker() as session:
        row = session.get_one(StoredTranscript, UUID(path.rpartition("/")[2]))
        entry = session.scalar(select(Correction).where(Correction.transcript_id == row.id))
    assert "Ida" not in str(vars(row)) + str(vars(entry))


def test_an_unknown_speaker_is_refused(api, path):
    answer = api.request("PUT", f"{path}/speakers", json={"SPEAKER_07": {"code": "P07"}})

    assert codes(answer) == (422, "unknown_speaker")
    assert api.get(f"{path}/speakers").json()["version"] == 1


@pytest.mark.parametrize(
    "body", [{"SPEAKER_00": {"code": "Eva"}}, {"SPEAKER_00": {"role": "Eva Muster"}}, ["Eva"]]
)
def test_a_name_is_refused_as_a_code(api, path, body):
    answer = api.request("PUT", f"{path}/speakers", json=body)

    assert codes(answer) == (422, "invalid_request")
    assert "Eva" not in answer.text


def test_labels_with_one_code_are_one_person_and_labels_with_one_role_are_several():
    labels = ["S0", "S1", "S2", "S3"]
    speakers = {
        "S0": SpeakerName("moderator"),
        "S1": SpeakerName("participant"),
        "S2": SpeakerName("participant"),
        "S3": SpeakerName("participant", "P09"),
    }

    assert names_of(labels, speakers) == {
        "S0": "moderator",
        "S1": "participant 1",
        "S2": "participant 2",
        "S3": "P09",
    }
    same = {label: SpeakerName(code="P09") for label in ("SPEAKER_00", "SPEAKER_01")}
    shown = show_names(replace(conversation(), names=same))
    assert shown.speakers == ("P09",)


def test_a_person_with_two_labels_does_not_overlap_with_themselves():
    """Two labels of one person speak at once, without words."""
    turns = (Turn(0.0, 10.0, "S0"), Turn(3.0, 5.0, "S1"), Turn(4.0, 6.0, "S2"))
    segments = [segment("S0", "so " * 30)]
    made = transcript(segments, turns=turns, speakers=("S0", "S1", "S2"))
    overlapping = replace(made, overlaps=find_overlaps(turns, segments))
    same = {label: SpeakerName(code="P09") for label in ("S0", "S1")}
    shown = show_names(replace(overlapping, names=same))

    assert shown.overlaps == (Overlap(4.0, 6.0, ("P09", "S2"), ("S2",)),)
    assert [(s.overlaps, s.overlap_time) for s in compute_statistics(shown).speakers] == [
        (1, 2.0)
    ] * 2
    assert len(show_names(overlapping).overlaps) == 3


def test_names_by_name_are_shown_again_unchanged():
    names = {
        "SPEAKER_00": SpeakerName("interviewer", "I1"),
        "SPEAKER_01": SpeakerName(pseudonym="Ida"),
    }
    shown = show_names(replace(conversation(), names=names))

    assert shown.speakers == ("I1", "Ida")
    assert shown.names == {"I1": names["SPEAKER_00"], "Ida": names["SPEAKER_01"]}
    assert show_names(shown) == shown


@pytest.mark.parametrize("code", ["P07", "I1", "M1", "INT07-2", "FG1-P3", "P-12"])
def test_codes_are_short_and_have_a_number(code):
    assert is_code(code)


@pytest.mark.parametrize("name", ["Eva", "p07", "P", "07", "INTER07", "P07-", "P07 x"])
def test_no_name_is_a_code(name):
    assert not is_code(name)


def test_a_pseudonym_has_letters_in_any_script_but_no_marks_of_a_format():
    assert all(map(is_pseudonym, ["Ida", "Frau K.", "O’Neill", "ईवा", "伊娃", "Ida 2"]))
    assert not any(
        map(is_pseudonym, ["", "Ida:", "<b>", "I\nda", "Ida ", "SPEAKER_00", "7", "x" * 41])
    )


ROUTES = [
    ("GET", ""),
    ("GET", "/speakers"),
    ("PUT", "/speakers"),
    ("GET", "/speakers/SPEAKER_00/clip"),
]


@pytest.mark.parametrize(("method", "rest"), ROUTES)
def test_every_route_needs_a_researchers_token(api, study, path, method, rest):
    assert api.client.request(method, path + rest, json={}).status_code == 401
    for role in ("coder", "custodian", "deidentifier", "admin", "worker"):
        token = api.token(role, study)
        assert api.request(method, path + rest, json={}, token=token).status_code == 403, role


@pytest.mark.parametrize(("method", "rest"), ROUTES)
def test_someone_elses_transcript_looks_like_no_transcript(api, path, method, rest):
    token = api.token("researcher", api.study()["id"])
    theirs = api.request(method, path + rest, json={}, token=token)
    none = api.request(method, path_of(uuid4()) + rest, json={}, token=token)

    assert codes(theirs) == codes(none) == (404, "transcript_not_found")


def test_a_damaged_artefact_is_not_served(api, study):
    job_id = make_job(api.services, UUID(study))
    path = path_of(finish_job(api.services, job_id))
    folder = identified(api.services)[0].folder
    newest = max(
        (file for file in folder.rglob("*") if file.is_file()),
        key=lambda file: file.stat().st_mtime_ns,
    )
    newest.write_bytes(newest.read_bytes()[:-1])

    assert codes(api.get(path)) == (500, "artefact_damaged")
