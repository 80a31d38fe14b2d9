"""Releases: made after a finished review, frozen, and free of the study's names."""

import io
import os
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID, uuid4

import pyrage
import pytest
import pyzipper
from sqlalchemy import delete, select

from models.transcript_json import from_json
from service.database.tables import (
    Entity,
    Job,
    LinkageLookup,
    Mention,
    Release,
    ReleaseFile,
    StoredTranscript,
    Study,
)
from service.domain import releases
from service.domain.entities import add_alias, find_entity, read_record, write_record
from service.domain.entity_changes import change_entity, merge_entities, split_entity
from service.domain.release_check import plain_text
from service.domain.strays import STRAY_AFTER, remove_strays
from service.exports import Format
from service.exports.releases import RELEASE_FORMATS
from service.vault.store import Artefact
from tests.api import open_api
from tests.deidentified import INTERVIEW, accept_all, open_case, suggest
from tests.finished import age
from tests.test_jobs import codes

NAMES = ("Siobhan", "Gallagher", "Shiv", "Coffs Harbour", "Riverbend", "Tomasz")


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def reviewed(api):
    """A transcript whose review is finished. Tests that change it make their own."""
    return make_reviewed(api)


@pytest.fixture(scope="module")
def released(api, reviewed):
    return release(api, reviewed)


def make_reviewed(api, **options):
    case = open_case(api.services, **options)
    suggest(case)
    accept_all(case)
    return case


