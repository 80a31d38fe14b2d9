"""The network between the clients and the API: it cuts connections and loses answers.

Each connection carries one request.
"""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from typing import Any

CUT, LOSE, HALVE = 0.015, 0.015, 0.01  # share of the requests, apart from faults


class Proxy(threading.Thread):
    def __init__(self, port: int, seed: int) -> None:
        super().__init__(daemon=True, name="proxy")
        self._target = port
        self._random = random.Random(f"proxy {seed}")
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any] | None] = set()  # the loop itself keeps none alive
        self.counts: Counter[str] = Counter()
        self.losing = False  # every answer is lost
        self.down = False  # every connection is refused
        self.calm = False  # no more faults
        self.port = 0

    def begin(self) -> None:
        self.start()
        self._listening.wait(10)

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        async with server:
            await server.serve_forever()

    def cut_all(self) -> int:
        """Cut every open connection and return how many there were."""
        open_now = list(self._open)
        for writer in open_now:
            self._loop.call_soon_threadsafe(writer.transport.abort)
        return len(open_now)

    def _fate(self) -> str:
        if self.calm:
            return "kept"
        if self.down:
            return "refused"
        if self.losing:
            return "lost answer"
        chance = self._random.random()
        for name, share in (("cut request", CUT), ("lost answer", LOSE), ("half answer", HALVE)):
            if chance < share:
                return name
            chance -= share
        return "kept"

    async def _forward(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        fate = self._fate()
        self.counts[fate] += 1
        self._open.add(to_client)
        task = asyncio.current_task()
        self._tasks.add(task)
        to_api = None
        try:
            if fate == "refused":
                return
            from_api, to_api = await asyncio.open_connection("127.0.0.1", self._target)
            sent = asyncio.ensure_future(
                pass_on(from_client, to_api, self._limit(fate == "cut request", 8000))
            )
            if fate == "cut request":
                await sent
                return
            limit = 0 if fate == "lost answer" else self._limit(fate == "half answer", 900)
            if limit == 0:  # the API answers, but the client does not get it
                await from_api.read(1)
            else:
                await pass_on(from_api, to_client, limit)
            sent.cancel()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(to_client)
            self._tasks.discard(task)
            for writer in (to_api, to_client):
                if writer is not None:
                    if fate != "kept":
                        writer.transport.abort()
                    with contextlib.suppress(OSError):
                        writer.close()

    def _limit(self, is_limited: bool, most: int) -> int | None:
        return self._random.randrange(1, most) if is_limited else None


async def pass_on(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int | None
) -> None:
    """Copy until the source ends, or until a number of bytes have passed."""
    n_bytes = 0
    with contextlib.suppress(OSError):
        while data := await source.read(16384):
            if limit is not None and n_bytes + len(data) > limit:
                target.write(data[: limit - n_bytes])
                await target.drain()
                return
            n_bytes += len(data)
            target.write(data)
            await target.drain()
