"""Words with times from Whisper's cross-attention, for a batch of windows in one pass.

The decoder reads the text it wrote once more, all tokens at once. In the alignment heads each token
looks at the sound it stands for; dynamic time warping makes one path, forward only, through what
the heads see, and a token begins where the path reaches it. The path is found for all windows of
a batch at once, on the model's device. Source: whisper/timing.py.
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

POSITION = 2 * HOP_LENGTH / SAMPLE_RATE  # s, one position of the encoder's output
MEDIAN_WIDTH = 7  # positions
# The pairs that have to be sorted, in this order, until the fourth of seven numbers is the median.
# Source: N. Devillard, Fast median search: an ANSI C implementation (1998), `opt_med7`.
MEDIAN_OF_7 = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)

MIN_WORD = 0.02  # s, one step of Whisper's time
USUAL_WORD = 0.7  # s, an upper limit of the median duration, as in whisper
LONGEST_WORD = 1.0  # s, and
LONGEST_LETTER = 0.15  # s for each letter: nobody draws a word out further
SENTENCE_ENDS = ".。!！?？"
PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"
BRIEF_PAUSE = 0.3  # s; a shorter gap between two speech regions may lie inside a word


class WordModel(Protocol):
    """What the word pass asks of a model."""

    @property
    def device(self) -> torch.device: ...

    def logits_and_scores(
        self, tokens: Tensor, cross: Any, heads: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Of (batch, n_tokens): logits (batch, n_tokens, n_vocab) and the scores of (layer, head)
        pairs before the softmax, (batch, n_heads, n_tokens, 1500), float32.
        """
        ...


@dataclass(frozen=True)
class Aligned:
    """Where each text token begins and the last one ends, and how probable each is."""

    times: np.ndarray  # (n_tokens + 1,), s from the start of the window
    probabilities: np.ndarray  # (n_tokens,)


def time_words(
    model: WordModel,
    tokenizer: Tokenizer,
    windows: Sequence[Window],
    tokens: Sequence[Sequence[int]],
    cross: Any,
    heads: Sequence[tuple[int, int]],
    regions: Sequence[SpeechRegion] = (),
) -> list[tuple[Word, ...]]:
    """The words of each window, in order, no word before the one before it, inside the window.

    Args:
        tokens: of each window as decoded, timestamps included.
        cross: keys and values of cross-attention, one row per window.
        heads: the model's alignment heads, (layer, head).
        regions: a word that reaches into a pause between them is cut off there.
    """
    texts = [text_tokens(of_window, tokenizer) for of_window in tokens]
    n_frames = [round(window.duration * SAMPLE_RATE / HOP_LENGTH) for window in windows]
    aligned = align(model, tokenizer, texts, n_frames, cross, heads)
    return place_words(tokenizer, windows, tokens, aligned, regions)


def place_words(
    tokenizer: Tokenizer,
    windows: Sequence[Window],
    tokens: Sequence[Sequence[int]],
    aligned: Sequence[Aligned],
    regions: Sequence[SpeechRegion] = (),
) -> list[tuple[Word, ...]]:
    """`time_words` of windows whose tokens have been aligned already."""
    spoken = _without_brief_pauses(regions)
    found = []
    for window, of_window, alignment in zip(windows, tokens, aligned, strict=True):
        timings = _words(tokenizer, text_tokens(of_window, tokenizer), alignment)
        _limit_durations(timings, _segments(of_window, tokenizer, window.duration))
        near = [r for r in spoken if r.start < window.end and r.end > window.start]
        found.append(_in_order(timings, window, near))
    return found


