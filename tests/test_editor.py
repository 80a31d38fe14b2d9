"""The editor in a real browser: writing, sound, other people, interruptions, accessibility."""

import json
import re
import time
from dataclasses import replace
from uuid import UUID

import pytest

from service.database.tables import Recording
from service.domain.playback import make_copy
from tests.api import tone
from tests.browser import axe_problems, check_page, settle, shoot
from tests.editor_cases import CANARY, DEMO, DURATION, canary, focus_group, make_transcript
from tests.finished import finish_job

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def study(site):
    return site.study()


@pytest.fixture(scope="module")
def recording(site, study):
    """The demo focus group with its playback copy."""
    id = site.upload(study["id"], (DEMO / "focus-group.flac").read_bytes())["id"]
    with site.services.sessionmaker() as session:
        row = session.get_one(Recording, UUID(id))
    make_copy(site.services, row)
    return id


@pytest.fixture
def transcript(site, study, recording):
    return make_transcript(site, study["id"], recording, focus_group())


@pytest.fixture
def page(visit, study, transcript):
    return visit(f"/transcripts/{transcript}", role="researcher", studies=[study["code"]])


def texts(site, transcript):
    return [each["text"] for each in site.get(f"/v1/transcripts/{transcript}").json()["segments"]]


def said(page, number):
    return page.locator(".segment .said").nth(number)


def saved(page):
    page.wait_for_selector("#saved[data-state=saved]", state="attached")


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_typed_is_saved_and_other_words_keep_their_times(site, transcript, page):
    before = site.get(f"/v1/transcripts/{transcript}").json()["segments"][2]["words"]
    said(page, 2).click()
    page.keyboard.press("End")
    page.keyboard.type(" I think")
    saved(page)

    after = site.get(f"/v1/transcripts/{transcript}").json()["segments"][2]
    assert after["text"].endswith("in June. I think")
    assert after["words"][: len(before)] == before
    assert [word["placed"] for word in after["words"][len(before) :]] == [True, True]


def test_undo_and_redo_work_across_a_reload(site, transcript, page):
    first = texts(site, transcript)
    said(page, 2).click()
    page.keyboard.press("End")
    page.keyboard.type(" Twice")
    saved(page)
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    said(page, 2).click()
    page.keyboard.press("Control+z")
    until(lambda: texts(site, transcript) == first)
    until(lambda: said(page, 2).inner_text() == first[2])

    page.keyboard.press("Control+Shift+z")
    until(lambda: texts(site, transcript)[2].endswith("Twice"))
    page.keyboard.press("Control+z")
    until(lambda: texts(site, transcript) == first)
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    said(page, 2).click()
    page.keyboard.press("Control+Shift+z")
    until(lambda: texts(site, transcript)[2].endswith("Twice"))


def test_typing_goes_on_while_a_segment_is_split_and_joined(site, transcript, page):
    first = texts(site, transcript)
    said(page, 3).click()
    page.keyboard.press("Home")
    for _ in range(len("Before that, ")):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.type("Yes, ")
    until(lambda: texts(site, transcript)[3:5] == ["Before that,", "Yes, " + first[3][13:]])

    page.keyboard.press("Home")
    page.keyboard.press("Backspace")
    page.keyboard.type("oh. ")
    until(lambda: texts(site, transcript)[3] == "Before that, oh. Yes, " + first[3][13:])
    assert len(texts(site, transcript)) == len(first)
    saved(page)
    while texts(site, transcript) != first:  # every change, one by one
        page.keyboard.press("Control+z")
        page.wait_for_timeout(300)
    assert page.locator(".segment .said").all_inner_texts() == first


