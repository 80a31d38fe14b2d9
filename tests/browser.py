"""The service on a port, and Chromium to open its pages with: for tests marked `browser`.

    pytestmark = pytest.mark.browser

    def test_something(site, visit):
        page = visit("/", role="researcher", studies=[study["code"]])

`visit` signs a new browser in. At the end of the test it checks that no page broke the Content
Security Policy, wrote an error to the console, or asked another host for anything.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from service.api.app import create_app
from service.settings import Settings
from tests.api import Api

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SHOTS = Path("/tmp/fieldscribe-pages")
SIZES = {"wide": (1280, 900), "narrow": (400, 800)}


class Server:
    """Runs the API on a port of this machine, in a thread."""

    def __init__(self, app: Any) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(app, port=0, access_log=False, log_config=None, lifespan="on")
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)
        (self.port,) = [
            each.getsockname()[1] for one in self._server.servers for each in one.sockets
        ]

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()


@contextmanager
def serve_api(settings: Settings) -> Iterator[Api]:
    """The API on a port; its client sends the owner's token."""
    app = create_app(settings)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr("service.api.app.end_process", lambda: None)
        server = Server(app)
        stack.callback(server.stop)
        client = stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{server.port}"))
        api = Api(app, client)  # type: ignore[arg-type]
        api.headers["Authorization"] = f"Bearer {api.token('owner', all_studies=True)}"
        yield api


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Chromium of the distribution. Skips the test where it, or Playwright, is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("no chromium: scripts/setup --browser")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """Opens signed-in pages, and notes what they should not do."""

    def __init__(self, api: Api, browser: Any) -> None:
        self.api, self._browser = api, browser
        self.complaints: list[str] = []
        self.expected: list[str] = []  # parts of console errors that a test provokes
        self._contexts: list[Any] = []

    @property
    def url(self) -> str:
        return str(self.api.client.base_url).rstrip("/")

    def new_page(self, size: str = "wide", **options: Any) -> Any:
        """A page of a new browser that is not signed in."""
        width, height = SIZES[size]
        context = self._browser.new_context(
            base_url=self.url, viewport={"width": width, "height": height}, **options
        )
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("request", self._note_request)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', event => console.error("
            "'policy: ' + event.violatedDirective + ' ' + event.sourceFile + ':' "
            "+ event.lineNumber))"
        )
        return page

    def __call__(
        self,
        path: str,
        *,
        role: str = "owner",
        studies: tuple[str, ...] | list[str] = (),
        size: str = "wide",
        **options: Any,
    ) -> Any:
        """A page of a new browser that is signed in with a new account."""
        page = self.new_page(size, **options)
        self.sign_in(page, role, studies)
        page.goto(path)
        settle(page)
        return page

    def sign_in(self, page: Any, role: str = "owner", studies: Any = ()) -> None:
        body = {"role": role, "studies": list(studies), "display_name": "A. Researcher"}
        made = self.api.post("/v1/invitations", json=body)
        assert made.status_code == 201, made.text
        secret = made.json()["link"].partition("#")[2]
        headers = {"Sec-Fetch-Site": "same-origin"}
        answer = page.context.request.post("/v1/sign-in", data={"link": secret}, headers=headers)
        assert answer.status == 201, answer.text()

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.complaints.append(f"request to {request.url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        unexpected = [
            each for each in self.complaints if not any(part in each for part in self.expected)
        ]
        assert not unexpected, "\n".join(unexpected)


def settle(page: Any) -> None:
    """Wait until the page's modules have fetched what it shows."""
    page.wait_for_load_state("load")
    page.locator("html[data-ready=true]").wait_for(state="attached")


def axe_problems(page: Any, rules: list[str] | None = None) -> list[str]:
    """What axe finds on the page, one line for each element."""
    import axe_playwright_python

    source = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text("utf-8")
    page.evaluate(source)
    found = page.evaluate(
        "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']})", rules or RULES
    )
    return [
        f"{each['id']}: {node['html'][:160]} ({node.get('failureSummary', '')[:200]})"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def check_page(page: Any) -> None:
    """Check a page in both themes with axe, that nothing is cut off sideways, and its outline."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found = axe_problems(page)
        assert not found, "\n".join([theme, *found])
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0, f"{overflow} px wider than the window"


def tab_through(page: Any, most: int = 60) -> list[str]:
    """The names of what the Tab key reaches from the top, each with a visible outline."""
    names: list[str] = []
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
                const e = document.activeElement;
                if (!e || e === document.body) return null;
                const style = getComputedStyle(e);
                return [
                    (e.getAttribute('aria-label') || e.innerText || e.id || e.tagName).trim(),
                    style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
                ];
            }"""
        )
        if found is None:
            break
        name, outlined = found
        assert outlined, f"no outline: {name}"
        if name in names and names[0] == name:
            break
        names.append(name)
    return names


def shoot(page: Any, name: str, folder: Path | None = None) -> Path:
    """A screenshot of the whole page, to look at."""
    path = (folder or SHOTS) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=True)
    return path


Visit = Callable[..., Any]
