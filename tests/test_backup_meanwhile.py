"""What is replaced or deleted during a backup leaves no row without its file after the restore.

Three rows once pointed at missing files: a vocabulary that was replaced between the dump and the
copy of the vault, and two file names of recordings whose erasure the dump had caught half-way.

It cannot happen again: a file is deleted either by an erasure, which first writes to the ledger, so
that the restore erases the row too; or as a stray, which no row names, and never during a backup.
Both are tested here, and that there is no third place.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from scripts.stand_in.jobs import make_job, read_stages
from service import backup
from service.backup import back_up, restore
from service.database.tables import Handoff, Job, Recording, StoredTranscript, Table
from service.domain import job_state
from service.domain.jobs import pin_weights
from service.domain.recordings import identified, tidy_uploads
from service.domain.stages import STORED_STAGES
from service.domain.strays import remove_strays
from service.services import Services, open_services
from tests.api import Api, delete_all_rows, metadata, open_api, tone
from tests.audio_files import slow
from tests.finished import age, begin_job, finish_job, write

NAMED = {"Upload-Metadata": metadata(filename="a.wav")}


@dataclass
class Things:
    """One of everything that names a file."""

    api: Api
    study: str
    doomed_study: str
    session: str
    jobs: dict[str, UUID]
    transcripts: dict[str, UUID]
    recording: str
    unfinished: str
    refused: str
    running: job_state.JobClaim

    @property
    def services(self) -> Services:
        return self.api.services


@pytest.fixture
def things(settings):
    with open_api(settings) as api:
        services = api.services
        with services.sessionmaker.begin() as session:  # of earlier tests
            delete_all_rows(session, keep=("token", "token_study"))
        weights = asdict(pin_weights("demo", settings.weights))
        study, doomed = api.study()["id"], api.study()["id"]
        session_id = api.post("/v1/sessions", json={"study": study}).json()["id"]
        jobs = {
            name: make_job(
                services, UUID(doomed if name == "of the study" else study), pinned=weights
            )
            for name in ("kept", "deleted", "of a recording", "of the study", "handed off")
        }
        transcripts = {name: finish_job(services, job_id) for name, job_id in jobs.items()}
        set_vocabulary(api, study, "Eva")
        set_vocabulary(api, doomed, "Eva")
        begin = {"Upload-Length": "1000", **NAMED}
        unfinished = api.post(f"/v1/uploads?study={study}", headers=begin).json()["id"]
        api.upload(study, tone(), query={"session": session_id}, headers=NAMED)
        yield Things(
            api,
            study,
            doomed,
            session_id,
            jobs,
            transcripts,
            api.upload(study, tone(1.5), headers=NAMED)["id"],
            unfinished,
            api.upload(study, tone(level=0.0), headers=NAMED)["id"],
            begin_running_job(services, study),
        )


def begin_running_job(services, study):
    """A job with the results of some stages."""
    job_id = make_job(services, UUID(study))
    claim = begin_job(services, job_id)
    for stage in STORED_STAGES[:2]:
        id = write(services, job_id, f"stage_{stage}", b"a result")
        with services.sessionmaker.begin() as session:
            job_state.record_result(session, claim, stage, id, 1.0)
    return claim


def set_vocabulary(api, study, *words):
    path = f"/v1/studies/{study}/vocabulary"
    assert api.request("PUT", path, json={"words": words}).status_code == 200


def change_everything(things: Things) -> None:
    """Replace and delete what can be, as requests, a worker and the tidying do."""
    api, services = things.api, things.services
    set_vocabulary(api, things.study, "Seroquel")
    job_of = {name: f"/v1/jobs/{id}" for name, id in things.jobs.items()}
    first = api.get(job_of["of a recording"]).json()["recordings"][0]
    for path, status in (
        (job_of["deleted"], 200),
        (f"/v1/recordings/{first}", 204),
        (f"/v1/recordings/{things.recording}", 204),
        (f"/v1/sessions/{things.session}", 204),
        (f"/v1/studies/{things.doomed_study}", 204),
    ):
        assert api.request("DELETE", path).status_code == status, path
    with services.sessionmaker.begin() as session:  # their time is up
        ids = [UUID(things.unfinished), UUID(things.refused)]
        query = update(Recording).where(Recording.id.in_(ids))
        session.execute(query.values(expires_at=Recording.created_at))
    tidy_uploads(services)
    with services.sessionmaker.begin() as session:
        job_state.record_discarded(session, things.running)
    finish_job_again(services, things.running)
    complete_handoff(things, "handed off")
    correct_and_undo(things, things.transcripts["kept"])
    rerun = api.post(f"{job_of['kept']}/rerun", json={"from": "check"})
    assert rerun.status_code == 202, rerun.text
    age(services)  # the sweep would take everything that no row names
    remove_strays(services)


def finish_job_again(services: Services, claim: job_state.JobClaim) -> None:
    for stage in STORED_STAGES:
        id = write(services, claim.job.id, f"stage_{stage}", b"another result")
        with services.sessionmaker.begin() as session:
            job_state.record_result(session, claim, stage, id, 1.0)


def complete_handoff(things: Things, name: str) -> None:
    with things.services.sessionmaker.begin() as session:
        query = select(Handoff).where(Handoff.transcript_id == things.transcripts[name])
        other = update(Handoff).where(Handoff.transcript_id != things.transcripts[name])
        session.execute(other.where(Handoff.status == "open").values(status="failed"))
        handoff = session.scalars(query).one()
        handoff.status = "open"
    claimed = things.api.post("/v1/handoffs/claim").json()
    assert claimed["id"] == str(handoff.id)
    body = {"fence": claimed["fence"], "occurrences": []}
    path = f"/v1/handoffs/{claimed['id']}/complete"
    assert things.api.post(path, json=body).status_code == 200


def correct_and_undo(things: Things, transcript_id: UUID) -> None:
    path = f"/v1/transcripts/{transcript_id}"
    etag = things.api.get(f"{path}/segments/s0001").headers["ETag"]
    changed = things.api.request(
        "PATCH",
        f"{path}/segments/s0001",
        json={"text": "Good evening."},
        headers={"If-Match": etag},
    )
    assert changed.status_code == 200, changed.text
    undone = things.api.post(f"{path}/undo", json={})
    assert undone.status_code == 200, undone.text


AFTER_THE_DUMP, AFTER_THE_LIST, BEFORE_THE_KEYS = "run_tool", "files_named", "key_files"


@pytest.mark.parametrize(
    "moment", [AFTER_THE_DUMP, *(slow(moment) for moment in (AFTER_THE_LIST, BEFORE_THE_KEYS))]
)
def test_nothing_that_rows_name_is_missing_after_a_restore(
    things, settings, empty, tmp_path, monkeypatch, moment
):
    """Everything is replaced or deleted at one moment of a backup."""
    real: Any = getattr(backup, moment)
    changed: list[bool] = []

    def change_meanwhile(*arguments, **options):
        result = real(*arguments, **options)
        if moment == AFTER_THE_LIST:
            result = list(result)
        if not changed:
            changed.append(True)
            change_everything(things)
        return result

    monkeypatch.setattr(backup, moment, change_meanwhile)
    made = back_up(settings, tmp_path / "backups", tmp_path / "backups of keys")
    monkeypatch.undo()
    assert made.data is not None

    assert restore(empty, made.data, made.keys).missing == ()

    services = open_services(empty)
    try:
        assert changed
        assert names_without_file(services) == set()
        assert read_stages(services, things.jobs["kept"])["segment"].artefact_id is not None
    finally:
        services.close()
    with open_api(empty) as restored:
        kept = f"/v1/transcripts/{things.transcripts['kept']}"
        assert restored.get(kept).status_code == 200
        for name in ("deleted", "of a recording", "of the study"):
            assert restored.get(f"/v1/jobs/{things.jobs[name]}").status_code == 410
        assert restored.get(f"/v1/recordings/{things.recording}").status_code == 410


def names_without_file(services: Services) -> set[UUID]:
    """The files that rows name and the vault lacks, found without the service's own check."""
    store, _ = identified(services)
    named: set[UUID] = set()
    with services.sessionmaker() as session:
        gone = select(StoredTranscript.artefact_id).join(Job, Job.id == StoredTranscript.job_id)
        erased = set(session.scalars(gone.where(Job.status == "erased")))
        for table in Table.metadata.tables.values():
            for column in table.columns:
                if column.name.endswith("artefact_id"):
                    named |= set(session.scalars(select(column).where(column.is_not(None))))
        ready = select(Recording.id).where(Recording.state == "ready")
        named |= set(session.scalars(ready))
    return {id for id in named - erased if id not in store}


