"""The worker's side of its engine child: starts the process, sends it jobs, reads its messages."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from models.environment import child_environment
from service.devices import device_variables, parse_devices
from service.domain.engine_job import EngineJob
from service.services import bucket_address
from service.settings import Settings
from service.vault import ArtefactClass
from service.worker.protocol import ENGINE_CHILD, LAST_EVENTS

MAX_LINE = 2**20  # bytes of a message
CHECK_TIMEOUT = 180.0  # s: the first use of a GPU after a boot may take a minute


class EngineProcess:
    """The engine child, started when it is first needed and again after it has died.

    Args:
        device: the only one that the child sees; None: whichever torch chooses.
    """

    def __init__(self, engine_module: str, settings: Settings, device: str | None = None) -> None:
        devices = parse_devices(settings.devices) or ()
        self._variables = {} if device is None else device_variables(device, devices)
        self._arguments = [
            engine_module,
            str(settings.vault),
            str(settings.weights),
            settings.precision or "",
            str(settings.idle_unload_minutes * 60),
            str(int(settings.allow_weak_sandbox)),
            device or "",
        ]
        self._bucket = (
            asdict(bucket_address(settings, ArtefactClass.IDENTIFIED))
            if settings.storage == "s3"
            else None
        )
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
                env=child_environment(self._variables),
            )
            if self._bucket is not None:
                assert self._process.stdin is not None
                # Drained with the first message that follows.
                self._process.stdin.write(json.dumps({"bucket": self._bucket}).encode() + b"\n")
        return self._process

    async def check(self) -> str | None:
        """Have the child compute something with a known result. A child that fails is killed.

        Returns:
            The device, `cuda` or `cpu`, or None if the check failed.
        """
        process = await self.start()
        assert process.stdin is not None and process.stdout is not None
        line = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(CHECK_TIMEOUT):
                process.stdin.write(b'{"check": true}\n')
                await process.stdin.drain()
                line = await process.stdout.readline()
        message = json.loads(line) if line else {}
        if message.get("event") == "checked":
            device: str = message["device"]
            return device
        await self.kill()
        return None

    async def run(self, jobs: Sequence[EngineJob]) -> AsyncIterator[dict[str, Any]]:
        """Run a group and yield the child's messages, until all jobs end or the child dies."""
        process = await self.start()
        assert process.stdin is not None and process.stdout is not None
        group = {"jobs": [job.to_message() for job in jobs]}
        with contextlib.suppress(ConnectionError):  # it has died: no message will follow
            process.stdin.write(json.dumps(group).encode() + b"\n")
            await process.stdin.drain()
        n_running = len(jobs)
        while n_running and (line := await process.stdout.readline()):
            message = json.loads(line)
            n_running -= message["event"] in LAST_EVENTS
            yield message

    def request_stop(self, job_id: UUID) -> None:
        """Ask the child to stop a job. It does so at its next progress report."""
        self._send({"stop": str(job_id)})

    def request_yield(self) -> None:
        """Ask the child to hand back the jobs of the group that can wait without losing work."""
        self._send({"yield": True})

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def kill(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                # Process.kill() would reap the child before asyncio does and lose its exit status.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            self._process = None
