"""Times that lie ahead because the database's clock was wrong when they were written."""

import asyncio
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import pytest
from sqlalchemy import text

from scripts.stand_in.jobs import make_job, make_study, make_token
from service.database.queries import read_clock
from service.database.tables import Handoff, Recording
from service.domain.callers import Caller
from service.domain.clock import LEASE, TOLERANCE, correct_future_times
from service.domain.recordings import create_upload
from service.services import open_services
from service.worker import attempt, process, runner
from service.worker.engine_process import EngineProcess
from service.worker.process import RetryStrategy
from service.worker.runner import RetryLater, Runner
from tests.api import open_api
from tests.finished import finish_job

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def services(module_settings):
    services = open_services(module_settings)
    yield services
    services.close()


def correct(services):
    return correct_future_times(services.sessionmaker, services.settings)


def now(services):
    with services.sessionmaker() as session:
        return read_clock(session)


def test_a_lease_from_the_future_does_not_keep_a_hand_off(module_settings, services):
    """After the clock was put back by an hour, an abandoned hand-off stayed claimed for an hour."""
    with open_api(module_settings) as api:
        study = api.study()["id"]
        finish_job(services, make_job(services, UUID(study)))
        token = api.token("deidentifier", study)
        claimed = api.post("/v1/handoffs/claim", token=token).json()
        with services.sessionmaker.begin() as session:
            session.get_one(Handoff, UUID(claimed["id"])).lease_until = now(services) + HOUR

        assert correct(services) == 1
        assert correct(services) == 0  # once: the de-identifier may be extending it meanwhile
        with services.sessionmaker() as session:
            lease = session.get_one(Handoff, UUID(claimed["id"])).lease_until
        assert lease is not None and abs(lease - now(services) - LEASE) < TOLERANCE
        beat = api.post(
            f"/v1/handoffs/{claimed['id']}/heartbeat",
            json={"fence": claimed["fence"]},
            token=token,
        )
        assert beat.status_code == 200


def test_a_job_put_back_in_the_future_runs_now(services):
    """The reaper put it back while the clock was an hour ahead: no worker took it for an hour."""
    job_id = make_job(services)
    with services.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 hour' "
                "WHERE args->>'job_id' = :job"
            ),
            {"job": str(job_id)},
        )

    assert correct(services) == 1
    with services.engine.connect() as connection:
        ahead = connection.scalar(
            text("SELECT count(*) FROM procrastinate_jobs WHERE scheduled_at > now()")
        )
    assert ahead == 0


def test_an_upload_that_would_expire_years_later_expires_in_time(services):
    study = make_study(services)
    owner = Caller(make_token(services), "owner", all_studies=True, studies=frozenset())
    place = {"study": str(study), "session": None, "n_bytes": 1000, "metadata": None}
    upload = create_upload(services, owner, **place)  # type: ignore[arg-type]
    right = upload.expires_at
    assert right is not None
    assert correct(services) == 0
    with services.sessionmaker.begin() as session:
        session.get_one(Recording, upload.id).expires_at = right + 1000 * HOUR

    assert correct(services) == 1
    with services.sessionmaker() as session:
        expires_at = session.get_one(Recording, upload.id).expires_at
    assert expires_at is not None and abs(expires_at - right) < TOLERANCE


class FullDisk:
    async def run(self, jobs):
        (job,) = jobs
        failed = {"event": "failed", "job": str(job.id), "code": "disk_full"}
        yield {**failed, "retryable": True}

    async def kill(self):
        pass


@pytest.mark.parametrize("wrong", [-HOUR, HOUR], ids=["behind", "ahead"])
def test_a_worker_whose_clock_is_wrong_tries_again_in_time(services, monkeypatch, wrong):
    """It said when by its own clock: an hour later, or every two seconds."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + wrong

    for module in (process, runner, attempt):
        monkeypatch.setattr(module, "datetime", Wrong)
    job_id = make_job(services)
    engine = cast(EngineProcess, FullDisk())
    with pytest.raises(RetryLater) as raised:
        asyncio.run(Runner(services.sessionmaker, engine, lambda *_: {}).run(job_id))

    decision = RetryStrategy().get_retry_decision(exception=raised.value, job=None)  # type: ignore[arg-type]
    assert decision.retry_at is not None
    seconds = (decision.retry_at - now(services)).total_seconds()
    assert seconds == pytest.approx(attempt.OBSTACLE_DELAY, abs=5)


def test_the_job_of_a_stopping_worker_is_free_at_once_by_any_clock(services):
    decision = RetryStrategy().get_retry_decision(exception=asyncio.CancelledError(), job=None)  # type: ignore[arg-type]

    assert decision.retry_at is not None
    assert decision.retry_at < now(services) - 1000 * HOUR
