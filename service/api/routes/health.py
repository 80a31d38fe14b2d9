"""Health, readiness and metrics."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.cookies import host_name
from service.api.guarded_route import GuardedRoute
from service.api.metrics import render
from service.api.openapi import problems
from service.database import DatabaseUnreachable, SchemaTooNew, SchemaTooOld
from service.database.engine import require_schema
from service.domain.monitoring import NO_WORKER, read_work
from service.settings import LOOPBACK
from service.vault import ArtefactClass
from service.vault.errors import DiskFull, Sealed, StorageUnreachable

router = APIRouter(tags=["health"], route_class=GuardedRoute)
_admin = allow("admin", sealed_too=True)


class Health(BaseModel):
    status: str = "ok"


class Readiness(Health):
    warnings: list[str] = Field(
        default=[], description="What needs attention, although it is ready."
    )


@router.get("/healthz")
async def healthz() -> Health:
    """Check that the process answers."""
    return Health()


@router.get(
    "/readyz",
    responses=problems(
        Sealed, DatabaseUnreachable, StorageUnreachable, DiskFull, SchemaTooNew, SchemaTooOld
    ),
)
def readyz(services: ServicesDep) -> Readiness:
    """Check that uploads and jobs can be accepted: database, vault and disk work.

    Warns if jobs are queued and no worker is running.
    """
    require_schema(services.engine)
    if services.vault.sealed:
        raise Sealed("The vault is sealed: run `fieldscribe unseal`")
    store = services.vault.stores[ArtefactClass.IDENTIFIED]
    store.require_space(0)
    store.objects.check()
    with services.sessionmaker() as session:
        is_stuck = read_work(session).is_stuck
    return Readiness(warnings=[NO_WORKER] if is_stuck else [])


def allow_local_or_admin(request: Request, services: ServicesDep) -> None:
    """Allow this machine, or an admin's token. Behind a proxy every client looks local.

    A page in a browser on this machine can send requests here under a name of its own (DNS
    rebinding), so the `Host` header must name this machine too.
    """
    here = request.client is not None and request.client.host in LOOPBACK
    here = here and host_name(request) in {*LOOPBACK, services.settings.host}
    if services.settings.behind_proxy or not here or "authorization" in request.headers:
        _admin.check(request)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    dependencies=[Depends(allow_local_or_admin)],
)
def metrics(request: Request, services: ServicesDep, limits: LimitsDep) -> PlainTextResponse:
    """Counts for Prometheus. For this machine, or with an admin's token."""
    text = render(request.app.state.requests, services, limits)
    return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)
