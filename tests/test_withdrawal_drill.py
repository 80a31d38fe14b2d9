"""The drill: power cuts in every step, old backups, and other work at the same time."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from models.withdrawn_voice import WITHDREW
from scripts.stand_in.jobs import read_job
from service.backup import back_up, restore
from service.database.tables import Mention, Participant, Recording, Release, Session, Withdrawal
from service.domain import job_state, withdrawal, withdrawal_steps
from service.domain.corrections import Editor
from service.domain.recordings import finish_erasures
from service.domain.withdrawal import Withdrawer
from service.domain.withdrawal_steps import STEPS
from service.services import open_services
from service.vault.errors import Erased, KeyMissing, Sealed
from tests.finished import begin_job
from tests.withdrawing import (
    SECOND,
    add_job,
    begin,
    certificate,
    open_group,
    places_of,
    read_row,
    render,
    transcript_of,
    withdraw,
)


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches a power cut."""


BOUNDARIES = (*STEPS, "copy", "switch", "interview", "release")


def resume(services, id):
    """What a start of the service does."""
    finish_erasures(services)
    withdrawal.run(services, id, render)


def test_a_power_cut_at_any_step_loses_nothing(services, monkeypatch):
    """The power fails once at every boundary of one withdrawal."""
    study = open_group(services, mention=False)
    left = list(BOUNDARIES)

    def cut(step):
        if step in left:
            left.remove(step)
            raise PowerCut

    monkeypatch.setattr(withdrawal_steps, "at_boundary", cut)
    id, n_cuts = begin(study), 0
    while read_row(services, id).state != "finished":
        try:
            resume(services, id)
        except PowerCut:
            n_cuts += 1

    row = read_row(services, id)
    assert n_cuts == len(BOUNDARIES) and left == []
    assert places_of(study, study.words["P07"], *study.names["P07"].split()) == []
    said = certificate(services, row)
    assert said["complete"] is True
    _, transcript = transcript_of(study, "FG-1")
    assert [s.text == WITHDREW for s in transcript.segments] == [
        s.speaker == SECOND for s in transcript.segments
    ]
    with services.sessionmaker() as session:
        releases = session.scalars(
            select(Release).where(Release.study_id == study.study_id, Release.erased_at.is_(None))
        ).all()
        sounds = session.scalars(
            select(Recording)
            .join(Session, Session.id == Recording.session_id)
            .where(Session.study_id == study.study_id, Recording.state != "erased")
        ).all()
    assert sorted(release.number for release in releases) == [1, 2]  # INT-05, FG-1 again
    assert len(sounds) == 2


def test_a_power_cut_within_the_erasure_of_the_old_group_is_resumed(services, monkeypatch):
    study = open_group(services, mention=False)

    def cut(*args, **kwargs):
        raise PowerCut

    id = begin(study)
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr("service.domain.withdrawn_voice.destroy", cut)
        withdrawal.run(services, id, render)
    assert places_of(study, study.words["P07"]) != []  # the interview
    resume(services, id)

    assert places_of(study, study.words["P07"]) == []
    assert certificate(services, read_row(services, id))["complete"] is True


def test_the_certificate_says_what_was_not_removed(services, monkeypatch):
    study = open_group(services, mention=False)
    store = services.vault.stores["identified"]
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "delete", lambda self, id: None)  # a file system that lies
        row = withdraw(study)
    said = certificate(services, row)

    assert said["complete"] is False
    assert {"file"} <= {item["what"] for item in said["not_removed"]}
    assert "failed" in {check["outcome"] for check in said["checks"]}


