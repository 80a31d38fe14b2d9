"""Artefacts of a job, from its vocabulary to the occurrences, encrypted with the job's data key.

A recording's key would not do: a job may have several recordings, and erasing one of them must also
erase what was made from all. Erasing the job, or any of its recordings, destroys the job's key.
"""

import shutil
from uuid import UUID

from service.domain.recordings import identified
from service.services import Services
from service.vault.store import Artefact


def create_key(services: Services, study_id: UUID, job_id: UUID) -> None:
    """
    Raises:
        Erased, KeyMissing, KeyDamaged: of the study key.
        DiskFull
    """
    identified(services)[1].create_data_key(study_id, job_id)


def write(services: Services, study_id: UUID, job_id: UUID, kind: str, content: bytes) -> UUID:
    """
    Returns:
        Id of a new artefact.

    Raises:
        Erased, KeyMissing, KeyDamaged, DiskFull
    """
    store, keyring = identified(services)
    artefact = Artefact(study_id, job_id, kind)
    with store.write(artefact, keyring.data_key(study_id, job_id)) as file:
        file.write(content)
    return artefact.id


def read(services: Services, study_id: UUID, job_id: UUID, kind: str, id: UUID) -> bytes:
    """
    Raises:
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    store, keyring = identified(services)
    artefact = Artefact(study_id, job_id, kind, id)
    with store.open(artefact, keyring.data_key(study_id, job_id)) as file:
        return file.read()


def copy(
    services: Services, study_id: UUID, job_id: UUID, other_job_id: UUID, kind: str, id: UUID
) -> UUID:
    """Copy a result of one job to another, under its key, so that each can be erased on its own.

    Returns:
        Id of the copy.

    Raises:
        Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    store, keyring = identified(services)
    old = Artefact(study_id, job_id, kind, id)
    new = Artefact(study_id, other_job_id, kind)
    with (
        store.open(old, keyring.data_key(study_id, job_id)) as source,
        store.write(new, keyring.data_key(study_id, other_job_id)) as file,
    ):
        shutil.copyfileobj(source, file)
    return new.id
