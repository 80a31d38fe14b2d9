"""The worker process: `fieldscribe worker`. It runs jobs from the queue, one group at a time.

It holds no models: those are in its engine child, the only process that a cancelled job, a GPU
fault or a lack of memory ends.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import procrastinate
from procrastinate.jobs import Job as QueueJob
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database.engine import conninfo, open_engine, open_sessions, require_schema
from service.domain import workers
from service.domain.queue import (
    DRAINING,
    HEARTBEAT,
    POLLING,
    QUEUE,
    STALLED,
    ResilientConnector,
)
from service.domain.turns import TASK
from service.processes import disable_core_dumps, end_with_parent, log_to_stderr, set_up_sandbox
from service.services import database_url
from service.settings import Settings
from service.worker.attempt import INTERNAL_ERROR_DELAY
from service.worker.engine_process import EngineProcess
from service.worker.keys import FetchKeys, keys_from_api
from service.worker.protocol import PIPELINE_ENGINE
from service.worker.runner import RetryLater, Runner
from service.worker.state import CHECK_FAILED, JOBS_DIED, MAX_DEAD_JOBS, WorkerState

# In s between checks of a device that failed one: the child may have been killed during the check.
FIRST_CHECK_DELAY, CHECK_INTERVAL = 1.0, 60.0
AT_ONCE = datetime(2000, 1, 1, tzinfo=UTC)  # past by any clock

log = logging.getLogger(__name__)


def main(
    settings: Settings,
    *,
    engine_module: str = PIPELINE_ENGINE,
    parent: int | None = None,
    device: str | None = None,
    worker_id: UUID | None = None,
) -> int:
    """Run until a signal ends it.

    Args:
        parent: process id of the `serve` that started this worker.
        device: such as `cuda:1`; None: the first GPU, or else the CPU.
        worker_id: also of the killed workers that this one replaces; None: a new one.
    """
    disable_core_dumps()
    if parent is not None:
        end_with_parent(signal.SIGTERM, parent)
    log_to_stderr()
    set_up_sandbox(settings.allow_weak_sandbox)
    url = database_url(settings).render_as_string(hide_password=False)
    state = WorkerState(device, worker_id or uuid4())
    asyncio.run(work(settings, url, engine_module, keys_from_api(settings), state))
    return 0


async def work(
    settings: Settings,
    url: str,
    engine_module: str,
    fetch_keys: FetchKeys,
    state: WorkerState,
) -> None:
    engine = open_engine(url)
    require_schema(engine)
    sessions = open_sessions(engine)
    with (
        sessions.begin() as session
    ):  # of a killed worker, which would seem alive for half a minute
        workers.remove(session, state.id)
    child = EngineProcess(engine_module, settings, state.device)
    app = build_app(conninfo(url), Runner(sessions, child, fetch_keys, state))
    stop = stop_on_signal()
    reports = asyncio.create_task(keep_reporting(sessions, state))
    try:
        async with app.open_async():
            while not stop.is_set():
                if await unless(stop, wait_until_fit(sessions, child, state)):
                    await run_queue(app, stop, state)
    finally:
        reports.cancel()
        await asyncio.gather(reports, return_exceptions=True)
        await child.kill()
        with contextlib.suppress(SQLAlchemyError), sessions.begin() as session:
            workers.remove(session, state.id)
        engine.dispose()


def stop_on_signal() -> asyncio.Event:
    """An event that the first SIGTERM or Ctrl-C sets. A second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def handle() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    return stop


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do some work, or give it up when `stop` is set. Returns whether it was finished."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finished = task.done()
    task.cancel()
    stopping.cancel()
    if finished:
        task.result()
    await asyncio.gather(task, stopping, return_exceptions=True)
    return finished