def test_an_old_backup_is_restored_without_the_person(services, empty, tmp_path):
    study = open_group(services)
    old = back_up(services.settings, tmp_path / "old", tmp_path / "old-keys")
    assert old.data is not None
    row = withdraw(study)
    newest = back_up(services.settings, None, tmp_path / "new-keys")
    restore(empty, old.data, newest.keys)
    restored = open_services(empty)
    try:
        names = places_of(study, *study.names["P07"].split(), services=restored)
        assert places_of(study, study.words["P07"], services=restored) == []
        # What others said about the person: in their transcript, for a reviewer.
        assert names and all(place.startswith("identified transcript") for place in names)
        with restored.sessionmaker() as session:
            again = session.get_one(Withdrawal, row.id)
            participant = session.get_one(Participant, row.participant_id)
            mentions = session.scalars(
                select(Mention).where(
                    Mention.study_id == study.study_id, Mention.origin == "withdrawal"
                )
            ).all()
        assert (again.state, again.certificate_id) == ("finished", row.certificate_id)
        assert certificate(restored, again) == certificate(services, row)
        assert participant.withdrawn_at is not None and participant.erased_at is not None
        assert [mention.state for mention in mentions] == ["suggested"]  # INT-05
        # The price: the group is gone for its other member too.
        with pytest.raises(AssertionError):
            transcript_of(_elsewhere(study, restored), "FG-1")
        assert transcript_of(_elsewhere(study, restored), "INT-05")
    finally:
        restored.close()


def _elsewhere(study, services):
    from dataclasses import replace

    return replace(study, services=services)


def test_a_backup_after_the_withdrawal_restores_the_others(services, empty, tmp_path):
    study = open_group(services)
    withdraw(study)
    archives = back_up(services.settings, tmp_path / "out", tmp_path / "keys")
    assert archives.data is not None
    restore(empty, archives.data, archives.keys)
    restored = open_services(empty)
    try:
        _, transcript = transcript_of(_elsewhere(study, restored), "FG-1")
        assert study.words["P05"] in transcript.segments[1].text
        assert places_of(study, study.words["P07"], services=restored) == []
    finally:
        restored.close()


def test_a_withdrawal_under_way_in_a_backup_goes_on_after_the_restore(
    services, empty, tmp_path, monkeypatch
):
    """The backup runs while the withdrawal does."""
    study = open_group(services, mention=False)
    archives: list[Any] = []

    def back_up_now(step):
        if step == "voice":
            archives.append(back_up(services.settings, tmp_path / "out", tmp_path / "keys"))

    monkeypatch.setattr(withdrawal_steps, "at_boundary", back_up_now)
    withdraw(study)
    monkeypatch.undo()
    newest = back_up(services.settings, None, tmp_path / "newest")
    restore(empty, archives[0].data, newest.keys)
    restored = open_services(empty)
    try:
        assert places_of(study, study.words["P07"], services=restored) == []
        with restored.sessionmaker() as session:
            states = session.scalars(select(Withdrawal.state)).all()
        assert set(states) <= {"finished"}
    finally:
        restored.close()


def test_a_withdrawal_keeps_releases_after_a_restore_if_its_scope_does(services, empty, tmp_path):
    study = open_group(services)
    old = back_up(services.settings, tmp_path / "old", tmp_path / "old-keys")
    assert old.data is not None
    withdraw(study, scope="identified")
    newest = back_up(services.settings, None, tmp_path / "new-keys")
    restore(empty, old.data, newest.keys)
    restored = open_services(empty)
    try:
        places = places_of(study, study.words["P07"], services=restored)
        assert places and all(place.startswith("deidentified") for place in places)
    finally:
        restored.close()


def test_a_job_that_runs_during_the_withdrawal_is_stopped(services):
    study = open_group(services, mention=False)
    with services.sessionmaker() as session:
        interview = session.scalars(
            select(Session).where(Session.study_id == study.study_id, Session.code == "INT-07")
        ).one()
    job_id = add_job(services, study.study_id, interview.id, study.caller.token_id, 5.0)
    claim = begin_job(services, job_id)
    row = withdraw(study)

    assert read_job(services, job_id).status == "erased"
    assert certificate(services, row)["complete"] is True
    with pytest.raises((job_state.JobGone, job_state.FenceLost)):
        with services.sessionmaker.begin() as session:
            job_state.record_heartbeat(session, claim)


