"""A study's participants in Chromium: importing, consents, approvals, small cells, looking up,
member checking."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.browser import check_page, settle, shoot, tab_through
from tests.deidentified import INTERVIEW
from tests.test_member_packets import make, prepare, read, secret_of

pytestmark = pytest.mark.browser

CSV = (
    "code,name,contact,sessions,consent_version,consent_date,consent_scopes,role\n"
    "P07,Siobhan Gallagher,siobhan@example.org,INT-07,2.1,2031-01-07,all,nurse\n"
    "P08,Tomasz Nowak,,INT-07,2.1,2031-01-07,recording;transcription,carer\n"
)
NAMES = ("Siobhan", "Tomasz", "example.org", "nurse")


@pytest.fixture
def study(site):
    study = site.study()
    answer = site.request("PATCH", f"/v1/studies/{study['code']}", json={"attributes": ["role"]})
    assert answer.status_code == 200, answer.text
    made = site.post("/v1/sessions", json={"study": study["code"], "code": "INT-07"})
    assert made.status_code == 201, made.text
    return study


@pytest.fixture
def filled(site, study):
    path = f"/v1/studies/{study['code']}/participants/import"
    answer = site.post(path, json={"csv": CSV})
    assert answer.status_code == 200, answer.text
    return study


def participants(site, study):
    return site.get(f"/v1/studies/{study['code']}/participants").json()["items"]


def row(page, text):
    return page.locator("tbody tr").filter(has_text=text)


def dialog_button(page, name):
    return page.get_by_role("dialog").get_by_role("button", name=name, exact=True)


def test_a_list_is_imported_and_its_small_cells_are_named(visit, site, study):
    visit.expected.append("422")
    page = visit(f"/studies/{study['code']}/participants")
    page.get_by_text("consent is not checked").wait_for()
    shoot(page, "participants-empty")
    check_page(page)
    area = page.get_by_label("Or paste the list")
    area.fill("code,salary\nP07,1\n")
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_text("Column 2 of the list is unknown").wait_for()
    assert area.input_value() == "code,salary\nP07,1\n"
    area.fill(CSV)
    page.get_by_role("button", name="Import", exact=True).click()

    page.get_by_text("2 new, 0 changed, 0 unchanged, 2 new consents.").last.wait_for()
    page.get_by_text("1 person: role nurse").wait_for()
    assert row(page, "P07").get_by_text("INT-07").count() == 1
    assert row(page, "P08").get_by_text("recording, transcription").count() == 1
    shoot(page, "participants")
    check_page(page)
    listed = page.locator("tbody").first.inner_text()
    assert not any(name in listed for name in NAMES)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the list without names").click()
    saved = download.value.path().read_text()
    assert not any(name in saved for name in NAMES)
    again = site.post(f"/v1/studies/{study['code']}/participants/import", json={"csv": saved})
    assert again.json()["unchanged"] == 2, again.text


def test_a_participant_is_added_and_their_consent_recorded_by_keyboard(visit, site, study):
    page = visit(f"/studies/{study['code']}/participants")
    page.locator("#add").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Code", exact=True).focus()
    page.keyboard.type("P09")
    page.keyboard.press("Tab")
    page.keyboard.type("Zsofia Kovacs")
    check_page(page)
    dialog_button(page, "Add").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="P09").wait_for()
    page.get_by_text("None is recorded, so nothing").wait_for()
    page.get_by_role("button", name="Record a consent").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Version of the information sheet").fill("2.1")
    page.get_by_label("Recording needed to transcribe").focus()
    page.keyboard.press("Space")
    shoot(page, "participants-consent")
    check_page(page)
    dialog_button(page, "Record").focus()
    page.keyboard.press("Enter")
    page.get_by_text("information sheet 2.1: recording.").wait_for()
    shoot(page, "participant")
    check_page(page)
    (made,) = participants(site, study)
    assert made["consents"][0]["scopes"] == ["recording"]
    assert page.evaluate("document.activeElement.id") == "one-title"


def test_a_name_is_shown_for_a_reason_that_is_recorded(visit, site, filled):
    code = filled["code"]
    page = visit(f"/studies/{code}/participants#P07", role="custodian", studies=[code])
    assert "Siobhan" not in page.content()
    assert page.get_by_role("button", name="Record a consent").count() == 0
    page.get_by_role("button", name="Show name and contacts").click()
    page.get_by_label("Reason").select_option("member_checking")
    dialog_button(page, "Show").click()
    page.get_by_text("siobhan@example.org").wait_for()
    check_page(page)
    looked_up = site.get(f"/v1/studies/{code}/look-ups").json()["items"]
    assert [each["reason"] for each in looked_up] == ["member_checking"]


def test_a_researcher_cannot_show_names(visit, filled):
    code = filled["code"]
    page = visit(f"/studies/{code}/participants#P07", role="researcher", studies=[code])
    page.get_by_role("heading", name="P07").wait_for()
    assert page.get_by_role("button", name="Show name and contacts").count() == 0
    assert page.get_by_role("button", name="Rules").count() == 0
    assert page.get_by_role("button", name="Record a consent").count() == 1


def test_an_approval_that_has_run_out_is_said_until_another_is_recorded(visit, site, study):
    past = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    page = visit(f"/studies/{study['code']}/participants")

    def record(number, last):
        page.get_by_role("button", name="Record an approval").click()
        page.get_by_label("Committee").fill("Ethics Committee <b>")
        page.get_by_label("Reference").fill(number)
        page.get_by_label("First day").fill("2020-01-01")
        page.get_by_label("Last day").fill(last)
        check_page(page)
        dialog_button(page, "Record").click()
        row(page, number).wait_for()

    record("2031/1", past)
    page.get_by_text("No approval is valid today.").wait_for()
    check_page(page)
    before_upload = visit(f"/studies/{study['code']}")
    before_upload.get_by_text("No approval of this study is valid today, so uploads are").wait_for()
    before_upload.get_by_text("no participants, so consent is not checked").wait_for()
    check_page(before_upload)
    record("2031/2", "")
    page.get_by_text("No approval is valid today.").wait_for(state="detached")
    page.get_by_role("button", name="Remove 2031/1").click()
    dialog_button(page, "Remove").click()
    row(page, "2031/1").wait_for(state="detached")
    kept = site.get(f"/v1/studies/{study['code']}/approvals").json()["items"]
    assert [each["number"] for each in kept] == ["2031/2"]


def test_a_rule_is_turned_into_a_warning_that_the_page_says(visit, site, filled):
    page = visit(f"/studies/{filled['code']}/participants")
    page.get_by_role("button", name="Rules").click()
    page.get_by_label("Exporting identified text").check()
    check_page(page)
    dialog_button(page, "Save").click()
    page.get_by_text("only warn: exporting identified text").wait_for()
    changed = site.get(f"/v1/studies/{filled['code']}").json()
    assert changed["consent_warnings"] == ["export"]


def test_the_participants_fit_400_pixels_and_text_of_twice_the_size(visit, filled):
    page = visit(f"/studies/{filled['code']}/participants#P07", size="narrow")
    shoot(page, "participants-narrow")
    check_page(page)
    names = tab_through(page)
    assert "Open P07" in names and "Record a consent" in names
    page.set_viewport_size({"width": 640, "height": 450})
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def open_checked(visit, site, case):
    """The page of P07, and the words of the transcript's segments."""
    code = site.get(f"/v1/studies/{case.study_id}").json()["code"]
    clipboard = ["clipboard-read", "clipboard-write"]
    page = visit(f"/studies/{code}/participants#P07", permissions=clipboard)

    def said():
        document = site.get(f"/v1/transcripts/{case.transcript_id}").json()
        return {each["id"]: each["text"] for each in document["segments"]}

    return page, said


