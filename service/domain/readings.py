"""Which readings the audit trail has already, so that playing and polling do not fill it.

A browser plays a recording in many requests, and the page of a transcript asks for changes every
few seconds. Each of these is in the trail, but not once per request:

- Playing: before any sound is sent, an entry names the stretch of the recording that it belongs
  to, in seconds: a minute at first, then two, and so on up to ten, so that an hour makes about ten
  entries. Nothing is heard that no entry names, not even if the service is killed. An entry may
  name up to ten minutes that were not heard.
- Polling: one entry for the same reading.

Both hold for one token in one browser, and for an hour: then the next request is recorded again.
The memory of one process is enough: after a restart more entries are written, never fewer.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from service.domain import audit
from service.domain.callers import Caller
from service.services import Services

WINDOW = 3600.0  # s, for which an entry stands for the same readings
FIRST_STRETCH, LONGEST_STRETCH = 60, 600  # s
MAX_REMEMBERED = 10_000

Key = tuple[object, ...]


@dataclass
class _Recorded:
    until: float  # by the clock
    stretch: int = FIRST_STRETCH
    ranges: list[tuple[int, int]] = field(default_factory=list)  # s of the recording

    def covered_until(self, second: int) -> int:
        """The end of the recorded ranges that follow each other from this second."""
        for start, end in sorted(self.ranges):
            if start <= second < end:
                second = end
        return second


class Readings:
    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services, self._clock = services, clock
        self._recorded: dict[Key, _Recorded] = {}
        self._lock = threading.Lock()  # never held while an entry is written

    def record_once(
        self,
        caller: Caller,
        action: audit.Action,
        study_id: UUID,
        objects: Mapping[str, UUID | str],
        detail: Mapping[str, audit.Value],
    ) -> None:
        """Record a reading, unless an entry of the last hour says the same."""
        key = _key(caller, action, objects, tuple(sorted(detail.items(), key=str)))
        with self._lock:
            if self._find(key) is not None:
                return
        audit.record_now(
            self._services, caller, action, study_id, {**objects, **_browser(caller)}, detail=detail
        )
        with self._lock:
            self._remember(key)

    def record_playing(
        self,
        caller: Caller,
        action: audit.Action,
        study_id: UUID,
        objects: Mapping[str, UUID | str],
        start: float,
        end: float,
        last: float,
    ) -> None:
        """Record that sound is about to be sent, unless an entry of the last hour names it.

        Args:
            start, end: of the sound, seconds of the recording.
            last: the end of what the request asks for.
        """
        key = _key(caller, action, objects)
        with self._lock:
            known = self._find(key)
            first = math.floor(start)
            if known is not None:
                first = known.covered_until(first)
            if first >= end:
                return
            stretch = FIRST_STRETCH if known is None else known.stretch
        until = max(math.ceil(end), min(math.ceil(last), first + stretch))
        audit.record_now(
            self._services,
            caller,
            action,
            study_id,
            {**objects, **_browser(caller)},
            detail={"seconds": [[first, until]]},
        )
        with self._lock:
            known = self._remember(key)
            known.ranges.append((first, until))
            known.stretch = min(2 * stretch, LONGEST_STRETCH)

    def _find(self, key: Key) -> _Recorded | None:
        known = self._recorded.get(key)
        return None if known is None or known.until <= self._clock() else known

    def _remember(self, key: Key) -> _Recorded:
        known = self._find(key)
        if known is None:
            now = self._clock()
            if len(self._recorded) >= MAX_REMEMBERED:
                kept = {k: each for k, each in self._recorded.items() if each.until > now}
                self._recorded = kept if len(kept) < MAX_REMEMBERED else {}
            known = self._recorded[key] = _Recorded(now + WINDOW)
        return known


def _key(
    caller: Caller, action: audit.Action, objects: Mapping[str, UUID | str], *rest: object
) -> Key:
    ids = tuple(sorted((kind, str(id)) for kind, id in objects.items()))
    return (caller.token_id, caller.device_id, action, ids, repr(rest))


def _browser(caller: Caller) -> dict[str, UUID | str]:
    return {} if caller.device_id is None else {"browser": caller.device_id}
