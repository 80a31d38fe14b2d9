"""A walk through every page in Firefox ESR; the other browser tests use Chromium."""

import re
import time
from uuid import UUID

import pytest

from service.database.tables import Recording
from service.domain.playback import make_copy
from service.web.pages import PAGES
from tests.api import tone
from tests.browser import SHOTS
from tests.deidentified import accept_all, open_case, suggest
from tests.editor_cases import DEMO, focus_group, make_transcript
from tests.firefox import FirefoxVisitor, open_firefox

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    with open_firefox(tmp_path_factory.mktemp("firefox")) as browser:
        yield browser


@pytest.fixture
def visitor(site, firefox):
    visitor = FirefoxVisitor(firefox, str(site.client.base_url).rstrip("/"))
    yield visitor
    visitor.close()


@pytest.fixture
def case(site):
    """A transcript whose names are suggested."""
    case = open_case(site.services)
    suggest(case)
    return case


def sign_in(site, page, role="owner", studies=()):
    """Open a link like the one that `fieldscribe serve` prints, and press its button."""
    body = {"role": role, "studies": list(studies), "display_name": "A. Researcher"}
    link = site.post("/v1/invitations", json=body).json()["link"]
    page.goto(link)
    page.wait_for_text("Welcome, A. Researcher")
    page.press("Enter")
    page.click("button", "I have saved it")
    page.wait_for("location.pathname === '/'")
    page.settle()


def has_id(part):
    return re.search("STUDY-|[0-9a-f]{8}-", part)


def has(page, path, *texts):
    page.goto(path)
    for text in texts:
        page.wait_for_text(text)
    name = "-".join(part for part in re.split("[/#]", path) if part and not has_id(part))
    page.shoot(SHOTS / f"firefox-{name or 'top'}.png")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{path} is {wide} px wider than the window"


def test_every_page_works(site, visitor, case, tmp_path):
    page = visitor.new_page()
    page.goto("/sign-in")
    page.wait_for_text("Your key")
    sign_in(site, page)
    study = site.get(f"/v1/studies/{case.study_id}").json()["code"]
    transcript = f"/transcripts/{case.transcript_id}"
    visited = {"/sign-in", "/join", *PAGES}
    walk = {
        "/": ("Studies", study),
        "/studies/{study}": ("Sessions", "Choose files"),
        "/studies/{study}/roster": ("P07", "Import a list"),
        "/studies/{study}/participants": ("No participants yet", "Import a list"),
        "/studies/{study}/exports": ("Files for NVivo", "Papers about the study"),
        "/studies/{study}/withdrawals": ("Withdraw a participant",),
        "/studies/{study}/audit": ("Who has read this?",),
        "/check": ("This link does not work", "Ask the person who sent it"),
        "/studies/{study}/settings": ("Spoken language", "One per line"),
        "/admin": ("Administration", "Invite somebody"),
        "/devices": ("Your devices", "Firefox"),
        "/transcripts/{transcript}": ("Coffs Harbour", "Checked: 0 %"),
        "/transcripts/{transcript}/review": ("1 Suggestions", "left to decide"),
    }
    assert visited == {"/sign-in", "/join", *walk}, "a new page: add it to the walk"
    for path, texts in walk.items():
        has(page, path.format(study=study, transcript=case.transcript_id), *texts)

    for step, text in (
        ("#read", "Next open"),
        ("#left", "Remaining words"),
        ("#second-reader", "Second reader"),
        ("#release", "Release"),
    ):
        has(page, f"{transcript}/review{step}", text)


def test_errors_of_a_page_are_noticed(site, visitor):
    """The other tests rest on it: Firefox reports less of its own accord than Chromium."""
    page = visitor.new_page()
    page.goto("/sign-in")
    page.evaluate("setTimeout(() => undefinedFunction())")
    page.evaluate("document.body.setAttribute('style', 'color: red')")
    page.evaluate("fetch('http://localhost:9/').catch(() => {})")
    page.wait_for("new Promise(done => setTimeout(done, 200, true))")
    complaints = " ".join(visitor.complaints())

    assert "undefinedFunction" in complaints and "policy: style-src" in complaints
    assert "connect-src" in complaints
    visitor.expected.append("")


def test_a_recording_is_uploaded(site, visitor, tmp_path):
    study = site.study()
    page = visitor.new_page()
    sign_in(site, page, "researcher", [study["code"]])
    page.goto(f"/studies/{study['code']}")
    page.wait_for_text("No sessions yet")
    (tmp_path / "interview.wav").write_bytes(tone(3))
    page.set_files("#files", tmp_path / "interview.wav")
    page.wait_for_text("about 0:03")
    page.click("label", "Transcribe each session")
    page.click("button", "Upload 1 recording")
    page.wait_for_text("Ready to transcribe")
    assert page.evaluate("JSON.stringify([localStorage, document.cookie])") == '[{},""]'


def test_a_transcript_is_reviewed_and_released(site, visitor, case):
    accept_all(case)
    page = visitor.new_page()
    sign_in(site, page)
    page.goto(f"/transcripts/{case.transcript_id}/review#release")
    page.click("input[type=text], input:not([type])")
    page.type(page.evaluate("document.querySelector('h2').innerText").removeprefix("Release "))
    page.click("button", "Release")
    page.wait_for_text("is released")
    page.click("a", "Export it")
    page.wait_for_text("1 session released")

    study = site.get(f"/v1/studies/{case.study_id}").json()["code"]
    visitor.expected.append("403")  # a request that the page begins before it is left
    coder = visitor.new_page()
    sign_in(site, coder, "coder", [study])
    has(coder, f"/studies/{study}/exports", "De-identified releases")
    assert "Siobhan" not in coder.evaluate("document.documentElement.outerHTML")


def test_a_transcript_is_corrected_with_its_sound(site, visitor):
    study = site.study()
    recording = site.upload(study["id"], (DEMO / "focus-group.flac").read_bytes())["id"]
    with site.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(recording))
    make_copy(site.services, row)
    transcript = make_transcript(site, study["id"], recording, focus_group())
    path = f"/v1/transcripts/{transcript}"
    page = visitor.new_page()
    sign_in(site, page, "researcher", [study["code"]])
    page.goto(f"/transcripts/{transcript}")
    page.wait_for("document.getElementById('whole').innerText.includes('1:04')")

    page.click(".segment[aria-label='SPEAKER_01, 4 s'] .said")
    page.press("End")
    page.type(" I think")
    page.wait_for("document.getElementById('saved').dataset.state === 'saved'")
    assert site.get(path).json()["segments"][2]["text"].endswith("in June. I think")
    page.press("Enter")
    page.press("Control+z")
    page.wait_for("!fieldscribe.transcript.segments[2].text.includes('I think')")
    assert page.evaluate("fieldscribe.transcript.segments[2].p.childNodes.length") == 1

    marks = set()
    page.evaluate("fieldscribe.player.setVolume(0)")  # otherwise it needs an audio device
    page.press("F4")
    page.wait_for("fieldscribe.player.time > 1", 5)
    for _ in range(10):
        mark = page.evaluate(
            "[...CSS.highlights.get('now')].map(({startOffset, startContainer}) => [startOffset,"
            " startContainer.parentElement.closest('.segment').getAttribute('aria-current')])"
        )
        marks |= {offset for offset, current in mark if current == "true"}
        time.sleep(0.2)
    page.press("F4")
    page.wait_for("!fieldscribe.player.playing")
    assert len(marks) >= 3
    page.shoot(SHOTS / "firefox-editor.png")
