"""Measure latency and throughput of the service, with an engine that computes nothing.

    scripts/bench service [--gigabytes 2] [--parts start,read,upload,checking,polls,queued]

Starts `serve` in a temporary folder, with a stand-in engine. Each part starts when the service is
idle:

    start     from queueing a job to starting it
    read      `GET /v1/jobs/{id}` at a fixed rate, whether or not earlier requests were answered;
              latency counts from the time at which a request was due
    upload    the same bytes in turns to the service and to a minimal server that writes a plain
              file
    checking  reads while a long recording is checked
    polls     as many long polls as may wait, and one more
    queued    all other parts again with 1,000 jobs in the queue

Prints a table and writes the results as JSON.
"""

import argparse
import asyncio
import gc
import io
import json
import os
import re
import statistics
import struct
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from scripts.reports import read_cpu_name, read_peak_bytes, write_report
from scripts.stand_in.installation import Installation, find_free_port, wait_until
from scripts.stand_in.jobs import make_job, make_study, read_job
from service.database.tables import Recording, Token
from service.domain.callers import hash_secret, new_secret
from service.services import open_services

PARTS = ("start", "read", "upload", "checking", "polls", "queued")
RATE = 100  # requests per second
BLOCK = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of reading at 100/s")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", type=Path, default=Path("build/bench/service.json"))


def run(options: argparse.Namespace) -> None:
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        names = ", ".join(sorted(unknown))
        raise SystemExit(f"Unknown parts: {names}. Choose from {', '.join(PARTS)}.")
    busy = os.getloadavg()[0]
    machine = f"{read_cpu_name()}, {os.cpu_count()} cores, load {busy:.1f} before"
    results: dict[str, Any] = {"machine": machine}
    with tempfile.TemporaryDirectory(prefix="fieldscribe-bench-") as folder:
        Path(folder).chmod(0o711)
        bench = Bench(Path(folder))
        try:
            bench.start()
            results |= bench.measure(parts, options)
            if "queued" in parts:
                bench.fill_queue(1000)
                results |= {
                    f"{name} with 1,000 queued": result
                    for name, result in bench.measure(parts, options).items()
                }
        finally:
            bench.stop()
    write_report(options.json, results)
    print(format_table(results))


