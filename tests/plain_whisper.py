"""The slow obvious way, which the engine must equal: `whisper.decode`, window by window."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from whisper import DecodingOptions, DecodingResult, Whisper
from whisper.decoding import DecodingTask

from models.whisper_engine.decoder import BEST_OF, TEMPERATURES


def plain_decode(
    model: Whisper, mel: Tensor, prompt: str | None = None, longest: int | None = None
) -> DecodingResult:
    """
    Args:
        mel: (n_mels, 3000)
        longest: tokens in a text; None: whisper's limit.
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
    """By how much the logit of whisper's next token after these exceeds the second best.

    Args:
        mel: (n_mels, 3000)
        tokens: of the text, without what stands before it.
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
