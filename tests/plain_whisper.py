"""The slow, obvious implementation that the engine must equal: `whisper.decode` per window."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from whisper import DecodingOptions, DecodingResult, Whisper
from whisper.audio import HOP_LENGTH
from whisper.decoding import DecodingTask
from whisper.tokenizer import Tokenizer

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion
from models.progress import Progress, ignore
from models.transcript import Word
from models.whisper_engine import DecodedWindow, DecodingRequest, WhisperEngine, WhisperOptions
from models.whisper_engine.decoder import BEST_OF, TEMPERATURES
from models.whisper_engine.word_times import (
    AlignmentModel,
    align,
    place_words,
    strip_timestamps,
)
from models.windows import Window


def plain_decode(
    model: Whisper, mel: Tensor, prompt: str | None = None, longest: int | None = None
) -> DecodingResult:
    """Greedy `whisper.decode` of one window.

    Args:
        mel: (n_mels, 3000)
        longest: most tokens in the text; None: whisper's limit.
    """
    result: DecodingResult = model.decode(mel, replace(greedy(prompt), sample_len=longest))
    return result


def plain_decode_with_fallback(model: Whisper, mel: Tensor) -> DecodingResult:
    """Source: whisper/transcribe.py, `decode_with_fallback`."""
    for temperature in TEMPERATURES:
        options = replace(greedy(None), temperature=temperature)
        if temperature > 0:
            options = replace(options, best_of=BEST_OF)
        result: DecodingResult = model.decode(mel, options)
        again = result.compression_ratio > 2.4 or result.avg_logprob < -1.0
        if result.no_speech_prob > 0.6 and result.avg_logprob < -1.0:
            again = False
        if not again:
            break
    return result


def margin_after(model: Whisper, mel: Tensor, tokens: Sequence[int]) -> float:
    """How far the logit of whisper's next token after these exceeds the second best.

    Args:
        mel: (n_mels, 3000)
        tokens: of the text, without its prompt.
    """
    task = DecodingTask(model, greedy(None))
    row = torch.tensor([[*task.initial_tokens, *tokens]], device=model.device)
    logits = model.logits(row, model.embed_audio(mel[None]))[:, -1].float()
    for logit_filter in task.logit_filters:
        logit_filter.apply(logits, row)
    best, second = logits[0].topk(2).values.tolist()
    return float(best - second)


def greedy(prompt: str | None) -> DecodingOptions:
    return DecodingOptions(language="en", prompt=prompt, fp16=False, temperature=0.0)


def decode_session(
    engine: WhisperEngine,
    samples: np.ndarray,
    windows: Sequence[Window],
    options: WhisperOptions,
    maximum: float = 0.0,
    progress: Progress = ignore,
) -> tuple[DecodedWindow, ...]:
    """`WhisperEngine.decode` of one session."""
    (decoded,) = engine.decode([DecodingRequest(samples, windows, options, maximum)], progress)
    return decoded


def time_words(
    model: AlignmentModel,
    tokenizer: Tokenizer,
    windows: Sequence[Window],
    tokens: Sequence[Sequence[int]],
    cross: Any,
    heads: Sequence[tuple[int, int]],
    regions: Sequence[SpeechRegion] = (),
) -> list[tuple[Word, ...]]:
    """Align and place the words of windows in one go.

    Args:
        tokens: of each window as decoded, with timestamps.
        cross: cross-attention keys and values, one row per window.
        heads: the model's alignment heads, (layer, head).
        regions: a word that reaches into a pause between them is cut off there.
    """
    texts = [strip_timestamps(of_window, tokenizer) for of_window in tokens]
    n_frames = [round(window.duration * SAMPLE_RATE / HOP_LENGTH) for window in windows]
    alignments = align(model, tokenizer, texts, n_frames, cross, heads)
    return place_words(tokenizer, windows, tokens, alignments, regions)
