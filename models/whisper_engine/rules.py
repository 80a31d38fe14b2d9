"""Which token may come next, for many texts at once and without asking the device anything.

Whisper's three filters of logits (suppressed tokens, no blank at the beginning, timestamps in
pairs and in order) as additions of 0 or minus infinity, from a few numbers kept of each text.
Source: whisper/decoding.py, `SuppressTokens`, `SuppressBlank`, `ApplyTimestampRules`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.model import Whisper

MAX_INITIAL_TIMESTAMP = 50  # steps of 20 ms: speech begins in a window's first second


@dataclass(frozen=True)
class TextState:
    """What the rules need to know of each text. All are (n_texts,), int64.

    `before_last` counts only where there are two tokens, `last` where there is one.
    """

    length: Tensor  # tokens written, the prompt not counted
    last: Tensor
    before_last: Tensor
    last_timestamp: Tensor  # before the first: the token before the timestamps

    def rows(self, rows: slice) -> "TextState":
        return TextState(
            self.length[rows], self.last[rows], self.before_last[rows], self.last_timestamp[rows]
        )


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that decoding needs; they are the same for every language of a model."""

    sot: int
    eot: int
    timestamp_begin: int
    no_speech: int
    suppressed: tuple[int, ...]


class Rules:
    def __init__(self, special: SpecialTokens, n_vocab: int, device: torch.device) -> None:
        self.special = special
        self.suppressed = torch.zeros(n_vocab, device=device)
        self.suppressed[list(special.suppressed)] = -torch.inf
        self.timestamps = torch.arange(special.timestamp_begin, n_vocab, device=device)

    def apply(self, logits: Tensor, state: TextState) -> None:
        """Forbid tokens in place; logits: (n_texts, n_vocab), float32."""
        eot, begin = self.special.eot, self.special.timestamp_begin
        # Views: what is added to them is added to the logits.
        text, special, timestamps = logits[:, :eot], logits[:, eot:begin], logits[:, begin:]
        logits += self.suppressed

        # A text begins with a timestamp, and so not with a blank. A timestamp after text ends a
        # segment: another, where the next segment begins, or the end of the text must follow.
        is_first = state.length == 0
        after_timestamp = ~is_first & (state.last >= begin)
        after_pair = after_timestamp & ((state.length < 2) | (state.before_last >= begin))
        after_segment = after_timestamp & ~after_pair
        text += _minus_infinity(is_first | after_segment)[:, None]
        special += _minus_infinity(is_first)[:, None]

        # Time goes on, and no segment is empty.
        earliest = state.last_timestamp + torch.where(after_segment, 0, 1)
        latest = torch.where(is_first, begin + MAX_INITIAL_TIMESTAMP, logits.shape[1])
        forbidden = (self.timestamps < earliest[:, None]) | (self.timestamps > latest[:, None])
        timestamps += _minus_infinity(forbidden | after_pair[:, None])

        # If all timestamps together are more probable than any other token, it is a timestamp.
        likelier = timestamps.logsumexp(dim=1) > logits[:, :begin].amax(dim=1)
        logits[:, :begin] += _minus_infinity(likelier)[:, None]


def _minus_infinity(where: Tensor) -> Tensor:
    return torch.where(where, -torch.inf, 0.0)


def special_tokens(model: Whisper) -> SpecialTokens:
    """As `whisper.decode` with its default options has them."""
    task = DecodingTask(model, DecodingOptions(language="en", fp16=False))
    tokenizer = task.tokenizer
    return SpecialTokens(
        sot=tokenizer.sot,
        eot=tokenizer.eot,
        timestamp_begin=tokenizer.timestamp_begin,
        no_speech=tokenizer.no_speech,
        suppressed=(*task._get_suppress_tokens(), tokenizer.no_timestamps),
    )