def test_the_text_of_a_segment_stays_one_text_node(site, transcript, page):
    """Browsers add elements where somebody presses Enter, pastes or empties the text."""
    said(page, 2).click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.type("a")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.setData('text/plain', ' b\\nc <b>d</b>');
            const paste = {inputType: 'insertFromPaste', dataTransfer: data, bubbles: true,
                           cancelable: true};
            document.activeElement.dispatchEvent(new InputEvent('beforeinput', paste));
        }"""
    )
    saved(page)

    nodes = "p => [p.childNodes.length, p.firstChild.nodeType, p.textContent]"
    assert said(page, 2).evaluate(nodes) == [1, 3, "a b c <b>d</b>"]
    assert texts(site, transcript)[2] == "a b c <b>d</b>"


def test_two_people_in_one_segment_lose_nothing(site, study, transcript, visit):
    role = {"role": "researcher", "studies": [study["code"]]}
    one = visit(f"/transcripts/{transcript}", **role)
    two = visit(f"/transcripts/{transcript}", **role)
    said(one, 3).click()
    said(two, 3).click()
    one.keyboard.press("End")
    two.keyboard.press("Home")
    one.keyboard.type(" Truly.")
    two.keyboard.type("Well, ")
    visit.expected.append("409")
    for page in (one, two):
        page.keyboard.press("Control+s")
    merged = "Well, Before that, I lived in London with the new worker. Truly."
    until(lambda: texts(site, transcript)[3] == merged)
    for page in (one, two):  # the other person's text comes when the caret leaves
        said(page, 6).click()
        until(lambda page=page: said(page, 3).inner_text() == merged)


def test_what_is_typed_stays_when_others_changes_arrive(site, transcript, page):
    """A list of changes once put back the saved text of a segment that was being typed in."""
    said(page, 2).click()
    page.keyboard.press("End")
    page.keyboard.type(" One")
    saved(page)
    version = page.evaluate(
        "fieldscribe.transcript.known = 1"
    )  # as if others had changed something
    page.keyboard.type(" two")
    page.evaluate("fieldscribe.transcript._sync()")
    assert version == 1 and said(page, 2).inner_text().endswith("One two")
    until(lambda: texts(site, transcript)[2].endswith("One two"))


def test_people_who_change_the_same_words_choose_and_the_history_has_both(
    site, study, transcript, visit
):
    role = {"role": "researcher", "studies": [study["code"]]}
    one = visit(f"/transcripts/{transcript}", **role)
    two = visit(f"/transcripts/{transcript}", **role)
    visit.expected.append("409")
    for page, text in ((one, "Kerry came by bus."), (two, "Terry came by train.")):
        said(page, 2).click()
        page.keyboard.press("Control+a")
        page.keyboard.type(text)
    one.keyboard.press("Control+s")
    until(lambda: texts(site, transcript)[2] == "Kerry came by bus.")
    two.keyboard.press("Control+s")
    box = two.locator(".notice.conflict")
    box.wait_for()
    assert "Kerry came by bus." in box.inner_text()
    assert said(two, 2).inner_text() == "Terry came by train."
    box.get_by_role("button", name="Use theirs").click()

    path = f"/v1/transcripts/{transcript}"

    def versions():
        newest = site.get(path).json()["version"]
        documents = [site.get(f"{path}?version={n}").json() for n in range(1, newest + 1)]
        return [document["segments"][2]["text"] for document in documents]

    until(lambda: versions()[-2:] == ["Terry came by train.", "Kerry came by bus."])
    saved(two)


def test_an_edit_survives_a_lost_connection(site, transcript, page, visit):
    visit.expected += ["Failed to load resource", "ERR_"]
    page.context.set_offline(True)
    said(page, 2).click()
    page.keyboard.press("End")
    page.keyboard.type(" offline")
    page.wait_for_selector("#saved[data-state=waiting]", state="attached")
    assert "no connection" in page.locator("#saved").inner_text()
    page.keyboard.type(" still")
    assert page.evaluate(
        "() => { const event = new Event('beforeunload', {cancelable: true});"
        " return !dispatchEvent(event); }"
    )

    page.context.set_offline(False)
    until(lambda: texts(site, transcript)[2].endswith("in June. offline still"))
    saved(page)


def test_a_change_whose_answer_is_lost_is_made_once(site, transcript, page, visit):
    visit.expected += ["Failed to load resource", "ERR_"]
    lost = []

    def lose(route):
        route.fetch()
        lost.append(route.request.url)
        route.abort()

    page.route("**/segments/s0003", lose, times=1)
    said(page, 2).click()
    page.keyboard.press("End")
    page.keyboard.type(" once")
    saved(page)

    assert lost and texts(site, transcript)[2].endswith("in June. once")
    kinds = [
        each["kind"] for each in site.get(f"/v1/transcripts/{transcript}/versions").json()["items"]
    ]
    assert kinds == ["models", "text"]


def test_nothing_that_was_said_runs_or_stays_in_the_browser(site, study, recording, visit):
    id = make_transcript(site, study["id"], recording, canary())
    page = visit(f"/transcripts/{id}", role="researcher", studies=[study["code"]])
    page.on("dialog", lambda dialog: visit.complaints.append("a dialog opened"))

    assert said(page, 0).evaluate("p => p.textContent") == CANARY
    page.keyboard.press("F2")
    page.locator("#open-history").click()
    page.locator(".history .diff p").first.wait_for()
    page.keyboard.press("Escape")
    page.locator("#open-speakers").click()
    page.locator("dialog blockquote").first.wait_for()
    page.keyboard.press("Escape")
    said(page, 0).click()
    page.keyboard.press("Control+h")
    page.locator("#find-text").fill("<script>")
    page.locator("#replace-text").fill("<img src=y onerror=alert(4)>")
    page.locator("#replace-all").click()
    page.get_by_role("button", name="Replace ticked").click()
    until(lambda: "onerror=alert(4)" in texts(site, id)[0])
    kept = page.evaluate(
        "() => JSON.stringify([{...localStorage}, {...sessionStorage}, location.href,"
        " history.state])"
    )
    assert page.evaluate("async () => (await indexedDB.databases()).length") == 0
    for word in ("evil", "bold", "Kerry", "London", "<script"):
        assert word not in kept


def test_sound_marks_the_word_that_is_heard(transcript, page):
    page.keyboard.press("F4")
    marked = []
    for _ in range(6):
        page.wait_for_timeout(350)
        found = page.evaluate(
            """() => {
                const {player, transcript} = fieldscribe;
                const [range] = [...CSS.highlights.get('now')];
                const time = player.time;
                if (!range) return null;
                const segment = transcript.of(range.startContainer);
                const word = segment.words.find((_, i) =>
                    segment.range(i).startOffset === range.startOffset);
                return [time, word.start, word.end, segment.element.getAttribute('aria-current')];
            }"""
        )
        marked += [found] if found else []
    page.keyboard.press("F4")

    assert len(marked) >= 3
    for now, start, _, current in marked:
        assert start <= now + 0.05 and current == "true"
    stopped = page.evaluate("fieldscribe.player.time")
    page.wait_for_timeout(300)
    assert page.evaluate("fieldscribe.player.time") == stopped


def test_the_player_goes_to_the_second_that_is_asked_for(page):
    page.locator("#whole", has_text="1:04").wait_for()
    page.evaluate("fieldscribe.player.seek(40)")
    page.wait_for_timeout(300)
    assert page.evaluate("fieldscribe.player.parts[0].audio.currentTime") == pytest.approx(40)
    page.keyboard.press("F8")
    assert page.evaluate("fieldscribe.player.time") == pytest.approx(37, abs=0.1)
    page.locator("#wave").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#wave").get_attribute("aria-valuetext").startswith("0:42, ")


def test_places_to_check_are_walked_through_and_checked(site, transcript, page):
    page.keyboard.press("F2")
    card = page.locator("#doubt-card")
    assert "Only 3 words were transcribed for 4.0 s of speech" in card.inner_text()
    card.get_by_role("button", name="It is correct").click()
    page.locator("#own-code").fill("r1")
    page.get_by_role("button", name="Use this code").click()
    until(lambda: "34 %" in card.inner_text())  # the next place
    page.locator("#doubt-count", has_text="1 to check").wait_for()

    path = f"/v1/transcripts/{transcript}"
    until(lambda: site.get(path).json()["segments"][4]["checked_by"] == "R1")
    page.locator("#checked-count", has_text=re.compile("[1-9]")).wait_for()


def test_everything_can_be_done_by_keys(site, transcript, page):
    page.locator("#find-bar").wait_for(state="hidden")
    page.evaluate("document.getElementById('main').focus()")
    names = []
    for _ in range(24):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.className || document.activeElement.id"))
    assert names.count("said") == 1  # one stop for the whole transcript
    page.locator(".said[tabindex='0']").focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type("So: ")
    page.keyboard.press("Control+Shift+Digit1")
    page.keyboard.press("Control+i")
    saved(page)

    def done():
        segment = site.get(f"/v1/transcripts/{transcript}").json()["segments"][2]
        return segment["text"].startswith("So: [inaudible]") and segment["speaker"] == "SPEAKER_00"

    until(done)
    page.keyboard.press("Tab")
    assert page.locator("[role=textbox]").count() == 0
    page.keyboard.press("Control+/")
    assert page.get_by_role("dialog").get_by_text("Play or pause").is_visible()


def test_a_word_is_replaced_everywhere_as_one_version(site, transcript, page):
    first = texts(site, transcript)
    n = sum(len(re.findall(r"\bthe\b", text, re.IGNORECASE)) for text in first)
    said(page, 0).click()
    page.keyboard.press("Control+h")
    page.locator("#find-text").fill("the")
    page.locator("#find-word").check()
    assert page.locator("#find-count").inner_text().endswith(f"of {n}")
    page.locator("#replace-text").fill("their")
    page.locator("#replace-all").click()
    page.get_by_role("button", name="Replace ticked").click()
    until(lambda: sum(text.lower().count("their ") for text in texts(site, transcript)) == n)
    assert site.get(f"/v1/transcripts/{transcript}").json()["version"] == 2

    page.locator("[data-action=undo]").click()
    until(lambda: texts(site, transcript) == first)


def test_speakers_are_named_with_their_voices(site, transcript, page):
    page.locator("#open-speakers").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Hear SPEAKER_01").first.click()
    until(lambda: page.evaluate("fieldscribe.player.playing"))
    dialog.locator("#speaker-SPEAKER_01-code").fill("P07")
    dialog.get_by_role("button", name="Save").click()
    page.locator(".who", has_text="P07").first.wait_for()

    assert not page.evaluate("fieldscribe.player.playing")
    assert "P07" in site.get(f"/v1/transcripts/{transcript}").json()["speakers"]


def test_the_history_compares_versions_and_goes_back(site, transcript, page):
    first = texts(site, transcript)
    said(page, 2).click()
    page.keyboard.press("Control+a")
    page.keyboard.type("Kerry left the hospital in June.")
    saved(page)
    page.locator("#open-history").click()
    pane = page.locator(".history .diff")
    pane.locator("ins").first.wait_for()
    assert pane.locator("del").all_inner_texts() == [" came from"]
    assert pane.locator("ins").all_inner_texts() == [" left"]
    page.locator(".versions button", has_text="The models").click()
    page.get_by_role("button", name="Go back to this version").click()
    until(lambda: texts(site, transcript) == first)
    until(lambda: said(page, 2).inner_text() == first[2])


@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_axe_finds_nothing(visit, study, transcript, size):
    page = visit(
        f"/transcripts/{transcript}", role="researcher", studies=[study["code"]], size=size
    )
    page.keyboard.press("F2")
    check_page(page)
    said(page, 2).click()
    page.keyboard.press("Control+h")
    assert axe_problems(page) == []
    page.locator("#find-close").click()
    said(page, 2).click()
    for opener in ("#open-speakers", "#open-history", "#open-settings", None):
        if opener is None:
            page.keyboard.press("Control+/")
        else:
            page.locator(opener).click()
        page.get_by_role("dialog").wait_for()
        page.wait_for_timeout(300)
        assert axe_problems(page) == [], opener
        page.keyboard.press("Escape")


def accessible(page):
    """The accessibility tree: (depth, role, name, states), without text and generic boxes."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    by_id = {each["nodeId"]: each for each in nodes}
    states = ("pressed", "checked", "expanded", "focused", "multiline", "hasPopup")
    found = []

    def visit(node, depth):
        role = node["role"]["value"]
        if not node["ignored"] and role not in ("generic", "none", "StaticText", "InlineTextBox"):
            values = {each["name"]: each["value"].get("value") for each in node["properties"]}
            if "value" in node:
                values["value"] = node["value"]["value"]
            kept = {key: values[key] for key in (*states, "value") if values.get(key)}
            found.append((depth, role, node.get("name", {}).get("value", ""), kept))
            depth += 1
        for child in node.get("childIds", ()):
            visit(by_id[child], depth)

    visit(nodes[0], 0)
    return found


