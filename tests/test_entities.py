"""Entities: their names in the linkage store, their pseudonyms, look-ups and erasure."""

import threading
from uuid import uuid4

import pytest
from sqlalchemy import select

from scripts.stand_in.jobs import make_study, make_token
from service.database.tables import LinkageLookup
from service.domain import entities
from service.domain.callers import Caller
from service.domain.chosen_names import PseudonymTaken
from service.services import open_services


@pytest.fixture(scope="module")
def services(module_settings):
    services = open_services(module_settings)
    yield services
    services.close()


@pytest.fixture
def study_id(services):
    return make_study(services)


@pytest.fixture
def caller(services):
    return Caller(make_token(services), "owner", all_studies=True, studies=frozenset())


@pytest.fixture
def session(services):
    with services.sessionmaker() as session:
        yield session


def test_names_are_stored_in_the_vault_and_in_no_row(services, session, caller, study_id):
    names = ["Margaret Quendolin", "Maggie", "maggie "]
    entity = entities.create_entity(session, services, caller, study_id, "participant", names)
    session.flush()
    record = entities.read_record(services, entity)

    assert record.surfaces == ("Margaret Quendolin", "Maggie")
    assert record.date_shift_days
    assert "uendolin" not in str(vars(entity))
    folder = entities.linkage(services)[0].folder
    assert not any(b"uendolin" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_an_alias_is_added_once(services, session, caller, study_id):
    entity = entities.create_entity(session, services, caller, study_id, "person", ["Eva Muster"])

    added = [
        entities.add_alias(session, services, caller, entity, name, "reviewer")
        for name in ("Evi", "evi", "EVA  MUSTER")
    ]

    assert added == [True, False, False]
    assert entities.read_record(services, entity).surfaces == ("Eva Muster", "Evi")


def test_a_pseudonym_is_given_once_and_never_again(services, session, caller, study_id):
    made = [
        entities.create_entity(session, services, caller, study_id, "place", [f"Place {i}"])
        for i in range(12)
    ]
    given = [entities.assign_pseudonym(session, services, entity) for entity in made]

    assert len(set(given)) == 12
    assert [entities.assign_pseudonym(session, services, entity) for entity in made] == given
    with pytest.raises(PseudonymTaken):
        entities.create_entity(
            session, services, caller, study_id, "place", ["X"], pseudonym=given[0]
        )


def test_a_look_up_is_recorded_with_its_reason(services, session, caller, study_id):
    entity = entities.create_entity(session, services, caller, study_id, "person", ["Eva"])
    found = entities.look_up(session, services, caller, [entity], "withdrawal")
    session.flush()

    assert found[entity.id].surfaces == ("Eva",)
    row = session.scalars(select(LinkageLookup).where(LinkageLookup.entity_id == entity.id)).one()
    assert (row.reason, row.token_id, row.transcript_id) == ("withdrawal", caller.token_id, None)


def test_a_claim_has_names_and_no_pseudonyms(services, session, caller, study_id):
    create = entities.create_entity
    eva = create(session, services, caller, study_id, "person", ["Eva", "Evi"], pseudonym="P07")
    create(session, services, caller, study_id, "allowed", ["Beyond Blue"])

    assert entities.claim_roster(session, services, study_id) == [
        {"id": str(eva.id), "kind": "person", "name": "Eva", "aliases": ["Evi"]}
    ]
    assert entities.allowed_surfaces(session, services, study_id) == {"beyond blue"}


def test_another_studys_entity_looks_like_none(services, session, caller, study_id):
    entity = entities.create_entity(session, services, caller, study_id, "person", ["Eva"])
    other = Caller(caller.token_id, "researcher", all_studies=False, studies=frozenset())

    for id in (entity.id, uuid4()):
        with pytest.raises(entities.EntityNotFound):
            entities.find_entity(session, other, id)


def test_pseudonyms_that_are_given_at_the_same_time_differ(services, caller, study_id):
    with services.sessionmaker.begin() as session:
        made = [
            entities.create_entity(session, services, caller, study_id, "interviewer", [f"I{i}"]).id
            for i in range(4)
        ]
    given = []

    def give(id):
        with services.sessionmaker.begin() as session:
            entity = entities.find_entity(session, caller, id)
            given.append(entities.assign_pseudonym(session, services, entity))

    threads = [threading.Thread(target=give, args=(id,)) for id in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(given) == len(set(given)) == 4
