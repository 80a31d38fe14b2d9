"""Measure the editor in Chromium with a focus group of two hours, and people who watch progress.

    scripts/setup --browser
    scripts/bench pages [--words 20000] [--throttle 4]

Starts `serve` in a temporary folder, and opens a transcript of random words with the sound of the
demo focus group. Milliseconds:

    first screen  from the answer with the transcript until its first screen is drawn
    editable      from that answer until every segment is drawn and can be edited
    key           of the main thread, for each key typed in the middle of the transcript
    save          from the request that saves a segment to its answer
    word          from the time at which a word begins to be heard until it is marked

After that, without a browser: the share of a core that the API takes while 50 people have a study
of 25 transcripts open and a job runs, as the page follows it (`static/follow.js`, `study.js`): each
has a stream of events and asks every ten seconds who is at work.

Prints a table and writes the results as JSON. `--watchers 0` leaves the last part out.
`--throttle` slows the browser's processor down, to estimate an old laptop.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
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
OWN = {"Sec-Fetch-Site": "same-origin"}
BACKGROUND = {"Fieldscribe-Background": "1"}
LOOK_EVERY = 10.0  # s, as static/study.js
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
    parser.add_argument("--watchers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0, help="of watching")
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
            if options.watchers:
                measured |= measure_watchers(site, options.watchers, options.seconds)
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

    url, secret = site.settings.local_url, invite(site)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = browser.new_context(base_url=url, viewport={"width": 1280, "height": 900})
        headers = OWN
        answer = context.request.post("/v1/sign-in", data={"link": secret}, headers=headers)
        assert answer.ok, answer.text()
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": throttle})
        yield page
        browser.close()


def invite(site: Installation) -> str:
    """The secret of a sign-in link for a new person."""
    token = site.settings.owner_token.read_text().strip()
    invitation = httpx.post(
        f"{site.settings.local_url}/v1/invitations",
        json={"role": "owner", "display_name": "Bench"},
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    )
    invitation.raise_for_status()
    secret: str = invitation.json()["link"].partition("#")[2]
    return secret


def measure_watchers(site: Installation, n: int, seconds: float) -> dict[str, Any]:
    """Shares of a core that the API takes while a job runs, without watchers and with them."""
    study = make_study(site.services)
    for _ in range(25):
        site.wait_for(make_job(site.services, study), "succeeded", 60)
    secrets = [invite(site) for _ in range(n)]
    # Seven stages, of which the first begins soon.
    running = make_job(site.services, study, seconds=(2 * seconds + 30) / 6)
    site.wait_for_stage(running, "segment", 60)
    share_alone = measure_share(site, seconds)
    share, n_events = asyncio.run(watch(site, study, secrets, seconds))
    return {
        "API's share of a core, job alone": share_alone,
        f"API's share of a core, {n} watchers": share,
        "events for each watcher": n_events,
    }


async def watch(
    site: Installation, study: UUID, secrets: list[str], seconds: float
) -> tuple[float, float]:
    """The API's share of a core, and the number of events for each watcher."""
    url, n_events = site.settings.local_url, 0

    async def follow(client: httpx.AsyncClient) -> None:
        nonlocal n_events
        async with client.stream("GET", f"/v1/events?study={study}") as stream:
            async for line in stream.aiter_lines():
                n_events += line.startswith("data:")

    async def look(client: httpx.AsyncClient, delay: float) -> None:
        await asyncio.sleep(delay)  # pages are not opened at the same moment
        while True:
            answer = await client.get(f"/v1/studies/{study}/activity", headers=BACKGROUND)
            answer.raise_for_status()
            await asyncio.sleep(LOOK_EVERY)

    limits = {"headers": OWN, "trust_env": False, "timeout": None}
    clients = [httpx.AsyncClient(base_url=url, **limits) for _ in secrets]  # type: ignore[arg-type]
    tasks = []
    for client, secret in zip(clients, secrets, strict=True):
        (await client.post("/v1/sign-in", json={"link": secret})).raise_for_status()
        tasks.append(asyncio.create_task(follow(client)))
        delay = LOOK_EVERY * len(tasks) / len(clients)
        tasks.append(asyncio.create_task(look(client, delay / 2)))
    await asyncio.sleep(5)
    n_events = 0
    share = await asyncio.to_thread(measure_share, site, seconds)
    for failed in [task for task in tasks if task.done()]:
        failed.result()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        await client.aclose()
    return share, round(n_events / len(clients), 1)


def measure_share(site: Installation, seconds: float) -> float:
    """Processor time of the API's process, as a share of one core."""
    (api,) = site.pids()["api"]

    def spent() -> float:
        fields = Path(f"/proc/{api}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = spent(), time.monotonic()
    time.sleep(seconds)
    return round((spent() - before) / (time.monotonic() - began), 4)


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
