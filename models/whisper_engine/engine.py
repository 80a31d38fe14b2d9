"""The plain engine: `whisper.decode` on batches of windows, words through `whisper.timing`.

No text is carried from one window to the next, so a repetition loop cannot spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from whisper import DecodingOptions, DecodingResult, Whisper
from whisper.audio import HOP_LENGTH
from whisper.timing import add_word_timestamps
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer, get_tokenizer

from models.audio import SAMPLE_RATE
from models.errors import OptionError, OutOfMemory
from models.progress import Progress, ignore, seconds_of
from models.transcript import Word
from models.whisper_engine.mel import log_mel, log_mel_maximum
from models.windows import Window

# When a window is decoded again, and how. Source: whisper/transcribe.py, `transcribe`.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BEST_OF = 5
COMPRESSION_RATIO = 2.4
LOGPROB = -1.0
NO_SPEECH = 0.6

LANGUAGE_WINDOWS = 5  # that vote on the language
TRIAL_WINDOW = 25.0  # s of speech in a well filled window
TOKENS_PER_SECOND = 4.0  # of English or Dutch speech
MIN_WORD = 0.02  # s, one step of Whisper's time


class UnknownLanguage(OptionError):
    """The language is not one that Whisper, or this model, knows."""

    code = "unknown_language"


class VocabularyTooLong(OptionError):
    """The vocabulary does not fit into Whisper's prompt."""

    code = "vocabulary_too_long"


@dataclass(frozen=True)
class WhisperOptions:
    """What somebody may choose for one session."""

    language: str | None = None  # a code such as `en`; None: found by vote
    vocabulary: tuple[str, ...] = ()  # names and terms, given to Whisper as a prompt

    @property
    def prompt(self) -> str | None:
        # whisper's tokenizer refuses text that looks like one of its special tokens
        return ", ".join(self.vocabulary).replace("<|", "< |") or None


@dataclass(frozen=True)
class LanguageGuess:
    language: str
    probability: float


@dataclass(frozen=True)
class DecodedWindow:
    """A window's text as tokens, and what Whisper thought of it.

    `tokens` are those of whisper's DecodingResult, timestamps included.
    """

    window: Window
    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


def language_code(name: str) -> str:
    """`en` for `en`, `EN` and `English`.

    Raises:
        UnknownLanguage: Whisper has none of that name.
    """
    code: str = name.strip().lower()
    code = TO_LANGUAGE_CODE.get(code, code)
    if code not in LANGUAGES:
        raise UnknownLanguage(
            f"Whisper knows no language of that name; it knows {len(LANGUAGES)}, by codes such as "
            "en, de, es or nl, or by their English names."
        )
    return code


