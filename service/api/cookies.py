"""The cookie of a signed-in browser, and the check that no other site's page sent a request.

Without TLS, which only the machine of the service may do, the cookie has another name: some
browsers refuse a `Secure` cookie there. The name has the port, because cookies do not.
"""

import re
from urllib.parse import urlsplit

from fastapi import Request, Response

from service.errors import CrossSiteRequest, InsecureConnection
from service.settings import LOOPBACK, Settings

SECURE_NAME = "__Host-fieldscribe"
ATTEMPT = "-sign-on"  # suffix of the cookie of a browser that is signing in at the provider
ATTEMPT_LASTS = 600  # s
SAFE = ("GET", "HEAD", "OPTIONS")
BACKGROUND = "fieldscribe-background"  # header of requests that no person caused


def read(request: Request) -> str | None:
    return request.cookies.get(SECURE_NAME) or request.cookies.get(_local_name(request))


def write(request: Request, response: Response, secret: str) -> None:
    """
    Raises:
        InsecureConnection
    """
    secure = is_secure(request)
    response.set_cookie(
        SECURE_NAME if secure else _local_name(request),
        secret,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def clear(request: Request, response: Response) -> None:
    for name, secure in ((SECURE_NAME, True), (_local_name(request), False)):
        if name in request.cookies:
            response.delete_cookie(name, secure=secure, httponly=True, samesite="strict")


def read_attempt(request: Request) -> str | None:
    names = (SECURE_NAME + ATTEMPT, _local_name(request) + ATTEMPT)
    return next((request.cookies[name] for name in names if name in request.cookies), None)


def write_attempt(request: Request, response: Response, value: str) -> None:
    """Lax, because the browser comes back from the provider's site.

    Raises:
        InsecureConnection
    """
    secure = is_secure(request)
    response.set_cookie(
        (SECURE_NAME if secure else _local_name(request)) + ATTEMPT,
        value,
        max_age=ATTEMPT_LASTS,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def clear_attempt(request: Request, response: Response) -> None:
    for name, secure in ((SECURE_NAME, True), (_local_name(request), False)):
        if name + ATTEMPT in request.cookies:
            response.delete_cookie(name + ATTEMPT, secure=secure, httponly=True, samesite="lax")


def is_secure(request: Request) -> bool:
    """Whether the browser's connection is encrypted; if not, it must come from this machine.

    Raises:
        InsecureConnection
    """
    settings: Settings = request.app.state.services.settings
    if request.url.scheme == "https" or (settings.public_url or "").startswith("https:"):
        return True
    here = request.client is not None and request.client.host in LOOPBACK
    if settings.behind_proxy or not here or host_name(request) not in LOOPBACK:
        raise InsecureConnection(
            "Sign in at an address that begins with https. Administrators: if there is a proxy, "
            "let it send X-Forwarded-Proto, or set FIELDSCRIBE_PUBLIC_URL"
        )
    return False


def refuse_cross_site(request: Request) -> None:
    """Refuse a request that the page of another site has sent.

    Browsers say where a request comes from in Sec-Fetch-Site, older ones in Origin.

    Raises:
        CrossSiteRequest
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        allowed = ("same-origin", "none") if request.method in SAFE else ("same-origin",)
        is_ours = site in allowed
    elif (origin := request.headers.get("origin")) is not None:
        is_ours = urlsplit(origin).netloc == request.headers.get("host")
    else:
        is_ours = request.method in SAFE
    if not is_ours:
        raise CrossSiteRequest("The request comes from a page of another site: open our page")


def is_active(request: Request) -> bool:
    """Whether a person caused the request; those that pages send in the background do not count."""
    return BACKGROUND not in request.headers


def host_name(request: Request) -> str:
    """The host that the request is for, without its port."""
    match = re.fullmatch(r"\[?([^\[\]]*?)\]?(:\d+)?", request.headers.get("host", ""))
    return match[1].lower() if match else ""


def _local_name(request: Request) -> str:
    port = re.search(r":(\d+)$", request.headers.get("host", ""))
    return f"fieldscribe-{port[1] if port else 80}"