def release(api, case, **body):
    answer = api.post(f"/v1/transcripts/{case.transcript_id}/releases", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def read(api, view, format="json", **options):
    answer = api.get(f"/v1/releases/{view['id']}/files/{format}", **options)
    assert answer.status_code == 200, answer.text
    return answer.content


def text_of(api, view):
    """The text of each segment, with N for the random number of a code."""
    transcript = from_json(read(api, view).decode())
    return [re.sub(r"(?<=[A-Z]-)\d+", "N", segment.text) for segment in transcript.segments]


def test_accepted_mentions_are_replaced_by_the_pseudonyms_of_the_study(api, released):
    text = text_of(api, released)

    assert text[1] == "My name is P07, and I live in [PLACE-N]."
    assert text[2] == "Thank you, P07. How did you come to the [ORG-N]?"
    assert text[3] == "My brother [PERSON-N] told me about it on the [DATE: 1986]."
    assert text[4] == "He called me on [PHONE]."
    assert text[5] == "So [PERSON-N] knew P07 would like it. I hope you did."
    assert text[6].startswith("I did. I was [AGE: 10 to 19] then, and [PLACE-N] was a small town.")


def test_a_release_holds_every_format_and_the_report(api, released):
    files = {file["format"]: file for file in released["files"]}

    assert set(files) == set(RELEASE_FORMATS) == {*Format, "report"}
    for format, file in files.items():
        content = read(api, released, format)
        assert len(content) == file["n_bytes"]
        assert file["name"].startswith(f"{released['session']}.release-1.")


def plain(content):
    """A file's text; of a zip, that of all its members."""
    if not content.startswith(b"PK"):
        return content.decode()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return "\n".join(name + "\n" + archive.read(name).decode() for name in archive.namelist())


@pytest.mark.parametrize("format", RELEASE_FORMATS)
def test_no_file_of_a_release_has_a_name_an_id_or_a_time_of_day(api, reviewed, released, format):
    text = plain(read(api, released, format))

    for name in NAMES:
        assert name.casefold() not in text.casefold()
    for id in (reviewed.transcript_id, reviewed.job_id, *reviewed.entities.values()):
        assert str(id) not in text
        assert id.hex not in text
    assert set(re.findall(r"\d{4}-\d\d-\d\dT(\d\d:\d\d)", text)) <= {"00:00"}


def test_words_keep_their_times(api, reviewed, released):
    before = reviewed.decided().transcript
    after = from_json(read(api, released).decode())

    assert [(s.id, s.start, s.end) for s in after.segments] == [
        (s.id, s.start, s.end) for s in before.segments
    ]
    name = next(word for word in after.words if "P07" in word.text)
    old = [word for word in before.segments[1].words if word.text.strip(" ,") in NAMES]
    assert (name.start, name.end) == (old[0].start, old[-1].end)


def test_the_report_says_what_was_replaced_and_what_is_left(api, released):
    report = api.get(f"/v1/releases/{released['id']}/report").json()

    assert report["replaced"] == {
        "AGE": 1,
        "DATE": 1,
        "ORGANISATION": 1,
        "PERSON": 5,
        "PHONE": 1,
        "PLACE": 2,
    }
    assert {"label": "PERSON", "state": "rejected", "rule": "first_name", "n": 1} in report[
        "counts"
    ]
    assert (report["entities_replaced"], report["entities_of_study"]) == (4, 4)
    assert report["reviewers"] == {"owner": 1}
    assert report["sample"] is None
    assert report["context"] == "team"
    assert {"text": "Woolgoolga", "n": 1} in report["remaining"]["unknown_words"]


def test_the_report_warns_of_text_without_capitals_and_of_missing_models(api):
    said = tuple((speaker, text.lower()) for speaker, text in INTERVIEW)
    case = open_case(api.services, said)
    suggest(case, [])
    accept_all(case)  # the service's own search has suggested the names of the roster
    view = release(api, case)
    report = api.get(f"/v1/releases/{view['id']}/report").json()

    assert (report["remaining"]["is_cased"], report["has_model"]) == (False, False)
    assert "siobhan gallagher" not in read(api, view).decode()
    document = plain_text(read(api, view, "report"))
    assert "The text has no capitals" in document
    assert "No mention was found by a named-entity model" in document


def test_open_suggestions_prevent_a_release(api):
    case = open_case(api.services)
    path = f"/v1/transcripts/{case.transcript_id}/releases"
    before = api.post(path, json={})
    suggest(case)
    open_ = api.post(path, json={})

    assert codes(before) == (409, "review_not_ready")
    assert codes(open_) == (409, "review_open")
    assert api.get(f"/v1/releases?study={case.study_id}").json()["items"] == []


def test_a_name_that_nobody_suggested_prevents_a_release(api):
    """The review suggests every name that it knows. This is the check behind it."""
    said = (("SPEAKER_00", "I met siobhan gallagher."), ("SPEAKER_00", "And Shiv's dog."))
    case = open_case(api.services, said)
    suggest(case, [])
    with api.services.sessionmaker.begin() as session:
        session.execute(delete(Mention).where(Mention.transcript_id == case.transcript_id))
    answer = api.post(f"/v1/transcripts/{case.transcript_id}/releases", json={})

    assert codes(answer) == (409, "names_left")
    assert "s0001, s0002" in answer.json()["detail"]
    assert "iobhan" not in answer.text and "Shiv" not in answer.text


def test_a_speakers_name_that_is_a_participants_own_prevents_a_release(api):
    case = make_reviewed(api)
    answer = api.request(
        "PUT",
        f"/v1/transcripts/{case.transcript_id}/speakers",
        json={"SPEAKER_01": {"role": "participant", "pseudonym": "Siobhan Gallagher"}},
    )
    assert answer.status_code == 200, answer.text
    refused = api.post(f"/v1/transcripts/{case.transcript_id}/releases", json={})

    assert codes(refused) == (409, "names_left")
    assert "a speaker's name" in refused.json()["detail"]
    assert "Siobhan" not in refused.text


def test_a_name_that_a_person_has_rejected_does_not_prevent_a_release(api):
    said = (("SPEAKER_00", "I met Shiv."),)
    case = open_case(api.services, said)
    suggest(case, [("s0001", "Shiv", "PERSON", "unsure", "roster", None)])
    accept_all(case, reject=("Shiv",))

    assert text_of(api, release(api, case)) == ["I met Shiv."]


def test_a_rejected_part_of_a_name_does_not_excuse_the_whole_name(api):
    case = open_case(api.services, (("SPEAKER_00", "In June, Siobhan Gallagher came."),))
    suggest(case, [])
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(StoredTranscript, case.transcript_id)
        session.execute(delete(Mention).where(Mention.transcript_id == row.id))
        rejected = {"label": "DATE", "origin": "detector", "state": "rejected"}
        place = {"segment": "s0001", "start": 3, "stop": 16, "transcript_version": row.version}
        session.add(Mention(study_id=row.study_id, transcript_id=row.id, **place, **rejected))
    answer = api.post(f"/v1/transcripts/{case.transcript_id}/releases", json={})

    assert codes(answer) == (409, "names_left")


def test_a_name_that_is_a_common_word_is_reported_but_does_not_prevent_a_release(api):
    said = (("SPEAKER_00", "I hope that Hope comes. Hope is all."),)
    case = open_case(api.services, said, roster=[("person", None, ("Hope",))])
    suggest(case, [])
    with api.services.sessionmaker.begin() as session:
        session.execute(delete(Mention).where(Mention.transcript_id == case.transcript_id))
    report = api.get(f"/v1/releases/{release(api, case)['id']}/report").json()

    assert report["common_names_left"] == 1


def test_an_entity_has_one_pseudonym_in_all_transcripts_of_a_study(api, reviewed, released):
    said = (("SPEAKER_00", "Shiv came from Coffs Harbour with Uncle Barnaby."),)
    other = reviewed.add_transcript(said)
    suggest(
        other,
        [
            ("s0001", "Shiv", "PERSON", "sure", "roster", "Siobhan Gallagher"),
            ("s0001", "Coffs Harbour", "PLACE", "sure", "roster", "Coffs Harbour"),
            ("s0001", "Barnaby", "PERSON", "sure", "kin", "person-1"),
        ],
    )
    accept_all(other)
    words = read(api, release(api, other)).decode()
    earlier = read(api, released).decode()
    (place,) = set(re.findall(r"\[PLACE-\d+\]", earlier))
    (tomasz,) = set(re.findall(r"\[PERSON-\d+\]", earlier))

    assert " P07" in words and place in words
    assert tomasz not in words and "[PERSON-" in words


def test_dates_are_shifted_by_the_offset_of_the_participant(api):
    case = open_case(api.services)
    with api.services.sessionmaker.begin() as session:
        session.get_one(Study, case.study_id).deidentification = {"dates": "shift"}
        entity = session.get_one(Entity, case.entities["Siobhan Gallagher"])
        record = read_record(api.services, entity)
        write_record(api.services, entity, replace(record, date_shift_days=30))
    answer = api.request(
        "PUT",
        f"/v1/transcripts/{case.transcript_id}/speakers",
        json={"SPEAKER_01": {"role": "participant", "code": "P07"}},
    )
    assert answer.status_code == 200, answer.text
    suggest(case)
    accept_all(case)
    view = release(api, case)

    assert "[DATE: 2 April 1986]" in text_of(api, view)[3]
    assert from_json(read(api, view).decode()).speakers == ("SPEAKER_00", "P07")


def test_every_look_up_of_a_release_is_recorded(api):
    case = make_reviewed(api)
    release(api, case)
    with api.services.sessionmaker() as session:
        query = select(LinkageLookup).where(
            LinkageLookup.study_id == case.study_id, LinkageLookup.reason == "release"
        )
        rows = session.scalars(query).all()

    assert {row.entity_id for row in rows} >= {None, *case.entities.values()}
    assert {row.transcript_id for row in rows} == {case.transcript_id}


# --- frozen ---------------------------------------------------------------------------------------


def test_a_release_never_changes_and_a_new_one_has_the_next_number(api):
    case = make_reviewed(api)
    first = release(api, case)
    before = {file["format"]: read(api, first, file["format"]) for file in first["files"]}
    patch = {"json": {"text": "Good evening."}, "headers": {"If-Match": '"1"'}}
    path = f"/v1/transcripts/{case.transcript_id}/segments/s0001"
    assert api.request("PATCH", path, **patch).status_code == 200

    outdated = api.get(f"/v1/releases/{first['id']}").json()
    second = release(api, case, context="repository")
    again = api.get(f"/v1/releases/{first['id']}").json()

    assert outdated["outdated"] == ["transcript_changed"]
    assert (second["number"], second["outdated"], second["is_newest"]) == (2, [], True)
    assert "newer_release" in again["outdated"] and not again["is_newest"]
    assert {file: read(api, first, file) for file in before} == before
    assert text_of(api, second)[0] == "Good evening."


def test_a_correction_that_brings_a_suggestion_back_prevents_a_release(api):
    case = make_reviewed(api)
    patch = {"json": {"text": "My name is Siobhan Galagher."}, "headers": {"If-Match": '"1"'}}
    path = f"/v1/transcripts/{case.transcript_id}/segments/s0002"
    assert api.request("PATCH", path, **patch).status_code == 200
    answer = api.post(f"/v1/transcripts/{case.transcript_id}/releases", json={})

    assert answer.status_code in (409,)
    assert answer.json()["code"] in ("review_open", "names_left")


@pytest.mark.parametrize("table", [StoredTranscript, Job], ids=["a correction", "an erasure"])
def test_corrections_and_erasures_wait_for_a_release_that_is_being_made(api, table):
    """A release of a job that is erased meanwhile would stay behind."""
    case = make_reviewed(api)
    id = case.transcript_id if table is StoredTranscript else case.job_id
    seen = []

    def change_meanwhile(transcript, report):
        with api.services.sessionmaker() as session:
            query = select(table).where(table.id == id).with_for_update(skip_locked=True)
            seen.append(session.scalar(query))
        return {"json": b"{}"}

    made = releases.create_release(
        api.services, case.caller, case.transcript_id, "team", change_meanwhile
    )

    assert seen == [None]
    assert made.row.transcript_version == 1


def test_two_releases_at_once_get_different_numbers(api):
    case = make_reviewed(api)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: release(api, case), range(2)))

    assert sorted(each["number"] for each in made) == [1, 2]
    assert [text_of(api, each) for each in made] == [text_of(api, made[0])] * 2


