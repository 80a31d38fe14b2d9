"""The review of a transcript in Chromium: by keyboard, merging and splitting, the second reader."""

import re
import time
from uuid import UUID

import pytest

from scripts.stand_in.jobs import make_token
from service.domain.callers import Caller
from tests.api import tone
from tests.browser import check_page, settle, shoot
from tests.deidentified import FOUND, Case, accept_all, make_transcript, open_case, suggest
from tests.finished import finish_job

pytestmark = pytest.mark.browser


@pytest.fixture
def case(site):
    """A transcript with suggestions that wait for a decision."""
    made = open_case(site.services)
    suggest(made)
    return made


def open_review(visit, case, step="names", size="wide"):
    page = visit(f"/transcripts/{case.transcript_id}/review#{step}", size=size)
    page.locator("#passes [aria-current=step]").wait_for()
    return page


def focused(page):
    """The mention that has the focus: its text and state."""
    return page.evaluate(
        "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
    )


def states(site, case):
    mentions = site.get(f"/v1/transcripts/{case.transcript_id}/review").json()["mentions"]
    return {(each["segment"], each["text"]): each["state"] for each in mentions}


def wait_for_count(page, text):
    page.locator("#count").filter(has_text=text).wait_for()


def test_suggestions_are_decided_with_single_keys(visit, site, case):
    page = open_review(visit, case)

    page.keyboard.press("j")
    assert focused(page) == "Siobhan Gallagher, 0:05, open"
    page.keyboard.press("a")
    wait_for_count(page, "11 of 12")
    assert focused(page) == "Shiv, 0:10, open"
    page.get_by_role("status").filter(has_text="1 replaced. 11 left to decide").wait_for()
    page.keyboard.press("r")
    wait_for_count(page, "10 of 12")
    assert states(site, case)["s0002", "Siobhan Gallagher"] == "accepted"
    assert states(site, case)["s0003", "Shiv"] == "rejected"

    page.keyboard.press("u")
    wait_for_count(page, "11 of 12")
    assert states(site, case)["s0003", "Shiv"] == "suggested"
    assert focused(page) == "Shiv, 0:10, open"

    page.keyboard.press("j")
    page.keyboard.press("j")  # the next name
    assert focused(page) == "Tomasz, 0:15, open"
    assert page.get_by_role("heading", name="Tomasz").count() == 1
    page.keyboard.press("k")
    assert focused(page) == "Siobhan, 0:25, open"


def test_every_suggestion_is_decided_without_the_mouse(visit, site, case):
    page = open_review(visit, case)
    page.keyboard.press("j")
    for left in range(11, -1, -1):
        page.keyboard.press("r" if focused(page).startswith("hope") else "a")
        wait_for_count(page, f"{left} of 12" if left else "All 12 decided")
    assert {*states(site, case).values()} == {"accepted", "rejected"}


def test_letters_do_nothing_while_somebody_types_or_after_they_are_switched_off(visit, site, case):
    page = open_review(visit, case)
    page.keyboard.press("j")
    page.get_by_label("Who or what is it?").focus()
    page.keyboard.press("a")
    page.keyboard.press("r")
    assert "accepted" not in states(site, case).values()

    page.locator("#main").focus()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    for action in ("Go to the next open mention", "Replace the mention", "Keep it as it was said"):
        assert page.get_by_role("dialog").get_by_text(action).count() == 1
    shoot(page, "review-keys")
    check_page(page)
    page.get_by_label("Use single letters as keys").uncheck()
    page.get_by_role("button", name="Close").click()
    page.locator("#main").focus()
    page.keyboard.press("j")
    assert focused(page) != "Siobhan Gallagher, 0:05, open"
    page.keyboard.press("F2")
    assert focused(page) == "Siobhan Gallagher, 0:05, open"
    page.keyboard.press("a")
    page.wait_for_timeout(200)
    assert {*states(site, case).values()} == {"suggested"}


def select_name(page, name):
    page.locator(".entities button").filter(has_text=name).first.click()
    page.get_by_role("heading", name=name, exact=True).wait_for()


def test_two_entries_of_one_person_are_merged(visit, site, case):
    page = open_review(visit, case)
    select_name(page, "Tomasz")
    page.get_by_role("button", name="Replace 2 ticked").click()
    wait_for_count(page, "10 of 12")
    select_name(page, "Tomasz")
    page.get_by_role("button", name="Merge").click()
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    page.get_by_text("Choose the other entry.").wait_for()
    page.get_by_label("is the same as").select_option("Siobhan Gallagher (P07)")
    page.get_by_text("Both will be P07").wait_for()
    shoot(page, "review-merge")
    check_page(page)

    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    page.get_by_role("heading", name="Tomasz", exact=True).wait_for(state="detached")
    assert page.get_by_role("button", name="Merge").count() == 1
    assert "Tomasz" not in page.locator(".entities").inner_text()
    assert "becomes P07 · 5 mentions" in page.locator("section.panel").inner_text()


