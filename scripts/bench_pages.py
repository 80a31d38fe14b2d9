"""Measure the editor in Chromium with a focus group of two hours.

    scripts/setup --browser
    scripts/bench pages [--words 20000] [--throttle 4]

Starts `serve` in a temporary folder, and opens a transcript of random words with the sound of the
demo focus group. Milliseconds:

    first screen  from the answer with the transcript until its first screen is drawn
    editable      from that answer until every segment is drawn and can be edited
    key           of the main thread, for each key typed in the middle of the transcript
    save          from the request that saves a segment to its answer
    word          from the time at which a word begins to be heard until it is marked

Prints a table and writes the results as JSON. `--throttle` slows the browser's processor down, to
estimate an old laptop.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from models.transcript import Transcript
from models.transcript_json import to_json
from scripts.reports import read_cpu_name, write_report
from scripts.stand_in.installation import ROOT, Installation, wait_until
from scripts.stand_in.jobs import make_job, make_study, read_job
from scripts.synthetic_transcript import long_transcript
from service.database.tables import Recording, StoredTranscript
from service.domain import results
from service.domain.jobs import job_recordings
from service.domain.playback import make_copy
from service.domain.recordings import identified, sound_artefact
from service.services import Services, open_services

CHROMIUM = "/usr/bin/chromium"
SOUND = ROOT / "demo/focus-group.flac"
WATCH_WORDS = """() => {
    const {player, transcript} = fieldscribe, now = CSS.highlights.get('now');
    const add = now.add.bind(now);
    globalThis.delays = [];
    now.add = (range) => {
        const segment = transcript.of(range.startContainer);
        const word = segment.words.find((_, i) =>
            segment.range(i).startOffset === range.startOffset);
        delays.push(1000 * (player.time - word.start));
        return add(range);
    };
}"""
MARKS = """() => Object.fromEntries(
    performance.getEntriesByType('mark').map((mark) => [mark.name, mark.startTime]))"""
SIZES = """() => performance.getEntriesByType('resource')
    .filter(({name}) => /[.](js|css)$/.test(name))
    .reduce((sum, {decodedBodySize}) => sum + decodedBodySize, 0)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--throttle", type=float, default=1.0)
    parser.add_argument("--json", type=Path, default=Path("build/bench/pages.json"))


def run(options: argparse.Namespace) -> None:
    machine = f"{read_cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before"
    with tempfile.TemporaryDirectory(prefix="fieldscribe-bench-") as folder:
        Path(folder).chmod(0o711)
        site = Installation(Path(folder), None)
        try:
            site.start_serve()
            wait_until(site.is_ready, 60, "the service to answer")
            site.services = open_services(site.settings)
            transcript = make_transcript(site, long_transcript(n_words=options.words))
            with open_browser(site, options.throttle) as page:
                measured = measure(page, f"/transcripts/{transcript}", options.loads)
        finally:
            site.cut_power()
            with suppress(AttributeError):
                site.services.close()
    measured = {"machine": machine, "words": options.words, "throttle": options.throttle} | measured
    write_report(options.json, measured)
    print(format_table(measured))


def make_transcript(site: Installation, document: Transcript) -> UUID:
    """A transcript in the service, with the sound of the demo focus group."""
    services: Services = site.services
    study = make_study(services)
    job_id = make_job(services, study)
    site.wait_for(job_id, "succeeded", 60)
    content = to_json(document).encode()
    artefact = results.write(services, study, job_id, "transcript", content)
    with services.sessionmaker.begin() as session:
        row = session.query(StoredTranscript).filter_by(job_id=job_id).one()
        row.artefact_id = artefact
        (recording_id,) = job_recordings(session, job_id)
    put_sound(services, recording_id)
    return read_job(services, job_id).transcript_id or job_id


def put_sound(services: Services, recording_id: UUID) -> None:
    with services.sessionmaker() as session:
        recording = session.get_one(Recording, recording_id)
    store, keyring = identified(services)
    key = keyring.data_key(recording.study_id, recording.id)
    with store.write(sound_artefact(recording), key) as file:
        file.write(SOUND.read_bytes())
    make_copy(services, recording)


@contextmanager
def open_browser(site: Installation, throttle: float) -> Iterator[Any]:
    """A signed-in page."""
    from playwright.sync_api import sync_playwright

    url = site.settings.local_url
    token = site.settings.owner_token.read_text().strip()
    invitation = httpx.post(
        f"{url}/v1/invitations",
        json={"role": "owner", "display_name": "Bench"},
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )
    invitation.raise_for_status()
    secret = invitation.json()["link"].partition("#")[2]
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = browser.new_context(base_url=url, viewport={"width": 1280, "height": 900})
        headers = {"Sec-Fetch-Site": "same-origin"}
        answer = context.request.post("/v1/sign-in", data={"link": secret}, headers=headers)
        assert answer.ok, answer.text()
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": throttle})
        yield page
        browser.close()


def measure(page: Any, path: str, loads: int) -> dict[str, Any]:
    first, editable = [], []
    for _ in range(loads):
        page.goto(path)
        page.locator("html[data-ready=true]").wait_for(state="attached")
        marks = page.evaluate(MARKS)
        first.append(marks["first-screen"] - marks["answer"])
        editable.append(marks["editable"] - marks["answer"])
    page.locator("#whole", has_text=":").wait_for()
    return {
        "first screen": summarise(first),
        "editable": summarise(editable),
        "key": summarise(measure_keys(page)),
        "save": summarise(measure_saves(page)),
        "word": summarise(measure_words(page)),
        "bytes of script and style": page.evaluate(SIZES),
        "elements": page.evaluate("document.getElementsByTagName('*').length"),
    }


def measure_keys(page: Any, n: int = 60) -> list[float]:
    """Processor time of the main thread for each key in the middle of the transcript."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        seconds: float = next(each["value"] for each in metrics if each["name"] == "TaskDuration")
        return 1000 * seconds

    middle = page.locator(".segment .said").nth(page.locator(".segment").count() // 2)
    middle.click()
    page.wait_for_timeout(1000)
    times = []
    for _ in range(n):
        before = spent()
        page.keyboard.press("a")
        page.wait_for_timeout(40)
        times.append(spent() - before)
    page.wait_for_timeout(1500)
    return times


def measure_saves(page: Any, n: int = 20) -> list[float]:
    times = []
    for _ in range(n):
        page.keyboard.press("b")
        with page.expect_response(lambda answer: answer.request.method == "PATCH") as caught:
            page.keyboard.press("Control+s")
        caught.value.finished()
        timing = caught.value.request.timing
        times.append(timing["responseEnd"] - timing["requestStart"])
        page.wait_for_timeout(150)
    return times


def measure_words(page: Any, seconds: float = 12.0) -> list[float]:
    page.evaluate(WATCH_WORDS)
    page.keyboard.press("Control+4")  # a little faster than people speak: more words
    page.evaluate("fieldscribe.player.seek(1)")
    page.keyboard.press("F4")
    page.wait_for_timeout(1000 * seconds)
    page.keyboard.press("F4")
    delays: list[float] = page.evaluate("delays.slice(1)")  # the first was begun in the middle
    return delays


def summarise(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        "max": round(ordered[-1], 1),
        "n": len(ordered),
    }


def format_table(measured: dict[str, Any]) -> str:
    lines = ["| ms | median | 95 % below | most |", "|---|---|---|---|"]
    for name, value in measured.items():
        if isinstance(value, dict):
            lines.append(f"| {name} | {value['median']} | {value['p95']} | {value['max']} |")
    rest = {name: value for name, value in measured.items() if not isinstance(value, dict)}
    return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in rest.items())])