class Bench:
    """A running service, and the measurements of it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.site = Installation(folder, None, **settings)

    def start(self) -> None:
        self.site.start_serve()
        wait_until(self.site.is_ready, 60, "the service to answer")
        self.site.services = self.services = open_services(self.site.settings)
        self.study = make_study(self.services)
        self.site.wait_for(make_job(self.services, self.study), "succeeded", 60)
        token = self.site.settings.owner_token.read_text().strip()
        self.headers = f"Authorization: Bearer {token}\r\n"

    def stop(self) -> None:
        self.site.cut_power()
        with suppress(AttributeError):
            self.services.close()

    def measure(self, parts: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
        results: dict[str, Any] = {}
        n_bytes = round(options.gigabytes * 2**30)
        if "start" in parts:
            results["start"] = self.measure_start(40)
        if "read" in parts:
            results["read"] = asyncio.run(self.read(options.seconds))
        if "upload" in parts:
            results["upload"] = asyncio.run(self.upload(n_bytes))
        if "checking" in parts:
            results["checking"] = asyncio.run(self.read_while_checking(n_bytes))
        if "polls" in parts:
            limit = self.site.settings.long_poll_limit
            results["polls"] = asyncio.run(self.measure_long_polls(limit))
        return results

    def measure_start(self, n: int) -> dict[str, float]:
        """Milliseconds from a job's row to its claim; one job at a time, each of another study."""
        times = []
        for _ in range(n):
            job_id = make_job(self.services)
            self.site.wait_for(job_id, "succeeded", 60)
            job = read_job(self.services, job_id)
            assert job.started_at is not None
            times.append((job.started_at - job.created_at).total_seconds() * 1000)
        return summarise(times)

    async def read(self, seconds: float) -> dict[str, float]:
        """`GET /v1/jobs/{id}` of a running job."""
        job_id = make_job(self.services, seconds=seconds / 3)
        await asyncio.to_thread(self.site.wait_for_stage, job_id, "segment", 60)
        end = time.perf_counter() + seconds
        result = await self.read_until(job_id, lambda: time.perf_counter() > end)
        await asyncio.to_thread(self.site.wait_for, job_id, "succeeded", 60 + 3 * seconds)
        return result

    async def read_while_checking(self, n_bytes: int) -> dict[str, float]:
        """The same for an ended job, while a recording is merged, decoded and measured."""
        job_id = make_job(self.services)
        await asyncio.to_thread(self.site.wait_for, job_id, "succeeded", 60)
        recording = await self.send(make_wav(n_bytes), n_bytes)
        started = time.perf_counter()
        checked = asyncio.create_task(asyncio.to_thread(self.wait_until_checked, recording))
        result = await self.read_until(job_id, checked.done)
        return {**result, "checked_after_s": round(time.perf_counter() - started, 1)}

    async def read_until(
        self, job_id: UUID, done: Callable[[], bool], *, rate: int = RATE
    ) -> dict[str, float]:
        pool = Connections(self.site.settings.port)
        times: list[float] = []
        statuses: Counter[int] = Counter()

        async def one(due: float) -> None:
            status, _ = await pool.get(f"/v1/jobs/{job_id}", self.headers)
            statuses[status] += 1
            times.append((time.perf_counter() - due) * 1000)

        await repeat(rate, one, until=after(1.0))  # the first requests open the connections
        first, times[:] = max(times), []
        gc.collect()
        gc.freeze()  # collecting the garbage of `fill_queue` would delay requests by 200 ms
        cpu = self.read_api_cpu()
        await repeat(rate, one, until=done)
        cpu = (self.read_api_cpu() - cpu) / len(times)
        pool.close()
        return {
            **summarise(times),
            "not_200": statuses.total() - statuses[200],
            "max_of_first_second": round(first, 1),
            "api_cpu_ms_each": round(cpu * 1000, 2),
        }

    async def upload(self, n_bytes: int, rounds: int = 2) -> dict[str, float]:
        """MB/s into a plain file and into the vault; the best round of each."""
        plain, vault = [], []
        for _ in range(rounds):
            plain.append(await measure_plain_upload(self.site.folder / "plain", n_bytes))
            started = time.perf_counter()
            recording = await self.send(make_noise(n_bytes), n_bytes)
            vault.append(n_bytes / (time.perf_counter() - started))
            await asyncio.to_thread(self.wait_until_checked, recording)
        return {
            "plain_MB_s": round(max(plain) / 1e6, 1),
            "vault_MB_s": round(max(vault) / 1e6, 1),
            "ratio": round(max(vault) / max(plain), 3),
            "api_peak_MB": self.read_api_peak(),
        }

    async def send(self, blocks: Iterator[bytes], n_bytes: int) -> str:
        """Upload a recording and return its id."""
        status, answer = await post(
            self.site.settings.port,
            f"/v1/uploads?study={self.study}",
            f"{self.headers}Tus-Resumable: 1.0.0\r\n"
            "Content-Type: application/offset+octet-stream\r\n"
            f"Upload-Length: {n_bytes}\r\n",
            blocks,
            n_bytes,
        )
        assert status == 201, status
        id: str = json.loads(answer)["id"]
        return id

    def wait_until_checked(self, recording: str) -> None:
        def is_checked() -> bool:
            with self.services.sessionmaker() as session:
                return session.get_one(Recording, UUID(recording)).state != "checking"

        wait_until(is_checked, 600, "a recording to be checked")

    def read_api_cpu(self) -> float:
        """The processor seconds that the API has used."""
        (pid,) = self.site.pids()["api"]
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def read_api_peak(self) -> float:
        (pid,) = self.site.pids()["api"]
        return round(read_peak_bytes(pid) / 2**20, 1)

    def fill_queue(self, n: int) -> None:
        """Queue jobs scheduled an hour from now, so that the worker stays free."""
        later = (
            "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 hour' WHERE id = :id"
        )
        for _ in range(n):
            job = read_job(self.services, make_job(self.services, self.study))
            with self.services.engine.begin() as connection:
                connection.execute(text(later), {"id": job.queue_job_id})

    async def measure_long_polls(self, limit: int) -> dict[str, Any]:
        """As many long polls of one job as may wait, and one more; then the job ends.

        A token may hold a quarter of them, so they come from several.
        """
        tokens = [self.make_token() for _ in range(5)]
        go = self.site.folder / f"go-{uuid4()}"
        job_id = make_job(self.services, wait_in="align", until=str(go))
        await asyncio.to_thread(self.site.wait_for_stage, job_id, "align", 60)
        path = f"/v1/jobs/{job_id}?wait=60"
        polls = [
            asyncio.create_task(self.get_once(path, tokens[i % len(tokens)])) for i in range(limit)
        ]
        started = time.perf_counter()
        waiting, most = 0, asyncio.get_running_loop().time() + 30
        while waiting < limit and asyncio.get_running_loop().time() < most:
            await asyncio.sleep(0.2)
            waiting = await self.count_waiting()
        all_wait_after = time.perf_counter() - started
        beyond, _ = await self.get_once(path, tokens[0])
        go.touch()
        await asyncio.to_thread(self.site.wait_for, job_id, "succeeded", 60)
        ended = time.perf_counter()
        statuses = [status for status, _ in await asyncio.gather(*polls)]
        return {
            "asked": limit,
            "waited": waiting,
            "all_wait_after_s": round(all_wait_after, 1),
            "one_more": beyond,
            "answered_200": statuses.count(200),
            "all_told_after_s": round(time.perf_counter() - ended, 2),
        }

    def make_token(self) -> str:
        """The headers of a request with a new token that sees every study."""
        secret = new_secret()
        with self.services.sessionmaker.begin() as session:
            session.add(Token(hash=hash_secret(secret), role="researcher", all_studies=True))
        return f"Authorization: Bearer {secret}\r\n"

    async def get_once(self, path: str, headers: str = "") -> tuple[int, bytes]:
        pool = Connections(self.site.settings.port)
        answer = await pool.get(path, headers)
        pool.close()
        return answer

    async def count_waiting(self) -> int:
        _, metrics = await self.get_once("/metrics")
        return int(re.findall(rb"^fieldscribe_requests_waiting (\d+)", metrics, re.M)[0])