def text_tokens(tokens: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Without timestamps."""
    return [token for token in tokens if token < tokenizer.eot]


# --- times of tokens ------------------------------------------------------------------------------


@torch.inference_mode()
def align(
    model: WordModel,
    tokenizer: Tokenizer,
    texts: Sequence[Sequence[int]],
    n_frames: Sequence[int],
    cross: Any,
    heads: Sequence[tuple[int, int]],
) -> list[Aligned]:
    """Each text token's time and probability, as `whisper.timing.find_alignment` finds them.

    Args:
        texts: text tokens of each window, without timestamps.
        n_frames: of each window's spectrogram, without the silence after its end.
    """
    if not any(texts):
        return [Aligned(np.zeros(1), np.zeros(0)) for _ in texts]
    before = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    n_tokens = [len(before) + len(text) + 1 for text in texts]
    rows = [[*before, *text] for text in texts]
    longest = max(n_tokens)
    # Attention is causal, so what stands after a window's own tokens does not change them.
    padded = [row + [tokenizer.eot] * (longest - len(row)) for row in rows]
    batch = torch.tensor(padded).to(model.device)
    lengths = torch.tensor(n_tokens).to(model.device)
    positions = torch.tensor([max(1, n // 2) for n in n_frames]).to(model.device)

    logits, scores = model.logits_and_scores(batch, cross, heads)
    n_sot = len(tokenizer.sot_sequence)
    probabilities = _probabilities(logits[:, n_sot:-1, : tokenizer.eot], batch[:, n_sot + 1 :])
    del logits
    matrix = _attention(scores, lengths, positions)[:, n_sot:-1]
    starts = warp(-matrix, lengths - n_sot - 1, positions).cpu().numpy()
    likely = probabilities.cpu().numpy()
    return [
        Aligned(starts[i, : len(text) + 1] * POSITION, likely[i, : len(text)])
        for i, text in enumerate(texts)
    ]


def _probabilities(logits: Tensor, following: Tensor) -> Tensor:
    """Of each following token among the text tokens, (batch, n_tokens)."""
    logits = logits.float()
    following = following.clamp(max=logits.shape[-1] - 1)  # the padding's do not matter
    chosen = logits.gather(-1, following[..., None])[..., 0]
    return (chosen - logits.logsumexp(-1)).exp()


def _attention(scores: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
    """What the heads see on average, (batch, n_tokens, 1500): normalised and smoothed.

    Args:
        scores: (batch, n_heads, n_tokens, 1500), before the softmax.
        lengths, positions: how many tokens and encoder positions are a window's own, (batch,).
    """
    n_tokens, n_positions = scores.shape[-2:]
    is_sound = torch.arange(n_positions, device=scores.device) < positions[:, None]
    is_token = torch.arange(n_tokens, device=scores.device) < lengths[:, None]
    weights = scores.masked_fill(~is_sound[:, None, None], -torch.inf).softmax(-1)

    own = is_token[:, None, :, None]
    n_own = lengths[:, None, None, None]
    mean = (weights * own).sum(-2, keepdim=True) / n_own
    deviations = weights - mean
    spread = ((deviations * own).square().sum(-2, keepdim=True) / n_own).sqrt()
    normalised = deviations / spread.masked_fill(~is_sound[:, None, None], 1.0)
    # One window after the other: the filter takes seven times the memory of what it filters.
    return torch.stack([_smooth(*each).mean(0) for each in zip(normalised, positions, strict=True)])


def _smooth(weights: Tensor, n_own: Tensor) -> Tensor:
    """Median over MEDIAN_WIDTH positions of (n_heads, n_tokens, n_positions).

    At both ends of a window's own positions the filter sees them mirrored. Windows too short for
    that, of 0.06 s, are left as they are, as whisper's `median_filter` does.
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

    A path goes from the first row and column to a window's own last ones, one to the right, down
    or both at a time. Cells of one anti-diagonal do not depend on each other, so that each takes
    three operations for the whole batch, in the order of sums of whisper's `dtw_cuda`.

    Args:
        costs: float32, (batch, rows, columns).
        n_rows, n_columns: a window's own, (batch,); cells beyond cannot be on its path.
    """
    batch, rows, columns = costs.shape
    total = costs.new_full((batch, rows + 1, columns + 1), torch.inf)  # with a border before
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
    return _entered(total, n_rows, n_columns)


def _diagonal(flat: Tensor, k: int, first: int, last: int, width: int) -> Tensor:
    """Cells (row, k - row), row from first to last, of rows of one width end to end: a view."""
    step = max(1, width - 1)
    return flat[:, k + first * (width - 1) : k + last * (width - 1) + 1 : step]


def _entered(total: Tensor, n_rows: Tensor, n_columns: Tensor) -> Tensor:
    """Back along the path, row by row: where it came from above into each row.

    Args:
        total: cost of the cheapest path to each cell, with a border before them.
    """
    upper_left, above, left = total[:, :-1, :-1], total[:, :-1, 1:], total[:, 1:, :-1]
    diagonal = (upper_left <= above) & (upper_left <= left)
    from_above = diagonal | (above <= left)
    column = torch.arange(total.shape[2] - 1, device=total.device, dtype=torch.int32)
    # The last column, up to each one, at which a path along the row would have entered it.
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
    """What Whisper wrote between two of its timestamps."""

    start: float  # s from the start of the window
    end: float
    n_tokens: int


def _segments(tokens: Sequence[int], tokenizer: Tokenizer, duration: float) -> list[_Segment]:
    """Source: whisper/transcribe.py, `new_segment`."""
    segments = []
    begin, n_tokens = 0.0, 0
    for token in [*tokens, tokenizer.timestamp_begin + 1500]:
        if token < tokenizer.eot:
            n_tokens += 1
        elif token >= tokenizer.timestamp_begin:
            time = (token - tokenizer.timestamp_begin) * POSITION
            if n_tokens:
                segments.append(_Segment(begin, min(time, duration), n_tokens))
            begin, n_tokens = time, 0
    return segments


def _words(tokenizer: Tokenizer, text: Sequence[int], aligned: Aligned) -> list[WordTiming]:
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
    """Merge punctuation with its words, and shorten words that have swallowed a pause.

    Words beside a sentence's or a segment's end are those that do.
    Source: whisper/timing.py, `add_word_timestamps`.
    """
    durations = [timing.end - timing.start for timing in timings if timing.end > timing.start]
    usual = min(USUAL_WORD, float(np.median(durations))) if durations else 0.0
    if durations:
        _limit_at_sentence_ends(timings, 2 * usual)
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
            last_speech = _limit_in_segment(words, segment, usual, last_speech)


def _limit_at_sentence_ends(timings: Sequence[WordTiming], longest: float) -> None:
    for before, timing in zip(timings, timings[1:], strict=False):
        if timing.end - timing.start > longest:
            if timing.word in SENTENCE_ENDS:
                timing.end = timing.start + longest
            elif before.word in SENTENCE_ENDS:
                timing.start = timing.end - longest


def _limit_in_segment(
    words: Sequence[WordTiming], segment: _Segment, usual: float, last_speech: float
) -> float:
    """Returns where the segment ends, in seconds."""
    first, longest = words[0], 2 * usual
    second = words[1] if len(words) > 1 else None
    if first.end - last_speech > 2 * longest and (
        first.end - first.start > longest
        or (second is not None and second.end - first.start > 2 * longest)
    ):
        if second is not None and second.end - second.start > longest:
            first.end = second.start = max(second.end / 2, second.end - longest)
        first.start = max(0.0, first.end - longest)
    if segment.start < first.end and segment.start - 0.5 > first.start:
        first.start = max(0.0, min(first.end - usual, segment.start))

    last = words[-1]
    if segment.end > last.start and segment.end + 0.5 < last.end:
        last.end = max(last.start + usual, segment.end)
        return segment.end
    return float(last.end)


def _in_order(
    timings: Sequence[WordTiming], window: Window, spoken: Sequence[SpeechRegion]
) -> tuple[Word, ...]:
    words = []
    earliest = window.start
    for timing in timings:
        if not timing.word:
            continue  # punctuation that now belongs to its word
        longest = LONGEST_WORD + LONGEST_LETTER * len(timing.word.strip())
        start, end = _in_speech(window.start + timing.start, window.start + timing.end, spoken)
        start = max(start, end - longest)  # a pause is before a word more often than after it
        start = min(max(start, earliest), window.end)
        end = max(start, min(max(end, start + MIN_WORD), window.end))
        words.append(
            Word(timing.word, round(start, 3), round(end, 3), round(timing.probability, 4))
        )
        earliest = start
    return tuple(words)


def _in_speech(start: float, end: float, spoken: Sequence[SpeechRegion]) -> tuple[float, float]:
    """The part of [start, end) in the region that has most of it; all of it where none has any."""
    parts = [
        (max(start, region.start), min(end, region.end))
        for region in spoken
        if region.start < end and region.end > start
    ]
    return max(parts, key=lambda part: part[1] - part[0], default=(start, end))


def _without_brief_pauses(regions: Sequence[SpeechRegion]) -> list[SpeechRegion]:
    joined: list[SpeechRegion] = []
    for region in regions:
        if joined and region.start - joined[-1].end < BRIEF_PAUSE:
            joined[-1] = SpeechRegion(joined[-1].start, region.end)
        else:
            joined.append(region)
    return joined
