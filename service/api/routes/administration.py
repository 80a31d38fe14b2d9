"""The state of the service for administrators: workers, queue, disk, backups. No content."""

import shutil
from datetime import datetime
from importlib.metadata import version
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.domain import counts
from service.domain.callers import Caller
from service.domain.monitoring import NO_WORKER, RETIRED, backup_age, read_work
from service.domain.workers import list_workers

router = APIRouter(prefix="/v1/service", tags=["administration"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(allow("admin", sealed_too=True))]


class WorkerView(BaseModel):
    host: str
    device: str = Field(examples=["cuda:1"])
    job_id: UUID | None = Field(description="The job that it runs.")
    retired: str | None = Field(description="Why it takes no jobs, if so.")
    started_at: datetime


class DiskView(BaseModel):
    n_bytes: int
    n_free: int


class ServiceView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "1.0.0",
                    "sealed": False,
                    "workers": [],
                    "jobs": {"queued": 2, "running": 1},
                    "recordings": {"ready": 26},
                    "oldest_queued_seconds": 84.0,
                    "disk": {"n_bytes": 10**12, "n_free": 6 * 10**11},
                    "backup_age_seconds": 32_400.0,
                    "warnings": [],
                }
            ]
        }
    )

    version: str
    sealed: bool = Field(description="Whether the vault waits for its passphrase.")
    workers: list[WorkerView]
    jobs: dict[str, int] = Field(description="By status.")
    recordings: dict[str, int] = Field(description="By state.")
    oldest_queued_seconds: float = Field(description="0: nothing is queued.")
    disk: DiskView | None = Field(description="Of the data folder.")
    backup_age_seconds: float | None = Field(description="null: there is no backup.")
    warnings: list[str]


@router.get("")
def read_service(caller: Administrator, services: ServicesDep) -> ServiceView:
    """Workers, queue, disk and backups, without anything about what people said."""
    data = services.settings.data
    with services.sessionmaker() as session:
        work = read_work(session)
        workers = [
            WorkerView(
                host=worker.host,
                device=worker.device,
                job_id=worker.job_id,
                retired=worker.retired_because
                and RETIRED.get(worker.retired_because, worker.retired_because),
                started_at=worker.started_at,
            )
            for worker in list_workers(session)
        ]
        jobs, recordings = counts.count_jobs(session), counts.count_recordings(session)
    usage = shutil.disk_usage(data) if data.exists() else None
    age = backup_age(services.settings)
    return ServiceView(
        version=version("fieldscribe"),
        sealed=services.vault.sealed,
        workers=workers,
        jobs=jobs,
        recordings=recordings,
        oldest_queued_seconds=work.oldest,
        disk=usage and DiskView(n_bytes=usage.total, n_free=usage.free),
        backup_age_seconds=None if age is None else age.total_seconds(),
        warnings=[NO_WORKER] if work.is_stuck else [],
    )