def part(tree, role, name):
    """The part of the tree below a node, without depths."""
    start = next(i for i, each in enumerate(tree) if each[1:3] == (role, name))
    below = []
    for depth, *rest in tree[start + 1 :]:
        if depth <= tree[start][0]:
            break
        below.append(tuple(rest))
    return below


def test_the_accessibility_tree_has_what_a_screen_reader_needs(transcript, page, visit):
    tree = accessible(page)
    roles = [(role, name) for _, role, name, _ in tree]
    for landmark in (
        ("banner", ""),
        ("navigation", "Main"),
        ("main", ""),
        ("complementary", "Kind of data"),
        ("complementary", "Places to check"),
        ("region", "Player"),
        ("group", "Transcript"),
        ("status", ""),
        ("slider", "Position"),
        ("progressbar", "Checked: 0 %"),
    ):
        assert landmark in roles, landmark
    named = ("button", "slider", "heading", "link", "progressbar", "textbox", "searchbox")
    assert all(name for role, name in roles if role in named)
    headings = [name for role, name in roles if role == "heading"]
    assert headings[0] == "Transcript" and "From 0 s" in headings
    assert part(tree, "group", "SPEAKER_01, 4 s") == [
        ("button", "Play from 0:04", {}),
        ("button", "SPEAKER_01: change the speaker", {"hasPopup": "menu"}),
        ("paragraph", "", {}),
        ("button", "Checked", {"pressed": "false"}),
    ]
    assert page.locator("#wave").get_attribute("aria-valuetext").startswith("0:00")
    assert not [each for each in tree if each[1] == "textbox"]  # one stop to read, none to write

    said(page, 2).click()
    textbox = part(accessible(page), "group", "SPEAKER_01, 4 s")[2]
    assert textbox[:2] == ("textbox", "SPEAKER_01, 4 s")
    assert textbox[2]["focused"] and textbox[2]["multiline"]
    assert textbox[2]["value"] == "Kerry came from the hospital in June."

    page.keyboard.press("Control+m")
    menu = part(accessible(page), "menu", "Segment")
    radios = [(name, state["checked"]) for role, name, state in menu if "radio" in role]
    assert ("SPEAKER_01", "true") in radios and ("SPEAKER_02", "false") in radios
    assert [name for role, name, _ in menu if role == "menuitem"][-1] == "Delete this segment…"
    assert [name for _, name, state in menu if state.get("focused")] == ["SPEAKER_01"]
    page.keyboard.press("Escape")


