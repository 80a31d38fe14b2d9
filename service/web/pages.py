"""The router of the pages and their static files.

Static files lie under a path with the digest of all of them, so that browsers may keep them for
ever and still get new ones after an update. The modules' relative imports stay under that path.
"""

import hashlib
import mimetypes
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.errors import NoSuchPath

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
FOR_EVER = "public, max-age=31536000, immutable"

# Path: template. Parts in braces are read by the page's module from its address.
PAGES = {
    "/": "studies.html",
    "/studies/{study}": "study.html",
    "/studies/{study}/roster": "roster.html",
    "/studies/{study}/participants": "participants.html",
    "/studies/{study}/exports": "exports.html",
    "/studies/{study}/withdrawals": "withdrawals.html",
    "/studies/{study}/settings": "settings.html",
    "/studies/{study}/audit": "audit.html",
    "/admin": "admin.html",
    "/join": "join.html",
    "/check": "check.html",
    "/sign-in": "sign_in.html",
    "/devices": "devices.html",
    "/transcripts/{transcript}": "editor.html",
    "/transcripts/{transcript}/review": "review.html",
}

router = APIRouter(include_in_schema=False)


@cache
def templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = static_url
    environment.globals["version"] = version("fieldscribe")
    return environment


@cache
def static_files() -> dict[str, Path]:
    """Every static file by its path below `static/`."""
    paths = (path for path in sorted(STATIC.rglob("*")) if path.is_file())
    return {path.relative_to(STATIC).as_posix(): path for path in paths}


@cache
def static_digest() -> str:
    digest = hashlib.sha256()
    for name, path in static_files().items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def static_url(name: str) -> str:
    if name not in static_files():
        raise FileNotFoundError(name)
    return f"/static/{static_digest()}/{name}"


def render(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    html = templates().get_template(template).render(**values)
    return HTMLResponse(html, status_code=status, headers=HEADERS)


def add_page(path: str, template: str) -> None:
    def show_page() -> HTMLResponse:
        return render(template)

    router.add_api_route(path, show_page, methods=["GET"], name=f"page {path}")


for _path, _template in PAGES.items():
    add_page(_path, _template)


@router.get("/static/{digest}/{name:path}")
def read_static(digest: str, name: str) -> Response:
    """A static file. Under the digest of an earlier version, the page must be loaded again."""
    path = static_files().get(name)
    if path is None or digest != static_digest():
        raise NoSuchPath("There is no such file: load the page again")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {**HEADERS, "Cache-Control": FOR_EVER}
    return Response(path.read_bytes(), media_type=kind, headers=headers)


@router.get("/favicon.ico")
def read_favicon() -> Response:
    return Response((STATIC / "favicon.svg").read_bytes(), media_type="image/svg+xml")


def wants_page(request: Request) -> bool:
    """Whether a person follows a link in a browser, so that an error should be a page."""
    return (
        request.method == "GET"
        and "text/html" in request.headers.get("accept", "")
        and not request.url.path.startswith(("/v1/", "/internal/", "/static/"))
    )


def not_found() -> HTMLResponse:
    return render("not_found.html", 404)
