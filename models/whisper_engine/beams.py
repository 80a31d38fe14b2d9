"""Beam search: the most probable texts of one window, continued side by side."""


class BeamSearch:
    """The beams of one window.

    Source: whisper/decoding.py, `BeamSearchDecoder` with a patience of 1.

    Args:
        n_beams: texts that are continued, and texts that are searched for.
        eot: the token that ends a text.
        limit: the most tokens of a text.
        enough: stop when the best beam has reached this token, a timestamp; None: never.

    Attributes:
        sequences: the tokens of each beam so far.
        sources: the beam that each continues, as of the last step.
    """

    def __init__(self, n_beams: int, eot: int, limit: int, enough: int | None = None) -> None:
        self.n_beams, self.eot, self.limit, self.enough = n_beams, eot, limit, enough
        self.sequences: list[tuple[int, ...]] = [()] * n_beams
        self.sources = [*range(n_beams)]
        self._scores = [0.0] * n_beams
        self._finished: list[tuple[tuple[int, ...], float]] = []

    @property
    def is_done(self) -> bool:
        best = self.sequences[0]
        return (
            len(self._finished) >= self.n_beams
            or len(best) >= self.limit
            or (self.enough is not None and bool(best) and best[-1] >= self.enough)
        )

    def add(self, logprobs: list[list[float]], tokens: list[list[int]]) -> None:
        """Continue the beams by a step; after the last, they stay as they are.

        Args:
            logprobs: of the n_beams + 1 most probable next tokens of each beam, highest first.
            tokens: these tokens.
        """
        if self.is_done:
            self.sources = [*range(self.n_beams)]
            return
        beams = range(self.n_beams) if self.sequences[0] else range(1)  # at first all are equal
        candidates = sorted(
            (
                (self._scores[beam] + logprob, beam, token)
                for beam in beams
                for logprob, token in zip(logprobs[beam], tokens[beam], strict=True)
            ),
            key=lambda candidate: -candidate[0],
        )
        kept = []
        for score, beam, token in candidates:
            if token != self.eot:
                kept.append((score, beam, token))
            elif len(self._finished) < self.n_beams:
                self._finished.append((self.sequences[beam], score))
            if len(kept) == self.n_beams:
                break
        self.sequences = [(*self.sequences[beam], token) for _, beam, token in kept]
        self.sources = [beam for _, beam, _ in kept]
        self._scores = [score for score, _, _ in kept]

    def finish(self) -> list[tuple[tuple[int, ...], float]]:
        """`n_beams` texts without the token that ends them, each with its log-probability."""
        missing = self.n_beams - len(self._finished)
        unfinished = list(zip(self.sequences, self._scores, strict=True))
        return [*self._finished, *unfinished[: max(0, missing)]]