def test_a_screen_reader_hears_what_happens(site, transcript, page, visit):
    """Messages come from one polite live region, and none of what is saved without trouble."""
    visit.expected += ["Failed to load resource", "ERR_"]
    status = page.locator("#status")
    assert status.get_attribute("aria-live") == "polite"
    page.evaluate(
        "() => { globalThis.heard = []; const status = document.getElementById('status');"
        " new MutationObserver(() => status.textContent && heard.push(status.textContent))"
        ".observe(status, {childList: true, characterData: true, subtree: true}); }"
    )

    def heard(start):
        until(lambda: any(each.startswith(start) for each in page.evaluate("heard")))

    said(page, 2).click()
    page.keyboard.type("Well, ")
    saved(page)
    assert page.evaluate("heard") == []
    page.context.set_offline(True)
    page.keyboard.type("yes. ")
    heard("Not saved: no connection.")
    page.context.set_offline(False)
    heard("Everything is saved again.")
    page.keyboard.press("Control+z")
    heard("Undone.")
    page.keyboard.press("F2")
    heard("1 of 2: Few words.")
    page.keyboard.press("Control+f")
    page.locator("#find-text").fill("London")
    page.keyboard.press("Enter")
    heard("2 of")


def test_a_coder_sees_no_transcript(visit, study, transcript):
    visit.expected.append("403")
    page = visit(f"/transcripts/{transcript}", role="coder", studies=[study["code"]])
    page.locator(".notice.error").wait_for()

    assert page.locator(".said").count() == 0
    assert "London" not in json.dumps(page.content())