async def wait_until_fit(
    sessions: sessionmaker[DbSession], child: EngineProcess, state: WorkerState
) -> None:
    """Check the device before the first job and after each death of the engine.

    While it fails, the worker takes no jobs and others do them. The same holds for the rest of its
    life once the device has passed its checks but several jobs in a row have died on it.
    """
    if state.keeps_failing and await asyncio.to_thread(retire, sessions, state):
        state.changed.set()  # a report that had begun may be written later
        log.error("%s is retired: %d jobs died on it in a row", state.device, MAX_DEAD_JOBS)
        await asyncio.Event().wait()
    delay = FIRST_CHECK_DELAY
    while (found := await child.check()) is None:
        if state.retired_because is None and delay > FIRST_CHECK_DELAY:  # not the first time
            log.error("%s is retired until it passes its check", state.device or "the device")
            state.retired_because = CHECK_FAILED
            state.changed.set()
        await asyncio.sleep(delay)
        delay = min(2 * delay, CHECK_INTERVAL)
    if state.retired_because is not None:
        log.warning("%s has passed its check and takes jobs again", state.device)
    state.device = state.device or {"cuda": "cuda:0"}.get(found, found)
    state.retired_because = None
    state.doubtful.clear()
    state.changed.set()


def retire(sessions: sessionmaker[DbSession], state: WorkerState) -> bool:
    with sessions.begin() as session:
        state.report(session)
        if workers.retire_unless_last(session, state.id, JOBS_DIED):
            state.retired_because = JOBS_DIED
    return state.retired_because is not None


async def run_queue(app: procrastinate.App, stop: asyncio.Event, state: WorkerState) -> None:
    """Run jobs until the worker must stop or its device is doubtful."""
    queue = asyncio.create_task(
        app.run_worker_async(
            queues=[QUEUE],
            concurrency=1,
            update_heartbeat_interval=HEARTBEAT,
            stalled_worker_timeout=STALLED,
            fetch_job_polling_interval=POLLING,
            shutdown_graceful_timeout=DRAINING,
            install_signal_handlers=False,
        )
    )
    events = [asyncio.create_task(event.wait()) for event in (stop, state.doubtful)]
    await asyncio.wait({queue, *events}, return_when=asyncio.FIRST_COMPLETED)
    for event in events:
        event.cancel()
    if queue.done():  # an error ended it
        stop.set()
        queue.result()
    queue.cancel()  # it waits for the job that is running
    await asyncio.gather(queue, *events, return_exceptions=True)


async def keep_reporting(sessions: sessionmaker[DbSession], state: WorkerState) -> None:
    """Write the worker's row when it changes, and as a heartbeat."""

    def report() -> None:
        with contextlib.suppress(SQLAlchemyError), sessions.begin() as session:
            state.report(session)

    while True:
        state.changed.clear()
        if state.device is not None:
            await asyncio.to_thread(report)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(state.changed.wait(), HEARTBEAT)


def build_app(url: str, runner: Runner) -> procrastinate.App:
    connector = ResilientConnector(conninfo=url, min_size=1, max_size=4, timeout=5)
    app = procrastinate.App(connector=connector)

    @app.task(name=TASK, queue=QUEUE, retry=RetryStrategy())
    async def run_job(job_id: str) -> None:
        await runner.run(UUID(job_id))

    # Procrastinate needs a periodic task: without one it sends no heartbeats after an outage.
    @app.periodic(cron="17 * * * *")
    @app.task(name="fieldscribe.prune", queue=QUEUE, queueing_lock="prune")
    async def prune(timestamp: int) -> None:
        await app.job_manager.delete_old_jobs(
            nb_hours=24 * 7, include_failed=True, include_cancelled=True, include_aborted=True
        )

    return app


class RetryStrategy(procrastinate.BaseRetryStrategy):
    """Decides when the queue runs a job again. job_state.py decides how often."""

    def get_retry_decision(
        self, *, exception: BaseException, job: QueueJob
    ) -> procrastinate.RetryDecision:
        if isinstance(exception, RetryLater):
            at = exception.at
        elif isinstance(exception, asyncio.CancelledError):  # the worker is stopping
            at = AT_ONCE
        else:  # the runner failed to record an error
            at = datetime.now(UTC) + timedelta(seconds=INTERNAL_ERROR_DELAY)
        return procrastinate.RetryDecision(retry_at=at)
