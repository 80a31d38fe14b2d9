"""Changes of a study as server-sent events."""

import asyncio
import contextlib
import json
import threading
import time
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import text

from service.api.routes import events as events_route
from tests.api import tone
from tests.browser import serve_api
from tests.finished import finish_job


@pytest.fixture(scope="module")
def api(module_settings):
    with serve_api(module_settings) as api:
        yield api


class Follower:
    """Collects the events of a study in a thread."""

    def __init__(self, api, study, token=None):
        self.events, self.ended = [], threading.Event()
        headers = {"Authorization": f"Bearer {token}"} if token else api.headers
        url = f"{str(api.client.base_url).rstrip('/')}/v1/events?study={study}"
        self._thread = threading.Thread(target=self._read, args=(url, headers), daemon=True)
        self._thread.start()

    def _read(self, url, headers):
        # The server stops while streams are open.
        with (
            contextlib.suppress(httpx2.TransportError),
            httpx2.stream("GET", url, headers=headers, timeout=30) as answer,
        ):
            name = None
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.events.append((name, json.loads(line.removeprefix("data: "))))
        self.ended.set()

    def wait_for(self, condition):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if found := [event for event in list(self.events) if condition(*event)]:
                return found[-1][1]
            time.sleep(0.02)
        raise AssertionError(self.events)


def following(api, study, n=1):
    """Wait until as many streams follow a study."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if len(api.app.state.study_events._followers.get(UUID(study["id"]), ())) >= n:
            return
        time.sleep(0.02)
    raise AssertionError("nobody follows")


def test_changes_of_a_study_reach_those_who_follow_it_and_nobody_else(api):
    study, other = api.study(), api.study()
    mine, theirs = Follower(api, study["code"]), Follower(api, other["code"])
    following(api, study)
    following(api, other)

    recording = api.upload(study["id"], tone())
    body = {"recordings": [recording["id"]], "model": "demo"}
    job = api.post("/v1/jobs", json=body).json()
    finish_job(api.services, UUID(job["id"]))

    ready = mine.wait_for(lambda name, data: name == "recording" and data["state"] == "ready")
    assert ready["id"] == recording["id"]
    done = mine.wait_for(lambda name, data: name == "job" and data["status"] == "succeeded")
    assert done == api.get(f"/v1/jobs/{job['id']}").json()
    assert theirs.events == []


def test_many_pages_cost_one_rendering(api, monkeypatch):
    study = api.study()
    followers = [Follower(api, study["code"]) for _ in range(10)]
    following(api, study, 10)
    rendered = []
    events = api.app.state.study_events
    render = events._render

    def count(*arguments):
        rendered.append(arguments)
        return render(*arguments)

    monkeypatch.setattr(events, "_render", count)

    recording = api.upload(study["id"], tone())

    for follower in followers:
        follower.wait_for(lambda name, data: data["id"] == recording["id"])
    assert len(rendered) <= 5


def test_a_stream_ends_when_changes_may_have_been_missed(api):
    study = api.study()
    follower = Follower(api, study["code"])
    following(api, study)

    with api.services.sessionmaker() as session:
        session.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^LISTEN'")
        )

    assert follower.ended.wait(20)


def test_a_stream_ends_when_the_token_is_revoked(api, monkeypatch):
    monkeypatch.setattr(events_route, "HEARTBEAT", 0.2)
    study = api.study()
    made = api.post("/v1/tokens", json={"role": "researcher", "studies": [study["code"]]}).json()
    follower = Follower(api, study["code"], made["secret"])
    following(api, study)

    api.request("DELETE", f"/v1/tokens/{made['id']}")

    assert follower.ended.wait(10)


def test_a_page_that_reads_too_slowly_is_disconnected(monkeypatch):
    from service.api.study_events import StudyEvents, end

    async def fill():
        events = StudyEvents(None, None)  # type: ignore[arg-type]
        study = UUID(int=1)
        monkeypatch.setattr(
            events, "_render", lambda changed, followed: [(study, f"{n}") for n in range(300)]
        )
        with events.follow(study) as queue:
            task = asyncio.create_task(events.run())
            events.note("a channel", UUID(int=2))
            await asyncio.sleep(0.8)
            task.cancel()
            taken = [queue.get_nowait() for _ in range(queue.qsize())]
            end(queue)
        assert None in taken
        assert len(taken) < 200

    asyncio.run(fill())


def test_a_study_of_others_cannot_be_followed(api):
    token = api.token("researcher", api.study()["id"])
    for role, status in (("researcher", 404), ("coder", 403)):
        secret = token if role == "researcher" else api.token("coder", all_studies=True)
        answer = api.get(f"/v1/events?study={api.study()['code']}", token=secret)
        assert answer.status_code == status