def two_recordings(site, study, *, at_once=False):
    """A session of two recordings, in order or one of each speaker."""
    content = (DEMO / "focus-group.flac").read_bytes(), (DEMO / "interview.flac").read_bytes()
    ids = [site.upload(study["id"], each)["id"] for each in content]
    for id in ids:
        with site.services.sessionmaker() as session:
            row = session.get_one(Recording, UUID(id))
        make_copy(site.services, row)
    document = focus_group()
    second = 0.0 if at_once else DURATION
    sources = (document.sources[0], replace(document.sources[0], start=second, duration=60.0))
    duration = DURATION + (0.0 if at_once else 60.0)
    return make_transcript(
        site, study["id"], ids, replace(document, sources=sources, duration=duration)
    )


def test_recordings_of_a_session_are_one_timeline(site, study, visit):
    id = two_recordings(site, study)
    page = visit(f"/transcripts/{id}", role="researcher", studies=[study["code"]])
    page.locator("#whole", has_text="2:04").wait_for()
    page.evaluate("fieldscribe.player.seek(63)")
    page.evaluate("fieldscribe.player.play()")
    until(lambda: page.evaluate("fieldscribe.player.time") > 64.5)

    heard = page.evaluate(
        "fieldscribe.player.parts.map(({audio}) => [audio.paused, audio.currentTime])"
    )
    assert heard[0][0] and not heard[1][0]
    assert heard[1][1] < 5


