"""Windows to words with openai-whisper's weights."""

from models.whisper_engine.engine import (
    DecodedWindow,
    LanguageGuess,
    Session,
    WhisperEngine,
    WhisperOptions,
    language_code,
)

__all__ = [
    "DecodedWindow",
    "LanguageGuess",
    "Session",
    "WhisperEngine",
    "WhisperOptions",
    "language_code",
]
