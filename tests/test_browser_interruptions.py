"""Two people who edit at random, lost connections, and a browser that ends in the middle of it.

Whatever happens, no word that a page called saved is lost, and both pages show what the service
has. tests/test_editor.py has the single cases, each with its story.
"""

import random
import re
import time
from collections import Counter
from uuid import UUID

import pytest

from service.database.tables import Recording
from service.domain.playback import make_copy
from tests.browser import CHROMIUM, CHROMIUM_ARGUMENTS, Visitor, settle
from tests.editor_cases import DEMO, focus_group, make_transcript

pytestmark = pytest.mark.browser

N_SEGMENTS = 6  # the first ones; the fewer, the more often two people meet
CLEAN = """() => {
    const {saver, transcript} = fieldscribe;
    return !saver.isPending && !transcript.segments.some(s => s.isDirty || s.conflict || s.busy);
}"""
CAN_SPLIT = """() => {
    const {anchorNode, anchorOffset} = getSelection();
    const [before, after] =
        [anchorNode.textContent.slice(0, anchorOffset), anchorNode.textContent.slice(anchorOffset)];
    return before.trim() && after.trim() && (/\\s$/.test(before) || /^\\s/.test(after));
}"""
CAN_JOIN = """i => {
    const {segments} = fieldscribe.transcript;
    return i > 0 && segments[i] && segments[i].speaker === segments[i - 1].speaker;
}"""
SAVE_SECONDS = 2.0  # saving.js: MOST


@pytest.fixture(scope="module")
def study(site):
    return site.study()


@pytest.fixture(scope="module")
def recording(site, study):
    id = site.upload(study["id"], (DEMO / "focus-group.flac").read_bytes())["id"]
    with site.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(id))
    make_copy(site.services, row)
    return id


@pytest.fixture
def transcript(site, study, recording):
    return make_transcript(site, study["id"], recording, focus_group())


class Person:
    """Types, splits and joins at random; each thing typed holds a word that is in no other."""

    def __init__(self, page, name, random):
        self.page, self.name, self.random = page, name, random
        self.words: list[str] = []

    def act(self):
        if self.answer_question():
            return
        page, choice = self.page, self.random.random()
        i = self.random.randrange(min(N_SEGMENTS, page.locator(".segment").count()))
        page.locator(".segment .said").nth(i).click()
        if choice < 0.6:
            page.keyboard.press(self.random.choice(["Home", "End", "Control+End"]))
            page.keyboard.type(f" {self.new_word()} ")
        elif choice < 0.75:
            page.keyboard.press("Control+Home")
            for _ in range(self.random.randrange(1, 5)):
                page.keyboard.press("Control+ArrowRight")
            if page.evaluate(CAN_SPLIT):
                page.keyboard.press("Enter")
                page.keyboard.type(f"{self.new_word()} ")
        elif choice < 0.9:
            if page.evaluate(CAN_JOIN, i):
                page.keyboard.press("Control+Home")
                page.keyboard.press("Backspace")
                page.keyboard.type(f"{self.new_word()} ")
        else:
            page.keyboard.press("Control+s")

    def new_word(self):
        self.words.append(f"{self.name}{len(self.words) + 1}x")
        return self.words[-1]

    def answer_question(self):
        for label in ("Use both", "Keep my text"):
            button = self.page.locator(".notice.conflict button", has_text=label)
            if button.count():
                button.first.click()
                return True
        return False


@pytest.mark.parametrize(
    ("seed", "n_actions", "is_cut_off"),
    [
        (1, 24, False),
        pytest.param(2, 150, True, marks=pytest.mark.slow),
        pytest.param(3, 150, False, marks=pytest.mark.slow),
    ],
)
def test_two_people_who_edit_at_random_lose_nothing(
    site, study, transcript, visit, seed, n_actions, is_cut_off
):
    visit.expected += ["409", "404", "Failed to load resource", "ERR_"]
    rng = random.Random(seed)
    role = {"role": "researcher", "studies": [study["code"]]}
    people = [
        Person(visit(f"/transcripts/{transcript}", **role), name, rng) for name in ("one", "two")
    ]
    back = {person: 0 for person in people}  # the action at which the connection comes back
    for n in range(n_actions):
        for person in people:
            if is_cut_off and n == back[person]:
                person.page.context.set_offline(False)
        person = rng.choice(people)
        person.act()
        if is_cut_off and rng.random() < 0.05:
            person.page.context.set_offline(True)
            back[person] = n + rng.randrange(2, 6)
        if rng.random() < 0.3:
            person.page.wait_for_timeout(rng.randrange(50, 900))

    end = time.monotonic() + 60
    for person in people:
        person.page.context.set_offline(False)
        person.page.locator("#main").evaluate("() => document.activeElement.blur()")
    while not all(person.page.evaluate(CLEAN) for person in people):
        assert time.monotonic() < end
        for person in people:
            person.answer_question()
        people[0].page.wait_for_timeout(200)
    stored = [each["text"] for each in site.get(f"/v1/transcripts/{transcript}").json()["segments"]]

    found = Counter(re.findall(r"\b(?:one|two)\d+x", " ".join(stored)))
    typed = [word for person in people for word in person.words]
    assert len(typed) >= n_actions // 3
    assert [word for word in typed if not found[word]] == []
    for person in people:
        person.page.evaluate("fieldscribe.transcript.sync()")
        shown = person.page.locator(".segment .said")
        while [" ".join(text.split()) for text in shown.all_inner_texts()] != stored:
            assert time.monotonic() < end
            person.page.wait_for_timeout(200)


def test_a_browser_that_is_killed_loses_two_seconds_of_typing_at_most(
    site, study, transcript, chromium
):
    """The laptop's battery is empty. Nothing that was said is kept in the browser, so what the
    service does not have is gone."""
    browser = chromium.browser_type.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGUMENTS)
    visitor = Visitor(site, browser)
    path = f"/transcripts/{transcript}"
    page = visitor(path, role="researcher", studies=[study["code"]])
    page.locator(".segment .said").nth(2).click()
    page.keyboard.press("End")
    typed: list[tuple[str, float]] = []
    while len(typed) < 2 or typed[-1][1] - typed[0][1] < 2 * SAVE_SECONDS + 1:  # without a pause
        word = f"word{len(typed)}x"
        page.keyboard.type(f" {word}", delay=20)
        typed.append((word, time.monotonic()))
    killed_at = time.monotonic()
    session = browser.new_browser_cdp_session()
    with pytest.raises(pytest.importorskip("playwright.sync_api").Error, match="closed"):
        session.send("Browser.crash")

    again = Visitor(site, chromium)
    page = again(path, role="researcher", studies=[study["code"]])
    text = page.locator(".segment .said").nth(2).inner_text()
    slack = 1.0  # of a busy machine, for the request
    due = [word for word, at in typed if at < killed_at - SAVE_SECONDS - slack]
    assert due and all(word in text for word in due)
    settle(page)
    again.close()


@pytest.mark.slow  # where all processors are busy, what was typed last is not always saved
def test_a_page_that_is_left_saves_what_was_just_typed(site, study, transcript, visit):
    page = visit(f"/transcripts/{transcript}", role="researcher", studies=[study["code"]])
    page.locator(".segment .said").nth(2).click()
    page.keyboard.press("End")
    page.keyboard.type(" last")
    page.goto("/devices")

    end = time.monotonic() + 10
    while "in June. last" not in str(site.get(f"/v1/transcripts/{transcript}").json()["segments"]):
        assert time.monotonic() < end
        time.sleep(0.1)
