"""The worker's side of its engine child: starts the process, sends it jobs, reads its messages."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from models.environment import child_environment
from service.domain.engine_job import EngineJob
from service.settings import Settings
from service.worker.protocol import ENGINE_CHILD

MAX_LINE = 2**20  # bytes of a message


class EngineProcess:
    """The engine child, started when it is first needed and again after it has died."""

    def __init__(self, engine_module: str, settings: Settings) -> None:
        self._arguments = [
            engine_module,
            str(settings.vault),
            str(settings.weights),
            settings.precision or "",
            str(settings.idle_unload_minutes * 60),
            str(int(settings.allow_weak_sandbox)),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                ENGINE_CHILD,
                str(os.getpid()),
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
                env=child_environment(),
            )
        return self._process

    async def run(self, job: EngineJob) -> AsyncIterator[dict[str, Any]]:
        """Run a job and yield the child's messages, until the job ends or the child dies."""
        process = await self.start()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it has died: no message will follow
            process.stdin.write(json.dumps(job.to_message()).encode() + b"\n")
            await process.stdin.drain()
        while line := await process.stdout.readline():
            yield (message := json.loads(line))
            if message["event"] in ("done", "stopped", "failed"):
                return

    def request_stop(self) -> None:
        """Ask the child to stop its job. It does so at its next progress report."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(b'{"stop": true}\n')

    async def kill(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                # Process.kill() would reap the child before asyncio does and lose its exit status.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._process = None
