"""Requests at the same moment: each gets what it asked for, or an error that says why not."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from models.options import SpeakerCount
from scripts.stand_in.jobs import make_study, make_token
from service.commands.tus_client import UnfinishedUploads
from service.database.tables import Recording
from service.domain.callers import Caller
from service.domain.recordings import create_upload, identified
from service.domain.sessions import create_session, set_recordings
from service.domain.studies import create_study
from service.errors import SessionCodeTaken, StudyCodeTaken

N = 6
ALL_CODES: dict[str, Any] = {
    "kind": "interview",
    "speakers": SpeakerCount(None, None),
    "roster": [],
}


@pytest.fixture
def caller(services):
    return Caller(make_token(services), "owner", all_studies=True, studies=frozenset())


def at_once(do):
    """Call `do` in threads that start together; returns results and errors."""
    start = threading.Barrier(N)

    def call(number):
        start.wait()
        try:
            return do(number)
        except Exception as error:  # noqa: BLE001
            return error

    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(call, range(N)))


def test_of_two_studies_with_one_code_one_is_created_and_no_keys_are_left(services, caller):
    """The second answered 500, and its wrapped keys stayed for ever."""

    def create(number):
        with services.sessionmaker.begin() as session:
            fields: dict[str, Any] = {"code": "TWICE", "language": None, "model": None}
            return create_study(session, services, caller, **fields).id

    results = at_once(create)

    made = [result for result in results if isinstance(result, UUID)]
    assert len(made) == 1
    assert {type(result) for result in results} == {UUID, StudyCodeTaken}
    for keyring in services.vault.keyrings.values():
        assert {path.name for path in keyring._folder.iterdir()} == {str(made[0])}


def test_of_two_sessions_with_one_code_one_is_created(services, caller):
    study = make_study(services)

    def create(number):
        with services.sessionmaker.begin() as session:
            made = create_session(session, caller, study=str(study), code="INT-07", **ALL_CODES)
            return made.id

    results = at_once(create)

    assert len([result for result in results if isinstance(result, UUID)]) == 1
    assert {type(result) for result in results} == {UUID, SessionCodeTaken}


def test_sessions_without_a_code_get_different_ones(services, caller):
    study = make_study(services)

    def create(number):
        with services.sessionmaker.begin() as session:
            return create_session(session, caller, study=str(study), code=None, **ALL_CODES).code

    assert sorted(at_once(create)) == [f"INT-{number:02}" for number in range(1, N + 1)]


def test_uploads_into_one_session_get_different_positions(services, caller):
    """Six at once all got the same one, so their order in the session was left to chance."""
    study = make_study(services)
    with services.sessionmaker.begin() as session:
        interview = create_session(session, caller, study=str(study), code=None, **ALL_CODES).id

    def begin(number):
        return create_upload(
            services,
            caller,
            study=str(study),
            session=str(interview),
            n_bytes=1000,
            metadata="filename YQ==",
        ).position

    assert sorted(at_once(begin)) == list(range(N))


def test_an_upload_during_a_reordering_gets_a_position_of_its_own(services, caller):
    study = make_study(services)
    with services.sessionmaker.begin() as session:
        interview = create_session(session, caller, study=str(study), code=None, **ALL_CODES).id
    one: dict[str, Any] = {
        "study": str(study),
        "session": str(interview),
        "n_bytes": 1000,
        "metadata": None,
    }
    first = create_upload(services, caller, **one).id
    second = create_upload(services, caller, **one).id

    def change(number):
        if number % 2:
            return set_recordings(services, caller, interview, [second, first])
        return create_upload(services, caller, **one)

    assert not [result for result in at_once(change) if isinstance(result, Exception)]
    with services.sessionmaker() as session:
        query = select(Recording.position).where(Recording.session_id == interview)
        positions = list(session.scalars(query))
    assert len(set(positions)) == len(positions)


def test_upload_commands_at_once_keep_each_others_resumable_uploads(tmp_path):
    def remember(number):
        unfinished = UnfinishedUploads(tmp_path / "uploads.json")
        for i in range(20):
            unfinished.remember(f"{number} {i}", "/v1/uploads/1")
        unfinished.forget(f"{number} 0")

    assert at_once(remember) == [None] * N
    unfinished = UnfinishedUploads(tmp_path / "uploads.json")
    kept = [unfinished.find(f"{number} {i}") for number in range(N) for i in range(20)]
    assert kept.count(None) == N


def test_a_refused_study_leaves_no_key_behind(services, caller):
    with services.sessionmaker.begin() as session:
        fields: dict[str, Any] = {"code": "SECOND", "language": None, "model": None}
        create_study(session, services, caller, **fields)
    before = set(identified(services)[1]._folder.iterdir())
    with pytest.raises(StudyCodeTaken), services.sessionmaker.begin() as session:
        create_study(session, services, caller, **fields)

    assert set(identified(services)[1]._folder.iterdir()) == before