def test_two_people_taken_for_one_are_split_by_name_or_by_mention(visit, site, case):
    page = open_review(visit, case)
    select_name(page, "Siobhan Gallagher")
    page.get_by_role("button", name="Split").click()
    shoot(page, "review-split")
    check_page(page)
    page.get_by_role("dialog").get_by_role("button", name="Split").click()
    page.get_by_text("Tick what belongs to the new entry.").wait_for()
    page.get_by_label("Shiv", exact=True).check()
    page.get_by_role("dialog").get_by_role("button", name="Split").click()
    page.get_by_role("dialog").wait_for(state="detached")
    select_name(page, "Shiv")

    select_name(page, "Coffs Harbour")
    page.get_by_role("button", name="Split").click()
    page.get_by_role("checkbox", name=re.compile("So was Woolgoolga")).check()
    page.get_by_role("dialog").get_by_role("button", name="Split").click()
    page.get_by_role("dialog").wait_for(state="detached")

    def entities():
        named = site.get(f"/v1/transcripts/{case.transcript_id}/review").json()["mentions"]
        return {each["text"]: each["entity_id"] for each in named}

    end = time.monotonic() + 10
    while (found := entities())["Coffs"] == found["Coffs Harbour"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert found["Shiv"] != found["Siobhan Gallagher"]


def test_a_pseudonym_is_changed_in_the_review(visit, site, case):
    page = open_review(visit, case)
    select_name(page, "Siobhan Gallagher")
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Pseudonym").fill("siobhan")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    visit.expected.append("422")
    page.get_by_text("A pseudonym is a code such as P07").wait_for()
    shoot(page, "review-rename")
    check_page(page)
    page.get_by_label("Pseudonym").fill("P08")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    page.get_by_text("becomes P08").wait_for()


def test_words_that_harm_nobody_are_never_suggested_again(visit, site, case):
    page = open_review(visit, case)
    select_name(page, "hope")
    page.get_by_label("Never suggest the unticked words again").check()
    page.get_by_role("button", name="Keep 1 unticked").click()
    wait_for_count(page, "11 of 12")
    study = site.get(f"/v1/transcripts/{case.transcript_id}/playback").json()["study"]
    allowed = site.get(f"/v1/studies/{study}/entities?kind=allowed").json()["items"]
    assert len(allowed) == 1


def test_words_are_marked_by_keyboard_alone_while_reading(visit, site, case):
    accept_all(case)
    page = open_review(visit, case, "read")
    page.locator("section[data-segment=s0007] .said-text").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+Shift+ArrowLeft")
    check_page(page)
    page.keyboard.type("xyz")  # nothing can be written
    page.get_by_label("What the selected words are").select_option("PLACE")
    page.locator("section[data-segment=s0007] .said-text").focus()
    assert "Woolgoolga" in page.locator("section[data-segment=s0007]").inner_text()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+Shift+ArrowLeft")

    page.keyboard.press("n")

    wait_for_count(page, "All 13 decided")
    assert "Woolgoolga" not in page.locator("section[data-segment=s0007]").inner_text()
    assert states(site, case)["s0007", "Woolgoolga"] == "accepted"


def test_the_focus_moves_on_while_the_whole_text_is_read(visit, site, case):
    page = open_review(visit, case, "read")
    page.keyboard.press("j")
    assert focused(page) == "Siobhan Gallagher"
    page.keyboard.press("a")
    wait_for_count(page, "11 of 12")
    assert focused(page) == "Coffs Harbour"
    assert "P07" in page.locator("section[data-segment=s0002]").inner_text()
    page.get_by_role("button", name="Keep").click()
    wait_for_count(page, "10 of 12")
    assert "Shiv" in page.locator(".current").inner_text()
    shoot(page, "review-reading")
    check_page(page)


def test_a_second_reader_marks_what_the_review_missed(visit, site, case):
    page = open_review(visit, case, "second-reader")
    page.get_by_text("12 to go").wait_for()
    accept_all(case)
    page = open_review(visit, case, "second-reader", size="narrow")
    shoot(page, "second-reader-start")
    check_page(page)
    page.get_by_label("Number of passages").fill("50")
    page.get_by_role("button", name="Start reading").click()
    page.get_by_role("heading", name="Read 7 passages").wait_for()
    assert "P07" not in page.locator(".reading").inner_text()
    assert page.locator(".reading mark").count() == 0

    page.reload()  # as if the laptop had been closed
    page.get_by_role("button", name="Read it again").click()
    page.get_by_role("heading", name="Read 7 passages").wait_for()
    page.keyboard.press("n")
    page.get_by_text("Select some words in one passage first.").wait_for()
    passage = page.locator("section[data-segment=s0007] .said-text")
    passage.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Control+End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+Shift+ArrowLeft")
    page.keyboard.press("n")
    page.get_by_text("1 mark so far").wait_for()
    assert page.locator(".own-marks .tag").inner_text().startswith("Woolgoolga: person")
    shoot(page, "second-reader-reading")
    check_page(page)
    page.get_by_role("link", name="5 Release").click()
    page.get_by_role("link", name="4 Second reader").click()
    page.get_by_role("button", name="Finish").click()

    page.get_by_text("The review had found 11 of 12 identifiers: 92 %").wait_for()
    assert "(95 % interval: 65 % to 99 %)" in page.locator(".notice").inner_text()
    assert "1 missed mention has been added" in page.locator(".notice").inner_text()
    shoot(page, "second-reader-result")
    check_page(page)
    assert states(site, case)["s0007", "Woolgoolga"] == "accepted"


def test_a_colleague_signs_in_and_reads_without_seeing_the_review(visit, site, case):
    """The link leads past the suggestions, or the sample would not be blind."""
    accept_all(case)
    study = site.get(f"/v1/transcripts/{case.transcript_id}/playback").json()["study"]
    body = {"role": "researcher", "studies": [study]}
    key = site.post("/v1/tokens", json=body).json()["secret"]
    visit.expected.append("401")
    page = visit.new_page()
    page.goto(f"/transcripts/{case.transcript_id}/review#second-reader")
    page.wait_for_url("**/sign-in*")
    settle(page)
    page.get_by_label("Your key").fill(key)
    page.keyboard.press("Enter")

    page.get_by_role("heading", name="How much did the review miss?").wait_for()
    assert page.locator("mark, .entities").count() == 0
    page.get_by_role("button", name="Start reading").click()
    page.get_by_role("button", name="Finish").click()
    page.get_by_text("The review had found 11 of 11 identifiers: 100 %").wait_for()
    assert "had also worked on the review" not in page.locator("#review").inner_text()


def test_a_release_warns_of_speakers_without_a_code(visit, site, case):
    accept_all(case)
    page = open_review(visit, case, "release")
    page.get_by_text("SPEAKER_00, SPEAKER_01 have no code yet").wait_for()
    page.get_by_role("link", name="Name the speakers").click()
    page.get_by_role("heading", name="Who is who?").wait_for()
    for n, code in enumerate(("I1", "P07")):
        page.get_by_label("Code").nth(n).fill(code)
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    page.get_by_role("dialog").wait_for(state="detached")

    page = open_review(visit, case, "release")
    page.get_by_role("heading", name="Release").wait_for()
    assert page.locator(".notice").count() == 0


def test_the_review_fits_400_pixels_and_text_of_twice_the_size(visit, case):
    for step in ("names", "read", "left", "second-reader", "release"):
        page = open_review(visit, case, step, size="narrow")
        settle(page)
        shoot(page, f"review-{step}-narrow")
        check_page(page)
        page.set_viewport_size({"width": 640, "height": 450})
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.context.close()


def test_a_study_shows_who_works_on_a_session_and_what_it_waits_for(visit, site):
    study = site.study()
    site.post("/v1/sessions", json={"study": study["code"], "code": "INT-01"})
    site.upload(study["id"], tone(1, level=0.1), query={"session": "INT-01"})
    body = {"study": study["code"], "session": "INT-01", "model": "demo"}
    job = UUID(site.post("/v1/jobs", json=body).json()["id"])
    transcript = finish_job(site.services, job, make_transcript())
    caller = Caller(make_token(site.services), "owner", True, frozenset())
    case = Case(site.services, UUID(study["id"]), job, transcript, caller, {})
    page = visit(f"/studies/{study['code']}")
    row = page.locator("tbody tr")
    row.get_by_text("Not yet read by the de-identifier · Not corrected yet").wait_for()

    path = f"/v1/transcripts/{transcript}"
    edit = {"text": "Good morning."}
    site.request("PATCH", f"{path}/segments/s0001", json=edit, headers={"If-Match": '"1"'})
    suggest(case, [each for each in FOUND if each[-1] is None])
    reviewer = visit(f"/transcripts/{transcript}/review")
    reviewer.locator(".mentions").wait_for()
    page.reload()
    settle(page)
    row.get_by_text("3 of 3 suggestions left to decide").wait_for()
    row.get_by_text("A. Researcher is reviewing").wait_for()
    assert "Corrected" in row.inner_text()
    shoot(page, "study-at-work")
    studies = visit("/")
    listed = studies.get_by_role("listitem").filter(has_text=study["code"])
    listed.get_by_text("1 to review").first.wait_for()  # STUDY-1 is in STUDY-10 too
    check_page(page)

    editor = visit(f"/transcripts/{transcript}")
    editor.get_by_text("A. Researcher is reviewing it").wait_for()
    accept_all(case)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # looks again at once
    row.get_by_text("Ready to release").wait_for()
    row.get_by_text("A. Researcher is correcting").wait_for()
    new = {"kind": "place", "names": ["Woolgoolga"]}
    site.post(f"/v1/studies/{study['code']}/entities", json=new)
    page.reload()
    row.get_by_text("The text or the roster has changed since the review").wait_for()
    accept_all(case)
    released = site.post(f"{path}/releases", json={})
    assert released.status_code == 201, released.text
    page.reload()
    row.get_by_text("Released", exact=True).wait_for()
    row.get_by_text("Release 1").wait_for()
