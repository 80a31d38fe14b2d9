"""Files without a row are removed, and nothing else."""

import os
import time
from uuid import UUID, uuid4

import pytest

from scripts.stand_in.jobs import make_job, make_recording, make_study, make_token, read_job
from service.database.tables import Recording, Study
from service.domain.recordings import destroy, identified
from service.domain.strays import STRAY_AFTER, remove_strays
from service.vault import uploads
from service.vault.files import PARTIAL
from service.vault.store import Artefact
from tests.api import metadata, open_api, tone
from tests.finished import finish_job, write


def write_all(services, study_id, job_id):
    """Write files without rows, as a crash before the commit leaves them."""
    store, keyring = identified(services)
    stray = write(services, job_id, "stage_segment", b"found")
    begun = Artefact(study_id, uuid4(), "recording")
    key = keyring.data_key(study_id, job_id)
    with uploads.write_part(store, begun, key, offset=0) as part:
        part.write(b"sound")
    return stray, begun.id


def age(services):
    """Make every file that is not being written more than a week old."""
    then = time.time() - STRAY_AFTER - 60
    for path in identified(services)[0].folder.rglob("*"):
        if path.suffix != PARTIAL:
            os.utime(path, (then, then))


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
    path = identified(services)[0]._path(recording)
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
