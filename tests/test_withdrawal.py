"""Withdrawals: nothing of the person is left, and everything of the others is."""

import logging

import pytest
from sqlalchemy import select

from models.withdrawn_voice import WITHDREW
from service.database.tables import (
    AuditEntry,
    Entity,
    Mention,
    Participant,
    Recording,
    Release,
    Session,
    Study,
)
from service.domain import audit, withdrawal
from service.domain.entities import create_entity
from service.domain.playback import decrypted_blocks
from service.domain.recordings import identified
from service.domain.studies import read_vocabulary, replace_vocabulary
from service.domain.withdrawal import WithdrawalNotConfirmed
from service.domain.withdrawal_plan import VoicesUnknown, WithdrawalUnknownCode
from service.domain.withdrawal_steps import STEPS
from service.vault.errors import Erased
from service.vault.store import Artefact
from tests.withdrawing import (
    SECOND,
    begin,
    certificate,
    open_group,
    places_of,
    read_row,
    transcript_of,
    withdraw,
)


@pytest.fixture(scope="module")
def services(module_settings):
    from service.services import open_services

    services = open_services(module_settings)
    yield services
    services.close()


@pytest.fixture(scope="module")
def before(services):
    """A study that is only read."""
    return open_group(services)


@pytest.fixture(scope="module")
def withdrawn(services):
    """A study of which P07 has withdrawn: (study, row, what was there before)."""
    study = open_group(services)
    earlier = transcript_of(study, "FG-1")
    found = places_of(study, study.words["P07"], study.names["P07"].split()[0])
    assert len(found) > 5
    row = withdraw(study)
    return study, row, earlier


def test_what_exists_is_shown_before_anything_is_removed(services, before):
    found = withdrawal.take_inventory(services, before.caller, before.study, "P07")
    by_name = {unit.name: unit for unit in found.units}

    assert list(by_name) == ["FG-1", "INT-07"]
    assert by_name["FG-1"].is_group and not by_name["INT-07"].is_group
    assert [by_name["FG-1"].n_recordings, by_name["FG-1"].n_releases] == [1, 1]
    assert by_name["FG-1"].n_handoffs == 1
    assert found.has_names
    assert found.n_mentions == 2
    assert any("new backup" in cost for cost in found.costs)
    assert "names looked up: release" in {each.what for each in found.passed_on}
    assert [each.what for each in found.passed_on].count("transcript given to a de-identifier") == 2


def test_nothing_that_the_person_said_and_no_name_is_left(withdrawn):
    study, row, _ = withdrawn
    others = [
        place
        for place in places_of(study, *study.names["P07"].split())
        if not place.startswith(("identified transcript", "identified snapshot"))
    ]

    assert row.state == "finished"
    assert places_of(study, study.words["P07"]) == []
    # What others say about the person stays in their transcripts until a reviewer has decided.
    assert others == []


def test_the_others_keep_their_words_times_and_corrections(withdrawn):
    study, _, (old_row, old) = withdrawn
    new_row, new = transcript_of(study, "FG-1")

    assert new_row.id != old_row.id and new_row.replaces == old_row.id
    assert new.version == old.version == 2
    assert [each.id for each in new.segments] == [each.id for each in old.segments]
    assert new.turns == old.turns
    assert dict(new.names) == dict(old.names)
    for before, after in zip(old.segments, new.segments, strict=True):
        if before.speaker == SECOND:
            assert after.text == WITHDREW
            assert (after.start, after.end) == (before.start, before.end)
        else:
            assert after == before
    assert old.flags and not new.flags


def test_the_recording_is_silent_where_the_person_spoke_and_nowhere_else(services, withdrawn):
    import numpy as np

    study, _, (_, old) = withdrawn
    with services.sessionmaker() as session:
        (recording,) = session.scalars(
            select(Recording)
            .join(Session, Session.id == Recording.session_id)
            .where(Session.code == "FG-1", Session.study_id == study.study_id)
            .where(Recording.state != "erased")
        ).all()
    sound = np.frombuffer(b"".join(decrypted_blocks(services, recording))[44:], "<i2")

    assert len(sound) == 30 * 16_000
    for segment in old.segments:
        part = sound[int(segment.start * 16_000) : int(segment.end * 16_000)]
        inner = part[4000:-4000]  # the padding reaches into the neighbours
        assert (np.abs(inner).max() == 0) == (segment.speaker == SECOND)


