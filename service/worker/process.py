"""The worker: takes jobs from the queue, one at a time, and has its engine child do them.

This process holds no models: a cancel, a fault of the card or a want of memory ends the child only.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import procrastinate
import psycopg
from procrastinate.jobs import Job as QueueJob
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from service.database.engine import conninfo, open_engine, open_sessions, require_schema
from service.domain import job_state
from service.domain.engine_job import EngineJob, keys_from_json
from service.domain.queue import (
    DRAINING,
    HEARTBEAT,
    POLLING,
    QUEUE,
    STALLED,
    TASK,
    ResilientConnector,
)
from service.errors import ServiceError
from service.processes import die_with_parent, log_to_stderr, no_core_dumps
from service.services import database_url
from service.settings import Settings
from service.tls import trust_only
from service.vault.errors import Erased, KeyDamaged, KeyMissing, Sealed
from service.vault.streaming import Key

ENGINE = "service.worker.pipeline_engine"
BEAT_EVERY = 1.0  # s
STOPPING = 5.0  # s that a child has to stop by itself
WAITING = 30.0  # s until a job that something is in the way of is tried again
MISTAKE = 5.0  # s, so that one does not run in circles
FENCE_LOST = 70  # exit status
MAX_LINE = 2**20  # bytes of a message

IN_THE_WAY = ("sealed", "disk_full", "out_of_memory")
"""Codes of what passes: a person unseals or makes room, another program lets go of the card."""

KEY_ERRORS = {error.code: error for error in (Sealed, Erased, KeyMissing, KeyDamaged)}

log = logging.getLogger(__name__)
T = TypeVar("T")


class Later(Exception):
    """The job goes back into the queue, to come up again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"again in {seconds} s")
        self.seconds = seconds


class Again(procrastinate.BaseRetryStrategy):
    """When the queue runs a job again is for us to say; how often, for job_state.py."""

    def get_retry_decision(
        self, *, exception: BaseException, job: QueueJob
    ) -> procrastinate.RetryDecision:
        if isinstance(exception, Later):
            seconds = exception.seconds
        else:  # the worker stops; or the mistake was in telling of one
            seconds = 0.0 if isinstance(exception, asyncio.CancelledError) else MISTAKE
        return procrastinate.RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=seconds))