class Connections:
    """A pool of HTTP/1.1 connections, as large as the number of concurrent requests."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str, headers: str) -> tuple[int, bytes]:
        while self._free and self._free[-1][0].at_eof():
            self._free.pop()[1].close()  # the server closes idle connections after some seconds
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode())
        answer = await read_answer(reader)
        self._free.append((reader, writer))
        return answer

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head, body = (await reader.readuntil(b"\r\n\r\n")).decode(), b""
    for line in head.lower().splitlines():
        if line.startswith("content-length:"):
            body = await reader.readexactly(int(line.split(":")[1]))
    return int(head.split()[1]), body


async def repeat(
    rate: float, one: Callable[[float], Awaitable[None]], *, until: Callable[[], bool]
) -> None:
    """Start `one` at a fixed rate, each with the time at which it was due."""
    started = time.perf_counter()
    tasks: list[asyncio.Future[None]] = []
    while not until() or not tasks:
        due = started + len(tasks) / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one(due)))
    await asyncio.gather(*tasks)


def after(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def make_noise(n_bytes: int) -> Iterator[bytes]:
    """Bytes that are no recording: the service refuses them once they are merged."""
    block = os.urandom(BLOCK)
    for start in range(0, n_bytes, BLOCK):
        yield block[: n_bytes - start]


def make_wav(n_bytes: int) -> Iterator[bytes]:
    """A recording of noise, 48 kHz, stereo."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((2, 2, 48_000, 0, "NONE", ""))
    head = file.getvalue()
    yield head[:4] + struct.pack("<I", n_bytes - 8) + head[8:-4] + struct.pack("<I", n_bytes - 44)
    yield from make_noise(n_bytes - len(head))


async def post(
    port: int, path: str, headers: str, blocks: Iterator[bytes], n_bytes: int
) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}"
        f"Content-Length: {n_bytes}\r\n\r\n".encode()
    )
    for block in blocks:
        writer.write(block)
        await writer.drain()
    answer = await read_answer(reader)
    writer.close()
    return answer


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


async def measure_plain_upload(path: Path, n_bytes: int) -> float:
    port = find_free_port()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLAIN_SERVER, str(path), str(port)
    )
    try:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.1)
        started = time.perf_counter()
        assert (await post(port, "/", "", make_noise(n_bytes), n_bytes))[0] == 201
        return n_bytes / (time.perf_counter() - started)
    finally:
        server.kill()
        await server.wait()
        path.unlink(missing_ok=True)


def summarise(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 1),
        "max": round(ordered[-1], 1),
    }


def format_table(results: Mapping[str, Any]) -> str:
    """Markdown, for docs/developer/performance.md."""
    lines = [f"{results['machine']}.", "", "| part | figures |", "|---|---|"]
    for name, result in results.items():
        if isinstance(result, dict):
            figures = ", ".join(f"{key} {value}" for key, value in result.items())
            lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)
