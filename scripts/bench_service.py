"""Latency and throughput of the job service, with an engine that computes nothing.

    scripts/bench service [--gigabytes 2] [--parts start,read,queued,polls,upload]

Starts `serve` in a temporary folder, with the stand-in engine of the tests. `read` and `polls` send
their requests on time whether or not the last ones were answered; times count from when a request
was due. `upload` sends the same bytes to the service and to a server of a few lines that writes
them, as they come, into a plain file.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import text

from service.services import open_services
from tests.installation import Installation, free_port, wait_until
from tests.jobs import make_job, make_study, read_job

PARTS = ("start", "read", "queued", "polls", "upload")  # the last is checked for a while
RATE = 100  # requests per second
BLOCK = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of reading at 100/s")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", type=Path, default=Path("build/bench/service.json"))


def run(options: argparse.Namespace) -> None:
    parts = options.parts.split(",")
    results: dict[str, object] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory(prefix="fieldscribe-bench-") as folder:
        Path(folder).chmod(0o711)
        bench = Bench(Path(folder))
        try:
            bench.start()
            if "start" in parts:
                results["enqueue_to_start_ms"] = bench.enqueue_to_start()
            if "read" in parts:
                results["read_ms"] = asyncio.run(bench.read(options.seconds))
            if "queued" in parts:
                bench.queue(1000)
                results["read_ms_with_1000_queued"] = asyncio.run(bench.read(options.seconds))
                results["enqueue_to_start_ms_with_1000_queued"] = bench.enqueue_to_start()
            if "polls" in parts:
                results["long_polls"] = asyncio.run(bench.long_polls(1000))
            if "upload" in parts:
                results["upload"] = asyncio.run(bench.upload(round(options.gigabytes * 2**30)))
        finally:
            bench.stop()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(options.json.read_text(), end="")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.site = Installation(folder, None)

    def start(self) -> None:
        self.site.start_serve()
        wait_until(self.site.is_ready, 60, "the service to answer")
        self.site.services = self.services = open_services(self.site.settings)
        self.study = make_study(self.services)
        self.site.wait_for(make_job(self.services, self.study), "succeeded", 60)
        tokens = self.site.settings.data
        self.headers = f"Authorization: Bearer {(tokens / 'owner.token').read_text().strip()}\r\n"

    def stop(self) -> None:
        self.site.power_cut()
        with suppress(AttributeError):
            self.services.close()

    def enqueue_to_start(self) -> dict[str, float]:
        """From the row's time to the claim's, of jobs of their own studies, one at a time."""
        times = []
        for _ in range(40):
            job_id = make_job(self.services)
            self.site.wait_for(job_id, "succeeded", 60)
            job = read_job(self.services, job_id)
            assert job.started_at is not None
            times.append((job.started_at - job.created_at).total_seconds() * 1000)
        return summary(times)

    async def read(self, seconds: float) -> dict[str, float]:
        """`GET /v1/jobs/{id}` of a running job."""
        job_id = make_job(self.services, seconds=seconds / 3)
        await asyncio.to_thread(self.site.wait_for_stage, job_id, "segment", 60)
        pool = Connections(self.site.settings.port)
        times: list[float] = []

        async def one(due: float) -> None:
            status = await pool.get(f"/v1/jobs/{job_id}", self.headers)
            assert status == 200, status
            times.append((time.perf_counter() - due) * 1000)

        await at_rate(RATE, RATE, one)  # the first requests of an API open its connections
        first, times[:] = max(times), []
        cpu = self.api_cpu()
        await at_rate(round(seconds * RATE), RATE, one)
        cpu = (self.api_cpu() - cpu) / len(times)
        pool.close()
        await asyncio.to_thread(self.site.wait_for, job_id, "succeeded", 60)
        return {
            **summary(times),
            "max_of_first_second": round(first, 1),
            "api_cpu_ms_each": round(cpu * 1000, 2),
        }

    async def upload(self, n_bytes: int) -> dict[str, float]:
        """MB/s into a plain file and into the vault."""
        into_file = await plain_rate(self.site.folder / "plain", n_bytes)
        started = time.perf_counter()
        status = await post(
            self.site.settings.port,
            f"/v1/uploads?study={self.study}",
            f"{self.headers}Tus-Resumable: 1.0.0\r\n"
            "Content-Type: application/offset+octet-stream\r\n"
            f"Upload-Length: {n_bytes}\r\n",
            n_bytes,
        )
        assert status == 201, status
        into_vault = n_bytes / (time.perf_counter() - started)
        return {
            "plain_MB_s": round(into_file / 1e6, 1),
            "vault_MB_s": round(into_vault / 1e6, 1),
            "ratio": round(into_vault / into_file, 3),
            "api_peak_MB": self.api_peak(),
        }

    def api_cpu(self) -> float:
        """Seconds that the API has computed."""
        (pid,) = self.site.pids()["api"]
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def api_peak(self) -> float:
        (pid,) = self.site.pids()["api"]
        status = Path(f"/proc/{pid}/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)

    def queue(self, n: int) -> None:
        """In line, but not to be begun for an hour: the worker stays free for what is timed."""
        later = (
            "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 hour' WHERE id = :id"
        )
        for _ in range(n):
            job = read_job(self.services, make_job(self.services, self.study))
            with self.services.engine.begin() as connection:
                connection.execute(text(later), {"id": job.queue_job_id})

    async def long_polls(self, n: int) -> dict[str, object]:
        """All at once, of one job, which then ends; and one more than may wait."""
        job_id = make_job(self.services, wait_in="align", until=str(self.site.folder / "go"))
        await asyncio.to_thread(self.site.wait_for_stage, job_id, "align", 600)
        path = f"/v1/jobs/{job_id}?wait=60"
        started = time.perf_counter()
        polls = [
            asyncio.create_task(Connections(self.site.settings.port).get(path, self.headers))
            for _ in range(n)
        ]
        await asyncio.sleep(15)
        waiting = sum(not poll.done() for poll in polls)
        beyond = await Connections(self.site.settings.port).get(path, self.headers)
        (self.site.folder / "go").touch()
        statuses = await asyncio.gather(*polls)
        return {
            "asked": n,
            "waiting_after_15_s": waiting,
            "answered_200": statuses.count(200),
            "one_more": beyond,
            "seconds": round(time.perf_counter() - started, 1),
        }


class Connections:
    """HTTP/1.1 with as many kept connections as are needed at the same time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str, headers: str) -> int:
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()[1].close()  # the server closes what was idle for some seconds
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode())
        status = await read_answer(reader)
        self._free.append((reader, writer))
        return status

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    for line in head.lower().splitlines():
        if line.startswith("content-length:"):
            await reader.readexactly(int(line.split(":")[1]))
    return int(head.split()[1])