class EngineProcess:
    """The child, started when it is needed."""

    def __init__(self, module: str, settings: Settings) -> None:
        self._arguments = [
            module,
            str(settings.vault),
            str(settings.weights),
            settings.precision or "",
            str(settings.idle_unload_minutes * 60),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            # The address of the database and the token are not for the process with the models.
            environment = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith("FIELDSCRIBE_")
            }
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service.worker.engine_child",
                str(os.getpid()),
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
                env=environment,
            )
        return self._process

    async def run(self, job: EngineJob) -> AsyncIterator[dict[str, Any]]:
        """What the child says, to the end of the job or of the child."""
        process = await self.start()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it has died: there will be no line
            process.stdin.write(json.dumps(job.to_message()).encode() + b"\n")
            await process.stdin.drain()
        while line := await process.stdout.readline():
            yield (message := json.loads(line))
            if message["event"] in ("done", "stopped", "failed"):
                return

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(b'{"stop": true}\n')

    async def kill(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                # Not its own kill(), which takes the exit status from under asyncio.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._process = None


FetchKeys = Callable[[UUID, int], dict[UUID, Key]]


@dataclass
class Progress:
    stage: str | None = None
    fraction: float = 0.0
    told: tuple[str | None, float] = (None, 0.0)


class Runner:
    """Does jobs, one at a time."""

    def __init__(
        self, sessions: sessionmaker[Session], engine: EngineProcess, fetch_keys: FetchKeys
    ) -> None:
        self._sessions, self._engine, self._fetch_keys = sessions, engine, fetch_keys
        # One write at a time, and none after an attempt's last one: a heartbeat that came after it
        # would look like that of a worker that was taken for dead.
        self._writing = asyncio.Lock()
        self._ended = True

    async def run(self, job_id: UUID) -> None:
        """
        Raises:
            Later: the queue is to run it again.
        """
        held = await self._database(job_state.claim, job_id)
        if held is None:
            return
        self._ended = False
        log.info("job %s: attempt %d", job_id, held.attempt)
        started = time.monotonic()
        try:
            await self._attempt(held)
        except asyncio.CancelledError:
            # The worker is stopping. Nobody may have the job before the child is gone.
            await self._engine.kill()
            if not self._ended:
                with contextlib.suppress(job_state.JobGone):
                    await self._end(job_state.put_back, held)
                log.info("job %s: back into the queue, the worker stops", job_id)
            raise
        except job_state.JobGone:
            await self._engine.kill()
            log.info("job %s: was ended by somebody else", job_id)
        except Later:
            raise
        except Exception as error:
            # A mistake of ours. Not its message, which may quote anything.
            log.error(
                "job %s: %s\n%s",
                job_id,
                type(error).__name__,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            await self._engine.kill()  # what it is doing, nobody listens to any more
            if self._ended:
                raise
            await self._crashed(held, job_state.InternalError.code, MISTAKE)
        log.info("job %s: attempt %d took %.1f s", job_id, held.attempt, time.monotonic() - started)

    async def _attempt(self, held: job_state.Claim) -> None:
        progress = Progress()
        stop = asyncio.Event()
        work = asyncio.create_task(self._work(held, progress))
        beats = asyncio.create_task(self._beat(held, progress, stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({work, beats, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if beats.done() and not work.done():
                beats.result()
            if not work.done() and await self._stop(held, work):
                return
            await work
        finally:
            for task in (work, beats, stopped):
                task.cancel()
            await asyncio.gather(work, beats, stopped, return_exceptions=True)

    async def _work(self, held: job_state.Claim, progress: Progress) -> None:
        try:
            keys = await self._keys(held)
        except ServiceError as error:
            await self._in_the_way_or_failed(held, error.code)
            return
        job = replace(held.job, keys=keys)
        async for message in self._engine.run(job):
            event = message["event"]
            if event == "progress":
                begins = message["stage"] != progress.stage
                progress.stage, progress.fraction = message["stage"], message["fraction"]
                if begins:  # a short stage may be over at the next beat
                    await self._tell_stage(held, progress)
            elif event == "loaded":
                await self._fenced(job_state.loaded, held, message["device"], message["trial"])
            elif event == "saved":
                id = UUID(message["artefact_id"])
                await self._fenced(job_state.saved, held, message["stage"], id, message["seconds"])
            elif event == "discarded":
                await self._fenced(job_state.discarded, held)
            elif event == "done":
                outcome = job_state.Outcome(
                    UUID(message["artefact_id"]),
                    tuple(message["speakers"]),
                    tuple(message["warnings"]),
                    message["audio_seconds"],
                )
                await self._end(job_state.finish, held, uuid4(), outcome)
                log.info("job %s: succeeded", held.job.id)
                return
            elif event == "stopped":
                await self._end(job_state.cancelled, held)
                return
            elif event == "failed":
                await self._tell_stage(held, progress)
                await self._failed(held, message["code"], message["retryable"])
                return
        await self._tell_stage(held, progress)
        await self._engine.kill()
        log.warning("job %s: the engine died", held.job.id)
        await self._crashed(held, job_state.EngineDied.code)

    async def _stop(self, held: job_state.Claim, work: "asyncio.Task[None]") -> bool:
        """Whether the engine had to be killed: it did not stop by itself."""
        self._engine.ask_to_stop()
        done, _ = await asyncio.wait({work}, timeout=STOPPING)
        if done:
            return False
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await self._engine.kill()
        await self._end(job_state.cancelled, held)
        log.info("job %s: cancelled, the engine had to be killed", held.job.id)
        return True

    async def _beat(self, held: job_state.Claim, progress: Progress, stop: asyncio.Event) -> None:
        while True:
            if await self._tell_stage(held, progress) == "cancelling":
                stop.set()
            await asyncio.sleep(BEAT_EVERY)

    async def _tell_stage(self, held: job_state.Claim, progress: Progress) -> str:
        now = (progress.stage, progress.fraction)
        stage = progress.stage if now != progress.told else None
        progress.told = now
        async with self._writing:
            if self._ended:
                return "running"
            return await self._under_fence(job_state.beat, held, stage, now[1])

    async def _keys(self, held: job_state.Claim) -> dict[UUID, Key]:
        while True:
            try:
                return await asyncio.to_thread(self._fetch_keys, held.job.id, held.fence)
            except OSError as error:  # the API is being started again
                log.warning("job %s: no keys yet: %s", held.job.id, type(error).__name__)
                await asyncio.sleep(1)

    async def _failed(self, held: job_state.Claim, code: str, retryable: bool) -> None:
        if code == job_state.InternalError.code or code == "out_of_memory":
            await self._engine.kill()  # what is wrong with it may stay wrong
        if code in IN_THE_WAY:
            await self._in_the_way_or_failed(held, code)
        elif retryable:
            await self._crashed(held, code)
        else:
            await self._end(job_state.failed, held, code)
            log.info("job %s: failed, %s", held.job.id, code)

    async def _in_the_way_or_failed(self, held: job_state.Claim, code: str) -> None:
        if code not in IN_THE_WAY:
            await self._end(job_state.failed, held, code)
            return
        await self._end(job_state.put_back, held, code)
        log.warning("job %s: waits, %s", held.job.id, code)
        raise Later(WAITING)

    async def _crashed(self, held: job_state.Claim, code: str, wait: float = 0.0) -> None:
        if await self._end(job_state.crashed, held, code):
            raise Later(wait)

    async def _end(self, write: Callable[..., T], held: job_state.Claim, *arguments: Any) -> T:
        """The last write of an attempt."""
        async with self._writing:
            self._ended = True
            return await self._under_fence(write, held, *arguments)

    async def _fenced(self, write: Callable[..., T], held: job_state.Claim, *arguments: Any) -> T:
        async with self._writing:
            return await self._under_fence(write, held, *arguments)

    async def _under_fence(
        self, write: Callable[..., T], held: job_state.Claim, *arguments: Any
    ) -> T:
        try:
            return await self._database(write, held, *arguments)
        except job_state.FenceLost:
            log.error("job %s: somebody else has it; this worker ends", held.job.id)
            os._exit(FENCE_LOST)  # before the queue writes a status for it

    async def _database(self, write: Callable[..., T], *arguments: Any) -> T:
        """In a thread and a transaction of its own; an outage is waited for."""

        def once() -> T:
            with self._sessions.begin() as session:
                return write(session, *arguments)

        waiting = False
        while True:
            try:
                return await _to_the_end(asyncio.to_thread(once))
            except DBAPIError as error:
                if not _is_outage(error):
                    raise
                if not waiting:
                    log.warning("the database is away: %s", type(error.orig).__name__)
                waiting = True
                await asyncio.sleep(0.5)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """A cancelled caller waits for its thread: a write must not come after what follows it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _is_outage(error: DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(
        error.orig, psycopg.OperationalError | psycopg.InterfaceError
    )


def keys_from_api(url: str, token_file: Path, certificate: Path | None = None) -> FetchKeys:
    """The data keys of the job that a worker has claimed, and of no other.

    Args:
        certificate: of the API on this machine: that one is trusted, and no other.
    """

    def fetch(job_id: UUID, fence: int) -> dict[UUID, Key]:
        # Each time anew: a certificate is renewed while the worker runs.
        context = None if certificate is None else trust_only(certificate)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # keys pass no proxy, whatever the environment says
            urllib.request.HTTPSHandler(context=context),
        )
        token = os.environ.get("FIELDSCRIBE_TOKEN") or token_file.read_text().strip()
        request = urllib.request.Request(
            f"{url}/internal/jobs/{job_id}/keys",
            data=json.dumps({"fence": fence}).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            method="POST",
        )
        try:
            with opener.open(request, timeout=30) as response:
                return keys_from_json(json.load(response)["keys"])
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None

    return fetch


def _refusal(error: urllib.error.HTTPError) -> Exception:
    """Whatever is no statement about these keys may be another the next time."""
    with error:
        try:
            code = json.load(error).get("code")
        except ValueError:
            code = None
    if code in KEY_ERRORS:
        return KEY_ERRORS[code](f"The API gave no keys: {code}")
    return ConnectionError(f"the API answered {error.code}")


def build_app(url: str, runner: Runner) -> procrastinate.App:
    connector = ResilientConnector(conninfo=url, min_size=1, max_size=4, timeout=5)
    app = procrastinate.App(connector=connector)

    @app.task(name=TASK, queue=QUEUE, retry=Again())
    async def run_job(job_id: str) -> None:
        await runner.run(UUID(job_id))

    # With no periodic task at all, Procrastinate goes on without heartbeats after an outage.
    @app.periodic(cron="17 * * * *")
    @app.task(name="fieldscribe.prune", queue=QUEUE, queueing_lock="prune")
    async def prune(timestamp: int) -> None:
        await app.job_manager.delete_old_jobs(nb_hours=24 * 7, include_failed=True)

    return app


async def work(settings: Settings, url: str, engine_module: str, fetch_keys: FetchKeys) -> None:
    engine = open_engine(url)
    require_schema(engine)
    child = EngineProcess(engine_module, settings)
    runner = Runner(open_sessions(engine), child, fetch_keys)
    app = build_app(conninfo(url), runner)
    await child.start()  # its imports take seconds; a job need not wait for them
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


def main(settings: Settings, *, engine_module: str = ENGINE, parent: int | None = None) -> int:
    """`fieldscribe worker`.

    Args:
        parent: process id of the `serve` that this worker belongs to.
    """
    no_core_dumps()
    if parent is not None:
        die_with_parent(signal.SIGTERM, parent)
    log_to_stderr()
    if elsewhere := os.environ.get("FIELDSCRIBE_URL"):
        fetch_keys = keys_from_api(elsewhere, settings.worker_token)
    else:
        fetch_keys = keys_from_api(settings.url, settings.worker_token, settings.tls_certificate)
    url = database_url(settings).render_as_string(hide_password=False)
    asyncio.run(work(settings, url, engine_module, fetch_keys))
    return 0
