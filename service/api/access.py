"""Access control: FastAPI dependencies that check a request's token, or cookie, and role."""

import base64
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from service.api import cookies
from service.api.limits import Limits
from service.database.tables import ROLES
from service.domain import audit
from service.domain.callers import CODER, LISTENER, OWNER, WORKER, Caller, find_caller
from service.domain.readings import Readings
from service.domain.sign_in import find_device_caller
from service.errors import (
    NotAllowed,
    ServiceError,
    TokenExpired,
    TokenMissing,
    TokenRevoked,
    TokenUnknown,
)
from service.services import Services
from service.vault.errors import Sealed


# These are `async` so that FastAPI calls them directly: a plain function would run in a thread.
async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def get_limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


async def get_readings(request: Request) -> Readings:
    readings: Readings = request.app.state.readings
    return readings


ServicesDep = Annotated[Services, Depends(get_services)]
LimitsDep = Annotated[Limits, Depends(get_limits)]
ReadingsDep = Annotated[Readings, Depends(get_readings)]


@dataclass(frozen=True)
class Allowed:
    """The dependency that every protected route has. `check` decides; a call returns its result.

    Raises:
        TokenMissing, TokenUnknown, TokenExpired, TokenRevoked, SignedOut: 401
        TooManyRequests: 429, too many bad tokens from one address
        NotAllowed, CrossSiteRequest: 403
        Sealed: 503
        RequestValidationError: 422
    """

    roles: frozenset[str]
    sealed_too: bool
    basic_too: bool = False

    async def __call__(self, request: Request) -> Caller:
        """The caller, whom `GuardedRoute` has found before it read the body."""
        caller: Caller = request.state.caller
        return caller

    def check(self, request: Request) -> Caller:
        """Check the token, the role, the vault and the query's parameters. Reads no body."""
        services: Services = request.app.state.services
        limits: Limits = request.app.state.limits
        cookie = cookies.read(request)
        try:
            with services.sessionmaker.begin() as session:
                if cookie is not None and "authorization" not in request.headers:
                    cookies.refuse_cross_site(request)
                    caller = find_device_caller(
                        session, services.settings, cookie, active=cookies.is_active(request)
                    )
                else:
                    secret = bearer(request, basic_too=self.basic_too)
                    caller = find_caller(session, secret)
        except (TokenMissing, TokenUnknown, TokenExpired, TokenRevoked) as error:
            limits.bad_tokens.require(request.client.host if request.client else "")
            record_refusal(services, error)
            raise
        if caller.role not in self.roles:
            raise NotAllowed(f"The role {caller.role} does not allow this")
        if services.vault.sealed and not self.sealed_too:
            raise Sealed("The vault is sealed: run `fieldscribe unseal`")
        refuse_unknown_parameters(request)
        return caller


def record_refusal(services: Services, error: ServiceError) -> None:
    """Record that somebody tried to get in. Whoever sends no secret at all tries nothing.

    Call it after the limit of such attempts, which keeps them from filling the audit trail.
    """
    if not isinstance(error, TokenMissing):
        audit.record_now(services, None, "sign_in.refused", None, {}, detail={"code": error.code})


def allow(*roles: str, sealed_too: bool = False, basic_too: bool = False) -> Allowed:
    """
    Args:
        roles: besides the owner, who may use every route except the worker's. A listener may use
            all of a coder's.
        sealed_too: also while the vault is sealed.
        basic_too: the token may be the password of HTTP Basic, which `http://any:TOKEN@host` sends.
    """
    unknown = set(roles) - set(ROLES)
    if unknown:
        raise ValueError(f"no roles: {unknown}")
    owner = () if roles == (WORKER,) else (OWNER,)
    listener = (LISTENER,) if CODER in roles else ()
    return Allowed(frozenset([*roles, *owner, *listener]), sealed_too, basic_too)


def access_of(route: APIRoute) -> Allowed | None:
    """The roles that may use a route; None if it needs no token."""
    for dependency in route.dependant.dependencies:
        if isinstance(dependency.call, Allowed):
            return dependency.call
    return None


def refuse_unknown_parameters(request: Request) -> None:
    """Refuse unknown query parameters: a misspelt filter would return an unfiltered list.

    Raises:
        RequestValidationError
    """
    if not request.query_params:
        return
    unknown = set(request.query_params) - query_parameters(request.scope["route"].dependant)
    if unknown:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name)} for name in unknown]
        )


def query_parameters(dependant: Dependant) -> set[str]:
    own = {parameter.alias for parameter in dependant.query_params}
    return own.union(*map(query_parameters, dependant.dependencies))


def bearer(request: Request, *, basic_too: bool = False) -> str:
    """
    Raises:
        TokenMissing
    """
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if basic_too and scheme.lower() == "basic":
        with suppress(ValueError):
            scheme, secret = "bearer", base64.b64decode(secret).decode().partition(":")[2]
    if scheme.lower() != "bearer" or not secret:
        raise TokenMissing("Send a token: `Authorization: Bearer ...`")
    return secret
