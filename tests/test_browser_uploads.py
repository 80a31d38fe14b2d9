"""Uploads in Chromium: killed browsers and services, many files at once, and whole folders."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from scripts.stand_in.installation import find_free_port, wait_until
from service.services import open_services
from tests.api import Api, tone
from tests.browser import CHROMIUM, Visitor, check_page, settle, shoot

pytestmark = pytest.mark.browser

NAME = "Interview Quendolin Muster.wav"


class Service:
    """The API in a process of its own, which a test may kill."""

    def __init__(self, settings):
        self._settings = settings
        self._services = open_services(settings)
        url = f"http://127.0.0.1:{settings.port}"
        self._client = httpx2.Client(base_url=url, timeout=30)
        app = SimpleNamespace(state=SimpleNamespace(services=self._services))
        self.api = Api(app, self._client)  # type: ignore[arg-type]
        self.start()
        token = self.api.token("owner", all_studies=True)
        self.api.headers["Authorization"] = f"Bearer {token}"

    def start(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from service.commands.main import main; main()", "api"],
            env={"PATH": os.environ["PATH"], **self._settings.as_environment()},
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, 60, "the API to answer")

    def _answers(self):
        try:
            return self._client.get("/healthz").status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self):
        self._process.kill()
        self._process.wait()

    def close(self):
        self.kill()
        self._client.close()
        self._services.close()


@pytest.fixture(scope="module")
def service(module_settings):
    settings = module_settings.model_copy(
        update={"port": find_free_port(), "allow_weak_sandbox": True}
    )
    running = Service(settings)
    yield running
    running.close()


@pytest.fixture(scope="module")
def site(service):
    return service.api


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """24 MiB, which are two parts, and half a minute of sound, which is soon checked."""
    path = tmp_path_factory.mktemp("recordings") / NAME
    path.write_bytes(tone(33, rate=48_000, channels=8))
    assert 20e6 < path.stat().st_size < 30e6
    return path


def slow_down(page, bytes_per_second=6e6):
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1}
    session.send(
        "Network.emulateNetworkConditions", {**limits, "uploadThroughput": bytes_per_second}
    )


def note_offsets(page):
    """The offsets at which the page's requests send the rest of a recording."""
    offsets = []

    def note(request):
        if request.method == "PATCH":
            offsets.append(int(request.headers["upload-offset"]))

    page.on("request", note)
    return offsets


def recordings_of(site, study):
    return site.get(f"/v1/recordings?study={study['code']}").json()["items"]


def n_received(site, study):
    """Bytes of the study's only recording that have arrived."""
    found = recordings_of(site, study)
    return site.get(f"/v1/recordings/{found[0]['id']}").json().get("n_received") if found else 0


def begin(page, files, *, transcribe=False):
    page.locator("#files").set_input_files(files)
    button = page.get_by_role("button", name="Upload ")
    button.wait_for()
    if not transcribe:
        page.get_by_label("Transcribe each session").uncheck()
    button.click()


def check_arrived(site, study, path):
    (recording,) = recordings_of(site, study)
    assert site.checked(recording["id"])["state"] == "ready"
    assert site.get(f"/v1/recordings/{recording['id']}/audio").content == path.read_bytes()


@contextmanager
def open_profile(chromium, folder, url):
    """A browser that keeps its profile in a folder; yields a context and a way to kill it."""
    context = chromium.browser_type.launch_persistent_context(
        str(folder),
        executable_path=str(CHROMIUM),
        args=["--no-sandbox", "--disable-dev-shm-usage"],
        base_url=url,
    )
    context.set_default_timeout(20_000)

    def kill():
        mark = f"--user-data-dir={folder}".encode()
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if mark in command.read_bytes().split(b"\0"):
                    os.kill(int(command.parent.name), signal.SIGKILL)

    yield context, kill
    with suppress(Exception):  # it was killed
        context.close()


def check_nothing_is_stored(page):
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"
    assert page.evaluate("indexedDB.databases()") == []


def files_that_mention(folder, name):
    stem = name.rpartition(".")[0]
    marks = [stem.encode(), stem.encode("utf-16-le"), stem.replace(" ", "%20").encode()]
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file() and any(mark in path.read_bytes() for mark in marks):
                found.append(str(path.relative_to(folder)))
    return found


