"""The pages in Chromium: what people do there, by mouse and by keyboard."""

import re
from uuid import UUID

import pytest

from tests.api import tone
from tests.browser import check_page, settle, shoot, tab_through
from tests.deidentified import accept_all, open_case, suggest
from tests.finished import fail_job, finish_job

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def study(site):
    """A study with a session in each state."""
    study = site.study()
    states = {}
    for n, state in enumerate(["empty", "ready", "queued", "failed", "done", "refused"], 1):
        code = f"INT-{n:02}"
        site.post("/v1/sessions", json={"study": study["code"], "code": code})
        states[state] = code
        if state == "empty":
            continue
        sound = tone(1, level=0.0 if state == "refused" else 0.1)
        site.upload(study["id"], sound, query={"session": code})
        if state in ("ready", "refused"):
            continue
        body = {"study": study["code"], "session": code, "model": "demo"}
        job = site.post("/v1/jobs", json=body)
        assert job.status_code == 202, job.text
        if state == "failed":
            fail_job(site.services, UUID(job.json()["id"]), "no_speech")
        if state == "done":
            finish_job(site.services, UUID(job.json()["id"]))
    return {**study, "states": states}


@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_every_page_is_accessible(visit, study, size):
    code = study["code"]
    paths = {
        "studies": "/",
        "study": f"/studies/{code}",
        "exports": f"/studies/{code}/exports",
        "audit": f"/studies/{code}/audit",
        "settings": f"/studies/{code}/settings",
        "devices": "/devices",
        "admin": "/admin",
    }
    for name, path in paths.items():
        page = visit(path, size=size)
        shoot(page, f"{name}-{size}")
        check_page(page)
        assert tab_through(page)
        assert page.locator(".notice.error").count() == 0
    page = visit.new_page(size)
    page.goto("/sign-in")
    settle(page)
    shoot(page, f"sign-in-{size}")
    check_page(page)


def test_a_printed_link_signs_in_with_one_button_and_gives_a_key(visit, site):
    made = site.post(
        "/v1/invitations",
        json={"role": "researcher", "studies": [site.study()["code"]], "display_name": "Ada"},
    ).json()
    page = visit.new_page()
    page.goto(made["link"])
    settle(page)
    assert "#" not in page.url
    shoot(page, "join")
    check_page(page)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Keep your key").wait_for()
    shoot(page, "join-key")
    check_page(page)
    key = page.get_by_label("Your key").input_value()
    page.get_by_role("button", name="I have saved it").click()
    page.get_by_role("heading", name="Studies").wait_for()
    settle(page)
    assert page.evaluate("Object.keys(localStorage)") == []

    other = visit.new_page()
    other.goto("/")
    other.get_by_label("Your key").fill(key)
    other.keyboard.press("Enter")
    other.get_by_role("heading", name="Studies").wait_for()

    visit.expected.append("401")
    used = visit.new_page()
    used.goto(made["link"])
    used.get_by_text("ask for a new one").wait_for()


def test_progress_reaches_an_open_page_and_is_announced(visit, site):
    study = site.study()
    site.post("/v1/sessions", json={"study": study["code"], "code": "INT-01"})
    site.upload(study["id"], tone(), query={"session": "INT-01"})
    page = visit(f"/studies/{study['code']}")
    page.get_by_role("button", name="Transcribe: INT-01").click()
    page.get_by_label("Spoken language").select_option("de")
    page.get_by_label("Number of people speaking").fill("2")
    page.get_by_label("Names and rare words").fill("Birkenau\nSeroquel")
    visit.expected.append("409")  # there are no models here but the demo's
    page.get_by_role("button", name="Transcribe", exact=True).click()
    page.get_by_role("heading", name="This did not work").wait_for()
    page.get_by_role("button", name="Close").click()

    body = {"study": study["code"], "session": "INT-01", "model": "demo"}
    job = site.post("/v1/jobs", json=body).json()
    page.get_by_text("In the queue").wait_for()
    finish_job(site.services, UUID(job["id"]))
    page.get_by_role("link", name="INT-01", exact=True).wait_for()
    assert page.locator("#status").inner_text() == "INT-01 is transcribed"