def test_a_merged_or_renamed_entity_outdates_its_releases(api):
    case = make_reviewed(api)
    first = release(api, case)
    with api.services.sessionmaker.begin() as session:
        query = select(Entity).where(Entity.study_id == case.study_id, Entity.kind == "person")
        tomasz = session.scalars(query).one()
        merge_entities(
            session, api.services, case.caller, tomasz.id, case.entities["Siobhan Gallagher"]
        )
    assert "entity_changed" in api.get(f"/v1/releases/{first['id']}").json()["outdated"]

    second = release(api, case)
    assert text_of(api, second)[3].startswith("My brother P07 told")
    assert api.get(f"/v1/releases/{second['id']}").json()["outdated"] == []
    with api.services.sessionmaker.begin() as session:
        entity = find_entity(session, case.caller, case.entities["Coffs Harbour"], lock=True)
        change_entity(
            session, api.services, case.caller, entity, entity.version, {"pseudonym": "PLACE-99"}
        )
    assert "entity_changed" in api.get(f"/v1/releases/{second['id']}").json()["outdated"]
    assert "PLACE-99" in read(api, release(api, case)).decode()
    assert "PLACE-99" not in read(api, second).decode()


def test_splitting_an_entity_asks_again_before_the_next_release(api):
    case = make_reviewed(api)
    first = release(api, case)
    with api.services.sessionmaker.begin() as session:
        entity = find_entity(session, case.caller, case.entities["Siobhan Gallagher"], lock=True)
        split_entity(session, api.services, case.caller, entity, ["Shiv"])
    path = f"/v1/transcripts/{case.transcript_id}/releases"

    assert codes(api.post(path, json={})) == (409, "review_open")
    assert "entity_changed" in api.get(f"/v1/releases/{first['id']}").json()["outdated"]
    accept_all(case)
    text = text_of(api, release(api, case))
    assert "P07" in text[1] and "P07" not in text[2]


