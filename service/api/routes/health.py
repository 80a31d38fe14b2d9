"""Health, readiness and metrics."""

import shutil

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.database import DatabaseUnreachable, SchemaTooNew, SchemaTooOld
from service.database.engine import require_schema
from service.domain import counts
from service.services import Services
from service.settings import LOOPBACK
from service.vault import ArtefactClass
from service.vault.errors import DiskFull, Sealed

router = APIRouter(tags=["health"], route_class=GuardedRoute)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_admin = allow("admin", sealed_too=True)


class Health(BaseModel):
    status: str = "ok"


@router.get("/healthz")
async def healthz() -> Health:
    """Check that the process answers."""
    return Health()


@router.get(
    "/readyz", responses=problems(Sealed, DatabaseUnreachable, DiskFull, SchemaTooNew, SchemaTooOld)
)
def readyz(services: ServicesDep) -> Health:
    """Check that uploads and jobs can be accepted: database, vault and disk work."""
    require_schema(services.engine)
    if services.vault.sealed:
        raise Sealed("The vault is sealed: run `fieldscribe unseal`")
    services.vault.stores[ArtefactClass.IDENTIFIED].require_space(0)
    return Health()


def allow_local_or_admin(request: Request, services: ServicesDep) -> None:
    """Allow this machine, or an admin's token. Behind a proxy every client looks local."""
    here = request.client is not None and request.client.host in LOOPBACK
    if services.settings.behind_proxy or not here or "authorization" in request.headers:
        _admin.check(request)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[Depends(allow_local_or_admin)],
)
def metrics(request: Request, services: ServicesDep, limits: LimitsDep) -> PlainTextResponse:
    """Counts in the text format of Prometheus. For this machine, or with an admin's token."""
    lines = [
        *_row_counts(services),
        *_gauges(services, limits),
        *request.app.state.requests.lines(),
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=MEDIA_TYPE)


def _row_counts(services: Services) -> list[str]:
    with services.sessionmaker() as session:
        metrics = (
            ("fieldscribe_jobs", "status", counts.count_jobs(session)),
            ("fieldscribe_handoffs", "status", counts.count_handoffs(session)),
            ("fieldscribe_recordings", "state", counts.count_recordings(session)),
        )
    lines = []
    for name, label, by_state in metrics:
        lines.append(f"# TYPE {name} gauge")
        lines += [f'{name}{{{label}="{state}"}} {n}' for state, n in by_state.items()]
    return lines


def _gauges(services: Services, limits: LimitsDep) -> list[str]:
    data = services.settings.data
    values = {
        "fieldscribe_sealed": int(services.vault.sealed),
        "fieldscribe_disk_free_bytes": shutil.disk_usage(data).free if data.exists() else 0,
        "fieldscribe_uploads_arriving": limits.receiving.borrowed_tokens,
        "fieldscribe_requests_waiting": limits.n_waiting,
    }
    return [
        line
        for name, value in values.items()
        for line in (f"# TYPE {name} gauge", f"{name} {value}")
    ]
