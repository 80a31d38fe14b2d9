"""Windows to words with openai-whisper's weights."""

from models.whisper_engine.engine import (
    DecodedWindow,
    LanguageGuess,
    WhisperEngine,
    WhisperOptions,
    language_code,
)

__all__ = ["DecodedWindow", "LanguageGuess", "WhisperEngine", "WhisperOptions", "language_code"]
