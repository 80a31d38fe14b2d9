"""The roster, entities and the linkage store over the API."""

import json
import threading
from uuid import UUID, uuid4

import pyrage
import pytest
from sqlalchemy import func, select, update

from models.deidentification.pseudonyms import NEUTRAL_NAMES
from scripts.stand_in.jobs import make_job
from service.database.tables import Entity, Handoff, StoredTranscript
from service.domain import entities
from tests.api import artefact_path, open_api
from tests.finished import finish_job
from tests.test_jobs import codes

EVA = {"kind": "person", "code": "P07", "name": "Eva Muster", "aliases": ["Evi"]}


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api):
    return api.study()["id"]


@pytest.fixture
def researcher(api, study):
    return api.token("researcher", study)


@pytest.fixture
def custodian(api, study):
    return api.token("custodian", study)


def import_csv(api, study, text, **options):
    return api.post(f"/v1/studies/{study}/roster", json={"csv": text}, **options)


def created(api, study, **entity):
    answer = api.post(f"/v1/studies/{study}/entities", json=entity)
    assert answer.status_code == 201, answer.text
    return answer.json()


def look_up(api, study, token, **wanted):
    body = {"reason": "audit", **wanted}
    answer = api.post(f"/v1/studies/{study}/look-ups", json=body, token=token)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


# --- the roster -----------------------------------------------------------------------------------


def test_a_roster_is_imported_once_however_often_it_is_sent(api, study, researcher, custodian):
    roster = (
        "kind,code,name,aliases\n"
        "person,P07,Eva Muster,Evi; Eve\n"
        "person,I1,Ingrid Asker,\n"
        "organisation,,Riverbend Peer Collective,the Collective\n"
        "place,PLACE-3,Coffs Harbour,Coffs\n"
    )
    first = import_csv(api, study, roster, token=researcher).json()
    second = import_csv(api, study, roster, token=researcher).json()

    assert (first["created"], first["updated"], first["unchanged"]) == (4, 0, 0)
    assert (second["created"], second["updated"], second["unchanged"]) == (0, 0, 4)
    listed = api.get(f"/v1/studies/{study}/entities", token=researcher).json()["items"]
    assert {(one["kind"], one["pseudonym"]) for one in listed} == {
        ("participant", "P07"),
        ("interviewer", "I1"),
        ("organisation", None),
        ("place", "PLACE-3"),
    }
    (eva,) = look_up(api, study, custodian, pseudonyms=["P07"])
    assert eva["names"] == ["Eva Muster", "Evi", "Eve"]
    assert eva["date_shift_days"] != 0


def test_a_later_roster_adds_names_and_a_code_to_the_entity_that_it_names(api, study, custodian):
    import_csv(api, study, "kind,name\nperson,Eva Muster\n")
    again = import_csv(api, study, "kind;code;name;aliases\nperson;P07;Eva  MUSTER;Evi\n").json()

    assert (again["created"], again["updated"]) == (0, 1)
    (eva,) = look_up(api, study, custodian, pseudonyms=["P07"])
    assert (eva["kind"], eva["names"]) == ("participant", ["Eva Muster", "Evi"])


def test_two_people_of_one_name_are_two_entities_and_are_pointed_out(api, study):
    roster = "kind,code,name,aliases\nperson,P07,Eva Muster,\nperson,P08,Eva Muster,\n"
    done = import_csv(api, study, roster).json()
    again = import_csv(api, study, roster).json()
    found = api.post(f"/v1/studies/{study}/entities/find", json={"name": "eva muster"}).json()

    assert done["created"] == 2
    assert done["notes"] == [
        {"entry": 1, "code": "same_name"},
        {"entry": 2, "code": "same_name"},
    ]
    assert again["unchanged"] == 2
    assert {one["pseudonym"] for one in found["items"]} == {"P07", "P08"}


def test_two_entries_of_one_name_without_codes_are_two_people_in_every_import(api, study):
    roster = "kind,name\nperson,Eva Muster\nperson,Eva Muster\n"

    first, second = (import_csv(api, study, roster).json() for _ in range(2))

    assert (first["created"], second["created"], second["unchanged"]) == (2, 0, 2)