def test_a_participant_answers_behind_a_link_and_the_answer_is_decided_on(visit, site):
    case = prepare(site, "P07", reviewed=False)
    page, said = open_checked(visit, site, case)
    page.get_by_text("Nothing was sent yet.").wait_for()
    page.get_by_role("button", name="Make a link").click()
    page.get_by_label("Session", exact=True).select_option("INT-01")
    page.get_by_label("Text", exact=True).select_option("own_words")
    page.get_by_label("Days until").fill("99")
    dialog_button(page, "Make the link").click()
    page.get_by_text("a number of days from 1 to 90").wait_for()
    check_page(page)
    page.get_by_label("Days until").fill("7")
    dialog_button(page, "Make the link").click()
    page.get_by_role("heading", name="Send P07 this link").wait_for()
    check_page(page)
    dialog_button(page, "Copy the link").click()
    page.locator("#status", has_text="Copied").wait_for(state="attached")
    link = page.locator(".secret").inner_text()
    assert page.evaluate("navigator.clipboard.readText()") == link
    dialog_button(page, "Close").click()
    page.get_by_text("not opened").wait_for()
    assert link.partition("#")[2] not in page.content()

    reader = visit.new_page("narrow")
    reader.goto(link)
    settle(reader)
    assert reader.url.endswith("/check")
    check_page(reader)
    own = reader.get_by_label("You said")
    assert own.count() == 4
    own.nth(0).fill("<b>I live</b> elsewhere.")
    own.nth(1).fill("Nobody told me.")
    reader.get_by_label("Anything else").fill("Thank you.")
    reader.get_by_role("button", name="Send").click()
    reader.get_by_text("The researchers have your answer.").wait_for()
    check_page(reader)

    page.reload()
    settle(page)
    page.get_by_role("button", name="Read the answer about INT-01").click()
    page.get_by_text("Thank you.", exact=True).wait_for()
    shoot(page, "participant-answer")
    check_page(page)
    page.locator("[data-segment=s0002]").get_by_role("button", name="Accept").press("Enter")
    page.locator("[data-segment=s0002]").get_by_text("accepted").wait_for()
    page.locator("[data-segment=s0004]").get_by_role("button", name="Decline").press("Enter")
    page.locator("[data-segment=s0004]").get_by_text("declined").wait_for()
    assert said()["s0002"] == "<b>I live</b> elsewhere."
    assert said()["s0004"] == INTERVIEW[3][1]
    page.set_viewport_size({"width": 400, "height": 800})
    check_page(page)
    page.get_by_role("button", name="End the link to INT-01").click()
    dialog_button(page, "End the link").click()
    page.locator("[data-packet]").get_by_text("ended ").wait_for()
    assert read(site, link.partition("#")[2]).json()["code"] == "packet_unusable"


def test_a_change_of_a_text_with_codes_is_written_with_its_names(visit, site):
    case = prepare(site, "P07")
    secret = secret_of(make(site, case))
    body = {"link": secret, "changes": [{"segment": "s0002", "text": "I am P07, from elsewhere."}]}
    assert site.post("/v1/packet/answer", json=body).is_success
    page, said = open_checked(visit, site, case)
    page.get_by_role("button", name="Read the answer about INT-01").click()
    assert "Siobhan" not in page.content()
    page.get_by_role("button", name="Accept").click()
    area = page.get_by_label("New text of the segment")
    assert area.input_value() == INTERVIEW[1][1]
    dialog_button(page, "Accept").click()
    page.get_by_text("The text is unchanged").wait_for()
    check_page(page)
    area.fill("I am Siobhan Gallagher, from elsewhere.")
    dialog_button(page, "Accept").click()
    page.get_by_text("accepted", exact=True).wait_for()

    assert said()["s0002"] == "I am Siobhan Gallagher, from elsewhere."
