"""The slow obvious way, which the engine must equal: `whisper.decode`, window by window."""

from dataclasses import replace

from torch import Tensor
from whisper import DecodingOptions, DecodingResult, Whisper

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


def greedy(prompt: str | None) -> DecodingOptions:
    return DecodingOptions(language="en", prompt=prompt, fp16=False, temperature=0.0)