async def at_rate(n: int, rate: float, one: Callable[[float], Awaitable[None]]) -> None:
    started = time.perf_counter()
    tasks = []
    for i in range(n):
        due = started + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one(due)))
    await asyncio.gather(*tasks)


async def post(port: int, path: str, headers: str, n_bytes: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}"
        f"Content-Length: {n_bytes}\r\n\r\n".encode()
    )
    block = os.urandom(BLOCK)
    for start in range(0, n_bytes, BLOCK):
        writer.write(block[: n_bytes - start])
        await writer.drain()
    status = await read_answer(reader)
    writer.close()
    return status


PLAIN_SERVER = """
import os, sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    with open(sys.argv[1], "wb") as file:
        while True:
            message = await receive()
            file.write(message.get("body", b""))
            if not message.get("more_body"):
                break
        file.flush()
        os.fsync(file.fileno())
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", lifespan="off")
"""


async def plain_rate(path: Path, n_bytes: int) -> float:
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLAIN_SERVER, str(path), str(port)
    )
    try:
        while True:
            with suppress(OSError):
                await asyncio.open_connection("127.0.0.1", port)
                break
            await asyncio.sleep(0.1)
        started = time.perf_counter()
        assert await post(port, "/", "", n_bytes) == 201
        return n_bytes / (time.perf_counter() - started)
    finally:
        server.kill()
        await server.wait()
        path.unlink(missing_ok=True)


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 1),
        "max": round(ordered[-1], 1),
    }
