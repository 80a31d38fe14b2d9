"""Studies, recordings and jobs written to the database and the vault without the API."""

import json
from uuid import UUID, uuid4

from sqlalchemy import select

from service.database.tables import (
    STAGES,
    Job,
    JobRecording,
    JobStage,
    Recording,
    Study,
    Token,
)
from service.domain.queue import defer_job
from service.domain.results import create_key
from service.domain.studies import create_study_keys
from service.services import Services
from service.vault import ArtefactClass
from service.vault.store import Artefact

STAND_IN_MODELS = {
    "whisper_model": "stand-in",
    "whisper_sha256": "0" * 64,
    "diarisation_pipeline": "stand-in",
    "diarisation_sha256": "0" * 64,
}


def make_study(services: Services) -> UUID:
    study_id = uuid4()
    with services.sessionmaker.begin() as session:
        session.add(Study(id=study_id, code=f"STUDY-{study_id.hex[:8].upper()}"))
    create_study_keys(services, study_id)
    return study_id


def make_token(services: Services) -> UUID:
    with services.sessionmaker.begin() as session:
        token = Token(hash=uuid4().bytes * 2, role="owner", all_studies=True)
        session.add(token)
        session.flush()
        return token.id


def make_recording(services: Services, study_id: UUID, token_id: UUID, content: bytes) -> UUID:
    id = uuid4()
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].create_data_key(study_id, id)
    store = services.vault.stores[ArtefactClass.IDENTIFIED]
    with store.write(Artefact(study_id, id, "recording", id), key) as file:
        file.write(content)
    with services.sessionmaker.begin() as session:
        session.add(
            Recording(
                id=id,
                study_id=study_id,
                token_id=token_id,
                state="ready",
                n_bytes=len(content),
                duration=10.0,
            )
        )
    return id


def make_job(
    services: Services,
    study_id: UUID | None = None,
    *,
    content: bytes | None = None,
    pinned: dict[str, str] = STAND_IN_MODELS,
    **instructions: object,
) -> UUID:
    """A queued job of one recording.

    Args:
        content: of the recording; None: `instructions` for scripts/stand_in/engine.py.
    """
    study_id = study_id or make_study(services)
    token_id = make_token(services)
    if content is None:
        content = json.dumps(instructions).encode()
    recording = make_recording(services, study_id, token_id, content)
    job_id = uuid4()
    create_key(services, study_id, job_id)
    with services.sessionmaker.begin() as session:
        session.add(
            Job(id=job_id, study_id=study_id, token_id=token_id, audio_seconds=10.0, **pinned)
        )
        session.flush()
        session.add(JobRecording(job_id=job_id, recording_id=recording, position=0))
        session.add_all(JobStage(job_id=job_id, name=stage) for stage in STAGES)
        defer_job(session, job_id, study_id)
    return job_id


def read_job(services: Services, job_id: UUID) -> Job:
    with services.sessionmaker() as session:
        return session.get_one(Job, job_id)


def read_stages(services: Services, job_id: UUID) -> dict[str, JobStage]:
    with services.sessionmaker() as session:
        rows = session.scalars(select(JobStage).where(JobStage.job_id == job_id))
        return {row.name: row for row in rows}
