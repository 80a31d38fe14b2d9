"""How long a session will still take, from what its stages have taken so far."""

import time
from collections.abc import Callable, Mapping

from models.pipeline import COSTLY_STAGES, StageProgress

SETTLED = 0.05  # a stage this far says itself how long it takes


class Eta:
    """Seconds of processing per second of audio, first from a trial, then from finished sessions.

    Args:
        rates: of the costly stages, `Pipeline.seconds_per_second`.
    """

    def __init__(
        self, rates: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rates = dict(rates)
        self.clock = clock
        self.learnt = 0.0  # seconds of audio the rates come from
        self.start(0.0)

    def start(self, audio_seconds: float) -> None:
        """A session of this length begins."""
        self.audio_seconds = audio_seconds
        self.taken: dict[str, float] = {}
        self.stage, self.fraction, self.stage_started = "", 0.0, self.clock()

    def progress(self, progress: StageProgress) -> None:
        now = self.clock()
        if progress.stage != self.stage:
            if self.stage:
                self.taken[self.stage] = now - self.stage_started
            self.stage, self.stage_started = progress.stage, now
        self.fraction = progress.fraction

    def finish(self) -> None:
        """The session has ended well: its rates count for the next ones, by length."""
        for stage in COSTLY_STAGES:
            if stage in self.taken and self.audio_seconds:
                known = self.rates[stage] * self.learnt
                self.rates[stage] = (known + self.taken[stage]) / (self.learnt + self.audio_seconds)
        self.learnt += self.audio_seconds

    def remaining(self) -> float:
        """Seconds until this session is done."""
        seconds = 0.0
        for stage in COSTLY_STAGES:
            if stage in self.taken:
                continue
            expected = self.rates[stage] * self.audio_seconds
            if stage == self.stage:
                elapsed = self.clock() - self.stage_started
                if self.fraction > SETTLED:
                    expected = elapsed / self.fraction
                seconds += max(expected * (1 - self.fraction), 0.0)
            else:
                seconds += expected
        return seconds

    def estimate(self, audio_seconds: float) -> float:
        """Seconds for a whole session of this length."""
        return audio_seconds * sum(self.rates[stage] for stage in COSTLY_STAGES)