def test_recordings_of_one_speaker_each_are_played_together(site, study, visit):
    id = two_recordings(site, study, at_once=True)
    page = visit(f"/transcripts/{id}", role="researcher", studies=[study["code"]])
    page.locator("#whole", has_text="1:04").wait_for()
    page.evaluate("fieldscribe.player.seek(20)")
    page.evaluate("fieldscribe.player.play()")
    until(lambda: page.evaluate("fieldscribe.player.time") > 21)

    first, second = page.evaluate("fieldscribe.player.parts.map(({audio}) => audio.currentTime)")
    assert first == pytest.approx(second, abs=0.15)


def test_an_edit_survives_the_end_of_the_sign_in(site, study, transcript, visit):
    visit.expected.append("401")
    page = visit(f"/transcripts/{transcript}", role="researcher", studies=[study["code"]])
    said(page, 2).click()
    cookies = page.context.cookies()
    page.context.clear_cookies()
    page.keyboard.press("End")
    page.keyboard.type(" kept")
    page.get_by_role("heading", name="You are signed out").wait_for()
    assert page.locator("dialog.cover").is_visible()
    page.context.add_cookies(cookies)
    page.get_by_role("button", name="I have signed in").click()
    until(lambda: texts(site, transcript)[2].endswith("in June. kept"))
    saved(page)


def test_people_see_where_the_others_are(study, transcript, visit):
    role = {"role": "researcher", "studies": [study["code"]]}
    one = visit(f"/transcripts/{transcript}", **role)
    two = visit(f"/transcripts/{transcript}", **role)
    said(two, 5).click()
    one.locator("#people", has_text="A. Researcher is at 0:13").wait_for(timeout=15_000)


