"""Signing in with a browser: invitations, one-time links, the list of one's devices."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from service.api import cookies
from service.api.access import LimitsDep, ServicesDep, allow, record_refusal
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.tokens import Role, TokenView
from service.api.routes.views import Strict, StudyName, UtcTime, check_text
from service.database.tables import Device, Token
from service.domain import sign_in, sign_on
from service.domain.callers import Caller, has_signed_out
from service.domain.sign_in import BROWSER_ROLES, Link, SignedIn
from service.errors import (
    CrossSiteRequest,
    DeviceNotFound,
    InsecureConnection,
    NotAllowed,
    SignInLinkUnusable,
    SignOnNotConfigured,
    SignOnTaken,
    StudyNotFound,
    TokenExpired,
    TokenRevoked,
    TokenUnknown,
    TooManyRequests,
)
from service.settings import Settings
from service.vault.errors import Erased

router = APIRouter(prefix="/v1", tags=["sign-in"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(allow("admin", sealed_too=True))]
Person = Annotated[Caller, Depends(allow(*(set(BROWSER_ROLES) - {"owner"}), sealed_too=True))]
BrowserRole = Literal["researcher", "coder", "listener", "custodian", "admin", "owner"]
REFUSALS = (
    SignInLinkUnusable,
    TokenUnknown,
    TokenRevoked,
    TokenExpired,
    NotAllowed,
    CrossSiteRequest,
    TooManyRequests,
)
Secret = Annotated[str, StringConstraints(min_length=1, max_length=200)]
DisplayName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=60, strip_whitespace=True),
    AfterValidator(check_text),
    Field(
        description="Of the person's account; never a participant's.", examples=["A. Researcher"]
    ),
]


class Credentials(Strict):
    """A one-time link's secret, or the secret of a token."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"link": "kq3..."}]})

    link: Secret | None = Field(default=None, description="What follows # in a sign-in link.")
    key: Secret | None = Field(default=None, description="The secret of a token.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.link is None) == (self.key is None):
            raise ValueError("either a link or a key is needed")
        return self


class LinkSecret(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"link": "kq3..."}]})

    link: Secret


class AccountView(BaseModel):
    """What a link or a signed-in browser gives access to."""

    role: Role
    display_name: str | None
    studies: list[str] = Field(description="Codes of the studies, unless it is all of them.")
    all_studies: bool

    @classmethod
    def fields_of(cls, token: Token, studies: list[str]) -> dict[str, object]:
        return {
            "role": token.role,
            "display_name": token.display_name,
            "studies": studies,
            "all_studies": token.all_studies,
        }


class LinkView(AccountView):
    gives_key: bool = Field(description="Whether it is an invitation, which comes with a key.")
    expires_at: datetime


class SignInView(AccountView):
    device_id: UUID | None = Field(description="null: the request came with a token, not a cookie.")
    idle_ends_at: datetime | None = Field(description="When it ends unless there is activity.")
    ends_at: datetime | None = Field(description="When it ends in any case.")
    key: str | None = Field(
        default=None,
        description="Only in the answer to an invitation: the key for signing in again. It is not "
        "shown a second time.",
    )

    @classmethod
    def of(
        cls,
        token: Token,
        studies: list[str],
        device: Device | None,
        settings: Settings,
        key: str | None = None,
    ) -> Self:
        return cls.model_validate(
            {
                **cls.fields_of(token, studies),
                "device_id": device and device.id,
                "idle_ends_at": device and idle_end(device, settings),
                "ends_at": device and device.ends_at,
                "key": key,
            }
        )


