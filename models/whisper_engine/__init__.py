"""Windows to words with openai-whisper's weights.

    engine.py       what the pipeline calls: windows of sessions in, texts and words out
    decoder.py      which window is decoded when: slots refilled, failing windows sampled again
    slots.py        texts being written, a token of each at every step
    rules.py        which token may come next
    model.py        the network; linear.py has its matrices in fp32, bf16 and int8
    mel.py          what the network hears
    word_times.py   when each word of a finished text was said
    coverage.py     a second look at speech that got no words

In fp32 the tokens are those of `whisper.decode`: tests/test_decoder.py and test_real_dimensions.py.
"""

from models.whisper_engine.engine import (
    DecodedWindow,
    LanguageGuess,
    Session,
    WhisperEngine,
    WhisperOptions,
)

__all__ = [
    "DecodedWindow",
    "LanguageGuess",
    "Session",
    "WhisperEngine",
    "WhisperOptions",
]
