"""Rate limits per caller, and limits on waiting requests. Kept in this process's memory."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import anyio

from service.errors import TooManyRequests, TooManyWaiting

MAX_KEYS = 10_000
MAX_RECEIVING = 32  # requests that send part of a recording at the same time; each has a thread
MAX_RECEIVING_PER_TOKEN = 8
WAITING_SHARE = 1 / 4  # of the waiting slots, for one token


class Bucket:
    """A token bucket per key: holds `burst` requests and refills at `rate` a second."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def require(self, key: str) -> None:
        """
        Raises:
            TooManyRequests
        """
        with self._lock:
            now = self._clock()
            level, at = self._levels.get(key, (float(self._burst), now))
            level = min(self._burst, level + (now - at) * self._rate)
            if level < 1:
                wait = math.ceil((1 - level) / self._rate)
                raise TooManyRequests(f"Too many requests: wait {wait} s", wait)
            if len(self._levels) >= MAX_KEYS:
                self._forget_full(now)
            self._levels[key] = (level - 1, now)

    def _forget_full(self, now: float) -> None:
        self._levels = {
            key: (level, at)
            for key, (level, at) in self._levels.items()
            if level + (now - at) * self._rate < self._burst
        }


@dataclass
class Limits:
    max_waiting: int
    # Per address. Bad tokens from an address never block a good one from the same address.
    bad_tokens: Bucket = field(default_factory=lambda: Bucket(rate=10 / 60, burst=10))
    # Per address. Each may ask the provider of single sign-on, and a whole office has one address.
    sign_ons: Bucket = field(default_factory=lambda: Bucket(rate=1, burst=60))
    # For all callers together: each attempt costs a second and 256 MiB.
    passphrases: Bucket = field(default_factory=lambda: Bucket(rate=1 / 10, burst=5))
    # Per token.
    uploads: Bucket = field(default_factory=lambda: Bucket(rate=5, burst=200))
    parts: Bucket = field(default_factory=lambda: Bucket(rate=100, burst=500))
    polls: Bucket = field(default_factory=lambda: Bucket(rate=500, burst=2000))
    receiving: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(MAX_RECEIVING)
    )
    _cutting: threading.Lock = field(default_factory=threading.Lock)
    _receiving_by_token: Counter[UUID] = field(default_factory=Counter)
    _waiting_by_token: Counter[UUID] = field(default_factory=Counter)

    @contextmanager
    def receive(self, token_id: UUID) -> Iterator[None]:
        """Hold one of the slots of requests that send a recording; event loop only.

        Raises:
            TooManyRequests
        """
        own = self._receiving_by_token
        if own.total() >= self.receiving.total_tokens:
            raise TooManyRequests("Too many uploads at the same time: wait 1 s", 1)
        if own[token_id] >= MAX_RECEIVING_PER_TOKEN:
            raise TooManyRequests(
                f"A token may send {MAX_RECEIVING_PER_TOKEN} parts at the same time: wait 1 s", 1
            )
        own[token_id] += 1
        try:
            yield
        finally:
            own[token_id] -= 1
            if not own[token_id]:
                del own[token_id]

    @contextmanager
    def cutting(self) -> Iterator[None]:
        """Cut one clip at a time, because each holds its whole recording in memory.

        Raises:
            TooManyRequests
        """
        if not self._cutting.acquire(blocking=False):
            raise TooManyRequests("Another clip is being cut: wait 2 s", 2)
        try:
            yield
        finally:
            self._cutting.release()

    @contextmanager
    def waiting(self, token_id: UUID) -> Iterator[None]:
        """Hold one of the waiting slots. For requests that wait for an event; event loop only.

        Raises:
            TooManyWaiting: all slots are taken, or the token's share of them.
        """
        own = self._waiting_by_token
        if own.total() >= self.max_waiting:
            raise TooManyWaiting("Too many requests are waiting: send it again without `wait`")
        share = math.ceil(self.max_waiting * WAITING_SHARE)
        if own[token_id] >= share:
            raise TooManyWaiting(
                f"A token may have {share} requests waiting: send it again without `wait`"
            )
        own[token_id] += 1
        try:
            yield
        finally:
            own[token_id] -= 1
            if not own[token_id]:
                del own[token_id]

    @property
    def n_waiting(self) -> int:
        return self._waiting_by_token.total()
