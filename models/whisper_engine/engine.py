"""The engine: windows of one session or several to tokens, and tokens to words.

No text is carried from one window to the next, so a repetition loop cannot spread.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from whisper import Whisper
from whisper.audio import HOP_LENGTH
from whisper.tokenizer import Tokenizer, get_tokenizer

from models.audio.recording import SAMPLE_RATE
from models.device import HalvingCounter, exact_on, in_batches
from models.diarisation.segmentation import SpeechRegion
from models.errors import CannotTranslate, UnknownLanguage, VocabularyTooLong
from models.languages import LANGUAGES, language_code
from models.precision import Precision
from models.progress import Progress, ignore, seconds_of
from models.transcript import Word
from models.whisper_engine.decoder import BEST_OF, Decoded, Decoder, fallback_slots
from models.whisper_engine.mel import log_mel, log_mel_maximum
from models.whisper_engine.model import CrossKV, InferenceModel
from models.whisper_engine.rules import special_tokens
from models.whisper_engine.slots import Slots, Sound
from models.whisper_engine.word_times import Aligned, align, place_words, text_tokens
from models.windows import Window

Task = Literal["transcribe", "translate"]

LANGUAGE_WINDOWS = 5  # that vote on the language
CLEARLY = 0.8  # probability of a window's own language, above which it is taken
MOST_SLOTS = {"cpu": 16, "cuda": 128}  # more would not be faster
ALIGNED_AT_ONCE = 16  # windows; 110 tokens of one take 7 MB for each of a dozen heads, some times
TRANSCRIPTION = "Transcription"
SHARE_OF_MEMORY = {"cpu": 0.15, "cuda": 0.6}  # for the slots; of all, and of what is free

TRIAL_WINDOW = 25.0  # s of speech in a well filled window
TRIAL_STEPS = 8
TOKENS_PER_SECOND = 4.0  # of English or Dutch speech


@dataclass(frozen=True)
class WhisperOptions:
    """What somebody may choose for one session."""

    language: str | None = None  # a code such as `en`; None: found by vote
    vocabulary: tuple[str, ...] = ()  # names and terms, given to Whisper as a prompt
    task: Task = "transcribe"  # "translate": to English
    language_per_window: bool = False  # where a window is clearly in another one than `language`

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
    aligned: Aligned | None = None  # where its text tokens are; None: nobody has looked
    language: str | None = None  # that was spoken; None: the session's
    language_probability: float | None = None  # of the likeliest; None: not asked of this window


@dataclass(frozen=True)
class Session:
    """What is to be decoded of one session.

    Args:
        samples: float32, (n_samples,), 16 kHz.
        options: `language` must be set.
        maximum: from `WhisperEngine.maximum`.
    """

    samples: np.ndarray
    windows: Sequence[Window]
    options: WhisperOptions
    maximum: float


class WhisperEngine:
    """
    Args:
        model: openai-whisper's. It may be let go afterwards.
        precision: None: bf16 where the device has it, else fp32.
        n_slots: windows decoded at the same time; None: as many as are fast and fit.
        device: to compute on; None: the model's.
        halvings: counts the batches that had to be halved; None: one of its own.
    """

    def __init__(
        self,
        model: Whisper,
        *,
        precision: Precision | None = None,
        n_slots: int | None = None,
        device: torch.device | None = None,
        halvings: HalvingCounter | None = None,
    ) -> None:
        self.is_multilingual, self.num_languages = model.is_multilingual, model.num_languages
        self.alignment_heads = [tuple(pair) for pair in model.alignment_heads.indices().T.tolist()]
        special = special_tokens(model)
        self.model = InferenceModel(model, precision, device)
        n_slots = n_slots or slots_that_fit(self.model)
        self.halvings = halvings or HalvingCounter()
        self._decoder = Decoder(self.model, special, self._tokenizer("en"), n_slots, self.halvings)

    @property
    def n_slots(self) -> int:
        """Windows decoded at the same time."""
        return self._decoder.n_slots

    def check(self, options: WhisperOptions) -> None:
        """
        Raises:
            UnknownLanguage: this model does not know the language.
            CannotTranslate: it has only one.
            VocabularyTooLong: whisper would silently drop the beginning.
        """
        if options.language is not None:
            code = language_code(options.language)
            if not self.is_multilingual and code != "en":
                raise UnknownLanguage("This model knows English only.")
            if self.is_multilingual and code not in self._tokenizer("en").all_language_codes:
                raise UnknownLanguage(f"This model does not know {LANGUAGES[code].title()} yet.")
        if options.task == "translate" and not self.is_multilingual:
            raise CannotTranslate("This model knows English only, and so cannot translate to it.")
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
        with exact_on(self.model.device, TRANSCRIPTION):
            return log_mel_maximum(samples, self.model.dims.n_mels, self.model.device)

    @torch.inference_mode()
    def detect_language(
        self, samples: np.ndarray, windows: Sequence[Window], maximum: float
    ) -> LanguageGuess:
        """The language most probable on average in a few of the longest windows."""
        if not self.is_multilingual:
            return LanguageGuess("en", 1.0)
        longest = sorted(windows, key=lambda window: -window.duration)[:LANGUAGE_WINDOWS]
        tokenizer = self._tokenizer("en")
        with exact_on(self.model.device, TRANSCRIPTION):
            mels = torch.stack([self._mel(samples, window, maximum) for window in longest])
            mean = self._language_votes(mels, tokenizer).mean(dim=0)
        best = int(mean.argmax())
        return LanguageGuess(tokenizer.all_language_codes[best], round(float(mean[best]), 4))

    def _language_votes(self, mels: Tensor, tokenizer: Tokenizer) -> Tensor:
        """The probability of each language, (n_windows, n_languages). Source: whisper.decoding."""
        cross = self.model.cross_kv(self.model.encode(mels))
        tokens = torch.full((len(mels), 1), tokenizer.sot, device=self.model.device)
        logits, _ = self.model.logits_and_scores(tokens, cross, ())
        return logits[:, 0, list(tokenizer.all_language_tokens)].softmax(dim=1)

    def _own_language(self, mel: Tensor, language: str) -> tuple[str, float]:
        """A window's, where it is clear, else the session's; and how probable the likeliest is."""
        tokenizer = self._tokenizer("en")
        probability, best = self._language_votes(mel[None], tokenizer)[0].max(dim=0)
        clearly = float(probability) > CLEARLY
        own = tokenizer.all_language_codes[int(best)] if clearly else language
        return own, round(float(probability), 4)

    def decode(
        self,
        samples: np.ndarray,
        windows: Sequence[Window],
        options: WhisperOptions,
        maximum: float,
        progress: Progress = ignore,
    ) -> tuple[DecodedWindow, ...]:
        """`decode_many` of one session."""
        (decoded,) = self.decode_many([Session(samples, windows, options, maximum)], progress)
        return decoded

    @torch.inference_mode()
    def decode_many(
        self, sessions: Sequence[Session], progress: Progress = ignore
    ) -> list[tuple[DecodedWindow, ...]]:
        """The text of each window of several sessions, decoded beside each other.

        A window whose text repeats itself or is improbable is decoded again at a higher
        temperature, as openai-whisper does; the last attempt is kept, never nothing.

        Raises:
            OutOfMemory: not even one window fits on the device.
        """
        if any(session.options.language is None for session in sessions):
            raise ValueError("options.language must be set")
        sounds = self._sounds(sessions)
        found: dict[int, DecodedWindow] = {}
        with exact_on(self.model.device, TRANSCRIPTION):
            for decoded in self._decoder.decode(sounds):
                indices = [sound.index for sound in decoded.sounds]
                windows = [sounds.places[i][1] for i in indices]
                found.update(zip(indices, self._aligned(windows, decoded), strict=True))
                progress(len(found) / len(sounds.places))
        in_order = iter(found[i] for i in range(len(sounds.places)))
        return [tuple(next(in_order) for _ in session.windows) for session in sessions]

    def _sounds(self, sessions: Sequence[Session]) -> "_Sounds":
        """Each made when a slot is free for it."""
        places = [(session, window) for session in sessions for window in session.windows]
        return _Sounds(places, self._sound)

    def _sound(self, index: int, session: Session, window: Window) -> Sound:
        options, n_ctx = session.options, self.model.dims.n_text_ctx
        mel = self._mel(session.samples, window, session.maximum)
        language, probability = options.language, None
        assert language is not None
        if options.language_per_window and self.is_multilingual:
            language, probability = self._own_language(mel, language)
        tokenizer = self._tokenizer(language, options.task)
        prompt = initial_tokens(tokenizer, options.prompt, n_ctx)
        return Sound(index, mel, prompt, round(100 * window.start), probability)

    def _aligned(self, windows: Sequence[Window], decoded: Decoded) -> list[DecodedWindow]:
        """What was decoded, and where it is in the windows' sound while the device holds that."""
        texts = [text_tokens(text.tokens, self._tokenizer("en")) for text in decoded.texts]
        asked = [self._asked_for(sound) for sound in decoded.sounds]
        aligned: list[Aligned] = [None] * len(windows)  # type: ignore[list-item]
        for language_and_task in set(asked):
            rows = [i for i, one in enumerate(asked) if one == language_and_task]
            found = self._alignments(
                self._tokenizer(*language_and_task),
                [windows[i] for i in rows],
                [texts[i] for i in rows],
                decoded.cross.rows(rows),
            )
            for i, alignment in zip(rows, found, strict=True):
                aligned[i] = alignment
        return [
            DecodedWindow(
                window,
                **vars(text),
                aligned=alignment,
                language=language,
                language_probability=sound.language_probability,
            )
            for sound, window, text, alignment, (language, _) in zip(
                decoded.sounds, windows, decoded.texts, aligned, asked, strict=True
            )
        ]

    def _alignments(
        self,
        tokenizer: Tokenizer,
        windows: Sequence[Window],
        texts: Sequence[list[int]],
        cross: CrossKV,
    ) -> list[Aligned]:
        found: list[Aligned] = []
        n_frames = [round(window.duration * SAMPLE_RATE / HOP_LENGTH) for window in windows]

        def step(first: int, last: int) -> None:
            rows = slice(first, last)
            heard = cross.rows([*range(first, last)])
            found.extend(
                align(
                    self.model, tokenizer, texts[rows], n_frames[rows], heard, self.alignment_heads
                )
            )

        in_batches(len(texts), ALIGNED_AT_ONCE, step, self.halvings)
        return found

    def word_times(
        self,
        decoded: Sequence[DecodedWindow],
        options: WhisperOptions,
        regions: Sequence[SpeechRegion] = (),
    ) -> tuple[Word, ...]:
        """Words with times and probabilities, in order, from Whisper's cross-attention.

        Times are monotone: no word starts before the one before it, and each lies in its window.

        Args:
            decoded: by this engine.
            regions: a word that reaches into a pause between them is cut off there.
        """
        if options.language is None:
            raise ValueError("options.language must be set")
        words: list[Word] = []
        for result in decoded:
            if result.aligned is None:
                raise ValueError("a window was not decoded by the engine")
            spoken = result.language or options.language
            written = "en" if options.task == "translate" else spoken
            (found,) = place_words(
                self._tokenizer(written),
                [result.window],
                [result.tokens],
                [result.aligned],
                regions,
            )
            words += found
        return tuple(words)

    @torch.inference_mode()
    def try_speed(self) -> float:
        """Seconds of `decode` per second of audio, from a window of noise."""
        rng = np.random.default_rng(0)
        samples = 0.01 * rng.standard_normal(round(TRIAL_WINDOW * SAMPLE_RATE), dtype=np.float32)
        window, tokenizer = Window(0.0, TRIAL_WINDOW), self._tokenizer("en")
        sound = Sound(0, self._mel(samples, window, 0.0), tokenizer.sot_sequence, 0)
        slots = Slots(self.model, self._decoder.rules, min(self._decoder.n_slots, 4))

        def hear() -> None:
            slots.clear()
            slots.add([sound])

        hearing = seconds_of(hear)
        while slots.n_free:
            slots.add_heard(slots, 0)
        slots.begin_again(0.0)
        slots.run()

        def steps() -> None:
            for _ in range(TRIAL_STEPS):
                slots.run()

        step = seconds_of(steps) / TRIAL_STEPS
        n_tokens = round(TOKENS_PER_SECOND * TRIAL_WINDOW)
        text = tokenizer.encode(" and" * n_tokens)
        cross = slots.cross.rows(slice(1))
        aligning = seconds_of(
            lambda: align(self.model, tokenizer, [text], [2500], cross, self.alignment_heads)
        )
        return (hearing + n_tokens * step / slots.n_slots + aligning) / TRIAL_WINDOW

    def _mel(self, samples: np.ndarray, window: Window, maximum: float) -> Tensor:
        """(n_mels, 3000), float32"""
        return log_mel(window.cut(samples), self.model.dims.n_mels, maximum, self.model.device)

    def _tokenizer(self, language: str, task: Task = "transcribe") -> Tokenizer:
        return get_tokenizer(
            self.is_multilingual, num_languages=self.num_languages, language=language, task=task
        )

    def _asked_for(self, sound: Sound) -> tuple[str, Task]:
        """The language and the task that a prompt ends with."""
        if not self.is_multilingual:
            return "en", "transcribe"
        known, (language, task) = self._tokenizer("en"), sound.prompt[-2:]
        code = known.all_language_codes[known.all_language_tokens.index(language)]
        return code, "translate" if task == known.translate else "transcribe"


