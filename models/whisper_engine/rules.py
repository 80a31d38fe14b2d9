"""Which token may come next, for many texts at once and without synchronising with the device.

Whisper's three logit filters (suppressed tokens, no initial blank, timestamps in pairs and in
order) are applied by adding 0 or minus infinity, computed from a few numbers kept for each text.
Source: whisper/decoding.py, `SuppressTokens`, `SuppressBlank`, `ApplyTimestampRules`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.model import Whisper

MAX_INITIAL_TIMESTAMP = 50  # steps of 20 ms: speech starts within a window's first second


@dataclass(frozen=True)
class TextState:
    """The state of each text that the rules depend on. All are (n_texts,), int64.

    `last` is valid from one token on, `before_last` from two.
    """

    length: Tensor  # tokens so far, without the prompt
    last: Tensor
    before_last: Tensor
    last_timestamp: Tensor  # initially the token before all timestamps

    def rows(self, rows: slice) -> "TextState":
        return TextState(
            self.length[rows], self.last[rows], self.before_last[rows], self.last_timestamp[rows]
        )


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids needed for decoding; the same for every language of a model."""

    sot: int
    eot: int
    timestamp_begin: int
    no_speech: int
    suppressed: tuple[int, ...]


class TokenRules:
    """Whisper's logit filters on one device."""

    def __init__(self, special: SpecialTokens, n_vocab: int, device: torch.device) -> None:
        self.special = special
        self.suppressed = torch.zeros(n_vocab, device=device)
        self.suppressed[list(special.suppressed)] = -torch.inf
        self.timestamps = torch.arange(special.timestamp_begin, n_vocab, device=device)

    def apply(self, logits: Tensor, state: TextState) -> None:
        """Forbid tokens in place. logits: (n_texts, n_vocab), float32."""
        eot, begin = self.special.eot, self.special.timestamp_begin
        # Views: adding to them changes the logits.
        text, special, timestamps = logits[:, :eot], logits[:, eot:begin], logits[:, begin:]
        logits += self.suppressed

        # A text starts with a timestamp, so never with a blank. A timestamp after text ends a
        # segment: the start of the next segment or the end of the text must follow.
        is_first = state.length == 0
        after_timestamp = ~is_first & (state.last >= begin)
        after_pair = after_timestamp & ((state.length < 2) | (state.before_last >= begin))
        after_segment = after_timestamp & ~after_pair
        text += _minus_infinity(is_first | after_segment)[:, None]
        special += _minus_infinity(is_first)[:, None]

        # Timestamps never decrease, and no segment is empty.
        earliest = state.last_timestamp + torch.where(after_segment, 0, 1)
        latest = torch.where(is_first, begin + MAX_INITIAL_TIMESTAMP, logits.shape[1])
        forbidden = (self.timestamps < earliest[:, None]) | (self.timestamps > latest[:, None])
        timestamps += _minus_infinity(forbidden | after_pair[:, None])

        # If all timestamps together are more probable than any other token, one must follow.
        likelier = timestamps.logsumexp(dim=1) > logits[:, :begin].amax(dim=1)
        logits[:, :begin] += _minus_infinity(likelier)[:, None]


def _minus_infinity(where: Tensor) -> Tensor:
    return torch.where(where, -torch.inf, 0.0)


def read_special_tokens(model: Whisper) -> SpecialTokens:
    """The ids that `whisper.decode` uses with its default options."""
    task = DecodingTask(model, DecodingOptions(language="en", fp16=False))
    tokenizer = task.tokenizer
    return SpecialTokens(
        sot=tokenizer.sot,
        eot=tokenizer.eot,
        timestamp_begin=tokenizer.timestamp_begin,
        no_speech=tokenizer.no_speech,
        suppressed=(*task._get_suppress_tokens(), tokenizer.no_timestamps),
    )