def test_files_that_a_row_names_are_deleted_in_two_ways_only():
    """By erasures, which write to the ledger first, and as strays, never during a backup.

    `playback`, `masked_audio` and `withdrawn_voice` delete files that no row has named yet.
    Withdrawals and retention delete what holds a name at once, even if a backup is running.
    `participant_records` and `member_packets` are called after the keys have been erased.

    If you delete or overwrite artefacts in another place, a row of a running backup may name them:
    leave them to `remove_strays` instead.
    """
    calls = {
        (path.stem, call)
        for path in Path("service").rglob("*.py")
        for call in re.findall(
            r"\b(?:store|uploads)\.(?:delete|discard)\([^)]*\)", path.read_text()
        )
    }
    erasures = {
        "erasure": "keyring.erase(job",
        "recordings": "keyring.erase(rec",
        "entity_changes": "keyring.erase(one",
        "releases": "keyring.erase(rel",
    }
    at_once = {"withdrawal_ledger", "withdrawal_steps", "retention"}
    after_the_key = {"participant_records", "member_packets"}
    without_row = {"playback", "masked_audio", "withdrawn_voice"}
    expected = {*erasures, "strays", *at_once, *after_the_key, *without_row}
    assert {name for name, _ in calls} == expected
    for module, after in erasures.items():
        text = Path(f"service/domain/{module}.py").read_text()
        assert text.index(after) < text.index("store.delete(")
