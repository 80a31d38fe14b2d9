"""The routes that correct transcripts: conflicts, the journal, versions, and who may."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import select

from scripts.stand_in.jobs import make_job
from service.database.tables import Correction, StoredTranscript
from service.domain import corrections, transcripts
from service.domain.recordings import identified
from tests.api import artefact_path, open_api
from tests.finished import finish_job
from tests.test_jobs import codes


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def study(api):
    return api.study()["id"]


@pytest.fixture
def path(api, study):
    return f"/v1/transcripts/{finish_job(api.services, make_job(api.services, UUID(study)))}"


def patch(api, path, segment, version, token=None, **body):
    headers = {"If-Match": f'"{version}"'}
    return api.request(
        "PATCH", f"{path}/segments/{segment}", json=body, headers=headers, token=token
    )


def act(api, path, rest, version, body):
    return api.post(f"{path}/{rest}", json=body, headers={"If-Match": f'"{version}"'})


def without_version(api, path, version=None):
    query = f"?version={version}" if version else ""
    document = api.get(f"{path}{query}").json()
    del document["version"]
    return json.dumps(document)


def test_a_corrected_text_is_in_every_format_as_a_new_version(api, path):
    answer = patch(api, path, "s0002", 1, text="My name is Eva Mustermann.")

    assert (answer.status_code, answer.headers["ETag"]) == (200, '"2"')
    (changed,) = answer.json()["segments"]
    assert (changed["id"], changed["text"]) == ("s0002", "My name is Eva Mustermann.")
    for format in ("json", "txt", "vtt", "srt"):
        assert "Mustermann" in api.get(f"{path}?format={format}").text, format
    assert api.get(path).headers["ETag"] == '"2"'
    assert "Mustermann" not in api.get(f"{path}?version=1").text


def test_a_segment_that_was_not_changed_since_may_be_corrected_from_an_old_version(api, path):
    patch(api, path, "s0001", 1, text="Good evening.")

    assert patch(api, path, "s0002", 1, text="My name is Ida.").json()["version"] == 3


def test_numbered_lines_keep_the_numbers_of_the_first_version(api, path):
    def lines() -> list[str]:
        text = api.get(f"{path}?format=lines-csv").content.decode("utf-8-sig")
        return [",".join(row.split(",")[:2]) for row in text.splitlines()[1:]]

    first = lines()
    patch(api, path, "s0002", 1, text="My name is Ida. I live here. Where do you live?")
    later = lines()

    assert first[:3] == ["1,", "2,", "3,"]
    assert later[:4] == ["1,", "2,changed", "2a,new", "2b,new"]
    assert [line for line in later if "new" not in line][2:] == first[2:]


def test_a_stale_version_gets_both_texts_and_their_merge(api, path):
    patch(api, path, "s0002", 1, text="My name was Eva Muster.")
    apart = patch(api, path, "s0002", 1, text="My name is Eva Munster.")
    clash = patch(api, path, "s0002", 1, text="My name isn't Eva Muster.")

    assert codes(apart) == codes(clash) == (409, "segment_changed")
    assert apart.json()["conflict"] == {
        "version": 2,
        "base": "My name is Eva Muster.",
        "theirs": "My name was Eva Muster.",
        "yours": "My name is Eva Munster.",
        "merged": "My name was Eva Munster.",
    }
    assert clash.json()["conflict"]["merged"] is None
    assert "Eva" not in apart.json()["detail"]
    assert patch(api, path, "s0002", 2, text="My name was Eva Munster.").status_code == 200


def test_sending_the_same_correction_again_changes_nothing(api, path):
    first = patch(api, path, "s0002", 1, text="My name is Ida.")
    again = patch(api, path, "s0002", 1, text="My name is Ida.")

    assert again.json() == first.json()


def test_a_removed_segment_is_a_conflict_and_an_unknown_one_is_not_found(api, path):
    headers = {"If-Match": '"1"'}
    removed = api.request("DELETE", f"{path}/segments/s0002", headers=headers)
    assert removed.json() == {"version": 2, "segments": [], "removed": ["s0002"]}

    late = patch(api, path, "s0002", 1, text="My name is Ida.")
    assert codes(late) == (409, "segment_changed")
    assert late.json()["conflict"]["theirs"] is None
    assert codes(patch(api, path, "s0002", 2, text="a")) == (404, "segment_not_found")
    assert codes(patch(api, path, "s0099", 2, text="a")) == (404, "segment_not_found")


@pytest.mark.parametrize("header", [None, "", "*", '"x"', '"99999999999"'])
def test_a_correction_without_a_version_is_refused(api, path, header):
    headers = {} if header is None else {"If-Match": header}
    answer = api.request("PATCH", f"{path}/segments/s0001", json={"text": "a"}, headers=headers)

    assert codes(answer) == (428, "version_missing")


def test_a_version_that_does_not_exist_is_refused(api, path):
    assert codes(patch(api, path, "s0001", 9, text="a")) == (404, "version_not_found")
    assert codes(api.get(f"{path}?version=2")) == (404, "version_not_found")


def test_a_text_with_control_characters_is_refused(api, path):
    for text in ("a\x00", "a\x1b[0m", "a" * 100_001):
        assert codes(patch(api, path, "s0001", 1, text=text)) == (422, "invalid_request")
    headers = {"If-Match": '"1"', "Content-Type": "application/json"}
    raw = api.request(
        "PATCH", f"{path}/segments/s0001", content=b'{"text": "\\ud800"}', headers=headers
    )
    assert codes(raw) == (422, "invalid_request")
    assert patch(api, path, "s0001", 1, text="a\n\tb").json()["segments"][0]["text"] == "a b"


def test_speakers_are_given_by_label_or_by_the_name_that_is_shown(api, path):
    api.request("PUT", f"{path}/speakers", json={"SPEAKER_01": {"code": "P07"}})

    assert patch(api, path, "s0001", 2, speaker="P07").json()["segments"][0]["speaker"] == "P07"
    assert patch(api, path, "s0001", 3, speaker="SPEAKER_00").status_code == 200
    added = patch(api, path, "s0001", 4, speaker="SPEAKER_02").json()
    assert added["segments"][0]["speaker"] == "SPEAKER_02"
    assert "SPEAKER_02" in api.get(f"{path}/speakers").json()["speakers"]
    assert patch(api, path, "s0001", 5, speaker=None).json()["segments"][0]["speaker"] is None
    assert codes(patch(api, path, "s0001", 6, speaker="Eva")) == (422, "unknown_speaker")


def test_segments_are_split_merged_and_inserted(api, path):
    text = "My name is Ida and I work here."
    patch(api, path, "s0002", 1, text=text)
    split = act(api, path, "segments/s0002/split", 2, {"at": text.index("and")}).json()
    assert [(one["id"], one["text"]) for one in split["segments"]] == [
        ("s0002", "My name is Ida"),
        ("c3.1", "and I work here."),
    ]
    assert codes(act(api, path, "segments/s0002/split", 3, {"at": 1})) == (422, "bad_correction")
    merged = act(api, path, "segments/c3.1/merge", 3, {}).json()
    assert (merged["segments"][0]["text"], merged["removed"]) == (text, ["c3.1"])
    differ = act(api, path, "segments/s0002/merge", 4, {})
    assert codes(differ) == (422, "bad_correction")
    new = {"after": "s0002", "text": "Mm.", "speaker": "SPEAKER_00"}
    inserted = api.post(f"{path}/segments", json=new)
    assert inserted.status_code == 201
    assert [one["id"] for one in inserted.json()["segments"]] == ["c5.1"]
    ids = [one["id"] for one in api.get(path).json()["segments"]]
    assert ids == ["s0001", "s0002", "c5.1", "s0003", "s0004", "s0005"]


def test_undo_restores_the_bytes_and_undoing_that_does_the_change_again(api, path):
    first = without_version(api, path)
    patch(api, path, "s0002", 1, text="My name is Ida.")
    second = without_version(api, path)
    patch(api, path, "s0002", 2, speaker="SPEAKER_00", checked_by="R1")

    assert api.post(f"{path}/undo", json={}).json()["version"] == 4
    assert without_version(api, path) == second
    assert api.post(f"{path}/undo", json={}).json()["version"] == 5
    assert without_version(api, path) == first
    assert codes(api.post(f"{path}/undo", json={})) == (409, "nothing_to_undo")
    assert api.post(f"{path}/undo", json={"version": 5}).status_code == 200
    assert without_version(api, path) == second
    assert without_version(api, path, 1) == first


def test_nobody_undoes_another_persons_change_unless_they_name_it(api, study, path):
    other = api.token("researcher", study)
    patch(api, path, "s0001", 1, text="Hello.", token=other)

    assert codes(api.post(f"{path}/undo", json={})) == (409, "nothing_to_undo")
    patch(api, path, "s0001", 2, text="Hello there.")
    assert codes(api.post(f"{path}/undo", json={"version": 2})) == (409, "later_change")
    assert api.post(f"{path}/undo", json={}, token=other).status_code == 409
    assert api.post(f"{path}/undo", json={}).status_code == 200
    assert api.post(f"{path}/undo", json={"version": 2}).status_code == 200


def test_versions_are_listed_without_content_and_can_be_restored(api, path):
    first = without_version(api, path)
    patch(api, path, "s0002", 1, text="My name is Ida.")
    api.request("PUT", f"{path}/speakers", json={"SPEAKER_00": {"code": "I1"}})
    api.post(f"{path}/undo", json={"version": 2})
    listed = api.get(f"{path}/versions")

    assert "Ida" not in listed.text
    assert [
        (each["version"], each["kind"], each["segments"], each["undoes"], each["undone"])
        for each in listed.json()["items"]
    ] == [
        (1, "models", [], None, False),
        (2, "text", ["s0002"], None, True),
        (3, "speakers", [], None, False),
        (4, "undo", ["s0002"], 2, False),
    ]
    assert codes(act(api, path, "restore", 3, {"version": 1})) == (409, "transcript_changed")
    assert act(api, path, "restore", 4, {"version": 1}).json()["version"] == 5
    assert without_version(api, path) == first
    assert api.get(f"{path}/segments/s0002?version=2").json()["text"] == "My name is Ida."


def test_people_who_correct_at_the_same_time_lose_nothing(api, path):
    def correct(number):
        return patch(api, path, f"s000{number}", 1, text=f"Text {number}.")

    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(correct, range(1, 6)))

    assert [answer.status_code for answer in answers] == [200] * 5
    assert sorted(answer.json()["version"] for answer in answers) == [2, 3, 4, 5, 6]
    texts = [one["text"] for one in api.get(path).json()["segments"]]
    assert texts == [f"Text {number}." for number in range(1, 6)]


def test_the_journal_is_encrypted_and_its_rows_hold_no_text(api, path):
    patch(api, path, "s0002", 1, text="My name is Quendolin.")
    with api.services.sessionmaker() as session:
        rows = session.scalars(select(Correction)).all()
    assert "Quendolin" not in str([vars(row) for row in rows])
    store = identified(api.services)[0]
    for row in rows:
        assert row.artefact_id in store
        assert b"Quendolin" not in artefact_path(store, row.artefact_id).read_bytes()


def test_reading_stays_fast_because_of_snapshots(api, path, monkeypatch):
    for module in (corrections, transcripts):
        monkeypatch.setattr(module, "SNAPSHOT_EVERY", 3)
    for version in range(1, 9):
        assert patch(api, path, "s0001", version, text=f"Text {version}.").status_code == 200
    api.services.transcripts.forget(UUID(path.rpartition("/")[2]))
    opened: list[str] = []
    read = transcripts.read_artefact

    def count(services, row, kind, artefact_id):
        opened.append(kind)
        return read(services, row, kind, artefact_id)

    monkeypatch.setattr(transcripts, "read_artefact", count)

    assert "Text 8." in api.get(path).text
    assert opened == ["snapshot", "correction", "correction"]
    for version in (9, 10):
        assert patch(api, path, "s0001", version, text=f"Text {version}.").status_code == 200
    assert "Text 10." in api.get(path).text
    assert opened[3:] == ["snapshot", "correction"]  # earlier ones were kept in memory
    for version in range(2, 10):
        assert f"Text {version - 1}." in api.get(f"{path}?version={version}").text


def test_a_transcript_named_by_an_earlier_release_keeps_its_version_and_names(api, path):
    """Its names are in the row, and it has no journal."""
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(StoredTranscript, UUID(path.rpartition("/")[2]))
        named = {**row.speakers, "SPEAKER_00": {"role": "interviewer", "code": "I1"}}
        row.version = row.first_version = 3
        row.speakers = row.first_speakers = named
    patch(api, path, "s0001", 3, text="Hello.")

    assert "] I1: Hello." in api.get(f"{path}?format=txt").text
    assert "] I1: Good morning." in api.get(f"{path}?format=txt&version=3").text
    assert codes(api.get(f"{path}?version=2")) == (404, "version_not_found")


def test_several_segments_are_changed_as_one_version(api, path):
    patch(api, path, "s0004", 1, text="Shall we?")
    edits = [
        {"id": "s0001", "text": "Good evening."},
        {"id": "s0003", "speaker": "SPEAKER_01", "checked_by": "R1"},
        {"id": "s0004", "text": "Shall we begin?"},
        {"id": "s0077", "text": "Nothing."},
    ]
    headers = {"If-Match": '"1"'}
    made = api.request("PATCH", f"{path}/segments", json={"edits": edits}, headers=headers)

    assert (made.status_code, made.headers["ETag"]) == (200, '"3"')
    assert [one["id"] for one in made.json()["segments"]] == ["s0001", "s0003"]
    assert made.json()["skipped"] == ["s0004", "s0077"]
    assert api.get(f"{path}/versions").json()["items"][-1]["segments"] == ["s0001", "s0003"]
    assert api.post(f"{path}/undo", json={}).json()["version"] == 4
    texts = [one["text"] for one in api.get(path).json()["segments"]]
    assert (texts[0], texts[3]) == ("Good morning.", "Shall we?")
    twice = {"edits": [edits[0], edits[0]]}
    refused = api.request("PATCH", f"{path}/segments", json=twice, headers=headers)
    assert codes(refused) == (422, "invalid_request")


def test_changes_since_a_version_are_listed_as_they_are_now(api, path):
    patch(api, path, "s0001", 1, text="Good evening.")
    nothing = api.get(f"{path}/changes?since=2").json()
    assert nothing == {"version": 2, "segments": [], "removed": [], "order": None}
    api.request("DELETE", f"{path}/segments/s0003", headers={"If-Match": '"2"'})
    patch(api, path, "s0004", 3, text="Shall we start?")
    act(api, path, "segments/s0004/split", 4, {"at": 6})

    changes = api.get(f"{path}/changes?since=1").json()

    assert changes["version"] == 5
    assert [one["id"] for one in changes["segments"]] == ["s0001", "s0004", "c5.1"]
    assert changes["removed"] == ["s0003"]
    assert changes["order"] == ["s0001", "s0002", "s0004", "c5.1", "s0005"]
    api.request("PUT", f"{path}/speakers", json={"SPEAKER_00": {"code": "I1"}})
    renamed = api.get(f"{path}/changes?since=5").json()["segments"]
    assert [one["speaker"] for one in renamed] == ["I1", "SPEAKER_01", "I1", "I1", "I1"]
    assert codes(api.get(f"{path}/changes?since=9")) == (404, "version_not_found")


def test_people_see_who_else_is_at_work_and_where(api, study, path):
    other = api.token("researcher", study)

    def report(page, segment=None, token=None):
        body = {"page": page, "segment": segment}
        return api.request("PUT", f"{path}/presence", json=body, token=token).json()

    assert report("a") == {"version": 1, "people": []}
    nowhere = {"name": None, "segment": None, "activity": "correcting", "you": False}
    assert report("b", "s0002", other)["people"] == [nowhere]
    assert report("a")["people"] == [nowhere | {"segment": "s0002"}]
    assert report("b", "s0003", other)["people"] == [nowhere]
    assert [each["you"] for each in report("c")["people"]] == [True, False]


def test_a_study_shows_who_is_at_work_and_who_corrected_last(api, study, path):
    transcript = path.rpartition("/")[2]

    def activity():
        items = api.get(f"/v1/studies/{study}/activity").json()["items"]
        (found,) = [each for each in items if each["transcript_id"] == transcript]
        return found

    assert activity()["people"] == []
    assert activity()["corrected_at"] is None
    reviewer = api.token("researcher", study)
    body = {"page": "a", "segment": None, "activity": "reviewing"}
    api.request("PUT", f"{path}/presence", json=body, token=reviewer)
    api.request("PUT", f"{path}/presence", json=body | {"page": "b"}, token=reviewer)
    api.request("PUT", f"{path}/presence", json={"page": "c", "segment": None})
    patch(api, path, "s0001", 1, text="Hello.")

    assert activity()["people"] == [
        {"name": None, "activity": "reviewing", "you": False},
        {"name": None, "activity": "correcting", "you": True},
    ]
    assert activity()["corrected_at"] is not None
    mine = api.get(f"/v1/studies/{study}/activity", token=reviewer).json()["items"]
    assert [each["you"] for each in mine[-1]["people"]] == [True, False]


def test_erasing_a_job_destroys_its_journal(api, study):
    job_id = make_job(api.services, UUID(study))
    path = f"/v1/transcripts/{finish_job(api.services, job_id)}"
    patch(api, path, "s0001", 1, text="Hello.")
    with api.services.sessionmaker() as session:
        transcript_id = UUID(path.rpartition("/")[2])
        query = select(Correction).where(Correction.transcript_id == transcript_id)
        (entry,) = session.scalars(query)
    assert api.request("DELETE", f"/v1/jobs/{job_id}").status_code == 200

    assert entry.artefact_id not in identified(api.services)[0]
    with api.services.sessionmaker() as session:
        assert session.scalar(query) is None


ROUTES = [
    ("PATCH", "/segments/s0001", {"text": "a"}),
    ("DELETE", "/segments/s0001", None),
    ("GET", "/segments/s0001", None),
    ("POST", "/segments/s0001/split", {"at": 4}),
    ("POST", "/segments/s0001/merge", {}),
    ("POST", "/segments", {"after": None, "text": "a", "speaker": None}),
    ("POST", "/undo", {}),
    ("POST", "/restore", {"version": 1}),
    ("GET", "/versions", None),
    ("GET", "/changes?since=1", None),
    ("PATCH", "/segments", {"edits": [{"id": "s0001", "text": "a"}]}),
    ("PUT", "/presence", {"page": "a", "segment": None}),
]


@pytest.mark.parametrize(("method", "rest", "body"), ROUTES, ids=lambda value: str(value)[:30])
def test_only_researchers_of_the_study_correct(api, study, path, method, rest, body):
    headers = {"If-Match": '"1"'}
    for role in ("coder", "custodian", "deidentifier", "admin", "worker"):
        token = api.token(role, study)
        answer = api.request(method, path + rest, json=body, headers=headers, token=token)
        assert answer.status_code == 403, role
    stranger = api.token("researcher", api.study()["id"])
    answer = api.request(method, path + rest, json=body, headers=headers, token=stranger)
    assert codes(answer) == (404, "transcript_not_found")
