"""Entities merged, split, renamed and erased while mentions of them are decided."""

import re
import threading
from uuid import uuid4

import pytest
from sqlalchemy import select

from models.deidentification.pseudonyms import NEUTRAL_NAMES
from service.backup import back_up, restore
from service.database.tables import Decision, Entity, Release, ReleaseFile, Review, Study
from service.domain import entities, entity_changes
from service.domain.erasure import erase_study
from service.domain.strays import remove_strays
from service.services import open_services
from service.vault import ArtefactClass
from service.vault.errors import Erased
from service.vault.store import Artefact
from tests.deidentified import accept_all, open_case, suggest
from tests.finished import age


@pytest.fixture(scope="module")
def services(module_settings):
    services = open_services(module_settings)
    yield services
    services.close()


@pytest.fixture
def case(services):
    case = open_case(services)
    suggest(case)
    accept_all(case)
    return case


def entity_of(case, text):
    """The entity of the first mention with this text."""
    decided = case.decided()
    texts = {segment.id: segment.text for segment in decided.transcript.segments}
    return next(
        span.entity_id
        for span in decided.spans
        if texts[span.segment][span.start : span.stop] == text
    )


def replaced(case):
    """What stands for each accepted mention that has an entity."""
    with case.services.sessionmaker() as session:
        rows = {span.entity_id for span in case.decided().spans if span.entity_id}
        found = {id: session.get_one(Entity, id) for id in rows}
        return {
            id: entities.replacement(row, entities.read_record(case.services, row))
            for id, row in found.items()
        }


def review_version(case):
    with case.services.sessionmaker() as session:
        return session.get_one(Review, case.transcript_id).version


def actions(case):
    with case.services.sessionmaker() as session:
        query = select(Decision.action, Decision.transcript_id).where(
            Decision.study_id == case.study_id,
            Decision.action.in_(("rename", "merge", "split")),
        )
        return session.execute(query).all()


def merge(case, source, target):
    with case.services.sessionmaker.begin() as session:
        entity_changes.merge_entities(session, case.services, case.caller, source, target)


def test_mentions_of_a_merged_entity_get_the_pseudonym_of_the_other_and_stay_accepted(case):
    tomasz, siobhan = entity_of(case, "Tomasz"), case.entities["Siobhan Gallagher"]
    before, n_accepted = review_version(case), len(case.decided().spans)

    merge(case, tomasz, siobhan)

    assert entity_of(case, "Tomasz") == siobhan
    assert tomasz not in {mention.entity_id for mention in case.mentions()}
    assert set(replaced(case).values()) >= {"P07"}
    assert not any("PERSON" in text for text in replaced(case).values())
    assert len(case.decided().spans) == n_accepted
    assert case.decided().n_open == 0
    assert review_version(case) == before + 1
    assert actions(case) == [("merge", case.transcript_id)]


def test_an_entity_without_a_pseudonym_gets_one_when_accepted_mentions_are_merged_into_it(case):
    tomasz = entity_of(case, "Tomasz")
    with case.services.sessionmaker.begin() as session:
        other = entities.create_entity(
            session, case.services, case.caller, case.study_id, "person", ["Tom Nowak"]
        )

    merge(case, tomasz, other.id)

    assert re.fullmatch(r"\[PERSON-\d+\]", replaced(case)[other.id])


def test_mentions_with_a_name_that_is_split_off_wait_for_a_decision_again(case):
    siobhan = case.entities["Siobhan Gallagher"]
    before = review_version(case)
    with case.services.sessionmaker.begin() as session:
        entity = session.get_one(Entity, siobhan)
        made = entity_changes.split_entity(session, case.services, case.caller, entity, ["shiv"])

    opened = [each for each in case.mentions() if each.state == "suggested"]
    assert [(each.segment, each.entity_id) for each in opened] == [("s0003", made.id)]
    assert entity_of(case, "Siobhan Gallagher") == siobhan
    assert review_version(case) > before
    assert actions(case) == [("split", case.transcript_id)]
    accept_all(case)
    assert replaced(case)[made.id] != "P07"