def test_names_that_are_common_words_are_pointed_out(api, study):
    roster = (
        "kind,name,aliases\nperson,Hope,\nperson,June,\nperson,Anh Tran,Will\nperson,Siobhan,\n"
    )

    notes = import_csv(api, study, roster).json()["notes"]

    assert [note["entry"] for note in notes if note["code"] == "common_word"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("roster", "entry"),
    [
        ("kind,name\nperson,Eva\nalien,Quendolin\n", "Entry 2"),
        ("kind,name\nperson,\n", "Entry 1"),
        ("kind,code,name\nperson,Quendolin,Eva\n", "Entry 1"),
        ("kind,name,descriptor\nplace,Eva,Quen[dolin\n", "Entry 1"),
        ("name\nQuendolin\n", "columns"),
    ],
)
def test_a_bad_roster_is_refused_as_a_whole_by_its_entry_without_its_text(
    api, study, roster, entry
):
    answer = import_csv(api, study, roster)

    assert codes(answer) == (422, "bad_entity_roster")
    assert entry in answer.json()["detail"]
    assert "uendolin" not in answer.text
    assert api.get(f"/v1/studies/{study}/entities").json()["items"] == []


def test_a_roster_that_contradicts_an_entity_is_refused(api, study):
    import_csv(api, study, "kind,code,name\nperson,P07,Eva Muster\n")
    gone = api.get(f"/v1/studies/{study}/entities").json()["items"][0]["id"]

    kind = import_csv(api, study, "kind,code,name\nplace,P07,Coffs\n")
    twice = import_csv(api, study, "kind,code,name\nperson,P09,Ada\nperson,P09,Ada\n")
    api.request("DELETE", f"/v1/entities/{gone}")
    reused = import_csv(api, study, "kind,code,name\nperson,P07,Ada\n")

    for answer in (kind, twice, reused):
        assert codes(answer) == (409, "roster_conflict")


def test_a_code_with_another_name_keeps_both_and_is_pointed_out(api, study, custodian):
    import_csv(api, study, "kind,code,name\nperson,P07,Eva Mustr\n")
    done = import_csv(api, study, "kind,code,name\nperson,P07,Eva Muster\n").json()

    assert done["notes"] == [{"entry": 1, "code": "name_differs"}]
    assert look_up(api, study, custodian, pseudonyms=["P07"])[0]["names"] == [
        "Eva Mustr",
        "Eva Muster",
    ]


def test_a_participants_role_in_a_session_decides_what_a_code_means(api, study):
    roster = [{"code": "K1", "role": "moderator"}, {"code": "I2", "role": "participant"}]
    api.post("/v1/sessions", json={"study": study, "roster": roster})
    import_csv(api, study, "kind,code,name\nperson,K1,Eva\nperson,I2,Ada\n")

    listed = api.get(f"/v1/studies/{study}/entities").json()["items"]
    assert {one["pseudonym"]: one["kind"] for one in listed} == {
        "K1": "interviewer",
        "I2": "participant",
    }


