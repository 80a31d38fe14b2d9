"""Files and keys without a row are removed, and nothing else."""

import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from models.deidentification.study_roster import RosterRow
from models.options import JobOptions
from scripts.stand_in.jobs import make_job, make_recording, make_study, make_token, read_job
from service.database.tables import Recording, Study
from service.domain.callers import Caller
from service.domain.jobs import JobRequest, submit_job
from service.domain.recordings import create_upload, destroy, identified
from service.domain.roster import import_roster
from service.domain.strays import KEY_OWNERS, OTHER_OWNERS, remove_strays
from service.domain.studies import create_study, replace_vocabulary
from service.vault import uploads
from service.vault.store import Artefact
from tests.api import artefact_path, delete_all_rows, metadata, open_api, tone
from tests.finished import age, finish_job, write


def write_all(services, study_id, job_id):
    """Write files without rows, as a crash before the commit leaves them."""
    store, keyring = identified(services)
    stray = write(services, job_id, "stage_segment", b"found")
    begun = Artefact(study_id, uuid4(), "recording")
    key = keyring.data_key(study_id, job_id)
    with uploads.write_part(store, begun, key, offset=0) as part:
        part.write(b"sound")
    return stray, begun.id


def uploads_of(services):
    return set(uploads.ids(identified(services)[0], time.time() + 1))


def artefacts(services):
    return set(identified(services)[0].ids())


@pytest.fixture
def job_id(services):
    """A finished job with a vocabulary."""
    job_id = make_job(services)
    vocabulary = write(services, job_id, "vocabulary", b"Eva")
    with services.sessionmaker.begin() as session:
        job = read_job(services, job_id)
        job.vocabulary_artefact_id = vocabulary
        session.merge(job)
    finish_job(services, job_id)
    return job_id


@pytest.mark.folder
def test_old_files_without_a_row_are_removed_and_all_others_stay(services, job_id):
    study_id = read_job(services, job_id).study_id
    before = artefacts(services)
    stray, begun = write_all(services, study_id, job_id)
    (identified(services)[0].folder / "artefacts/ab/cd").mkdir(parents=True)
    (identified(services)[0].folder / "artefacts/ab/cd/.DS_Store").touch()
    assert len(before) == 7  # sound, vocabulary, four stages, transcript
    age(services)

    remove_strays(services)

    assert artefacts(services) == before
    assert begun not in uploads_of(services)
    assert stray not in before


def test_young_files_are_left_for_their_rows_to_come(services, job_id):
    stray, begun = write_all(services, read_job(services, job_id).study_id, job_id)

    remove_strays(services)

    assert stray in artefacts(services)
    assert begun in uploads_of(services)


def test_files_being_written_are_left_alone(services, job_id):
    store, keyring = identified(services)
    study_id = read_job(services, job_id).study_id
    key = keyring.data_key(study_id, job_id)
    begun, result = (Artefact(study_id, job_id, kind) for kind in ("recording", "stage_align"))
    with uploads.write_part(store, begun, key, offset=0) as part:
        part.write(b"sound")
    age(services)
    with (
        uploads.write_part(store, begun, key, offset=5) as part,
        store.write(result, key) as file,
    ):
        part.write(b" and more")
        file.write(b"found")
        age(services)
        remove_strays(services)

    assert uploads.received(store, begun.id) == 14
    assert result.id in store


@pytest.mark.folder
def test_a_recording_whose_key_exists_is_not_a_stray(services, job_id):
    """The database is older than the upload, because it alone was restored."""
    study_id = read_job(services, job_id).study_id
    recording = make_recording(services, study_id, make_token(services), b"sound")
    with services.sessionmaker.begin() as session:
        session.delete(session.get_one(Recording, recording))
    age(services)

    remove_strays(services)

    assert recording in artefacts(services)
    identified(services)[1].erase(study_id, recording)
    remove_strays(services)
    assert recording not in artefacts(services)


def test_files_left_by_an_erasure_are_removed(services):
    study_id = make_study(services)
    recording = make_recording(services, study_id, make_token(services), b"sound")
    with services.sessionmaker.begin() as session:
        row = session.get_one(Recording, recording)
        row.state = "erased"
    destroy(services, row)
    path = artefact_path(identified(services)[0], recording)
    path.write_bytes(b"copied back by hand")
    age(services)

    remove_strays(services)

    assert recording not in artefacts(services)


def test_unfinished_uploads_and_study_vocabularies_are_not_strays(settings):
    with open_api(settings) as api:
        study = api.study()["id"]
        words = {"words": ["Eva"]}
        assert api.request("PUT", f"/v1/studies/{study}/vocabulary", json=words).is_success
        sound = tone()
        begun = api.post(
            f"/v1/uploads?study={study}",
            headers={
                "Upload-Length": str(len(sound)),
                "Upload-Metadata": metadata(filename="a.wav"),
            },
        ).json()
        part = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        path = f"/v1/uploads/{begun['id']}"
        assert api.request("PATCH", path, content=sound[:1000], headers=part).is_success
        before = artefacts(api.services)
        with api.services.sessionmaker() as session:
            assert session.get_one(Study, UUID(study)).vocabulary_artefact_id in before
        age(api.services)

        remove_strays(api.services)

        assert artefacts(api.services) == before
        part["Upload-Offset"] = "1000"
        assert api.request("PATCH", path, content=sound[1000:], headers=part).is_success
        assert api.checked(begun["id"])["state"] == "ready"