def test_joining_a_segment_never_overwrites_what_another_person_wrote(
    site, transcript, page, visit
):
    """The join was once based on a version whose change of the first segment was not on the page:
    the next save put the other person's words out of the text."""
    visit.expected.append("409")
    path = f"/v1/transcripts/{transcript}"
    said(page, 2).click()
    page.keyboard.press("End")
    page.keyboard.type(" Mine.")
    saved(page)
    segment = site.get(path).json()["segments"][2]
    body = {"text": f"Theirs. {segment['text']}"}
    version = site.get(path).json()["version"]
    site.request("PATCH", f"{path}/segments/s0003", json=body, headers={"If-Match": f'"{version}"'})
    page.evaluate("fieldscribe.transcript.sync()")  # it waits, because the caret is in the segment
    page.locator(".notice.remote").wait_for()
    page.evaluate(
        "() => { const {transcript} = fieldscribe;"
        " transcript.merge(transcript.segments[3]); transcript.segments[2].text += ' More.';"
        " transcript.saver.touch(transcript.segments[2]); }"
    )
    saved(page)

    def words():
        return " ".join(texts(site, transcript))

    until(lambda: "Theirs." in words() and "Mine." in words() and "More." in words())
    assert words().count("with the new worker") == 1


def test_a_segment_that_another_person_removed_can_be_joined_without_an_error(
    site, transcript, page, visit
):
    """Taking the segment with the caret off the page ended its editing, which removed it twice."""
    visit.expected += ["409", "404"]
    path = f"/v1/transcripts/{transcript}"
    said(page, 3).click()
    site.request("DELETE", f"{path}/segments/s0004", headers={"If-Match": '"1"'})
    page.evaluate("fieldscribe.transcript.sync()")
    until(lambda: page.evaluate("fieldscribe.transcript.known") == 2)
    page.keyboard.press("Control+Home")
    page.keyboard.press("Backspace")
    page.keyboard.type("kept ")

    until(lambda: any("kept" in text for text in texts(site, transcript)))


def test_what_the_other_person_writes_during_the_choice_is_kept(site, transcript, page, visit):
    """Choosing a text once overwrote what the other had written after the question was asked."""
    visit.expected.append("409")
    path = f"/v1/transcripts/{transcript}"

    def theirs(text):
        version = site.get(path).json()["version"]
        headers = {"If-Match": f'"{version}"'}
        site.request("PATCH", f"{path}/segments/s0003", json={"text": text}, headers=headers)

    said(page, 2).click()
    page.keyboard.press("Control+a")
    page.keyboard.type("Terry")
    theirs("Mary came.")
    page.keyboard.press("Control+s")
    box = page.locator(".notice.conflict")
    box.wait_for()
    theirs("Mary came late.")
    page.evaluate("fieldscribe.transcript.sync()")
    until(lambda: page.evaluate("fieldscribe.transcript.known") >= 3)
    box.get_by_role("button", name="Use mine").click()
    until(lambda: "late" in box.inner_text())
    box.get_by_role("button", name="Use both").click()
    until(lambda: texts(site, transcript)[2] == "Mary came late. Terry")


def test_the_close_up_of_the_sound_is_clicked_and_dragged(page):
    page.locator("#whole", has_text="1:04").wait_for()
    page.evaluate("fieldscribe.player.seek(30)")
    box = page.locator("#zoom").bounding_box()
    second = box["width"] / 20
    middle, y = box["x"] + box["width"] / 2, box["y"] + 20

    page.mouse.click(middle + 4 * second, y)
    assert page.evaluate("fieldscribe.player.time") == pytest.approx(34, abs=0.1)
    page.mouse.move(middle, y)
    page.mouse.down()
    page.mouse.move(middle + 3 * second, y, steps=4)
    page.mouse.up()
    assert page.evaluate("fieldscribe.player.time") == pytest.approx(31, abs=0.1)
    drawn = """() => {
        const canvas = document.querySelector('#zoom canvas');
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return data.some((value, i) => i % 4 === 3 && value);
    }"""
    assert page.evaluate(drawn)
    shoot(page, "editor-close-up")

    page.get_by_role("button", name="Close-up of the sound").click()
    page.reload()
    settle(page)
    assert page.locator("#zoom").is_hidden()


