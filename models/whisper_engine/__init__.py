"""Windows to words with openai-whisper's weights.

    engine.py       the interface to the pipeline: windows of sessions in, texts and words out
    decoder.py      scheduling: refills slots, samples failing windows again
    slots.py        one decoding step for many texts
    rules.py        which token may come next
    model.py        the network; linear.py has its matrices in fp32, bf16 and int8
    mel.py          the network's input
    word_times.py   the time of each word of a finished text
    coverage.py     gaps: speech that got no words, and is listened to again
    beams.py        beam search, for windows whose greedy text is doubtful

In fp32 the tokens equal those of `whisper.decode` (tests/test_decoder.py, test_real_dimensions.py).
Imports torch, whisper and the plain data of models/; models/pipeline.py imports it.
"""

from models.whisper_engine.engine import (
    DecodedWindow,
    DecodingRequest,
    LanguageGuess,
    WhisperEngine,
    WhisperOptions,
)

__all__ = [
    "DecodedWindow",
    "LanguageGuess",
    "DecodingRequest",
    "WhisperEngine",
    "WhisperOptions",
]