class WhisperEngine:
    """A loaded model and the session it is working on.

    Args:
        batch_size: windows per forward pass; device memory grows with it.
    """

    def __init__(self, model: Whisper, *, batch_size: int = 8) -> None:
        self.model = model
        self.batch_size = batch_size

    def check(self, options: WhisperOptions) -> None:
        """
        Raises:
            UnknownLanguage: this model does not know the language.
            VocabularyTooLong: whisper would silently drop the beginning.
        """
        if options.language is not None:
            language_code(options.language)
            if not self.model.is_multilingual and options.language != "en":
                raise UnknownLanguage("This model knows English only.")
        if options.prompt:
            n_tokens = len(self._tokenizer("en").encode(" " + options.prompt))
            longest = self.model.dims.n_text_ctx // 2 - 1
            if n_tokens > longest:
                raise VocabularyTooLong(
                    f"The vocabulary takes {n_tokens} tokens and Whisper's prompt holds {longest}; "
                    "leave out the words it is sure to know."
                )

    def maximum(self, samples: np.ndarray) -> float:
        """The session's loudest mel power, which `detect_language` and `decode` take."""
        return log_mel_maximum(samples, self.model.dims.n_mels, self.model.device)

    @torch.inference_mode()
    def detect_language(
        self, samples: np.ndarray, windows: Sequence[Window], maximum: float
    ) -> LanguageGuess:
        """The language most probable on average in a few of the longest windows."""
        if not self.model.is_multilingual:
            return LanguageGuess("en", 1.0)
        longest = sorted(windows, key=lambda window: -window.duration)[:LANGUAGE_WINDOWS]
        mel = self._mel(samples, longest, maximum)
        _, probabilities = self.model.detect_language(mel)
        mean = {code: float(np.mean([p[code] for p in probabilities])) for code in probabilities[0]}
        language = max(mean, key=lambda code: mean[code])
        return LanguageGuess(language, round(mean[language], 4))

    @torch.inference_mode()
    def decode(
        self,
        samples: np.ndarray,
        windows: Sequence[Window],
        options: WhisperOptions,
        maximum: float,
        progress: Progress = ignore,
    ) -> tuple[DecodedWindow, ...]:
        """The text of each window.

        A window whose text repeats itself or is improbable is decoded again at a higher
        temperature, as openai-whisper does; the last attempt is kept, never nothing.

        Args:
            samples: float32, (n_samples,), 16 kHz.
            options: `language` must be set.

        Raises:
            OutOfMemory: a batch does not fit on the device.
        """
        if options.language is None:
            raise ValueError("options.language must be set")
        greedy = DecodingOptions(
            language=options.language,
            prompt=options.prompt,
            fp16=self.model.device.type == "cuda",
        )
        decoded: list[DecodedWindow] = []
        for i in range(0, len(windows), self.batch_size):
            batch = windows[i : i + self.batch_size]
            mel = self._mel(samples, batch, maximum)
            results = self._decode_with_fallback(mel, greedy)
            decoded += [
                DecodedWindow(
                    window,
                    tuple(result.tokens),
                    result.text,
                    result.temperature,
                    result.avg_logprob,
                    result.no_speech_prob,
                    result.compression_ratio,
                )
                for window, result in zip(batch, results, strict=True)
            ]
            progress(len(decoded) / len(windows))
        return tuple(decoded)

    def _decode_with_fallback(self, mel: Tensor, greedy: DecodingOptions) -> list[DecodingResult]:
        """mel: (batch, n_mels, 3000). Source: whisper/transcribe.py, `decode_with_fallback`."""
        results = self._run(mel, greedy)
        for temperature in TEMPERATURES[1:]:
            failed = [i for i, result in enumerate(results) if needs_fallback(result)]
            if not failed:
                break
            sampling = replace(greedy, temperature=temperature, best_of=BEST_OF)
            for i in failed:  # one by one: whisper.decode mixes up the samples of a batch
                results[i] = self._run(mel[i : i + 1], sampling)[0]
        return results

    def _run(self, mel: Tensor, options: DecodingOptions) -> list[DecodingResult]:
        try:
            return self.model.decode(mel, options)  # type: ignore[no-any-return]
        except torch.OutOfMemoryError as error:
            message = f"{len(mel)} windows do not fit into the memory of {self.model.device}."
            raise OutOfMemory(message) from error

    @torch.inference_mode()
    def word_times(
        self,
        samples: np.ndarray,
        decoded: Sequence[DecodedWindow],
        options: WhisperOptions,
        maximum: float,
        progress: Progress = ignore,
    ) -> tuple[Word, ...]:
        """Words with times and probabilities, in order, from Whisper's cross-attention.

        Times are monotone: no word starts before the one before it, and each lies in its window.
        """
        if options.language is None:
            raise ValueError("options.language must be set")
        tokenizer = self._tokenizer(options.language)
        words: list[Word] = []
        for i, result in enumerate(decoded):
            words += self._words_of(samples, result, tokenizer, maximum)
            progress((i + 1) / len(decoded))
        return tuple(words)

    def try_speed(self) -> tuple[float, float]:
        """Seconds of `decode` and of `word_times` per second of audio, from a window of noise."""
        window = Window(0.0, TRIAL_WINDOW)
        rng = np.random.default_rng(0)
        samples = 0.01 * rng.standard_normal(round(TRIAL_WINDOW * SAMPLE_RATE), dtype=np.float32)
        options = DecodingOptions(language="en", fp16=self.model.device.type == "cuda")
        mel = self._mel(samples, [window], 0.0)
        few, more = (
            seconds_of(lambda n=n: self._run(mel, replace(options, sample_len=n)))  # type: ignore[misc]
            for n in (2, 18)
        )
        token = max(more - few, 0.0) / 16
        n_tokens = round(TOKENS_PER_SECOND * TRIAL_WINDOW)
        words = tuple(self._tokenizer("en").encode(" and" * n_tokens))
        decoded = DecodedWindow(window, words, "", 0.0, 0.0, 0.0, 1.0)
        aligned = seconds_of(
            lambda: self.word_times(samples, [decoded], WhisperOptions(language="en"), 0.0)
        )
        return few / TRIAL_WINDOW + TOKENS_PER_SECOND * token, aligned / TRIAL_WINDOW

    def _words_of(
        self, samples: np.ndarray, decoded: DecodedWindow, tokenizer: Tokenizer, maximum: float
    ) -> list[Word]:
        window = decoded.window
        mel = self._mel(samples, [window], maximum)[0]
        if self.model.device.type == "cuda":
            mel = mel.half()
        segments = whisper_segments(decoded, tokenizer)
        add_word_timestamps(
            segments=segments,
            model=self.model,
            tokenizer=tokenizer,
            mel=mel,
            num_frames=round(window.duration * SAMPLE_RATE / HOP_LENGTH),
            last_speech_timestamp=0.0,
        )
        timed = [word for segment in segments for word in segment["words"]]  # type: ignore[attr-defined]
        words = []
        earliest = 0.0
        for word in timed:
            start = min(max(float(word["start"]), earliest), window.duration)
            end = min(max(float(word["end"]), start + MIN_WORD), window.duration)
            earliest = start
            words.append(
                Word(
                    word["word"],
                    round(window.start + start, 3),
                    round(window.start + max(start, end), 3),
                    round(float(word["probability"]), 4),
                )
            )
        return words

    def _mel(self, samples: np.ndarray, windows: Sequence[Window], maximum: float) -> Tensor:
        """(batch, n_mels, 3000), float32"""
        n_mels = self.model.dims.n_mels
        return torch.stack(
            [log_mel(window.cut(samples), n_mels, maximum, self.model.device) for window in windows]
        )

    def _tokenizer(self, language: str) -> Tokenizer:
        return get_tokenizer(
            self.model.is_multilingual,
            num_languages=self.model.num_languages,
            language=language,
            task="transcribe",
        )


def needs_fallback(result: DecodingResult) -> bool:
    """Source: whisper/transcribe.py, `decode_with_fallback`."""
    improbable: bool = result.avg_logprob < LOGPROB
    if improbable and result.no_speech_prob > NO_SPEECH:
        return False  # silence: another temperature would only invent something
    return improbable or bool(result.compression_ratio > COMPRESSION_RATIO)


def whisper_segments(decoded: DecodedWindow, tokenizer: Tokenizer) -> list[dict[str, object]]:
    """A window's tokens cut at their timestamps, as `add_word_timestamps` takes them.

    Times are relative to the window. Source: whisper/transcribe.py, `new_segment`.
    """
    segments: list[dict[str, object]] = []
    begin = 0.0
    text: list[int] = []
    for token in [*decoded.tokens, tokenizer.timestamp_begin + 1500]:
        if token < tokenizer.eot:
            text.append(token)
        elif token >= tokenizer.timestamp_begin:
            time = (token - tokenizer.timestamp_begin) * 0.02
            if text:
                end = min(time, decoded.window.duration)
                segments.append({"seek": 0, "start": begin, "end": end, "tokens": text})
            begin, text = time, []
    return segments