def test_recordings_are_listed_before_they_are_uploaded_and_nothing_is_left_behind(
    visit, site, tmp_path
):
    study = site.study()
    files = []
    for name, content in (
        ("Interview Maria Muster.wav", tone(3)),
        ("Dr Voss.wav", tone(2)),
        ("silent.wav", tone(1, level=0.0)),
        ("notes.docx", b"not a recording"),
    ):
        (tmp_path / name).write_bytes(content)
        files.append(tmp_path / name)
    page = visit(f"/studies/{study['code']}")

    page.locator("#files").set_input_files(files)

    page.get_by_text("about 0:03").wait_for()
    assert "notes.docx" in page.locator("#uploads .notice").inner_text()
    codes = page.locator("input.code")
    assert [codes.nth(n).input_value() for n in range(3)] == ["INT-01", "INT-02", "INT-03"]
    page.get_by_label("Kind of Dr Voss.wav").select_option("focus_group")
    assert [codes.nth(n).input_value() for n in range(3)] == ["INT-01", "FG-1", "INT-02"]
    shoot(page, "upload-list")
    check_page(page)
    assert site.get(f"/v1/recordings?study={study['code']}").json()["items"] == []
    page.get_by_label("Transcribe each session").uncheck()
    page.get_by_role("button", name="Upload 3 recordings").click()
    page.get_by_text("Ready to transcribe").nth(1).wait_for()
    page.get_by_text("The recording is silent").first.wait_for()
    shoot(page, "upload-done")
    check_page(page)
    rows = site.get(f"/v1/sessions?study={study['code']}").json()["items"]
    assert {row["code"]: row["kind"] for row in rows} == {
        "FG-1": "focus_group",
        "INT-01": "interview",
        "INT-02": "interview",
    }
    stored = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert stored == '[{},{},""]'
    assert page.evaluate("indexedDB.databases()") == []


