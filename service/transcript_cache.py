"""The transcripts that were read last, decrypted and parsed, for a few minutes.

Parsing two hours of speech takes a tenth of a second, and a person who corrects it saves every few
seconds. Only whole versions that were read from the vault are kept, so a change that is rolled back
leaves nothing here.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

from models.transcript import Transcript

MAX_TRANSCRIPTS = 4
KEPT = 600.0  # s after the last use


@dataclass
class TranscriptCache:
    _kept: OrderedDict[UUID, tuple[float, Transcript]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, transcript_id: UUID, version: int) -> Transcript | None:
        """The newest version kept that is not newer than `version`."""
        with self._lock:
            self._forget_old()
            _, kept = self._kept.get(transcript_id, (0.0, None))
            return kept if kept is not None and kept.version <= version else None

    def keep(self, transcript_id: UUID, transcript: Transcript) -> None:
        """Keep a version, unless a newer one is kept."""
        with self._lock:
            _, kept = self._kept.pop(transcript_id, (0.0, transcript))
            newest = max(kept, transcript, key=lambda each: each.version)
            self._kept[transcript_id] = time.monotonic(), newest
            while len(self._kept) > MAX_TRANSCRIPTS:
                self._kept.popitem(last=False)

    def forget(self, transcript_id: UUID) -> None:
        with self._lock:
            self._kept.pop(transcript_id, None)

    def _forget_old(self) -> None:
        for id, (used_at, _) in list(self._kept.items()):
            if used_at < time.monotonic() - KEPT:
                del self._kept[id]