def test_an_upload_resumes_after_the_browser_was_killed(chromium, site, long_recording, tmp_path):
    """The laptop's battery ran out: the same profile finds the upload where it stopped."""
    study = site.study()
    visitor = Visitor(site, chromium)
    with open_profile(chromium, tmp_path / "profile", visitor.url) as (context, kill):
        page = context.new_page()
        visitor.sign_in(page)
        page.goto(f"/studies/{study['code']}")
        settle(page)
        slow_down(page)
        begin(page, [long_recording])
        wait_until(lambda: n_received(site, study) > 5e6, 60, "some of the recording")
        check_nothing_is_stored(page)
        kill()
    time.sleep(1)
    received = n_received(site, study)
    assert 5e6 < received < long_recording.stat().st_size
    assert files_that_mention(tmp_path / "profile", NAME) == []

    with open_profile(chromium, tmp_path / "profile", visitor.url) as (context, _):
        page = context.new_page()
        visitor.sign_in(page)
        page.goto(f"/studies/{study['code']}")
        settle(page)
        page.get_by_text("INT-01: upload not finished").wait_for()
        offsets = note_offsets(page)
        page.locator("#files").set_input_files([long_recording])
        page.get_by_text("Uploaded, but it cannot be transcribed yet").wait_for()  # no models here
        check_nothing_is_stored(page)

    assert offsets[0] == received
    check_arrived(site, study, long_recording)
    assert files_that_mention(tmp_path / "profile", NAME) == []


def test_an_upload_goes_on_by_itself_after_the_service_was_killed(
    visit, service, site, long_recording
):
    study = site.study()
    page = visit(f"/studies/{study['code']}")
    visit.expected += ["ERR_", "503", "Failed to load"]
    slow_down(page)
    offsets = note_offsets(page)
    begin(page, [long_recording])
    wait_until(lambda: n_received(site, study) > 5e6, 60, "some of the recording")

    service.kill()
    time.sleep(2)
    service.start()

    page.get_by_text("Ready to transcribe").wait_for(timeout=60_000)
    assert any(0 < offset < long_recording.stat().st_size for offset in offsets)
    check_arrived(site, study, long_recording)


def test_twenty_five_recordings_are_uploaded_at_once(visit, site, tmp_path):
    study = site.study()
    files = []
    for n in range(1, 26):
        path = tmp_path / f"{n:02}-recorder.wav"
        path.write_bytes(tone(1 + n / 25))
        files.append(path)
    page = visit(f"/studies/{study['code']}")
    page.locator("#files").set_input_files(files)
    page.get_by_text("25 files, about").wait_for()
    codes = page.locator("input.code")
    assert [codes.nth(n).input_value() for n in (0, 24)] == ["INT-01", "INT-25"]
    wait_until(lambda: page.get_by_text("about 0:0").count() == 25, 30, "25 lengths")
    shoot(page, "upload-25")
    check_page(page)
    page.get_by_label("Transcribe each session").uncheck()

    page.get_by_role("button", name="Upload 25 recordings").click()

    page.get_by_text("Ready to transcribe").nth(24).wait_for(timeout=120_000)
    assert page.get_by_role("heading", name="Uploads").count() == 0
    sessions = site.get(f"/v1/sessions?study={study['code']}&limit=50").json()["items"]
    assert len(sessions) == 25
    for session in sessions:
        (recording,) = session["recordings"]
        content = site.get(f"/v1/recordings/{recording}/audio").content
        assert content == files[int(session["code"][4:]) - 1].read_bytes()


def drop_on(page, paths):
    """Drop files and folders on the page, as a file manager does."""
    box = page.locator(".drop").bounding_box()
    at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **at})


def test_a_folder_is_dropped_with_all_that_is_in_it(visit, site, tmp_path):
    """More files than a browser lists at once, in folders of folders, and others among them."""
    study = site.study()
    inner = tmp_path / "study" / "wave 1" / "round 2"
    inner.mkdir(parents=True)
    for n in range(1, 111):
        (inner / f"part {n}.wav").write_bytes(tone(0.2))
    (tmp_path / "study" / "first.wav").write_bytes(tone(2))
    (tmp_path / "study" / "notes.docx").write_bytes(b"text")
    (tmp_path / "study" / ".DS_Store").write_bytes(b"hidden")
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone.mp3").write_bytes(b"ID3")
    page = visit(f"/studies/{study['code']}")

    drop_on(page, [tmp_path / "study", tmp_path / "empty", tmp_path / "alone.mp3"])

    page.get_by_text("112 files").wait_for()
    notice = page.locator(".notice", has_text="Left out").inner_text()
    assert "notes.docx" in notice and "DS_Store" not in notice
    names = page.get_by_role("rowheader").all_inner_texts()
    assert names[:4] == ["alone.mp3", "first.wav", "part 1.wav", "part 2.wav"]
    assert names[-1] == "part 110.wav"
    wait_until(lambda: page.get_by_text("about 0:0").count() == 111, 60, "111 lengths")
    assert "not known" in page.get_by_role("row", name="alone.mp3").inner_text()
