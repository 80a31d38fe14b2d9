"""The worker process: `fieldscribe worker`. It runs jobs from the queue, one at a time.

It holds no models: those are in its engine child, the only process that a cancelled job, a GPU
fault or a lack of memory ends.
"""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from uuid import UUID

import procrastinate
from procrastinate.jobs import Job as QueueJob

from service.database.engine import conninfo, open_engine, open_sessions, require_schema
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
from service.worker.engine_process import EngineProcess
from service.worker.keys import FetchKeys, keys_from_api
from service.worker.protocol import PIPELINE_ENGINE
from service.worker.runner import INTERNAL_ERROR_DELAY, RetryLater, Runner

AT_ONCE = datetime(2000, 1, 1, tzinfo=UTC)  # past by any clock


def main(
    settings: Settings, *, engine_module: str = PIPELINE_ENGINE, parent: int | None = None
) -> int:
    """Run until a signal ends it.

    Args:
        parent: process id of the `serve` that started this worker.
    """
    disable_core_dumps()
    if parent is not None:
        end_with_parent(signal.SIGTERM, parent)
    log_to_stderr()
    set_up_sandbox(settings.allow_weak_sandbox)
    url = database_url(settings).render_as_string(hide_password=False)
    asyncio.run(work(settings, url, engine_module, keys_from_api(settings)))
    return 0


async def work(settings: Settings, url: str, engine_module: str, fetch_keys: FetchKeys) -> None:
    engine = open_engine(url)
    require_schema(engine)
    child = EngineProcess(engine_module, settings)
    runner = Runner(open_sessions(engine), child, fetch_keys)
    app = build_app(conninfo(url), runner)
    await child.start()  # before the first job, which need not wait seconds for its imports
    try:
        async with app.open_async():
            await app.run_worker_async(
                queues=[QUEUE],
                concurrency=1,
                update_heartbeat_interval=HEARTBEAT,
                stalled_worker_timeout=STALLED,
                fetch_job_polling_interval=POLLING,
                shutdown_graceful_timeout=DRAINING,
            )
    finally:
        await child.kill()
        engine.dispose()


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