def test_old_releases_are_revoked_and_new_ones_wait_for_the_reviewer(services, withdrawn):
    study, row, _ = withdrawn
    with services.sessionmaker() as session:
        query = select(Release).where(Release.study_id == study.study_id)
        by_code = {
            session.get(Session, each.session_id).code: each for each in session.scalars(query)
        }
    kept = {item["what"]: item for item in certificate(services, row)["kept"]}

    assert by_code["FG-1"].erased_at and by_code["FG-1"].revoked_at
    assert by_code["INT-07"].erased_at and by_code["INT-07"].revoked_at
    assert by_code["INT-05"].erased_at is None
    assert "review open" in kept["release_not_made_again"]["note"]


def test_mentions_by_others_become_open_mentions(services, withdrawn):
    study, _, _ = withdrawn
    with services.sessionmaker() as session:
        query = select(Mention).where(
            Mention.study_id == study.study_id, Mention.origin == "withdrawal"
        )
        found = session.scalars(query).all()
        entity = session.scalars(
            select(Entity).where(Entity.study_id == study.study_id, Entity.pseudonym == "P07")
        ).one()

    assert len(found) == 2
    assert {each.state for each in found} == {"suggested"}
    assert {each.entity_id for each in found} == {entity.id}
    assert entity.erased_at is not None


def test_nothing_of_the_person_reaches_the_log(services, caplog):
    study = open_group(services)
    caplog.set_level(logging.DEBUG)
    withdraw(study)
    logged = caplog.text.casefold()

    assert "withdrawal" in logged
    for word in (study.words["P07"], *study.names["P07"].split()):
        assert word.casefold() not in logged


def test_a_group_without_open_mentions_is_released_again_with_the_next_number(services):
    study = open_group(services, mention=False)
    row = withdraw(study)
    with services.sessionmaker() as session:
        new, _ = transcript_of(study, "FG-1")
        made = session.scalars(select(Release).where(Release.transcript_id == new.id)).one()

    assert (made.number, made.context, made.erased_at) == (2, "team", None)
    assert str(made.id) in str(certificate(services, row)["replaced"])
    assert places_of(study, study.words["P07"], *study.names["P07"].split()) == []


def test_the_certificate_says_what_was_done_without_a_name(services, withdrawn):
    study, row, _ = withdrawn
    said = certificate(services, row)

    assert said["complete"] is True
    assert {item["what"] for item in said["removed"]} >= {"recording", "transcript", "release"}
    assert {item["what"] for item in said["replaced"]} == {"group_recording", "group_transcript"}
    assert {check["outcome"] for check in said["checks"]} == {"passed"}
    assert any("FG-1" in sentence for sentence in said["backups"])
    assert study.names["P07"].split()[0].casefold() not in str(said).casefold()
    assert (said["subject"], said["requested_by"]) == ("P07", "owner")


def test_every_step_is_in_the_audit_trail(services, withdrawn):
    study, row, _ = withdrawn
    with services.sessionmaker() as session:
        query = select(AuditEntry).where(AuditEntry.study_id == study.study_id)
        entries = [e for e in session.scalars(query) if e.objects.get("withdrawal") == str(row.id)]
        assert audit.verify(session).findings == ()

    assert {entry.action for entry in entries} == {
        "withdrawal.requested",
        "withdrawal.step_done",
        "withdrawal.finished",
    }
    assert [e.detail["step"] for e in entries if "step" in e.detail] == list(STEPS)


def test_the_same_request_again_returns_the_finished_withdrawal(services, withdrawn):
    study, row, _ = withdrawn

    assert begin(study) == row.id


def test_only_the_code_confirms_a_withdrawal(services, before):
    with pytest.raises(WithdrawalNotConfirmed):
        withdrawal.request_withdrawal(
            services, before.caller, before.study, "P07", "data", None, "P05"
        )


def test_an_unknown_code_is_refused(services, before):
    with pytest.raises(WithdrawalUnknownCode):
        begin(before, "P99")


def test_an_organisation_does_not_withdraw(services, before):
    with services.sessionmaker.begin() as session:
        create_entity(
            session,
            services,
            before.caller,
            before.study_id,
            "organisation",
            ["A charity"],
            pseudonym="ORG-4",
        )
    with pytest.raises(WithdrawalUnknownCode):
        begin(before, "ORG-4")


