"""The part of the API that a worker needs: the keys of claimed jobs, and the reaper.

python -m scripts.stand_in.api PORT
"""

import asyncio
import base64
import contextlib
import sys
from collections.abc import AsyncIterator
from uuid import UUID

import uvicorn
from fastapi import Body, FastAPI, HTTPException

from service.database.tables import Job, JobRecording
from service.domain.queue import maintain
from service.services import open_services
from service.settings import read_settings
from service.vault import ArtefactClass

services = open_services(read_settings())


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(maintain(services))
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/internal/jobs/{job_id}/keys")
def read_keys(job_id: UUID, fence: int = Body(embed=True)) -> dict[str, dict[str, str]]:
    keyring = services.vault.keyrings[ArtefactClass.IDENTIFIED]
    with services.sessionmaker() as session:
        job = session.get_one(Job, job_id)
        if job.fence != fence:
            raise HTTPException(409)
        rows = session.query(JobRecording).where(JobRecording.job_id == job_id).all()
    return {
        "keys": {
            str(id): base64.b64encode(keyring.data_key(job.study_id, id).secret).decode()
            for id in (*(row.recording_id for row in rows), job.id)
        }
    }


uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