def test_two_imports_at_the_same_time_create_each_entity_once(api, study):
    roster = "kind,name\n" + "".join(f"person,Name{i}\n" for i in range(20))
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(import_csv(api, study, roster).json()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted((done["created"], done["unchanged"]) for done in answers) == [(0, 20), (20, 0)]


# --- who may read names ---------------------------------------------------------------------------


def test_only_a_custodian_reads_names_and_every_look_up_is_listed(
    api, study, researcher, custodian
):
    api.post(f"/v1/studies/{study}/roster", json={"entries": [EVA]})
    body = {"pseudonyms": ["P07"], "reason": "withdrawal"}
    path = f"/v1/studies/{study}/look-ups"
    for role in ("researcher", "coder", "deidentifier", "admin"):
        assert codes(api.post(path, json=body, token=api.token(role, study))) == (
            403,
            "not_allowed",
        )

    assert look_up(api, study, custodian, **body)[0]["names"] == ["Eva Muster", "Evi"]
    (row,) = api.get(path, token=api.token("admin", study)).json()["items"]
    assert (row["reason"], row["transcript_id"]) == ("withdrawal", None)
    assert codes(api.get(path, token=researcher)) == (403, "not_allowed")
    free_text = api.post(path, json={**body, "reason": "Eva asked"}, token=custodian)
    assert codes(free_text) == (422, "invalid_request")


def test_answers_about_entities_contain_no_names(api, study, researcher):
    made = created(api, study, kind="person", names=["Eva Quendolin"])
    path = f"/v1/entities/{made['id']}"
    answers = [
        api.get(f"/v1/studies/{study}/entities", token=researcher),
        api.get(path, token=researcher),
        api.post(f"{path}/aliases", json={"name": "Quendolina"}, token=researcher),
        api.post(
            f"/v1/studies/{study}/entities/find", json={"name": "Quendolin"}, token=researcher
        ),
        api.request("PATCH", path, json={"always": True}, headers={"If-Match": '"2"'}),
    ]

    for answer in answers:
        assert answer.is_success
        assert "uendolin" not in answer.text + str(answer.headers)


def test_the_linkage_table_leaves_only_encrypted_to_the_custodians_key(api, study, custodian):
    api.post(f"/v1/studies/{study}/roster", json={"entries": [EVA]})
    path = f"/v1/studies/{study}/roster/export"
    without = api.post(path, json={}, token=custodian)
    identity = pyrage.x25519.Identity.generate()
    policy = {"deidentification": {"custodian_keys": [str(identity.to_public())]}}
    assert api.request("PATCH", f"/v1/studies/{study}", json=policy).is_success

    answer = api.post(path, json={}, token=custodian)

    assert codes(without) == (409, "custodian_key_missing")
    assert b"Muster" not in answer.content
    table = pyrage.decrypt(answer.content, [identity]).decode().splitlines()
    assert table == [
        "kind,code,name,aliases,always,descriptor,chosen_name",
        "participant,P07,Eva Muster,Evi,,,",
    ]
    again = import_csv(api, study, "\n".join(table)).json()
    assert again["unchanged"] == 1
    for role in ("researcher", "coder", "admin"):
        assert api.post(path, json={}, token=api.token(role, study)).status_code == 403
    listed = api.get(f"/v1/studies/{study}/look-ups").json()["items"]
    assert [(row["entity_id"], row["reason"]) for row in listed] == [(None, "export")]


def test_a_claim_carries_the_roster_without_pseudonyms(api, study):
    entries = [EVA, {"kind": "allowed", "name": "Beyond Blue"}]
    api.post(f"/v1/studies/{study}/roster", json={"entries": entries})
    finish_job(api.services, make_job(api.services, UUID(study)))

    claimed = api.post("/v1/handoffs/claim", token=api.token("deidentifier", study)).json()

    (eva,) = claimed["roster"]
    assert eva == {"id": eva["id"], "kind": "person", "name": "Eva Muster", "aliases": ["Evi"]}
    assert "P07" not in json.dumps(claimed)
    (row,) = api.get(f"/v1/studies/{study}/look-ups").json()["items"]
    assert (row["reason"], row["entity_id"]) == ("deidentification", None)
    assert row["transcript_id"] == claimed["transcript_id"]


# --- pseudonyms -----------------------------------------------------------------------------------


def patched(api, entity, **change):
    version = api.get(f"/v1/entities/{entity}").json()["version"]
    headers = {"If-Match": f'"{version}"'}
    return api.request("PATCH", f"/v1/entities/{entity}", json=change, headers=headers)


def test_a_pseudonym_is_never_used_again(api, study):
    first = created(api, study, kind="place", names=["Coffs"], pseudonym="PLACE-1")["id"]
    second = created(api, study, kind="place", names=["Orange"])["id"]

    assert patched(api, first, pseudonym="PLACE-2").json()["pseudonym"] == "PLACE-2"
    assert codes(patched(api, second, pseudonym="PLACE-1")) == (409, "pseudonym_taken")
    api.request("DELETE", f"/v1/entities/{first}")
    assert codes(patched(api, second, pseudonym="PLACE-2")) == (409, "pseudonym_taken")
    assert api.get(f"/v1/studies/{study}/entities").json()["items"][1]["pseudonym"] == "PLACE-2"


def test_a_change_based_on_an_older_version_is_refused(api, study):
    made = created(api, study, kind="place", names=["Coffs"])
    path, body = f"/v1/entities/{made['id']}", {"descriptor": "coastal town"}
    old = {"If-Match": f'"{made["version"]}"'}

    assert codes(api.request("PATCH", path, json=body)) == (428, "version_missing")
    assert api.request("PATCH", path, json=body, headers=old).is_success
    assert codes(api.request("PATCH", path, json=body, headers=old)) == (409, "entity_changed")


def test_a_chosen_name_that_occurs_in_the_study_is_refused(api, study):
    """`conversation()` says "Good morning" and "Shall we begin with your work?"."""
    finish_job(api.services, make_job(api.services, UUID(study)))
    import_csv(api, study, "kind,code,name,aliases\nperson,P07,Eva Muster,Evi\nperson,P08,Ada,\n")
    found = api.get(f"/v1/studies/{study}/entities").json()["items"]
    ada, eva = (one["id"] for one in found)

    for name in ("Evi", "Morgan Muster", "Morning", "shall"):
        assert codes(patched(api, ada, chosen_name=name)) == (409, "pseudonym_occurs"), name
    assert codes(patched(api, ada, chosen_name="A:b")) == (422, "invalid_request")
    assert patched(api, ada, chosen_name="Rowan").is_success
    assert codes(patched(api, eva, chosen_name="rowan")) == (409, "pseudonym_taken")
    assert patched(api, ada, chosen_name=None).is_success
    assert codes(patched(api, eva, chosen_name="Rowan")) == (409, "pseudonym_taken")
    late = import_csv(api, study, "kind,name\nperson,Rowan\n").json()
    assert {"entry": 1, "code": "pseudonym_in_use"} in late["notes"]


def test_a_chosen_name_is_in_the_vault_and_in_no_row(api, study):
    made = created(api, study, kind="person", names=["Eva"], chosen_name="Zazzle")
    with api.services.sessionmaker() as session:
        entity = session.get_one(Entity, UUID(made["id"]))
        record = entities.read_record(api.services, entity)
        shown = api.get(f"/v1/studies/{study}").json()
        entities.assign_pseudonym(session, api.services, entity)
        assert entities.replacement(entity, record) == "Zazzle"
        assert entities.replacement(entity, None) == f"[{entity.pseudonym}]"
        assert "Zazzle" not in str(vars(entity)) + str(shown)


def test_people_get_chosen_names_where_the_study_wants_them(api, study):
    policy = {"deidentification": {"names": "chosen", "dates": "shift"}}
    view = api.request("PATCH", f"/v1/studies/{study}", json=policy).json()
    assert view["deidentification"] == {"names": "chosen", "dates": "shift", "custodian_keys": []}
    ids = [created(api, study, kind="person", names=[f"Name{i}"])["id"] for i in range(3)]
    place = created(api, study, kind="place", names=["Coffs"])["id"]
    with api.services.sessionmaker.begin() as session:
        rows = [session.get_one(Entity, UUID(id)) for id in (*ids, place)]
        for row in rows:
            entities.assign_pseudonym(session, api.services, row)
        shown = [entities.replacement(row, entities.read_record(api.services, row)) for row in rows]
    assert len(set(shown[:3])) == 3
    assert set(shown[:3]) <= set(NEUTRAL_NAMES)
    assert shown[3].startswith("[PLACE-")


# --- merging, splitting, erasing ------------------------------------------------------------------


def test_a_merged_entity_is_found_under_both_ids_with_all_names(api, study, custodian):
    eva = created(api, study, kind="participant", names=["Eva Muster"], pseudonym="P07")["id"]
    other = created(api, study, kind="person", names=["Evi"], pseudonym="PERSON-4")["id"]

    merged = api.post(f"/v1/entities/{other}/merge", json={"into": eva})

    assert merged.json()["id"] == eva
    assert api.get(f"/v1/entities/{other}").json()["id"] == eva
    assert look_up(api, study, custodian, entities=[other])[0]["names"] == ["Eva Muster", "Evi"]
    again = created(api, study, kind="person", names=["X"])["id"]
    assert codes(patched(api, again, pseudonym="PERSON-4")) == (409, "pseudonym_taken")


def test_entities_that_cannot_be_one_are_not_merged(api, study):
    eva = created(api, study, kind="participant", names=["Eva"], pseudonym="P07")["id"]
    ada = created(api, study, kind="participant", names=["Ada"], pseudonym="P08")["id"]
    allowed = created(api, study, kind="allowed", names=["Lifeline"])["id"]
    elsewhere = created(api, api.study()["id"], kind="person", names=["Eva"])["id"]

    for source, into in ((eva, ada), (eva, eva), (allowed, eva)):
        refused = api.post(f"/v1/entities/{source}/merge", json={"into": into})
        assert codes(refused) == (409, "entities_not_mergeable")
    refused = api.post(f"/v1/entities/{elsewhere}/merge", json={"into": eva})
    assert codes(refused) == (404, "entity_not_found")


def test_a_split_moves_names_to_a_new_entity(api, study, custodian):
    eva = created(api, study, kind="person", names=["Eva Muster", "Maggie"])["id"]

    made = api.post(f"/v1/entities/{eva}/split", json={"names": ["maggie"]})

    assert made.status_code == 201
    items = look_up(api, study, custodian, entities=[eva, made.json()["id"]])
    assert [item["names"] for item in items] == [["Eva Muster"], ["Maggie"]]
    for names in (["Nobody"], ["Eva Muster"]):
        refused = api.post(f"/v1/entities/{eva}/split", json={"names": names})
        assert codes(refused) == (409, "alias_not_found")


def test_an_alias_added_by_mistake_is_removed(api, study, custodian):
    eva = created(api, study, kind="person", names=["Eva Muster"])["id"]
    path = f"/v1/entities/{eva}/aliases"
    assert api.post(path, json={"name": "the"}).json() == {"added": True, "version": 2}
    assert api.post(path, json={"name": "The"}).json() == {"added": False, "version": 2}

    assert api.post(f"{path}/remove", json={"name": "the"}).is_success
    assert look_up(api, study, custodian, entities=[eva])[0]["names"] == ["Eva Muster"]
    for name in ("the", "Eva Muster"):
        assert codes(api.post(f"{path}/remove", json={"name": name})) == (409, "alias_not_found")


def test_erasing_an_entity_destroys_its_names_and_those_merged_into_it(api, study, custodian):
    eva = created(api, study, kind="person", names=["Eva"], pseudonym="PERSON-1")["id"]
    other = created(api, study, kind="person", names=["Evi"])["id"]
    ada = created(api, study, kind="person", names=["Ada"])["id"]
    api.post(f"/v1/entities/{other}/merge", json={"into": eva})

    assert api.request("DELETE", f"/v1/entities/{eva}", token=custodian).status_code == 204

    for id in (eva, other):
        assert codes(api.get(f"/v1/entities/{id}")) == (410, "erased")
        body = {"entities": [id], "reason": "audit"}
        answer = api.post(f"/v1/studies/{study}/look-ups", json=body, token=custodian)
        assert codes(answer) == (410, "erased")
    keys = entities.linkage(api.services)[1].keys()[UUID(study)]
    assert keys == {UUID(ada)}
    listed = api.get(f"/v1/studies/{study}/entities").json()["items"]
    assert [one["pseudonym"] for one in listed if one["erased_at"]] == ["PERSON-1"]


def test_an_entity_is_erased_while_the_vault_is_sealed(api, study, monkeypatch):
    eva = created(api, study, kind="person", names=["Eva"])["id"]
    monkeypatch.setattr(entities.linkage(api.services)[1], "_root", None)

    assert codes(api.get(f"/v1/entities/{eva}")) == (503, "sealed")
    assert api.request("DELETE", f"/v1/entities/{eva}").status_code == 204
    monkeypatch.undo()
    assert codes(api.get(f"/v1/entities/{eva}")) == (410, "erased")


def test_a_damaged_record_stops_claims_until_its_entity_is_erased(api, study, caplog):
    """A roster that silently lacked a name would let the name through."""
    eva = created(api, study, kind="person", names=["Eva Quendolin"])["id"]
    with api.services.sessionmaker() as session:
        artefact_id = session.get_one(Entity, UUID(eva)).record_artefact_id
    assert artefact_id is not None
    path = artefact_path(entities.linkage(api.services)[0], artefact_id)
    path.write_bytes(path.read_bytes()[:-1])
    finish_job(api.services, make_job(api.services, UUID(study)))

    token = api.token("deidentifier", study)
    answer = api.post("/v1/handoffs/claim", token=token)

    assert codes(answer) == (500, "artefact_damaged")
    assert f"entity {eva}: its names cannot be read, artefact_damaged" in caplog.text
    assert "uendolin" not in answer.text + caplog.text
    assert api.request("DELETE", f"/v1/entities/{eva}").status_code == 204
    with api.services.sessionmaker.begin() as session:  # instead of waiting for the lease
        session.execute(update(Handoff).values(lease_until=func.now()))
    assert api.post("/v1/handoffs/claim", token=token).json()["roster"] == []


def test_entities_of_other_studies_look_like_none(api, study, researcher):
    theirs = created(api, api.study()["id"], kind="person", names=["Eva"])["id"]
    for id in (theirs, str(uuid4())):
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"always": True}),
            ("DELETE", "", None),
            ("POST", "/aliases", {"name": "Evi"}),
            ("POST", "/merge", {"into": theirs}),
            ("POST", "/split", {"names": ["Eva"]}),
        ):
            answer = api.request(
                method,
                f"/v1/entities/{id}{path}",
                json=body,
                headers={"If-Match": '"1"'},
                token=researcher,
            )
            assert codes(answer) == (404, "entity_not_found"), (method, path)


