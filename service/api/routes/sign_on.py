"""Single sign-on: signing in at the provider of one's institution."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from service.api import cookies
from service.api.access import LimitsDep, ServicesDep, record_refusal
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.openid import LOCAL_PATH, START_AGAIN, Attempt, Provider
from service.api.routes.sign_in import page_address
from service.api.routes.views import Strict
from service.domain import sign_on
from service.domain.sign_in import SignedIn
from service.errors import (
    CrossSiteRequest,
    InsecureConnection,
    ServiceError,
    SignOnNotConfigured,
    SignOnNotInvited,
    SignOnRefused,
    SignOnUnavailable,
    TooManyRequests,
)
from service.settings import BadSettings
from service.web import pages

router = APIRouter(prefix="/v1/sign-on", tags=["sign-in"], route_class=GuardedRoute)
Parameter = Annotated[str | None, Query(max_length=4096)]
NEXT_BYTES = 500


class SignOnView(BaseModel):
    label: str | None = Field(
        description="Name of the provider for the button; null: there is no single sign-on."
    )


class NewSignOn(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"next": "/"}]})

    next: Annotated[str, StringConstraints(pattern=LOCAL_PATH, max_length=NEXT_BYTES)] = Field(
        default="/", description="Path of the page to open afterwards."
    )


class StartedSignOn(BaseModel):
    location: str = Field(description="The provider's address, for this browser to open next.")


@router.get("")
async def read_sign_on(services: ServicesDep) -> SignOnView:
    """Whether people can sign in through single sign-on. No token needed."""
    settings = services.settings
    return SignOnView(label=settings.sign_on_label if settings.sign_on_issuer else None)


@router.post(
    "",
    status_code=201,
    responses=problems(
        SignOnNotConfigured,
        SignOnUnavailable,
        CrossSiteRequest,
        InsecureConnection,
        TooManyRequests,
    ),
)
async def start_sign_on(
    wanted: NewSignOn,
    request: Request,
    response: Response,
    services: ServicesDep,
    limits: LimitsDep,
) -> StartedSignOn:
    """Start signing this browser in: the answer has an address at the provider. No token needed."""
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        cookies.refuse_cross_site(request)
    cookies.is_secure(request)
    provider = find_provider(request)
    limits.sign_ons.require(request.client.host if request.client else "")
    attempt = Attempt.start(sign_on.read_sign_on_key(services.settings), wanted.next)
    location = await provider.authorisation_url(attempt, redirect_uri(request))
    cookies.write_attempt(request, response, attempt.cookie)
    return StartedSignOn(location=location)


@router.get("/callback", include_in_schema=False)
async def finish_sign_on(
    request: Request,
    limits: LimitsDep,
    code: Parameter = None,
    state: Parameter = None,
    iss: Parameter = None,
    error: Parameter = None,
) -> Response:
    """Where the provider sends the browser: sign it in, or show a page that says why not."""
    try:
        limits.sign_ons.require(request.client.host if request.client else "")
        response = await sign_in(request, code, state, iss, error)
    except BadSettings:
        response = show_failure(SignOnUnavailable("The service's settings for it are wrong"))
    except ServiceError as failure:
        if isinstance(failure, SignOnNotInvited):  # the provider's own refusals do not come here
            await run_in_threadpool(record_refusal, request.app.state.services, failure)
        response = show_failure(failure)
    cookies.clear_attempt(request, response)
    return response


async def sign_in(
    request: Request, code: str | None, state: str | None, issuer: str | None, error: str | None
) -> Response:
    """
    Raises:
        SignOnNotConfigured, SignOnRefused, SignOnUnavailable, SignOnNotInvited
        InsecureConnection, NotAllowed
    """
    services = request.app.state.services
    provider = find_provider(request)
    cookies.is_secure(request)
    key = sign_on.read_sign_on_key(services.settings)
    attempt = Attempt.read(key, cookies.read_attempt(request), state or "")
    if error is not None or code is None:
        raise SignOnRefused(f"The provider did not sign you in: {START_AGAIN}")
    identity = await provider.identify(attempt, code, redirect_uri(request), issuer)
    agent = request.headers.get("user-agent", "")

    def link_and_sign_in() -> SignedIn:
        with services.sessionmaker.begin() as session:
            return sign_on.sign_in(session, services.settings, identity, agent)

    made = await run_in_threadpool(link_and_sign_in)
    response = RedirectResponse(attempt.next, status_code=303, headers=pages.HEADERS)
    cookies.write(request, response, made.cookie)
    return response


def find_provider(request: Request) -> Provider:
    """
    Raises:
        SignOnNotConfigured
    """
    state = request.app.state
    if state.provider is None:
        state.provider = Provider(state.services.settings)
    provider: Provider = state.provider
    return provider


def redirect_uri(request: Request) -> str:
    return page_address(request, request.app.state.services.settings, "/v1/sign-on/callback")


def show_failure(error: ServiceError) -> Response:
    subject = error.subject if isinstance(error, SignOnNotInvited) else None
    return pages.render(
        "sign_on_failed.html",
        error.status,
        detail=str(error),
        code=error.code,
        subject=subject,
    )