def test_a_speaker_is_changed_from_here_on_as_one_version(site, transcript, page):
    path = f"/v1/transcripts/{transcript}"

    def speakers():
        return [each["speaker"] for each in site.get(path).json()["segments"]]

    first = speakers()
    page.locator(".segment .who").nth(2).click()
    page.get_by_role("menuitem", name="Change the speaker from here on").click()
    n = first[2:].count("SPEAKER_01")
    assert f"{n} segments of SPEAKER_01" in page.get_by_role("dialog").inner_text()
    page.get_by_role("dialog").get_by_role("button", name="SPEAKER_04").click()
    changed = first[:2] + [{"SPEAKER_01": "SPEAKER_04"}.get(each, each) for each in first[2:]]
    until(lambda: speakers() == changed)
    assert page.locator(".segment .who").all_inner_texts() == changed
    assert site.get(path).json()["version"] == 2
    assert first[1] == "SPEAKER_01" == changed[1]

    page.locator("[data-action=undo]").click()
    until(lambda: speakers() == first)
    until(lambda: page.locator(".segment .who").all_inner_texts() == first)


def test_a_speaker_from_here_on_leaves_what_another_person_has_changed(
    site, transcript, page, visit
):
    path = f"/v1/transcripts/{transcript}"
    headers = {"If-Match": '"1"'}
    body = {"speaker": "SPEAKER_05"}
    site.request("PATCH", f"{path}/segments/s0004", json=body, headers=headers)
    page.evaluate(
        "() => { const {transcript} = fieldscribe;"
        " transcript.setSpeakerFrom(transcript.segments[2], 'SPEAKER_02'); }"
    )
    until(lambda: site.get(path).json()["version"] == 3)

    after = [each["speaker"] for each in site.get(path).json()["segments"][1:5]]
    assert after == ["SPEAKER_01", "SPEAKER_02", "SPEAKER_05", "SPEAKER_02"]
    until(lambda: page.locator(".segment .who").all_inner_texts()[1:5] == after)


def test_the_export_link_leads_to_the_files_of_the_session(site, visit):
    study = site.study()
    for code in ("INT-01", "INT-02"):
        site.post("/v1/sessions", json={"study": study["code"], "code": code})
        site.upload(study["id"], tone(1), query={"session": code})
        body = {"study": study["code"], "session": code, "model": "demo"}
        job = site.post("/v1/jobs", json=body).json()
        finish_job(site.services, UUID(job["id"]), focus_group())
    transcript = site.get(f"/v1/jobs/{job['id']}").json()["transcript_id"]
    page = visit(f"/transcripts/{transcript}", role="researcher", studies=[study["code"]])
    said(page, 2).click()
    page.keyboard.type("Last words. ")
    page.get_by_role("link", name="Export").click()
    page.get_by_role("heading", name="Files for NVivo").wait_for()
    settle(page)

    assert page.get_by_role("radio", name="Identified transcripts").is_checked()
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Table to import of INT-02"
    assert "Last words." in texts(site, transcript)[2]


def test_the_first_help_is_shown_until_it_has_been_read(page):
    help = page.get_by_role("region", name="How to correct a transcript")
    assert "F4 plays and pauses" in help.inner_text()
    shoot(page, "editor-first-help")
    page.reload()
    settle(page)
    help.get_by_role("button", name="Got it").click()
    assert help.is_hidden()
    page.reload()
    settle(page)
    assert help.is_hidden()


def test_segments_are_added_and_deleted_by_keys_alone(site, transcript, page):
    first = texts(site, transcript)
    page.locator(".said[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Control+m")
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.innerText") == "Add a segment below"
    page.keyboard.press("Enter")
    until(lambda: page.evaluate("String(getSelection())") == "[inaudible]")
    page.keyboard.type("Mm.")
    saved(page)
    until(lambda: texts(site, transcript) == [*first[:2], "Mm.", *first[2:]])

    page.keyboard.press("Control+m")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.innerText") == "Delete it"
    page.keyboard.press("Enter")
    until(lambda: texts(site, transcript) == first)
    page.keyboard.press("Control+m")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "said"
