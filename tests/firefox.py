"""Firefox ESR of the distribution, driven through WebDriver BiDi: no driver has to be downloaded.

Playwright drives only its own build of Firefox, so the few commands that the tests need are here.
Specification: https://w3c.github.io/webdriver-bidi/
"""

import base64
import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser import SIZES

FIREFOX = Path("/usr/bin/firefox-esr")
START_SECONDS = 60.0
WAIT_SECONDS = 15.0
PREFERENCES = {  # of a new profile: nothing is asked, fetched or reported
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.download.folderList": 2,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "media.autoplay.default": 0,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.prefetch-next": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}
KEYS = {  # https://w3c.github.io/webdriver/#keyboard-actions
    "Backspace": "\ue003",
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Shift": "\ue008",
    "Control": "\ue009",
    "Escape": "\ue00c",
    "End": "\ue010",
    "Home": "\ue011",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
    **{f"F{n}": chr(0xE030 + n) for n in range(1, 13)},
}
REPORT_VIOLATIONS = """() => addEventListener('securitypolicyviolation', event =>
    console.error('policy: ' + event.violatedDirective + ' ' + event.sourceFile + ':'
        + event.lineNumber))"""


class Firefox:
    """A browser process and the connection to it."""

    def __init__(self, profile: Path) -> None:
        from websockets.sync.client import connect

        lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in PREFERENCES.items())
        (profile / "user.js").write_text("\n".join(lines))
        command = [str(FIREFOX), "--headless", "--no-remote", "--profile", str(profile)]
        self.process = subprocess.Popen(
            [*command, "--remote-debugging-port", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        try:
            url = self._read_url()
            self._socket = connect(f"{url}/session", max_size=None, proxy=None)
            self.send("session.new", capabilities={})
            self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
            self.send("script.addPreloadScript", functionDeclaration=REPORT_VIOLATIONS)
        except BaseException:
            self.process.kill()
            raise

    def _read_url(self) -> str:
        end = time.monotonic() + START_SECONDS
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                return found[1]
            assert time.monotonic() < end
        raise AssertionError("Firefox ended before it listened")

    def send(self, method: str, **params: Any) -> Any:
        """Send a command, and return its result; events that arrive meanwhile are kept."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_SECONDS))
            if message["type"] == "event":
                self.events.append(message)
            elif message["id"] == number:
                assert message["type"] == "success", f"{method}: {message}"
                return message["result"]

    def close(self) -> None:
        self._socket.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


class FirefoxPage:
    """A tab with cookies of its own."""

    def __init__(self, firefox: Firefox, url: str, size: str = "wide") -> None:
        self._firefox, self._url = firefox, url
        self._user = firefox.send("browser.createUserContext")["userContext"]
        made = firefox.send("browsingContext.create", type="tab", userContext=self._user)
        self._context = made["context"]
        width, height = SIZES[size]
        viewport = {"width": width, "height": height}
        firefox.send("browsingContext.setViewport", context=self._context, viewport=viewport)

    def goto(self, path: str) -> None:
        url = path if path.startswith("http") else self._url + path
        command = "browsingContext.navigate"
        self._firefox.send(command, context=self._context, url=url, wait="complete")
        self.settle()

    def settle(self) -> None:
        """Wait until the page's modules have fetched what it shows."""
        self.wait_for("document.documentElement.dataset.ready === 'true'")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression, awaited if it is a promise."""
        answer = self._firefox.send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", f"{expression}: {answer['exceptionDetails']['text']}"
        return json.loads(answer["result"]["value"])

    def wait_for(self, expression: str, seconds: float = WAIT_SECONDS) -> Any:
        """Wait until a JavaScript expression is true, and return it; pages may change meanwhile."""
        end = time.monotonic() + seconds
        while True:
            try:
                if value := self.evaluate(expression):
                    return value
            except AssertionError as error:  # the page is being left, or has no such element yet
                if time.monotonic() > end:
                    raise
                last: Any = error
            else:
                last = value
            shown = "document.body?.innerText.slice(0, 2000)"
            assert time.monotonic() < end, (expression, last, self.evaluate(shown))
            time.sleep(0.05)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})")

    def element(self, selector: str, text: str = "") -> str:
        """A JavaScript expression of the first visible element with this text in it."""
        return (
            f"[...document.querySelectorAll({json.dumps(selector)})].find(e => e.checkVisibility()"
            f" && (e.innerText + ' ' + (e.ariaLabel ?? '')).includes({json.dumps(text)}))"
        )

    def click(self, selector: str, text: str = "") -> None:
        """Click the middle of an element."""
        found = self.element(selector, text)
        self.wait_for(f"Boolean({found})")
        x, y = self.evaluate(
            f"(() => {{ const e = {found}; e.scrollIntoView({{block: 'center'}});"
            " const box = e.getBoundingClientRect();"
            " return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)]; })()"
        )
        move = {"type": "pointerMove", "x": x, "y": y}
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._perform({"type": "pointer", "id": "mouse", "actions": [move, *press]})

    def press(self, chord: str) -> None:
        """Press keys together: "Control+s"."""
        keys = [KEYS.get(key, key) for key in chord.split("+")]
        down = [{"type": "keyDown", "value": key} for key in keys]
        up = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self._perform({"type": "key", "id": "keyboard", "actions": down + up})

    def type(self, text: str) -> None:
        actions = [
            {"type": kind, "value": character}
            for character in text
            for kind in ("keyDown", "keyUp")
        ]
        self._perform({"type": "key", "id": "keyboard", "actions": actions})

    def _perform(self, source: dict[str, Any]) -> None:
        self._firefox.send("input.performActions", context=self._context, actions=[source])

    def set_files(self, selector: str, *files: Path) -> None:
        found = self._firefox.send(
            "browsingContext.locateNodes",
            context=self._context,
            locator={"type": "css", "value": selector},
        )
        element = {"sharedId": found["nodes"][0]["sharedId"]}
        command = "input.setFiles"
        paths = [str(file) for file in files]
        self._firefox.send(command, context=self._context, element=element, files=paths)

    def shoot(self, path: Path) -> None:
        command = "browsingContext.captureScreenshot"
        data = self._firefox.send(command, context=self._context, origin="document")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._firefox.send("browser.removeUserContext", userContext=self._user)


class FirefoxVisitor:
    """Opens pages, and collects what they should not do."""

    def __init__(self, firefox: Firefox, url: str) -> None:
        self._firefox, self._url = firefox, url
        self.expected: list[str] = []  # parts of console errors that a test provokes
        self._pages: list[FirefoxPage] = []
        firefox.events.clear()

    def new_page(self, size: str = "wide") -> FirefoxPage:
        page = FirefoxPage(self._firefox, self._url, size)
        self._pages.append(page)
        return page

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, broken policies, and requests to other hosts."""
        self._firefox.send("session.status")  # events until now arrive before the answer
        found = []
        for event in self._firefox.events:
            params = event["params"]
            if event["method"] == "log.entryAdded" and params["level"] in ("error", "warn"):
                found.append(f"{params['level']}: {params['text']}")
            if event["method"] == "network.beforeRequestSent":
                url = params["request"]["url"]
                if not url.startswith((self._url, "blob:", "data:", "about:")):
                    found.append(f"request to {url}")
        return [each for each in found if not any(part in each for part in self.expected)]

    def close(self) -> None:
        complaints = self.complaints()
        for page in self._pages:
            page.close()
        assert not complaints, "\n".join(complaints)


@contextmanager
def open_firefox(profile: Path) -> Iterator[Firefox]:
    """Skips the test where Firefox ESR, or the WebSocket library, is missing."""
    pytest.importorskip("websockets")
    if not FIREFOX.exists():
        pytest.skip("no firefox-esr: scripts/setup --browser")
    firefox = Firefox(profile)
    try:
        yield firefox
    finally:
        firefox.close()