def test_a_coder_reaches_nothing_of_the_linkage_store(api, study):
    eva = created(api, study, kind="person", names=["Eva"])["id"]
    token = api.token("coder", study)
    for path, methods in api.app.openapi()["paths"].items():
        if "entit" in path or "look-ups" in path or "roster" in path:
            for method in methods:
                full = path.replace("{study}", study).replace("{entity_id}", eva)
                answer = api.request(method.upper(), full, json={}, token=token)
                assert codes(answer) == (403, "not_allowed"), (method, path)


def test_transcripts_that_were_erased_do_not_stand_in_the_way(api, study):
    job_id = make_job(api.services, UUID(study))
    finish_job(api.services, job_id)
    assert api.request("DELETE", f"/v1/jobs/{job_id}").is_success
    made = created(api, study, kind="person", names=["Eva"], chosen_name="Morning")

    assert made["pseudonym"] is None
    with api.services.sessionmaker() as session:
        query = select(StoredTranscript).where(StoredTranscript.study_id == UUID(study))
        assert session.scalar(query) is not None


@pytest.mark.slow
def test_a_roster_of_5000_entries_is_imported_claimed_and_imported_again(api, study):
    lines = [f"person,,Name{i} Surname{i},N{i};Nick{i}" for i in range(5000)]
    roster = "\n".join(["kind,code,name,aliases", *lines])

    first = import_csv(api, study, roster).json()
    second = import_csv(api, study, roster).json()

    assert (first["created"], second["unchanged"]) == (5000, 5000)
    finish_job(api.services, make_job(api.services, UUID(study)))
    claimed = api.post("/v1/handoffs/claim", token=api.token("deidentifier", study)).json()
    assert len(claimed["roster"]) == 5000
    assert all(len(entry["aliases"]) == 2 for entry in claimed["roster"])


def test_a_roster_that_is_too_long_is_refused(api, study):
    answer = import_csv(api, study, "kind,name\n" + "place,Coffs\n" * 20_001)

    assert codes(answer) == (422, "bad_entity_roster")
