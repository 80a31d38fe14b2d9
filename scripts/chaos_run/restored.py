"""Checks a restored installation: `python -m scripts.chaos_run.restored < SNAPSHOT`.

It prints what is wrong as JSON. The settings name the installation.
"""

import json
import sys
from typing import Any
from uuid import UUID

from sqlalchemy import select

from scripts.chaos_run.engine import name_of
from service.backup import running_database
from service.database.tables import Job, Recording, StoredTranscript
from service.domain import results
from service.domain.recordings import identified, sound_artefact
from service.errors import ServiceError
from service.services import Services, open_services
from service.settings import read_settings


def main() -> int:
    known = json.load(sys.stdin)
    settings = read_settings()
    with running_database(settings):
        services = open_services(settings)
        try:
            print(json.dumps(check(services, known)))
        finally:
            services.close()
    return 0


def check(services: Services, known: dict[str, Any]) -> dict[str, Any]:
    """
    Args:
        known: what was acknowledged before the backup began: `recordings` with the names of their
            contents, `jobs`, and `transcripts` with the names they hold; what had been erased
            (`gone`); and what may have been erased during the backup (`doubtful`).
    """
    doubtful, wrong = set(known["doubtful"]), []
    n_recordings = n_transcripts = 0
    with services.sessionmaker() as session:
        for id, name in known["recordings"].items():
            if id in doubtful:
                continue
            n_recordings += 1
            row = session.get(Recording, UUID(id))
            if row is None or row.state != "ready":
                wrong.append(f"recording {id} is {row and row.state}")
            elif (found := read_name(services, row)) != name:
                wrong.append(f"recording {id}: {found}")
        for id in known["jobs"]:
            if id not in doubtful and session.get(Job, UUID(id)) is None:
                wrong.append(f"job {id} is missing")
        for id, names in known["transcripts"].items():
            if id in doubtful:
                continue
            n_transcripts += 1
            if (words := read_words(services, UUID(id))) != names:
                wrong.append(f"the transcript of job {id}: {words}")
        for id in known["gone"]:
            row = session.get(Recording, UUID(id)) or session.get(Job, UUID(id))  # type: ignore[assignment]
            if row is not None and row.erased_at is None:
                wrong.append(f"{id} was erased but is back")
    return {"violations": wrong, "recordings": n_recordings, "transcripts": n_transcripts}


def read_name(services: Services, recording: Recording) -> str:
    """The name of a recording's content, or the code of the error that reading it raises."""
    store, keyring = identified(services)
    try:
        key = keyring.data_key(recording.study_id, recording.id)
        with store.open(sound_artefact(recording), key) as file:
            return name_of(file.read())
    except ServiceError as error:
        return error.code


def read_words(services: Services, job_id: UUID) -> list[str]:
    """The words of a job's only transcript, or a description of what is wrong with it."""
    with services.sessionmaker() as session:
        query = select(StoredTranscript).where(StoredTranscript.job_id == job_id)
        rows = session.scalars(query).all()
    if len(rows) != 1:
        return [f"{len(rows)} transcripts"]
    try:
        content = results.read(
            services, rows[0].study_id, job_id, "transcript", rows[0].artefact_id
        )
    except ServiceError as error:
        return [error.code]
    segments = json.loads(content)["segments"]
    return [word["text"].strip() for segment in segments for word in segment["words"]]


if __name__ == "__main__":
    sys.exit(main())
