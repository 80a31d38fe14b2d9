"""A new user's first minutes, with the real service and the demo models: no command is typed."""

import re
import subprocess
import sys
import zipfile

import pytest

from scripts.stand_in.installation import find_free_port
from service.settings import Settings
from tests.browser import Visitor, settle, shoot

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def printed_link(data_folder):
    """The link that `fieldscribe serve` prints."""
    settings = Settings(
        data=data_folder / "data",
        keys=data_folder / "keys",
        weights=data_folder / "weights",
        port=find_free_port(),
        allow_weak_sandbox=True,
    )
    with (data_folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from service.commands.main import main; main()", "serve"],
            env={"PATH": "/usr/bin:/bin", **settings.as_environment()},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    link = None
    for line in process.stdout:
        if link := re.search(r"http://\S+#\S+", line):
            break
    assert link is not None, (data_folder / "log").read_text()
    yield link[0]
    process.terminate()
    process.wait(60)
    process.stdout.close()


class Site:
    """What a `Visitor` needs to know of a service that runs elsewhere."""

    def __init__(self, url):
        self.client = type("Client", (), {"base_url": url})()


def test_from_the_printed_link_to_an_exported_release(chromium, printed_link):
    url = printed_link.partition("/join")[0]
    visitor = Visitor(Site(url), chromium)  # type: ignore[arg-type]
    page = visitor.new_page()
    page.set_default_timeout(30_000)
    page.goto(printed_link)
    shoot(page, "walk-01-link")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Try it with two demo recordings").wait_for()
    shoot(page, "walk-02-start")
    page.get_by_role("button", name="Try it with two demo recordings").click()
    page.get_by_role("progressbar").first.wait_for()
    shoot(page, "walk-03-progress")
    session = page.locator("tbody tr").filter(has_text="FG-1")
    session.get_by_text("left to decide").wait_for(timeout=120_000)
    shoot(page, "walk-04-done")

    page.get_by_role("link", name="Open the transcript: FG-1").click()
    settle(page)
    correct_and_name(page)

    page.get_by_role("link", name="Review", exact=True).click()
    settle(page)
    review(page)

    page.get_by_label("to confirm").fill("FG-1")
    shoot(page, "walk-12-release")
    page.get_by_role("button", name="Release", exact=True).click()
    page.get_by_role("heading", name="FG-1 is released").wait_for()
    shoot(page, "walk-13-released")
    with page.expect_download() as report:
        page.get_by_role("link", name="Report").click()
    assert report.value.path().stat().st_size > 1000
    page.get_by_role("link", name="Export it").click()
    settle(page)
    shoot(page, "walk-14-exports")
    with page.expect_download() as download:
        page.get_by_role("link", name="Table to import of FG-1").click()

    assert download.value.suggested_filename == "FG-1.release-1.nvivo.docx"
    with zipfile.ZipFile(download.value.path()) as file:
        text = file.read("word/document.xml").decode()
    assert "P07" in text
    assert "Corrected" in text
    assert "SPEAKER_" not in text
    page.get_by_role("link", name="Sessions").click()
    session.get_by_text("Released", exact=True).wait_for()
    assert "You" not in session.inner_text()
    shoot(page, "walk-15-end")
    visitor.close()


def correct_and_name(page):
    """Hear a segment, correct a word in it, and name the speakers by their voices."""
    first = page.locator(".segment").first
    first.wait_for()
    shoot(page, "walk-05-editor")
    page.get_by_role("button", name="Play", exact=True).click()
    page.locator(".segment.playing").wait_for()
    page.wait_for_function("document.getElementById('now').textContent !== '0:00'")
    shoot(page, "walk-06-playing")
    page.keyboard.press("F4")
    said = first.locator(".said")
    said.click()
    page.keyboard.press("Home")
    page.keyboard.press("Control+Shift+ArrowRight")
    page.keyboard.type("Corrected")
    page.get_by_text("Saved").first.wait_for()
    assert said.inner_text().startswith("Corrected ")

    page.get_by_role("button", name="Speakers").click()
    page.get_by_role("heading", name="Who is who?").wait_for()
    voices = page.locator(".voice")
    page.get_by_role("button", name=re.compile("^Hear ")).first.click()
    page.wait_for_function("document.getElementById('play-label').textContent === 'Pause'")
    shoot(page, "walk-07-speakers")
    for n, code in zip(
        range(voices.count()), ("I1", "P07", "P08", "P09", "P10", "P11"), strict=False
    ):
        voices.nth(n).get_by_label("Code").fill(code)
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    page.get_by_role("dialog").wait_for(state="detached")
    page.locator(".who:not(.speaker-7)").filter(has_text="P07").first.wait_for()
    shoot(page, "walk-08-named")


def review(page):
    """Decide on the suggestions, read the text, see what is left, draw a sample."""
    count = page.locator("#count")
    count.filter(has_text="decide").wait_for()
    shoot(page, "walk-09-review")
    for _ in range(60):
        if count.inner_text().startswith("All"):
            break
        page.locator(".entities .tag.doubt").first.click()
        replace = page.get_by_role("button", name=re.compile("Replace .*ticked"))
        before = count.inner_text()
        keep = page.get_by_role("button", name="Keep")
        (replace if replace.is_enabled() else keep).click()
        count.filter(has_not_text=before).wait_for()

    page.get_by_role("link", name="2 Read through").click()
    page.locator(".reading section").first.wait_for()
    shoot(page, "walk-10-reading")
    page.get_by_role("link", name="3 Remaining words").click()
    page.get_by_role("button", name=re.compile("[Cc]ontinue")).click()
    page.get_by_role("button", name="Start reading").click()
    page.get_by_role("heading", name=re.compile("^Read ")).wait_for()
    page.get_by_role("button", name="Finish").click()
    page.get_by_text(re.compile("The review had found|held nothing")).wait_for()
    shoot(page, "walk-11-second-reader")
    assert page.locator("#people").inner_text() == ""  # nobody else is at work
    page.get_by_role("link", name="5 Release").click()