class _Sounds:
    """An iterator that goes on where memory ran out, as a generator would not.

    Attributes:
        places: session and window of each sound.
    """

    def __init__(
        self,
        places: Sequence[tuple[Session, Window]],
        make: Callable[[int, Session, Window], Sound],
    ) -> None:
        self.places, self._make, self._next = places, make, 0

    def __iter__(self) -> "_Sounds":
        return self

    def __next__(self) -> Sound:
        if self._next == len(self.places):
            raise StopIteration
        sound = self._make(self._next, *self.places[self._next])
        self._next += 1
        return sound


def initial_tokens(tokenizer: Tokenizer, prompt: str | None, n_ctx: int) -> tuple[int, ...]:
    """What stands before the text. Source: whisper/decoding.py, `_get_initial_tokens`."""
    tokens = tuple(tokenizer.sot_sequence)
    if not prompt:
        return tokens
    before = tokenizer.encode(" " + prompt.strip())[-(n_ctx // 2 - 1) :]
    return (tokenizer.sot_prev, *before, *tokens)


def slots_that_fit(model: InferenceModel) -> int:
    """A power of two, from what slots take: also those for texts that are sampled again."""
    dims, device = model.dims, model.device.type
    position = 2 * dims.n_text_layer * dims.n_text_state * model.dtype.itemsize
    sound = dims.n_audio_ctx * position
    text = dims.n_text_ctx * position + 4 * 4 * dims.n_vocab  # logits, and what is made of them
    memory = (
        torch.cuda.mem_get_info(model.device)[0]
        if device == "cuda"
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )

    def n_bytes(n_slots: int) -> int:
        again = fallback_slots(n_slots) * (sound + BEST_OF * text)
        return int(n_slots * (sound + text) + again)

    n_slots = MOST_SLOTS[device]
    while n_slots > 1 and n_bytes(n_slots) > SHARE_OF_MEMORY[device] * memory:
        n_slots //= 2
    return n_slots
