"""Words with times from Whisper's cross-attention, for a batch of windows in one pass.

The decoder reads its finished text once more, all tokens at once. In the alignment heads each token
attends to the audio it stands for. Dynamic time warping finds a monotone path through their
weights, and a token starts where the path reaches it. The paths of a batch are found together, on
the model's device. Source: whisper/timing.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from whisper.audio import HOP_LENGTH
from whisper.timing import WordTiming, merge_punctuations
from whisper.tokenizer import Tokenizer

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion
from models.transcript import Word
from models.windows import Window

POSITION_SECONDS = 2 * HOP_LENGTH / SAMPLE_RATE  # per position of the encoder's output
MEDIAN_WIDTH = 7  # positions
# Sorting these pairs in this order makes the fourth of seven numbers the median.
# Source: N. Devillard, Fast median search: an ANSI C implementation (1998), `opt_med7`.
MEDIAN_OF_7 = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)

MIN_WORD = 0.02  # s, one step of Whisper's time
MAX_MEDIAN_WORD = 0.7  # s, upper limit of the median duration of a word, as in whisper
MAX_WORD = 1.0  # s, plus
MAX_LETTER = 0.15  # s for each letter: words are hardly ever longer
SENTENCE_ENDS = ".。!！?？"
PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"
BRIEF_PAUSE = 0.3  # s; a shorter gap between two speech regions may lie inside a word


class AlignmentModel(Protocol):
    """A model that can align texts; InferenceModel is one."""

    @property
    def device(self) -> torch.device: ...

    def logits_and_scores(
        self, tokens: Tensor, cross: Any, heads: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits, (batch, n_tokens, n_vocab), and the cross-attention scores of `heads`.

        Args:
            tokens: (batch, n_tokens)
            heads: (layer, head) pairs; their scores, before the softmax, are
                (batch, n_heads, n_tokens, 1500), float32.
        """
        ...


@dataclass(frozen=True)
class Alignment:
    """The start of each text token, the end of the last, and the probability of each."""

    times: np.ndarray  # (n_tokens + 1,), s from the start of the window
    probabilities: np.ndarray  # (n_tokens,)


def place_words(
    tokenizer: Tokenizer,
    windows: Sequence[Window],
    tokens: Sequence[Sequence[int]],
    alignments: Sequence[Alignment],
    regions: Sequence[SpeechRegion] = (),
) -> list[tuple[Word, ...]]:
    """The words of each window, in order; no word starts before its predecessor.

    Args:
        tokens: of each window as decoded, with timestamps.
        alignments: of each window's text tokens.
        regions: a word that reaches into a pause between them is cut off there.
    """
    spoken = _join_brief_pauses(regions)
    found = []
    for window, of_window, alignment in zip(windows, tokens, alignments, strict=True):
        timings = _build_words(tokenizer, strip_timestamps(of_window, tokenizer), alignment)
        _limit_durations(timings, _find_segments(of_window, tokenizer, window.duration))
        near = [r for r in spoken if r.start < window.end and r.end > window.start]
        found.append(_order_words(timings, window, near))
    return found