def test_a_correction_made_during_the_withdrawal_is_carried_over(services, monkeypatch):
    study = open_group(services, mention=False)
    old, _ = transcript_of(study, "FG-1")

    def correct(step):
        if step == "copy":  # the recording is written, the transcript not yet replaced
            with services.sessionmaker.begin() as session:
                editor = Editor.open(session, services, study.caller, old.id)
                segment = editor.current.segments[1]
                editor.edit(
                    segment.id,
                    editor.current.version,
                    text="Corrected meanwhile.",
                    speaker=segment.speaker,
                    checked_by="I1",
                )

    monkeypatch.setattr(withdrawal_steps, "at_boundary", correct)
    withdraw(study)
    _, transcript = transcript_of(study, "FG-1")

    assert transcript.segments[1].text == "Corrected meanwhile."
    with pytest.raises(Erased), services.sessionmaker.begin() as session:
        Editor.open(session, services, study.caller, old.id)


def test_words_given_to_the_person_during_the_withdrawal_are_removed_too(services, monkeypatch):
    study = open_group(services, mention=False)
    old, before = transcript_of(study, "FG-1")
    given = before.segments[3]
    done: list[str] = []

    def correct(step):
        if step == "copy" and not done:
            done.append(step)
            with services.sessionmaker.begin() as session:
                editor = Editor.open(session, services, study.caller, old.id)
                editor.edit(given.id, editor.current.version, text=None, speaker=SECOND,
                            checked_by=None)  # fmt: skip

    monkeypatch.setattr(withdrawal_steps, "at_boundary", correct)
    row = withdraw(study)
    _, transcript = transcript_of(study, "FG-1")

    assert transcript.segments[3].text == WITHDREW
    assert certificate(services, row)["complete"] is True
    assert any(
        start <= given.start and given.end <= end
        for each in row.results["replaced"]
        for spans in each["spans"].values()
        for start, end in spans
    )


def test_two_members_withdraw_at_the_same_time(services):
    study = open_group(services, mention=False)
    ids = [begin(study, "P05"), begin(study, "P07")]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda id: withdrawal.run(services, id, render), ids))

    assert places_of(study, study.words["P05"], study.words["P07"]) == []
    _, transcript = transcript_of(study, "FG-1")
    assert [segment.text for segment in transcript.segments[1:5]] == [WITHDREW] * 4
    for id in ids:
        assert certificate(services, read_row(services, id))["complete"] is True


def test_nothing_begins_while_the_keys_are_away(services):
    study = open_group(services, mention=False)
    keys, away = services.settings.wrapped_keys, services.settings.keys / "away"
    keys.rename(away)
    try:
        with pytest.raises(KeyMissing):
            begin(study)
    finally:
        away.rename(keys)
    with services.sessionmaker() as session:
        rows = session.scalars(
            select(Participant.withdrawn_at).where(Participant.study_id == study.study_id)
        ).all()

    assert rows == [None, None]
    assert places_of(study, study.words["P07"]) != []


def test_a_withdrawal_waits_while_the_keys_are_away_and_says_why(services):
    study = open_group(services, mention=False)
    id = begin(study)
    keys, away = services.settings.wrapped_keys, services.settings.keys / "away"
    worker = Withdrawer(services, render)
    keys.rename(away)
    try:
        assert worker._make_next()
    finally:
        away.rename(keys)
    assert (read_row(services, id).state, read_row(services, id).failure_code) == (
        "removing",
        "key_missing",
    )
    worker._tried_at.clear()
    assert worker._make_next()
    worker.close()

    assert read_row(services, id).state == "finished"
    assert places_of(study, study.words["P07"]) == []


def test_nothing_begins_while_the_vault_is_sealed(services, monkeypatch):
    study = open_group(services, mention=False)
    monkeypatch.setattr(type(services.vault), "sealed", property(lambda self: True))
    with pytest.raises(Sealed):
        begin(study)
    worker = Withdrawer(services, render)
    assert not worker._make_next()
    worker.close()