class Killed(BaseException):
    pass


@contextmanager
def killed_before_the_commit(services):
    """End the block as a kill between the vault's write and the commit does: no clean-up runs."""

    def kill(*_):
        raise Killed

    event.listen(services.engine, "commit", kill)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        event.remove(services.engine, "commit", kill)


def contents(services):
    """Every file and key there is."""
    settings = services.settings
    folders = (settings.vault, settings.keys)
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_left_of_requests_that_were_killed(services, job_id):
    """After 62 kills, four files and a key had no row."""
    study_id = read_job(services, job_id).study_id
    owner = Caller(make_token(services), "owner", all_studies=True, studies=frozenset())
    recording = make_recording(services, study_id, make_token(services), b"sound")
    store, keyring = identified(services)
    replace_vocabulary(services, owner, str(study_id), ["Eva"])
    before = contents(services)

    with killed_before_the_commit(services), services.sessionmaker.begin() as session:
        create_study(session, services, owner, code="KILLED", language=None, model=None)
    with killed_before_the_commit(services):
        name = metadata(filename="INT-07.wav")
        create_upload(services, owner, study=str(study_id), session=None, n_bytes=5, metadata=name)
    with killed_before_the_commit(services):
        replace_vocabulary(services, owner, str(study_id), ["Seroquel"])
    with killed_before_the_commit(services), services.sessionmaker.begin() as session:
        request = JobRequest(
            recordings=(recording,),
            model="demo",
            options=JobOptions(vocabulary=("Eva",)),
            chosen=("vocabulary",),
        )
        submit_job(session, services, owner, request)
    with killed_before_the_commit(services), services.sessionmaker.begin() as session:
        rows = [RosterRow(number, "person", None, ("Eva",)) for number in (1, 2)]
        import_roster(session, services, owner, study_id, rows)
    write_all(services, study_id, job_id)
    (uploads._folder(store, uuid4())).mkdir(parents=True)  # before its first part
    half_written: list[Path] = []
    folders = (store.folder, keyring._folder, keyring._ledger, services.settings.keys)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".half.partial").touch()
        half_written.append(folder / ".half.partial")
    assert len(contents(services) - before) > 10
    remove_strays(services)
    assert len(contents(services) - before) > 10  # their rows may still come
    age(services)
    for path in half_written:
        os.utime(path, (0, 0))

    remove_strays(services)

    assert contents(services) == before
    assert not list((store.folder / "uploads").glob("??/??/*"))
    assert not list(keyring._folder.glob("*/.*"))
    assert {path.name for path in keyring._folder.iterdir() if path.is_dir()} == {str(study_id)}


def test_keys_of_sound_without_a_row_are_kept(services, job_id):
    """The database is older than the upload: the sound can still be read with its key."""
    study_id = read_job(services, job_id).study_id
    recording = make_recording(services, study_id, make_token(services), b"sound")
    with services.sessionmaker.begin() as session:
        session.delete(session.get_one(Recording, recording))
    age(services)

    remove_strays(services)

    assert recording in identified(services)[1].subjects()


def test_with_another_installations_database_nothing_is_removed(services, job_id, caplog):
    before = contents(services)
    with services.sessionmaker.begin() as session:
        delete_all_rows(session)
    age(services)

    remove_strays(services)

    assert contents(services) == before
    assert "FIELDSCRIBE_DATABASE_URL" in caplog.text


def test_the_owners_of_all_data_keys_are_known():
    """The key of an owner that strays.py does not look up would be destroyed after a week.

    If you create data keys for another kind of owner, add its table to `KEY_OWNERS` or
    `OTHER_OWNERS` first.
    """
    calls = [
        f"{path.stem}: {call}"
        for path in sorted(Path("service").rglob("*.py"))
        for call in re.findall(r"\.create_data_key\((.*)\)", path.read_text())
    ]
    assert calls == [
        "entities: study_id, entity.id",
        "recordings: found.id, recording.id",
        "releases: release.study_id, release.id",
        "results: study_id, job_id",
        "roster: study_id, entity_id",
        "studies: study_id, study_id",
        "withdrawn_voice: recording.study_id, new_id",  # the new recording of a group
    ]
    assert {table.__name__ for table in KEY_OWNERS} == {"Study", "Recording", "Job"}
    assert {name: table.__name__ for name, table in OTHER_OWNERS.items()} == {
        "linkage": "Entity",
        "deidentified": "Release",
    }