def test_a_new_descriptor_counts_as_a_change_of_the_review(case):
    place, before = case.entities["Coffs Harbour"], review_version(case)
    with case.services.sessionmaker.begin() as session:
        entity = session.get_one(Entity, place)
        change = {"descriptor": "coastal town"}
        entity_changes.change_entity(
            session, case.services, case.caller, entity, entity.version, change
        )

    assert replaced(case)[place].endswith(": coastal town]")
    assert review_version(case) == before + 1


def test_a_merge_and_a_decision_at_the_same_time_do_not_block_each_other(services):
    case = open_case(services)
    suggest(case)
    names = ["Siobhan Gallagher", "Coffs Harbour", "Riverbend Peer Collective"]
    errors = []

    def run(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(accept_all, case)),
        threading.Thread(target=run, args=(merge, case, *(case.entities[n] for n in names[1:]))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert case.decided().n_open == 0


def test_an_erased_entity_keeps_its_pseudonym_where_it_was_accepted(case):
    siobhan = case.entities["Siobhan Gallagher"]
    with case.services.sessionmaker.begin() as session:
        entity_changes.erase_entity(session, case.services, session.get_one(Entity, siobhan))

    with case.services.sessionmaker() as session:
        row = session.get_one(Entity, siobhan)
        assert (row.pseudonym, row.record_artefact_id) == ("P07", None)
        assert entities.replacement(row, None) == "P07"
        roster = entities.claim_roster(session, case.services, case.study_id)
        assert str(siobhan) not in {entry["id"] for entry in roster}
        with pytest.raises(Erased):
            entities.find_entity(session, case.caller, siobhan)
    assert entity_of(case, "Siobhan Gallagher") == siobhan
    with pytest.raises(Erased):
        entities.linkage(case.services)[1].data_key(case.study_id, siobhan)


# --- the study, strays, backups -------------------------------------------------------------------


def add_release(case):
    """A release with a file and a key, made without rendering."""
    vault = case.services.vault
    store, keyring = (each[ArtefactClass.DEIDENTIFIED] for each in (vault.stores, vault.keyrings))
    id = uuid4()
    key = keyring.create_data_key(case.study_id, id)
    file = Artefact(case.study_id, id, "release_file")
    with store.write(file, key) as writer:
        writer.write(b"P07: Good morning.")
    with case.services.sessionmaker.begin() as session:
        release = Release(
            id=id,
            study_id=case.study_id,
            transcript_id=case.transcript_id,
            transcript_version=1,
            number=1,
            review_version=1,
            context="team",
            token_id=case.caller.token_id,
        )
        session.add(release)
        session.flush()
        session.add(
            ReleaseFile(
                release_id=id, format="txt", artefact_id=file.id, n_bytes=18, sha256="0" * 64
            )
        )
    return id, file.id


def stored(services):
    """Every artefact and every key of linkage and releases."""
    classes = (ArtefactClass.LINKAGE, ArtefactClass.DEIDENTIFIED)
    vault = services.vault
    return {
        *(id for name in classes for id in vault.stores[name].ids()),
        *(id for name in classes for id in vault.keyrings[name].subjects()),
    }


def test_erasing_a_study_destroys_its_names_and_releases(case):
    release_id, file_id = add_release(case)
    before = stored(case.services)

    erase_study(case.services, case.caller, str(case.study_id))

    gone = {release_id, file_id, *case.entities.values()}
    assert gone <= before
    assert not gone & stored(case.services)
    with case.services.sessionmaker() as session:
        query = select(Entity).where(Entity.study_id == case.study_id)
        for row in session.scalars(query):
            assert row.erased_at is not None and row.record_artefact_id is None
        release = session.get_one(Release, release_id)
        assert release.erased_at is not None
        assert session.get(ReleaseFile, (release_id, "txt")) is None


def test_names_and_releases_are_no_strays_and_keys_without_a_row_are(case):
    kept = {*add_release(case), *case.entities.values()}
    with case.services.sessionmaker() as session:
        query = select(Entity).where(Entity.record_artefact_id.is_not(None))
        kept |= {row.record_artefact_id for row in session.scalars(query)}
    vault, strays = case.services.vault, set()
    for name in (ArtefactClass.LINKAGE, ArtefactClass.DEIDENTIFIED):
        stray = Artefact(case.study_id, uuid4(), "entity")
        key = vault.keyrings[name].create_data_key(case.study_id, stray.subject_id)
        with vault.stores[name].write(stray, key) as file:
            file.write(b"Eva")
        strays |= {stray.subject_id, stray.id}
    assert strays | kept <= stored(case.services)
    age(case.services)

    remove_strays(case.services)

    assert kept <= stored(case.services)
    assert not strays & stored(case.services)


def test_an_erasure_of_an_entity_or_a_release_survives_a_restore(
    case, module_settings, empty, tmp_path
):
    siobhan, place = case.entities["Siobhan Gallagher"], case.entities["Coffs Harbour"]
    release_id, _ = add_release(case)
    backup = back_up(module_settings, tmp_path / "data-out", tmp_path / "keys-out")
    with case.services.sessionmaker.begin() as session:
        entity_changes.erase_entity(session, case.services, session.get_one(Entity, siobhan))
    case.services.vault.keyrings[ArtefactClass.DEIDENTIFIED].erase(case.study_id, release_id)
    newest_keys = back_up(module_settings, None, tmp_path / "keys-later").keys

    assert backup.data is not None
    restored = restore(empty, backup.data, newest_keys)

    assert restored.missing == ()
    assert restored.erased_again >= 2
    services = open_services(empty)
    try:
        with services.sessionmaker() as session:
            assert session.get_one(Entity, siobhan).erased_at is not None
            assert session.get_one(Entity, siobhan).pseudonym == "P07"
            assert session.get_one(Release, release_id).erased_at is not None
            entity = session.get_one(Entity, place)
            assert entities.read_record(services, entity).surfaces == ("Coffs Harbour",)
            with pytest.raises(Erased):
                entities.linkage(services)[1].data_key(case.study_id, siobhan)
    finally:
        services.close()


# --- chosen names ---------------------------------------------------------------------------------


def test_who_has_been_released_under_a_code_keeps_it_when_the_study_wants_names(case):
    add_release(case)
    with case.services.sessionmaker.begin() as session:
        study = session.get_one(Study, case.study_id)
        study.deidentification = {"names": "chosen"}
        new = entities.create_entity(
            session, case.services, case.caller, case.study_id, "person", ["Ada"]
        )
        for id in (case.entities["Siobhan Gallagher"], new.id):
            entities.assign_pseudonym(session, case.services, session.get_one(Entity, id))
        shown = entities.replacement(new, entities.read_record(case.services, new))

    assert "P07" in replaced(case).values()
    assert shown in NEUTRAL_NAMES


def test_an_erased_person_needs_no_chosen_name(case):
    siobhan = case.entities["Siobhan Gallagher"]
    with case.services.sessionmaker.begin() as session:
        session.get_one(Study, case.study_id).deidentification = {"names": "chosen"}
        entity = session.get_one(Entity, siobhan)
        entity_changes.erase_entity(session, case.services, entity)
        assert entities.assign_pseudonym(session, case.services, entity) == "P07"


def test_when_every_listed_name_occurs_in_the_study_people_get_codes(services):
    case = open_case(services, [("SPEAKER_00", " ".join(NEUTRAL_NAMES))])
    with services.sessionmaker.begin() as session:
        session.get_one(Study, case.study_id).deidentification = {"names": "chosen"}
        entity = session.get_one(Entity, case.entities["Siobhan Gallagher"])
        entities.assign_pseudonym(session, services, entity)

        assert entities.replacement(entity, entities.read_record(services, entity)) == "P07"
