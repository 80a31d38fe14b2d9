"""What is made for a job, from its vocabulary to the occurrences: under a data key of its own.

Not under a recording's: a job may be made of several, and whoever erases one of them must reach
what was made of all. Erasing the job, or any of its recordings, destroys this key.
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
    """A result of one job under the key of another, so that each can be erased alone.

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
