"""Who is at work on which transcript at the moment. Kept in memory, for seconds."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

Activity = Literal["correcting", "reviewing"]
PRESENT = 15.0  # s since a page has last reported
MAX_PAGES = 100  # per transcript


@dataclass(frozen=True)
class Place:
    """A page on which somebody has a transcript open, and the segment they are in."""

    token_id: UUID
    name: str | None
    segment: str | None
    activity: Activity
    reported_at: float


@dataclass
class Presence:
    _places: dict[UUID, dict[tuple[UUID, str], Place]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(
        self,
        transcript_id: UUID,
        token_id: UUID,
        page: str,
        name: str | None,
        segment: str | None,
        activity: Activity = "correcting",
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
                places[token_id, page] = Place(token_id, name, segment, activity, now)
            self._forget_closed(now)
        return others

    def people(self, transcripts: Collection[UUID]) -> dict[UUID, list[Place]]:
        """Who is at work on each of these transcripts; one place for each person and activity."""
        oldest = time.monotonic() - PRESENT
        found: dict[UUID, list[Place]] = {}
        with self._lock:
            for id in transcripts:
                places = self._places.get(id, {}).values()
                each = {
                    (one.token_id, one.activity): one for one in places if one.reported_at >= oldest
                }
                if each:
                    found[id] = list(each.values())
        return found

    def _forget_closed(self, now: float) -> None:
        """Forget transcripts that no page has reported for a while."""
        for id, places in list(self._places.items()):
            if all(each.reported_at < now - PRESENT for each in places.values()):
                del self._places[id]
