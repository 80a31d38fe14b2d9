"""Who is at work on which transcript at the moment. Kept in memory, for seconds."""

import threading
import time
from dataclasses import dataclass, field
from uuid import UUID

PRESENT = 15.0  # s since a page has last reported
MAX_PAGES = 100  # per transcript


@dataclass(frozen=True)
class Place:
    """A page on which somebody has a transcript open, and the segment they are in."""

    name: str | None
    segment: str | None
    reported_at: float


@dataclass
class Presence:
    _places: dict[UUID, dict[tuple[UUID, str], Place]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(
        self, transcript_id: UUID, token_id: UUID, page: str, name: str | None, segment: str | None
    ) -> list[Place]:
        """Record where somebody is, and return where the others are.

        Args:
            page: a random name of the page, because one person may have several open.
        """
        now = time.monotonic()
        with self._lock:
            places = self._places.setdefault(transcript_id, {})
            places.pop((token_id, page), None)
            for key in [key for key, each in places.items() if each.reported_at < now - PRESENT]:
                del places[key]
            others = list(places.values())
            if len(places) < MAX_PAGES:
                places[token_id, page] = Place(name, segment, now)
            self._forget_closed(now)
        return others

    def _forget_closed(self, now: float) -> None:
        """Forget transcripts that no page has reported for a while."""
        for id, places in list(self._places.items()):
            if all(each.reported_at < now - PRESENT for each in places.values()):
                del self._places[id]
