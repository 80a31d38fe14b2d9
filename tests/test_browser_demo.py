"""A new user's first minutes, with the real service and the demo models: no command is typed."""

import re
import subprocess
import sys
import time

import pytest

from scripts.stand_in.installation import find_free_port
from service.settings import Settings
from tests.browser import Visitor, settle

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
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Try it with two demo recordings").click()
    page.get_by_role("link", name="Review and release: FG-1").wait_for(timeout=300_000)

    page.get_by_role("link", name="Review and release: FG-1").click()
    end = time.monotonic() + 120
    settle(page)
    while page.get_by_text("has not read this transcript yet").count() and time.monotonic() < end:
        visitor.expected.append("409")
        page.wait_for_timeout(2000)
        page.reload()
        settle(page)
    count = page.locator("#count")
    for _ in range(60):
        if count.inner_text().startswith("All"):
            break
        page.locator(".entities .tag.doubt").first.click()
        replace = page.get_by_role("button", name=re.compile("Replace .*ticked"))
        before = count.inner_text()
        keep = page.get_by_role("button", name="Keep")
        (replace if replace.is_enabled() else keep).click()
        count.filter(has_not_text=before).wait_for()
    page.get_by_role("link", name="5 Release").click()
    page.get_by_label("to confirm").fill("FG-1")
    page.get_by_role("button", name="Release", exact=True).click()
    page.get_by_role("link", name="Export it").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Table to import of FG-1").click()

    assert download.value.suggested_filename == "FG-1.release-1.nvivo.docx"
    visitor.close()