def test_people_stand_under_their_chosen_names_as_speakers_and_in_the_text(api):
    case = open_case(api.services)
    api.request(
        "PUT",
        f"/v1/transcripts/{case.transcript_id}/speakers",
        json={"SPEAKER_01": {"role": "participant", "code": "P07"}},
    )
    with api.services.sessionmaker.begin() as session:
        entity = find_entity(session, case.caller, case.entities["Siobhan Gallagher"], lock=True)
        change_entity(
            session, api.services, case.caller, entity, entity.version, {"chosen_name": "Robin"}
        )
    suggest(case)
    accept_all(case)
    view = release(api, case)

    assert text_of(api, view)[1].startswith("My name is Robin, ")
    assert from_json(read(api, view).decode()).speakers == ("SPEAKER_00", "Robin")


def test_a_release_that_fails_leaves_no_key_and_no_row(api):
    case = make_reviewed(api)
    _, keyring = releases.deidentified(api.services)
    before = keyring.subjects()

    def fail(transcript, report):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        releases.create_release(api.services, case.caller, case.transcript_id, "team", fail)

    def half(transcript, report):
        return {"json": b"{}", "txt": None}

    with pytest.raises(TypeError):
        releases.create_release(api.services, case.caller, case.transcript_id, "team", half)

    assert keyring.subjects() == before
    assert api.get(f"/v1/releases?study={case.study_id}").json()["items"] == []
    assert release(api, case)["number"] == 1