def test_a_group_whose_speakers_nobody_has_named_is_refused(services):
    study = open_group(services, named=False)
    with pytest.raises(VoicesUnknown, match="FG-1: nobody has said who spoke"):
        begin(study)
    with services.sessionmaker() as session:
        rows = session.scalars(
            select(Participant).where(Participant.study_id == study.study_id)
        ).all()

    assert [row.withdrawn_at for row in rows] == [None, None]


def test_the_scope_identified_keeps_releases(services):
    study = open_group(services)
    row = withdraw(study, scope="identified")
    with services.sessionmaker() as session:
        query = select(Release).where(Release.study_id == study.study_id)
        kept = [each for each in session.scalars(query) if each.erased_at is None]
    places = places_of(study, study.words["P07"])

    assert len(kept) == 3
    assert places and all(place.startswith("deidentified") for place in places)
    assert transcript_of(study, "FG-1")[1].segments[2].text == WITHDREW
    assert certificate(services, row)["complete"] is True


def test_the_scope_participation_removes_nothing(services):
    study = open_group(services)
    row = withdraw(study, scope="participation")
    with services.sessionmaker() as session:
        participant = session.get_one(Participant, row.participant_id)

    assert participant.withdrawn_at is not None and participant.erased_at is None
    assert places_of(study, study.words["P07"])
    assert certificate(services, row)["removed"] == []


def test_two_members_withdraw_one_after_the_other(services):
    study = open_group(services, mention=False)
    first, second = withdraw(study, "P07"), withdraw(study, "P05")

    assert places_of(study, study.words["P07"], study.words["P05"]) == []
    texts = [segment.text for segment in transcript_of(study, "FG-1")[1].segments]
    assert texts == [
        "Welcome to both of you.",
        WITHDREW,
        WITHDREW,
        WITHDREW,
        WITHDREW,
        "Thank you both.",
    ]
    assert certificate(services, first)["complete"] and certificate(services, second)["complete"]
    assert read_row(services, second.id).state == "finished"


def test_all_labels_with_the_code_leave_and_three_sessions_of_one_person(services):
    study = open_group(services, mention=False, split=True, more=("INT-08", "INT-09"))
    shown = withdrawal.take_inventory(services, study.caller, study.study, "P07")
    row = withdraw(study)

    assert [unit.name for unit in shown.units] == ["FG-1", "INT-07", "INT-08", "INT-09"]
    assert places_of(study, study.words["P07"]) == []
    texts = [segment.text for segment in transcript_of(study, "FG-1")[1].segments]
    assert texts[2] == texts[4] == WITHDREW and texts[1] != WITHDREW
    removed = {item["what"]: item["n"] for item in certificate(services, row)["removed"]}
    assert (removed["recording"], removed["transcript"], removed["session"]) == (3, 3, 3)


def test_names_leave_the_vocabularies(services):
    study = open_group(services, mention=False)
    name = study.names["P07"].split()[1]
    words = ["recovery", f"the {name} method"]
    replace_vocabulary(services, study.caller, study.study, words)
    withdraw(study)
    with services.sessionmaker() as session:
        left = read_vocabulary(services, session.get_one(Study, study.study_id))

    assert left == ["recovery"]
    assert places_of(study, name) == []


def test_what_was_exported_before_is_on_the_certificate(services):
    study = open_group(services, mention=False)
    row, _ = transcript_of(study, "FG-1")
    audit.record_now(
        services, study.caller, "transcript.exported", study.study_id, {"transcript": row.id}
    )
    done = certificate(services, withdraw(study))
    exported = [each for each in done["passed_on"] if each["what"] == "transcript exported"]

    assert [(each["id"], each["by"]) for each in exported] == [(str(row.id), "owner")]


def test_an_export_that_is_being_written_can_be_completed_but_not_begun_again(services):
    study = open_group(services, mention=False)
    row, _ = transcript_of(study, "FG-1")
    store, keyring = identified(services)
    artefact = Artefact(row.study_id, row.job_id, "transcript", row.artefact_id)
    with store.open(artefact, keyring.data_key(row.study_id, row.job_id)) as file:
        begun = file.read(100)
        withdraw(study)
        rest = file.read()

    assert study.words["P07"].encode() in begun + rest
    with pytest.raises(Erased):
        keyring.data_key(row.study_id, row.job_id)