class SignOnPerson(Strict):
    """Whom the provider of single sign-on must confirm."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"email": "a.researcher@uni.example"}]}
    )

    email: (
        Annotated[str, StringConstraints(pattern=r"^[!-?A-~]+@[!-?A-~]+$", max_length=254)] | None
    ) = Field(default=None, description="The provider must have verified it.")
    subject: Annotated[str, StringConstraints(pattern=r"^[ -~]+$", max_length=255)] | None = Field(
        default=None, description="The provider's identifier of the person, `sub`."
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.email is None) == (self.subject is None):
            raise ValueError("either an e-mail address or a subject is needed")
        return self


class NewInvitation(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"role": "researcher", "studies": ["PEER"], "display_name": "A. Researcher"}
            ]
        }
    )

    role: BrowserRole
    display_name: DisplayName | None = None
    studies: list[StudyName] = Field(default=[], max_length=1000)
    all_studies: bool = False
    expires_at: UtcTime | None = Field(
        default=None, description="When the access ends; null: never."
    )
    days: float | None = Field(
        default=None,
        gt=0,
        le=14,
        description="Days that the link can be used, which works once; 1 by default. With "
        "`sign_on`: days until the first sign-in; 14 by default.",
    )
    sign_on: SignOnPerson | None = Field(
        default=None, description="Let the person in through single sign-on, without a link or key."
    )


class CreatedLink(BaseModel):
    link: str = Field(
        description="To open in a browser, once. With single sign-on: the sign-in page.",
        examples=["https://transcripts.example.org/join#…"],
    )
    expires_at: datetime


class Invitation(CreatedLink):
    token: TokenView


class DeviceView(BaseModel):
    id: UUID
    browser: str = Field(examples=["Firefox on Windows"])
    created_at: datetime
    last_seen_at: datetime = Field(description="To the minute.")
    ends_at: datetime
    signed_in: bool
    current: bool = Field(description="Whether this request came from it.")

    @classmethod
    def of(cls, device: Device, caller: Caller, settings: Settings) -> Self:
        return cls(
            id=device.id,
            browser=device.browser,
            created_at=device.created_at,
            last_seen_at=device.last_seen_at,
            ends_at=device.ends_at,
            signed_in=not has_signed_out(device, settings),
            current=device.id == caller.device_id,
        )


class Devices(BaseModel):
    items: list[DeviceView]


def idle_end(device: Device, settings: Settings) -> datetime:
    return min(
        device.last_seen_at + timedelta(minutes=settings.sign_in_idle_minutes), device.ends_at
    )


def link_to(request: Request, settings: Settings, secret: str) -> str:
    """The secret is in the fragment, which browsers do not send to servers or proxies."""
    return page_address(request, settings, f"/join#{secret}")


def page_address(request: Request, settings: Settings, path: str) -> str:
    """The address of a path of this service, for browsers."""
    base = settings.public_url or str(request.base_url)
    return base.rstrip("/") + path


@router.post(
    "/sign-in",
    status_code=201,
    responses=problems(*REFUSALS, InsecureConnection),
)
def sign_in_browser(
    wanted: Credentials,
    request: Request,
    response: Response,
    services: ServicesDep,
    limits: LimitsDep,
) -> SignInView:
    """Sign this browser in: the answer sets a cookie, which works like a token. No token needed."""
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        cookies.refuse_cross_site(request)
    cookies.is_secure(request)
    agent = request.headers.get("user-agent", "")
    try:
        with services.sessionmaker.begin() as session:
            use = sign_in.use_link if wanted.link is not None else sign_in.use_key
            made: SignedIn = use(session, services.settings, wanted.link or wanted.key or "", agent)
            studies = sign_in.study_codes(session, made.token)
    except (SignInLinkUnusable, TokenUnknown, TokenExpired, TokenRevoked) as error:
        limits.bad_tokens.require(request.client.host if request.client else "")
        record_refusal(services, error)
        raise
    cookies.write(request, response, made.cookie)
    return SignInView.of(made.token, studies, made.device, services.settings, made.key)


@router.post("/sign-in/check", responses=problems(*REFUSALS))
def check_sign_in_link(
    wanted: LinkSecret, request: Request, services: ServicesDep, limits: LimitsDep
) -> LinkView:
    """What a sign-in link gives access to. Does not use it. No token needed."""
    try:
        with services.sessionmaker() as session:
            link: Link = sign_in.check_link(session, wanted.link)
    except (SignInLinkUnusable, TokenExpired, TokenRevoked) as error:
        limits.bad_tokens.require(request.client.host if request.client else "")
        record_refusal(services, error)
        raise
    return LinkView.model_validate(
        {
            **AccountView.fields_of(link.token, link.studies),
            "gives_key": link.gives_key,
            "expires_at": link.expires_at,
        }
    )


@router.get("/sign-in")
def read_sign_in(caller: Person, services: ServicesDep) -> SignInView:
    """Who is signed in, and until when."""
    with services.sessionmaker() as session:
        token = session.get_one(Token, caller.token_id)
        device = session.get(Device, caller.device_id) if caller.device_id else None
        studies = sign_in.study_codes(session, token)
        return SignInView.of(token, studies, device, services.settings)


@router.post("/sign-out", status_code=204, response_class=Response)
def sign_out_browser(request: Request, caller: Person, services: ServicesDep) -> Response:
    """Sign this browser out. Its other tabs are signed out too."""
    if caller.device_id is not None:
        with services.sessionmaker.begin() as session:
            sign_in.sign_out(session, caller, caller.device_id)
    response = Response(status_code=204, headers={"Clear-Site-Data": '"cache", "storage"'})
    cookies.clear(request, response)
    return response


@router.post("/sign-in-links", status_code=201)
def create_sign_in_link(request: Request, caller: Person, services: ServicesDep) -> CreatedLink:
    """Create a link that signs another browser in with your own token: once, within 15 minutes."""
    with services.sessionmaker.begin() as session:
        link = sign_in.create_own_link(session, caller)
    return CreatedLink(
        link=link_to(request, services.settings, link.secret), expires_at=link.expires_at
    )


@router.post(
    "/invitations",
    status_code=201,
    responses=problems(StudyNotFound, Erased, SignOnNotConfigured, SignOnTaken),
)
def create_invitation(
    wanted: NewInvitation, request: Request, caller: Administrator, services: ServicesDep
) -> Invitation:
    """Create a token for a person, and a link with which the person signs in for the first time.

    Who may create which role is the same as for tokens. The person is given a key when the link is
    used; with `sign_on` there is no key, and the person signs in at the provider every time.
    `DELETE /v1/tokens/{id}` ends the access.
    """
    account: sign_in.Account = {
        "role": wanted.role,
        "display_name": wanted.display_name,
        "studies": wanted.studies,
        "all_studies": wanted.all_studies,
        "expires_at": wanted.expires_at,
    }
    lasts = timedelta(days=wanted.days) if wanted.days else None
    with services.sessionmaker.begin() as session:
        if wanted.sign_on is None:
            link, studies = sign_in.invite(session, caller, lasts=lasts, **account)
        else:
            link, studies = sign_on.invite(
                session,
                services.settings,
                caller,
                email=wanted.sign_on.email,
                subject=wanted.sign_on.subject,
                lasts=lasts,
                **account,
            )
        token = TokenView.of(link.token, studies)
    return Invitation(
        link=link_to(request, services.settings, link.secret)
        if link.secret
        else page_address(request, services.settings, "/sign-in"),
        expires_at=link.expires_at,
        token=token,
    )


@router.get("/devices")
def list_devices(caller: Person, services: ServicesDep) -> Devices:
    """The browsers that are or were signed in with your token, the last used first."""
    with services.sessionmaker() as session:
        found = sign_in.list_devices(session, caller)
        return Devices(items=[DeviceView.of(device, caller, services.settings) for device in found])


@router.delete("/devices/{device_id}", responses=problems(DeviceNotFound))
def sign_out_device(device_id: UUID, caller: Person, services: ServicesDep) -> DeviceView:
    """Sign one of your browsers out."""
    with services.sessionmaker.begin() as session:
        device = sign_in.sign_out(session, caller, device_id)
        return DeviceView.of(device, caller, services.settings)