# --- reading and erasing --------------------------------------------------------------------------


def test_releases_are_listed_by_study(api, reviewed, released):
    listed = api.get(f"/v1/releases?study={reviewed.study_id}").json()["items"]

    assert released["id"] in [item["id"] for item in listed]
    assert {item["study_id"] for item in listed} == {str(reviewed.study_id)}
    assert codes(api.get("/v1/releases?study=NONE")) == (404, "study_not_found")


def test_someone_elses_release_looks_like_no_release(api, reviewed, released):
    own = api.token("coder", str(reviewed.study_id))
    other = api.token("coder", api.study()["id"])

    assert api.get(f"/v1/releases/{released['id']}", token=own).status_code == 200
    for rest in ("", "/report", "/files/json"):
        found = api.get(f"/v1/releases/{released['id']}{rest}", token=other)
        none = api.get(f"/v1/releases/{uuid4()}{rest}", token=other)
        assert codes(found) == codes(none) == (404, "release_not_found")
    assert api.get("/v1/releases", token=other).json()["items"] == []


def test_a_withdrawn_release_can_never_be_read_again(api):
    case = make_reviewed(api)
    view = release(api, case)
    store, keyring = releases.deidentified(api.services)
    path = f"/v1/releases/{view['id']}"

    for _ in range(2):
        assert api.request("DELETE", path).status_code == 204
    for rest in ("", "/report", "/files/json"):
        assert codes(api.get(path + rest)) == (410, "erased")
    assert UUID(view["id"]) not in keyring.subjects()
    assert release(api, case)["number"] == 2


def test_deleting_a_job_destroys_its_releases(api):
    case = make_reviewed(api)
    view = release(api, case)
    store, keyring = releases.deidentified(api.services)
    with api.services.sessionmaker() as session:
        row = session.get_one(Release, UUID(view["id"]))
        artefacts = [row.report_artefact_id]
    deleted = api.request("DELETE", f"/v1/jobs/{case.job_id}").json()

    assert deleted["releases"] == 1
    assert codes(api.get(f"/v1/releases/{view['id']}")) == (410, "erased")
    assert UUID(view["id"]) not in keyring.subjects()
    assert not any(artefact in store for artefact in artefacts)


def test_erasing_a_study_destroys_its_releases(api):
    case = make_reviewed(api)
    view = release(api, case)
    assert api.request("DELETE", f"/v1/studies/{case.study_id}").status_code == 204
    _, keyring = releases.deidentified(api.services)

    assert codes(api.get(f"/v1/releases/{view['id']}"))[0] == 410
    assert UUID(view["id"]) not in keyring.subjects()


# --- the whole class ------------------------------------------------------------------------------


def check(api, case):
    answer = api.post(f"/v1/studies/{case.study_id}/release-check")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_no_release_of_a_study_has_a_name_or_alias_of_it(api):
    case = make_reviewed(api)
    release(api, case)
    release(api, case)
    checked = check(api, case)

    assert checked == {"releases": 2, "files": 2 * (len(RELEASE_FORMATS) + 1), "found": []}


def test_an_alias_that_is_added_later_is_found_in_earlier_releases(api):
    case = make_reviewed(api)
    view = release(api, case)
    with api.services.sessionmaker.begin() as session:
        entity = find_entity(session, case.caller, case.entities["Coffs Harbour"])
        add_alias(session, api.services, case.caller, entity, "Woolgoolga", "reviewer")
    found = check(api, case)["found"]

    assert {each["format"] for each in found} >= {"json", "docx", "qdpx", "vtt", "report.json"}
    assert {(each["release_id"], each["entity_id"]) for each in found} == {
        (view["id"], str(case.entities["Coffs Harbour"]))
    }