def test_an_upload_that_was_cut_off_resumes_with_the_same_file(visit, site, tmp_path):
    """The laptop was closed in the middle: another browser resumes where the first stopped."""
    study = site.study()
    site.post("/v1/sessions", json={"study": study["code"], "code": "INT-01"})
    content = tone(20)
    (tmp_path / "long.wav").write_bytes(content)
    (tmp_path / "other.wav").write_bytes(content)  # as long, but another name
    headers = {
        "Upload-Length": str(len(content)),
        "Upload-Metadata": "filename bG9uZy53YXY=",
        "Tus-Resumable": "1.0.0",
        "Content-Type": "application/offset+octet-stream",
    }
    begun = site.post(
        f"/v1/uploads?study={study['code']}&session=INT-01",
        headers=headers,
        content=content[: len(content) // 2],
    )
    assert begun.status_code == 201
    page = visit(f"/studies/{study['code']}")
    page.get_by_text("INT-01: upload not finished").wait_for()
    shoot(page, "upload-unfinished")
    check_page(page)
    visit.expected.append("409")  # there are no models here but the demo's
    sent = []
    page.on("request", lambda request: sent.append(request) if request.method == "PATCH" else None)

    page.locator("#files").set_input_files([tmp_path / "other.wav"])
    page.get_by_role("button", name="Upload 1 recording").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#files").set_input_files([tmp_path / "long.wav"])

    page.get_by_text("INT-01: upload not finished").wait_for(state="detached")
    view = site.checked(begun.json()["id"])
    assert view["state"] == "ready"
    page.get_by_text("Uploaded, but it cannot be transcribed yet").wait_for()
    page.get_by_text("no speech models are installed").wait_for()
    page.get_by_role("button", name="Dismiss: INT-01").click()
    page.get_by_text("Ready to transcribe").wait_for()
    assert [request.headers["upload-offset"] for request in sent] == [str(len(content) // 2)]


def test_uploads_and_clicks_do_not_wait_for_slow_checks(visit, site, tmp_path, monkeypatch):
    """Each check was waited for on one of the six connections that a browser has to a service."""
    study = site.study()
    files = []
    for n in range(1, 11):
        files.append(tmp_path / f"{n:02}.wav")
        files[-1].write_bytes(tone(1 + n / 10))
    page = visit(f"/studies/{study['code']}")
    page.locator("#files").set_input_files(files)
    page.get_by_label("Transcribe each session").uncheck()
    with monkeypatch.context() as stopped:
        stopped.setattr(site.app.state.checker, "_slots", 0)
        page.get_by_role("button", name="Upload 10 recordings").click()

        page.get_by_text("Uploaded. Checking").nth(9).wait_for(timeout=8_000)

        assert page.evaluate("fetch('/v1/sign-in').then(answer => answer.status)") == 200
    page.get_by_text("Ready to transcribe").nth(9).wait_for(timeout=60_000)


HOSTILE = (
    "<img src=x onerror=alert(1)><script>document.title='ran'</script>"
    "{{7*7}} ${7*7} \u202etxet desrever\u202c \u2066iso\u2069 '\"></p><b>bold</b>"
)


def test_markup_scripts_and_reversed_text_stay_text_on_every_page(visit, site, tmp_path):
    """A canary in everything that a person can name: nothing of it runs or becomes markup."""
    study = site.study()
    site.post("/v1/sessions", json={"study": study["code"], "code": "INT-01"})
    body = {"role": "coder", "studies": [study["code"]], "display_name": HOSTILE[:60]}
    made = site.post("/v1/invitations", json=body)
    assert made.status_code == 201, made.text
    name = "<img src=x onerror=alert(1)>\u202e.wav"
    (tmp_path / name).write_bytes(tone(1))
    (tmp_path / "<b>bold<b>.txt").write_bytes(b"text")
    page = visit(f"/studies/{study['code']}")
    page.on("dialog", lambda dialog: visit.complaints.append(f"dialog: {dialog.message}"))
    page.locator("#files").set_input_files([tmp_path / name, tmp_path / "<b>bold<b>.txt"])
    page.get_by_text("about 0:01").wait_for()
    assert page.get_by_role("rowheader", name="<img src=x").inner_text() == name
    assert page.locator("main img, main b").count() == 0

    page.get_by_role("button", name="Cancel").click()
    page.goto("/admin")
    settle(page)
    assert page.get_by_text("<img src=x onerror=alert(1)>").count() >= 1
    assert page.locator("main img, main b, main script").count() == 0
    assert page.title() == "Administration · Fieldscribe"
    joined = visit.new_page()
    joined.goto(made.json()["link"])
    settle(joined)
    assert joined.locator("main img, main script").count() == 0
    assert "onerror" in joined.get_by_role("heading").inner_text()
    for path in ("/studies/%3Cscript%3Ealert(1)%3C", "/studies/%22%3E%3Cimg%20src=x/exports"):
        visit.expected += ["422", "404"]
        page.goto(path)
        settle(page)
        assert page.locator("main img, main script").count() == 0


def test_a_coder_sees_releases_and_nothing_identified(visit, site):
    case = open_case(site.services)
    suggest(case)
    accept_all(case)
    released = site.post(f"/v1/transcripts/{case.transcript_id}/releases", json={})
    assert released.status_code == 201, released.text
    code = released.json()["study"]
    page = visit("/", role="coder", studies=[code])
    page.get_by_role("link", name=code).click()
    page.get_by_role("heading", name="Files for NVivo").wait_for()
    settle(page)
    assert page.get_by_text("De-identified releases").count() == 1
    assert page.get_by_role("radio").count() == 0
    shoot(page, "coder")
    check_page(page)

    page.get_by_role("button", name="Coding line by line").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Spreadsheet of").click()
    text = download.value.path().read_text("utf-8")

    assert download.value.suggested_filename.endswith("release-1.lines.csv")
    assert "Siobhan" not in text
    visit.expected.append("403")  # a request that the page begins before it is left
    page.goto(f"/studies/{code}")
    page.wait_for_url("**/exports")
    settle(page)
    assert "Siobhan" not in page.content()


def test_an_identified_export_is_downloaded_for_the_program(visit, site, study):
    page = visit(f"/studies/{study['code']}/exports")
    page.get_by_role("heading", name="Files for NVivo").wait_for()
    page.get_by_role("button", name="MAXQDA").click()
    assert "Focus Group Transcripts" in page.locator("main").inner_text()
    page.get_by_label("Leave out hesitations").check()

    with page.expect_download() as download:
        page.get_by_role("link", name=f"Text of {study['states']['done']}").click()

    assert download.value.suggested_filename.endswith(".identified.maxqda.txt")


def test_a_paper_about_the_study_is_downloaded(visit, study):
    page = visit(f"/studies/{study['code']}/exports")
    page.get_by_role("heading", name="Papers about the study").wait_for()
    page.get_by_role("heading", name="Papers about the study").scroll_into_view_if_needed()
    shoot(page, "papers")
    check_page(page)

    with page.expect_download() as download:
        page.get_by_role("link", name="Ethics annex").click()

    assert download.value.suggested_filename == f"{study['code']}.ethics.docx"


def test_an_administrator_invites_somebody_who_can_then_sign_in(visit, site):
    study = site.study()
    page = visit("/admin")
    page.get_by_role("button", name="Invite somebody").click()
    page.get_by_label("Name").fill("Grace")
    page.get_by_role("button", name="Create the invitation").click()
    page.get_by_text("Choose at least one study").wait_for()
    page.get_by_label(study["code"], exact=True).check()
    shoot(page, "invite")
    check_page(page)
    page.get_by_role("button", name="Create the invitation").click()
    link = page.locator(".secret").inner_text()
    shoot(page, "invite-link")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("rowheader", name="Grace").wait_for()

    theirs = visit.new_page()
    theirs.goto(link)
    theirs.get_by_role("heading", name="Welcome, Grace").wait_for()
    theirs.get_by_role("button", name="Sign in").click()
    theirs.get_by_role("button", name="I have saved it").click()
    theirs.get_by_role("link", name=study["code"]).wait_for()

    page.get_by_role("button", name="Revoke Grace").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    page.get_by_role("rowheader", name="Grace").wait_for(state="detached")
    visit.expected.append("401")
    theirs.reload()
    theirs.wait_for_url("**/sign-in*")


def test_who_is_signed_out_signs_in_again_without_leaving_the_page(visit, site, tmp_path):
    study = site.study()
    key = site.post("/v1/tokens", json={"role": "researcher", "studies": [study["code"]]}).json()[
        "secret"
    ]
    page = visit.new_page()
    page.goto("/sign-in")
    page.get_by_label("Your key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("link", name=study["code"]).click()
    page.get_by_text("No sessions yet").wait_for()
    (tmp_path / "a.wav").write_bytes(tone(1))
    page.locator("#files").set_input_files([tmp_path / "a.wav"])
    page.get_by_label("Transcribe each session").uncheck()
    page.context.clear_cookies()
    visit.expected.append("401")

    page.get_by_role("button", name="Upload 1 recording").click()
    page.get_by_role("heading", name="You are signed out").wait_for()
    shoot(page, "signed-out")
    check_page(page)
    page.get_by_role("dialog").get_by_label("Your key").fill(key)
    page.get_by_role("dialog").get_by_role("button", name="Sign in", exact=True).click()

    page.get_by_role("dialog").wait_for(state="detached")
    page.get_by_role("button", name="Upload 1 recording").click()
    page.get_by_text("Ready to transcribe").wait_for()


def test_pages_fit_text_of_twice_the_size_and_no_motion(visit, study):
    page = visit(f"/studies/{study['code']}", size="wide")
    page.emulate_media(reduced_motion="reduce", forced_colors="active")
    page.set_viewport_size({"width": 640, "height": 450})  # 1280 at 200 %
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    page.set_viewport_size({"width": 320, "height": 640})
    page.evaluate("document.documentElement.style.fontSize = ''")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_transcript_is_reviewed_in_three_passes_and_released(visit, site):
    case = open_case(site.services)
    suggest(case)
    page = visit(f"/transcripts/{case.transcript_id}/review")
    page.get_by_text("left to decide").first.wait_for()
    shoot(page, "review-names")
    check_page(page)

    # Pass 1: every name; unsure mentions start unticked and are kept.
    for _ in range(30):
        if page.get_by_text("All 12 decided").count():
            break
        page.locator(".entities .tag.doubt").first.click()
        accept = page.get_by_role("button", name=re.compile("Replace .*ticked"))
        button = accept if accept.is_enabled() else page.get_by_role("button", name="Keep")
        before = page.locator("#count").inner_text()
        button.click()
        page.wait_for_timeout(50)
        page.locator("#count").filter(has_not_text=before).wait_for()
    assert page.locator(".entities .tag.doubt").count() == 0

    # Pass 2: mark what nothing has suggested.
    page.get_by_role("link", name="2 Read through").click()
    text = page.locator("section[data-segment=s0007] .said-text")
    assert "Siobhan" not in page.locator(".reading").inner_text()
    text.evaluate(
        """p => {
            const node = p.lastChild, at = node.data.indexOf('Woolgoolga');
            const range = document.createRange();
            range.setStart(node, at); range.setEnd(node, at + 10);
            getSelection().removeAllRanges(); getSelection().addRange(range);
        }"""
    )
    page.get_by_label("What the selected words are").select_option("PLACE")
    shoot(page, "review-read")
    check_page(page)
    page.get_by_role("button", name="Replace selection").click()
    page.get_by_text("All 13 decided").wait_for()
    assert "Woolgoolga" not in text.inner_text()

    # Pass 3, and the release.
    page.get_by_role("link", name="3 Remaining words").click()
    page.locator(".left-words, .empty").first.wait_for()
    shoot(page, "review-left")
    check_page(page)
    page.get_by_role("link", name="5 Release").click()
    shoot(page, "review-release")
    check_page(page)
    confirm = page.get_by_label("to confirm")
    confirm.fill("X")
    page.get_by_role("button", name="Release", exact=True).click()
    page.get_by_text("the code of this session").wait_for()
    title = page.get_by_role("heading", level=2).inner_text()
    confirm.fill(title.removeprefix("Release "))
    page.get_by_role("button", name="Release", exact=True).click()
    page.get_by_role("heading", name="is released").wait_for()
    page.get_by_role("link", name="Export it").click()
    page.get_by_text("1 session released").wait_for()


def test_a_study_keeps_its_language_and_words(visit, site):
    study = site.study()
    page = visit(f"/studies/{study['code']}/settings")
    page.get_by_label("Spoken language").select_option("de")
    page.get_by_role("button", name="Save").first.click()
    page.get_by_text("Saved.").wait_for()
    page.get_by_label("One per line").fill("Birkenau\n\n  Seroquel ")
    page.get_by_role("button", name="Save").nth(1).click()
    page.get_by_text("Saved.").nth(1).wait_for()

    assert site.get(f"/v1/studies/{study['code']}").json()["language"] == "de"
    words = site.get(f"/v1/studies/{study['code']}/vocabulary").json()["words"]
    assert words == ["Birkenau", "Seroquel"]
    page.reload()
    settle(page)
    assert page.get_by_label("One per line").input_value() == "Birkenau\nSeroquel"
