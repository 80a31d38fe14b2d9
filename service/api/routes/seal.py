"""Opening the vault with its passphrase after a start."""

import logging
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import ConfigDict, Field, SecretStr

from service import services as opening
from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict
from service.domain import audit
from service.domain.callers import Caller
from service.vault.errors import RootKeyExposed, RootKeyUnusable, WrongPassphrase

router = APIRouter(prefix="/v1", tags=["vault"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(allow("admin", sealed_too=True))]

log = logging.getLogger(__name__)


class Passphrase(Strict):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"passphrase": "six random words or more of them"}]}
    )

    passphrase: SecretStr = Field(min_length=1, max_length=1000)


@router.post(
    "/unseal",
    status_code=204,
    responses=problems(WrongPassphrase, RootKeyExposed, RootKeyUnusable),
)
def unseal_vault(
    given: Passphrase,
    caller: Administrator,
    services: ServicesDep,
    limits: LimitsDep,
) -> None:
    """Open the root keys. Does nothing if they are already open."""
    if not services.vault.sealed:
        return
    limits.passphrases.require("")
    try:
        opening.unseal(services, given.passphrase.get_secret_value())
    except WrongPassphrase:
        audit.record_now(services, caller, "vault.unseal_refused", None, {})
        raise
    audit.record_now(services, caller, "vault.unsealed", None, {})
    log.info("vault unsealed by token %s", caller.token_id)