def test_a_name_that_a_reviewer_left_is_not_found_by_the_check(api):
    said = (("SPEAKER_00", "I met Shiv."),)
    case = open_case(api.services, said)
    suggest(case, [("s0001", "Shiv", "PERSON", "unsure", "roster", None)])
    accept_all(case, reject=("Shiv",))
    release(api, case)

    assert check(api, case)["found"] == []


def test_every_file_that_can_hold_a_name_is_searched(api):
    """The check reads names of speakers, document properties and attributes of XML."""
    case = make_reviewed(api)
    view = release(api, case)
    for format in RELEASE_FORMATS:
        text = plain_text(read(api, view, format))
        expected = "P07" if format not in ("report", "statistics") else "RELEASE 1"
        assert expected in text, format
    assert "De-identified" in plain_text(read(api, view, "qdpx"))


# --- archives -------------------------------------------------------------------------------------


def archive(api, case, **body):
    return api.post(f"/v1/studies/{case.study_id}/release-archive", json=body)


def test_an_archive_opens_with_its_password_only(api, reviewed, released):
    answer = archive(api, reviewed, password="correct horse battery", formats=["txt", "report"])
    assert answer.status_code == 200, answer.text
    with pyzipper.AESZipFile(io.BytesIO(answer.content)) as file:
        names = file.namelist()
        assert f"{released['session']}.release-1.txt" in names
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in file.infolist())
        for wrong in (None, b"correct horse"):
            file.setpassword(wrong)
            with pytest.raises(RuntimeError):
                file.read(names[0])
        file.setpassword(b"correct horse battery")
        content = file.read(f"{released['session']}.release-1.txt")
    assert content == read(api, released, "txt")


def test_an_archive_opens_with_a_recipients_key_only(api, reviewed, released):
    own, other = (pyrage.x25519.Identity.generate() for _ in range(2))
    answer = archive(api, reviewed, recipients=[str(own.to_public())], formats=["txt"])
    assert answer.status_code == 200, answer.text
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(answer.content, [other])
    with zipfile.ZipFile(io.BytesIO(pyrage.decrypt(answer.content, [own]))) as file:
        assert file.read(f"{released['session']}.release-1.txt") == read(api, released, "txt")


@pytest.mark.parametrize(
    "body",
    [{}, {"password": "short"}, {"password": "a" * 12, "recipients": ["age1" + "q" * 58]}],
    ids=["no lock", "short", "two locks"],
)
def test_an_archive_has_exactly_one_lock_and_a_refusal_does_not_repeat_the_password(
    api, reviewed, body
):
    answer = archive(api, reviewed, **body)

    assert codes(answer) == (422, "invalid_request")
    assert "short" not in answer.text.replace("too_short", "") and "aaaa" not in answer.text


def test_an_archive_of_a_study_without_releases_says_so(api):
    case = open_case(api.services)

    assert codes(archive(api, case, password="a" * 12)) == (409, "nothing_released")


# --- strays and backup ----------------------------------------------------------------------------


def test_strays_of_releases_are_removed_and_releases_stay(api):
    case = make_reviewed(api)
    view = release(api, case)
    store, keyring = releases.deidentified(api.services)
    crashed = uuid4()
    key = keyring.create_data_key(case.study_id, crashed)
    stray = Artefact(case.study_id, crashed, "release_file")
    with store.write(stray, key) as file:
        file.write(b"a format")
    age_class(api)
    remove_strays(api.services)

    assert crashed not in keyring.subjects()
    assert stray.id not in store
    for file in view["files"]:
        read(api, view, file["format"])


def age_class(api):
    """Make the files of releases, and all keys, more than a week old."""
    age(api.services)
    then = time.time() - STRAY_AFTER - 60
    for path in releases.deidentified(api.services)[0].folder.rglob("*"):
        os.utime(path, (then, then))


def test_a_missing_file_of_a_release_does_not_hide_the_others(api):
    case = make_reviewed(api)
    view = release(api, case)
    store, _ = releases.deidentified(api.services)
    with api.services.sessionmaker() as session:
        file = session.get_one(ReleaseFile, (UUID(view["id"]), "txt"))
        store.delete(file.artefact_id)
    answer = api.get(f"/v1/releases/{view['id']}/files/txt")

    assert codes(answer) == (500, "artefact_missing")
    assert read(api, view, "json")