def strip_timestamps(tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The text tokens: those below the special tokens and timestamps."""
    return [token for token in tokens if token < tokenizer.eot]


# --- times of tokens ------------------------------------------------------------------------------


@torch.inference_mode()
def align(
    model: AlignmentModel,
    tokenizer: Tokenizer,
    texts: Sequence[Sequence[int]],
    n_frames: Sequence[int],
    cross: Any,
    heads: Sequence[tuple[int, int]],
) -> list[Alignment]:
    """The time and probability of each text token, as in `whisper.timing.find_alignment`.

    Args:
        texts: text tokens of each window, without timestamps.
        n_frames: of each window's spectrogram, without the padding.
        cross: the windows' cross-attention keys and values, as `model` takes them.
        heads: the model's alignment heads, (layer, head).
    """
    if not any(texts):
        return [Alignment(np.zeros(1), np.zeros(0)) for _ in texts]
    prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    n_tokens = [len(prompt) + len(text) + 1 for text in texts]
    rows = [[*prompt, *text] for text in texts]
    longest = max(n_tokens)
    # Attention is causal, so padding after a window's own tokens does not change them.
    padded = [row + [tokenizer.eot] * (longest - len(row)) for row in rows]
    batch = torch.tensor(padded).to(model.device)
    lengths = torch.tensor(n_tokens).to(model.device)
    positions = torch.tensor([max(1, n // 2) for n in n_frames]).to(model.device)

    logits, scores = model.logits_and_scores(batch, cross, heads)
    n_sot = len(tokenizer.sot_sequence)
    probabilities = _find_probabilities(logits[:, n_sot:-1, : tokenizer.eot], batch[:, n_sot + 1 :])
    del logits
    matrix = _average_attention(scores, lengths, positions)[:, n_sot:-1]
    starts = warp(-matrix, lengths - n_sot - 1, positions).cpu().numpy()
    likely = probabilities.cpu().numpy()
    return [
        Alignment(starts[i, : len(text) + 1] * POSITION_SECONDS, likely[i, : len(text)])
        for i, text in enumerate(texts)
    ]


def _find_probabilities(logits: Tensor, following: Tensor) -> Tensor:
    """The probability of each following token among the text tokens, (batch, n_tokens)."""
    logits = logits.float()
    following = following.clamp(max=logits.shape[-1] - 1)  # padding does not matter
    chosen = logits.gather(-1, following[..., None])[..., 0]
    return (chosen - logits.logsumexp(-1)).exp()


def _average_attention(scores: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
    """The mean attention of the heads, normalised and smoothed, (batch, n_tokens, 1500).

    Args:
        scores: (batch, n_heads, n_tokens, 1500), before the softmax.
        lengths, positions: (batch,), tokens and encoder positions of each window without padding.
    """
    n_tokens, n_positions = scores.shape[-2:]
    is_audio = torch.arange(n_positions, device=scores.device) < positions[:, None]
    is_token = torch.arange(n_tokens, device=scores.device) < lengths[:, None]
    weights = scores.masked_fill(~is_audio[:, None, None], -torch.inf).softmax(-1)

    own = is_token[:, None, :, None]
    n_own = lengths[:, None, None, None]
    mean = (weights * own).sum(-2, keepdim=True) / n_own
    deviations = weights - mean
    spread = ((deviations * own).square().sum(-2, keepdim=True) / n_own).sqrt()
    normalised = deviations / spread.masked_fill(~is_audio[:, None, None], 1.0)
    # One window at a time: the filter takes seven times the memory of its input.
    return torch.stack([_smooth(*each).mean(0) for each in zip(normalised, positions, strict=True)])


def _smooth(weights: Tensor, n_own: Tensor) -> Tensor:
    """Median over MEDIAN_WIDTH positions of (n_heads, n_tokens, n_positions).

    Positions are mirrored at both ends of a window. Windows too short for that, up to 0.06 s, are
    left unchanged, as in whisper's `median_filter`.
    """
    n_positions, half = weights.shape[-1], MEDIAN_WIDTH // 2
    index = torch.arange(-half, n_positions + half, device=weights.device).abs()
    last = n_own - 1
    index = torch.where(index > last, 2 * last - index, index).clamp(min=0)
    mirrored = weights[..., index]
    seven = [mirrored[..., i : i + n_positions] for i in range(MEDIAN_WIDTH)]
    for i, j in MEDIAN_OF_7:
        seven[i], seven[j] = torch.minimum(seven[i], seven[j]), torch.maximum(seven[i], seven[j])
    return torch.where(n_own > half, seven[half], weights)


def warp(costs: Tensor, n_rows: Tensor, n_columns: Tensor) -> Tensor:
    """Dynamic time warping: the column in which the cheapest path enters each row, (batch, rows).

    A path goes from the first row and column to a window's last ones; each step goes right, down or
    both. The cells of an anti-diagonal are independent of each other, so each anti-diagonal takes
    three operations for the whole batch, in the same order of sums as whisper's `dtw_cuda`.

    Args:
        costs: float32, (batch, rows, columns).
        n_rows, n_columns: (batch,), without padding; a path never enters the padding.
    """
    batch, rows, columns = costs.shape
    total = costs.new_full((batch, rows + 1, columns + 1), torch.inf)  # with a border in front
    total[:, 0, 0] = 0.0
    cells, sums = costs.flatten(1), total.flatten(1)
    for k in range(rows + columns - 1):  # row + column of a cell
        first, last = max(0, k - columns + 1), min(rows - 1, k)
        own = _diagonal(cells, k, first, last, columns)
        upper_left, above, left, here = (
            _diagonal(sums, k + offset, first, last, columns + 1)
            for offset in (0, 1, columns + 1, columns + 2)
        )
        best = torch.minimum(torch.minimum(upper_left, above), left)
        torch.add(own, best, out=here)
    return _trace_paths(total, n_rows, n_columns)


def _diagonal(flat: Tensor, k: int, first: int, last: int, width: int) -> Tensor:
    """A view of the cells (row, k - row) for row from first to last, in flattened rows."""
    step = max(1, width - 1)
    return flat[:, k + first * (width - 1) : k + last * (width - 1) + 1 : step]


def _trace_paths(total: Tensor, n_rows: Tensor, n_columns: Tensor) -> Tensor:
    """Follow the cheapest paths back and return the column in which each row was entered.

    Args:
        total: cost of the cheapest path to each cell, with a border in front.
    """
    upper_left, above, left = total[:, :-1, :-1], total[:, :-1, 1:], total[:, 1:, :-1]
    diagonal = (upper_left <= above) & (upper_left <= left)
    from_above = diagonal | (above <= left)
    column = torch.arange(total.shape[2] - 1, device=total.device, dtype=torch.int32)
    # For each column, the last one up to it at which a path along the row can have entered.
    entry = torch.where(from_above, column, 0).cummax(-1).values.long()

    entered = torch.zeros(entry.shape[:2], dtype=torch.long, device=total.device)
    column = n_columns[:, None] - 1
    for row in reversed(range(entry.shape[1])):
        entered[:, row : row + 1] = here = entry[:, row].gather(1, column)
        before = (here - diagonal[:, row].gather(1, here).long()).clamp(min=0)
        column = torch.where(row < n_rows[:, None], before, column)
    return entered


# --- times of words -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segment:
    """The text between two of Whisper's timestamps."""

    start: float  # s from the start of the window
    end: float
    n_tokens: int


def _find_segments(tokens: Sequence[int], tokenizer: Tokenizer, duration: float) -> list[_Segment]:
    """Source: whisper/transcribe.py, `new_segment`."""
    segments = []
    begin, n_tokens = 0.0, 0
    for token in [*tokens, tokenizer.timestamp_begin + 1500]:
        if token < tokenizer.eot:
            n_tokens += 1
        elif token >= tokenizer.timestamp_begin:
            time = (token - tokenizer.timestamp_begin) * POSITION_SECONDS
            if n_tokens:
                segments.append(_Segment(begin, min(time, duration), n_tokens))
            begin, n_tokens = time, 0
    return segments


def _build_words(tokenizer: Tokenizer, text: Sequence[int], aligned: Alignment) -> list[WordTiming]:
    """Source: whisper/timing.py, the end of `find_alignment`."""
    words, tokens = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
    bounds = np.cumsum([0, *(len(of_word) for of_word in tokens[:-1])])
    return [
        WordTiming(
            word,
            of_word,
            float(aligned.times[begin]),
            float(aligned.times[end]),
            float(aligned.probabilities[begin:end].mean()),
        )
        for word, of_word, begin, end in zip(
            words[:-1], tokens[:-1], bounds[:-1], bounds[1:], strict=True
        )
    ]


def _limit_durations(timings: list[WordTiming], segments: Sequence[_Segment]) -> None:
    """Merge punctuation with its words, and shorten words that include a pause.

    Those are words next to the end of a sentence or segment.
    Source: whisper/timing.py, `add_word_timestamps`.
    """
    durations = [timing.end - timing.start for timing in timings if timing.end > timing.start]
    typical = min(MAX_MEDIAN_WORD, float(np.median(durations))) if durations else 0.0
    if durations:
        _limit_at_sentence_ends(timings, 2 * typical)
    merge_punctuations(timings, PREPENDED, APPENDED)

    i, last_speech = 0, 0.0
    for segment in segments:
        words, n_tokens = [], 0
        while i < len(timings) and n_tokens < segment.n_tokens:
            n_tokens += len(timings[i].tokens)
            if timings[i].word:
                words.append(timings[i])
                timings[i].start, timings[i].end = (
                    round(timings[i].start, 2),
                    round(timings[i].end, 2),
                )
            i += 1
        if words:
            last_speech = _limit_in_segment(words, segment, typical, last_speech)


def _limit_at_sentence_ends(timings: Sequence[WordTiming], longest: float) -> None:
    for before, timing in zip(timings, timings[1:], strict=False):
        if timing.end - timing.start > longest:
            if timing.word in SENTENCE_ENDS:
                timing.end = timing.start + longest
            elif before.word in SENTENCE_ENDS:
                timing.start = timing.end - longest


def _limit_in_segment(
    words: Sequence[WordTiming], segment: _Segment, typical: float, last_speech: float
) -> float:
    """Adjust the first and last word. Returns the end of the segment in seconds."""
    first, longest = words[0], 2 * typical
    second = words[1] if len(words) > 1 else None
    if first.end - last_speech > 2 * longest and (
        first.end - first.start > longest
        or (second is not None and second.end - first.start > 2 * longest)
    ):
        if second is not None and second.end - second.start > longest:
            first.end = second.start = max(second.end / 2, second.end - longest)
        first.start = max(0.0, first.end - longest)
    if segment.start < first.end and segment.start - 0.5 > first.start:
        first.start = max(0.0, min(first.end - typical, segment.start))

    last = words[-1]
    if segment.end > last.start and segment.end + 0.5 < last.end:
        last.end = max(last.start + typical, segment.end)
        return segment.end
    return float(last.end)


def _order_words(
    timings: Sequence[WordTiming], window: Window, spoken: Sequence[SpeechRegion]
) -> tuple[Word, ...]:
    words = []
    earliest = window.start
    for timing in timings:
        if not timing.word:
            continue  # punctuation, merged into its word
        longest = MAX_WORD + MAX_LETTER * len(timing.word.strip())
        start, end = _clip_to_speech(window.start + timing.start, window.start + timing.end, spoken)
        start = max(start, end - longest)  # a pause precedes a word more often than it follows one
        start = min(max(start, earliest), window.end)
        end = max(start, min(max(end, start + MIN_WORD), window.end))
        words.append(
            Word(timing.word, round(start, 3), round(end, 3), round(timing.probability, 4))
        )
        earliest = start
    return tuple(words)


def _clip_to_speech(
    start: float, end: float, spoken: Sequence[SpeechRegion]
) -> tuple[float, float]:
    """The part of [start, end) in the region that overlaps it most, or all of it if none does."""
    parts = [
        (max(start, region.start), min(end, region.end))
        for region in spoken
        if region.start < end and region.end > start
    ]
    return max(parts, key=lambda part: part[1] - part[0], default=(start, end))


def _join_brief_pauses(regions: Sequence[SpeechRegion]) -> list[SpeechRegion]:
    joined: list[SpeechRegion] = []
    for region in regions:
        if joined and region.start - joined[-1].end < BRIEF_PAUSE:
            joined[-1] = SpeechRegion(joined[-1].start, region.end)
        else:
            joined.append(region)
    return joined
