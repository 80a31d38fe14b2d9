"""Estimates how long a session will still take, from how long its stages have taken so far."""

import time
from collections.abc import Callable, Mapping

from models.pipeline import COSTLY_STAGES, StageProgress

RELIABLE_FRACTION = 0.05  # from here on, a stage's own speed predicts its end


class EtaEstimator:
    """Seconds of processing per second of audio, from a quick test, then from finished sessions.

    Args:
        rates: of the costly stages, from `Pipeline.measure_speed`.
    """

    def __init__(
        self, rates: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rates = dict(rates)
        self.clock = clock
        self.measured_seconds = 0.0  # of audio in finished sessions, which the rates come from
        self.start(0.0)

    @property
    def basis(self) -> str:
        return "earlier recordings" if self.measured_seconds else "a quick test"

    def start(self, audio_seconds: float) -> None:
        """Begin a session of this length."""
        self.audio_seconds = audio_seconds
        self.stage_seconds: dict[str, float] = {}  # of finished stages
        self.stage, self.fraction, self.stage_started = "", 0.0, self.clock()

    def update(self, progress: StageProgress) -> None:
        now = self.clock()
        if progress.stage != self.stage:
            if self.stage:
                self.stage_seconds[self.stage] = now - self.stage_started
            self.stage, self.stage_started = progress.stage, now
        self.fraction = progress.fraction

    def finish(self) -> None:
        """End a session that succeeded: average its rates with the earlier ones, by length."""
        total = self.measured_seconds + self.audio_seconds
        for stage in COSTLY_STAGES:
            if stage in self.stage_seconds and self.audio_seconds:
                earlier = self.rates[stage] * self.measured_seconds
                self.rates[stage] = (earlier + self.stage_seconds[stage]) / total
        self.measured_seconds = total

    def remaining(self) -> float:
        """Seconds until this session is done."""
        seconds = 0.0
        for stage in COSTLY_STAGES:
            if stage in self.stage_seconds:
                continue
            expected = self.rates[stage] * self.audio_seconds
            if stage == self.stage:
                elapsed = self.clock() - self.stage_started
                if self.fraction > RELIABLE_FRACTION:
                    expected = elapsed / self.fraction
                seconds += max(expected * (1 - self.fraction), 0.0)
            else:
                seconds += expected
        return seconds

    def estimate(self, audio_seconds: float) -> float:
        """Seconds for a whole session of this length."""
        return audio_seconds * sum(self.rates[stage] for stage in COSTLY_STAGES)
