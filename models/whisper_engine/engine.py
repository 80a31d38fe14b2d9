"""The engine: windows of one or several sessions to tokens, and tokens to words.

No text is carried from one window to the next, so a repetition loop cannot spread.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from models.progress import Progress, ignore, time_second_run
from models.transcript import Word
from models.whisper_engine.coverage import (
    cut_at_gap,
    fill_gaps,
    find_gaps,
    is_reliable,
    select_words,
)
from models.whisper_engine.decoder import (
    BEST_OF,
    DecodedBatch,
    WindowDecoder,
    count_fallback_slots,
    is_silence,
)
from models.whisper_engine.mel import compute_log_mel, find_log_mel_maximum
from models.whisper_engine.model import CrossKV, InferenceModel
from models.whisper_engine.rules import read_special_tokens
from models.whisper_engine.slots import Slots, WindowInput
from models.whisper_engine.word_times import Alignment, align, place_words, strip_timestamps
from models.windows import Window

Task = Literal["transcribe", "translate"]

LANGUAGE_WINDOWS = 5  # used to detect the language
CLEAR_LANGUAGE = 0.8  # probability above which a window is decoded in its own language
MAX_SLOTS = {"cpu": 16, "cuda": 128}  # more are not faster
ALIGNMENT_BATCH = 16  # windows; 110 tokens take several times 7 MB for each of a dozen heads
TRANSCRIPTION = "Transcription"
MEMORY_SHARE = {"cpu": 0.15, "cuda": 0.6}  # for the slots: of all memory, and of free memory

TRIAL_WINDOW = 25.0  # s of speech in a well-filled window
TRIAL_STEPS = 8
TOKENS_PER_SECOND = 4.0  # of English or Dutch speech


@dataclass(frozen=True)
class WhisperOptions:
    """The options of one session."""

    language: str | None = None  # a code such as `en`; None: detect it
    vocabulary: tuple[str, ...] = ()  # names and terms, given to Whisper as a prompt
    task: Task = "transcribe"  # "translate": into English
    language_per_window: bool = False  # decode a window in its own language if that is clear

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
    """A window's text as tokens, with Whisper's scores.

    `tokens` are those of whisper's DecodingResult, timestamps included. A window with a `gap` was
    decoded for the words in that gap of another window (coverage.py).
    """

    window: Window
    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    alignment: Alignment | None = None  # of its text tokens; None: not aligned
    language: str | None = None  # spoken in it; None: the session's
    language_probability: float | None = None  # of the most probable; None: not detected
    gap: Window | None = None


@dataclass(frozen=True)
class DecodingRequest:
    """The windows of one session to decode.

    Args:
        samples: of the whole session, float32, (n_samples,), 16 kHz.
        options: `language` must be set.
        maximum: from `WhisperEngine.find_maximum`.
        regions: speech, in order, without overlap; where it gets no words, it is decoded again.
        bounds: times that no window crosses, in order, such as the end of a recording.
        beams: whether to search windows with five beams if their greedy text is doubtful.
        encoded: from `WhisperEngine.detect_language`.
    """

    samples: np.ndarray
    windows: Sequence[Window]
    options: WhisperOptions
    maximum: float
    regions: Sequence[SpeechRegion] = ()
    bounds: Sequence[float] = ()
    beams: bool = False
    encoded: Mapping[Window, Tensor] = field(default_factory=dict)

    def next_bound(self, time: float) -> float:
        """The first bound after `time`, or the end of the session."""
        ends = (*self.bounds, len(self.samples) / SAMPLE_RATE)
        return next(end for end in ends if end > time or end == ends[-1])


class WhisperEngine:
    """Whisper's weights, loaded and ready to decode.

    Args:
        model: an openai-whisper model; not needed afterwards.
        precision: None: bf16 where the device has it, else fp32.
        n_slots: windows decoded at the same time; None: as many as fit and are still faster.
        device: to compute on; None: the model's.
        halvings: counts the batches that had to be halved; None: a new counter.
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
        special = read_special_tokens(model)
        self.model = InferenceModel(model, precision, device)
        n_slots = n_slots or count_slots_that_fit(self.model)
        self.halvings = halvings or HalvingCounter()
        self._decoder = WindowDecoder(
            self.model, special, self._tokenizer("en"), n_slots, self.halvings
        )

    @property
    def n_slots(self) -> int:
        """Windows decoded at the same time."""
        return self._decoder.n_slots

    def check(self, options: WhisperOptions) -> None:
        """Check that this model can follow the options.

        Raises:
            UnknownLanguage: this model does not know the language.
            CannotTranslate: this model knows English only.
            VocabularyTooLong: whisper would silently drop the beginning of it.
        """
        if options.language is not None:
            code = language_code(options.language)
            if not self.is_multilingual and code != "en":
                raise UnknownLanguage("This model knows English only.")
            if self.is_multilingual and code not in self._tokenizer("en").all_language_codes:
                raise UnknownLanguage(f"This model does not support {LANGUAGES[code].title()}.")
        if options.task == "translate" and not self.is_multilingual:
            raise CannotTranslate("This model knows English only: it cannot translate.")
        if options.prompt:
            n_tokens = len(self._tokenizer("en").encode(" " + options.prompt))
            longest = self.model.dims.n_text_ctx // 2 - 1
            if n_tokens > longest:
                raise VocabularyTooLong(
                    f"The vocabulary takes {n_tokens} tokens and Whisper's prompt holds {longest}: "
                    "leave out common words."
                )

    def find_maximum(self, samples: np.ndarray) -> float:
        """The session's highest log10 mel power, which `detect_language` and `decode` need."""
        with exact_on(self.model.device, TRANSCRIPTION):
            return find_log_mel_maximum(samples, self.model.dims.n_mels, self.model.device)

    @torch.inference_mode()
    def detect_language(
        self,
        samples: np.ndarray,
        windows: Sequence[Window],
        maximum: float,
        encoded: dict[Window, Tensor] | None = None,
    ) -> LanguageGuess:
        """The language with the highest mean probability in a few of the longest windows.

        Args:
            encoded: gets the encoder's output for these windows, which `decode` can use again.
        """
        if not self.is_multilingual:
            return LanguageGuess("en", 1.0)
        longest = sorted(windows, key=lambda window: -window.duration)[:LANGUAGE_WINDOWS]
        tokenizer = self._tokenizer("en")
        with exact_on(self.model.device, TRANSCRIPTION):
            mels = torch.stack([self._compute_mel(samples, window, maximum) for window in longest])
            outputs = self.model.encode(mels)
            mean = self._vote(outputs, tokenizer).mean(dim=0)
        if encoded is not None:
            encoded.update(zip(longest, outputs, strict=True))
        best = int(mean.argmax())
        return LanguageGuess(tokenizer.all_language_codes[best], round(float(mean[best]), 4))

    @torch.inference_mode()
    def guess_languages(
        self, samples: np.ndarray, windows: Sequence[Window], maximum: float
    ) -> list[LanguageGuess]:
        """The most probable language of each window."""
        tokenizer, guesses = self._tokenizer("en"), []
        with exact_on(self.model.device, TRANSCRIPTION):
            for first in range(0, len(windows), LANGUAGE_WINDOWS):
                batch = windows[first : first + LANGUAGE_WINDOWS]
                mels = [self._compute_mel(samples, window, maximum) for window in batch]
                for vote in self._language_probabilities(torch.stack(mels), tokenizer):
                    code = tokenizer.all_language_codes[int(vote.argmax())]
                    guesses.append(LanguageGuess(code, round(float(vote.max()), 4)))
        return guesses

    def _language_probabilities(self, mels: Tensor, tokenizer: Tokenizer) -> Tensor:
        """(n_windows, n_languages)"""
        return self._vote(self.model.encode(mels), tokenizer)

    def _vote(self, outputs: Tensor, tokenizer: Tokenizer) -> Tensor:
        """(n_windows, n_languages). Source: whisper/decoding.py, `detect_language`.

        Args:
            outputs: of the encoder.
        """
        cross = self.model.make_cross_kv(outputs)
        tokens = torch.full((len(outputs), 1), tokenizer.sot, device=self.model.device)
        logits, _ = self.model.logits_and_scores(tokens, cross, ())
        return logits[:, 0, list(tokenizer.all_language_tokens)].softmax(dim=1)

    def _choose_language(self, mel: Tensor, language: str) -> tuple[str, float]:
        """The window's language if clear, else the session's; and the highest probability."""
        tokenizer = self._tokenizer("en")
        probability, best = self._language_probabilities(mel[None], tokenizer)[0].max(dim=0)
        clearly = float(probability) > CLEAR_LANGUAGE
        chosen = tokenizer.all_language_codes[int(best)] if clearly else language
        return chosen, round(float(probability), 4)

    @torch.inference_mode()
    def decode(
        self, requests: Sequence[DecodingRequest], progress: Progress = ignore
    ) -> list[tuple[DecodedWindow, ...]]:
        """Decode the windows of several sessions together.

        A window whose text is repetitive or improbable is decoded again at higher temperatures, as
        openai-whisper does; the last attempt is kept, so no window is left empty. A window whose
        text leaves a gap in its speech is followed by another for the gap, in the next free slot.

        Returns:
            For each request the results of its windows, in order, then those for gaps, by start.

        Raises:
            OutOfMemory: not even one window fits on the device.
        """
        if any(request.options.language is None for request in requests):
            raise ValueError("options.language must be set")
        inputs = self._make_inputs(requests)
        n_windows = len(inputs.sources)
        found: dict[int, DecodedWindow] = {}
        reached = 0.0  # windows for gaps are added on the way; progress never goes back
        with exact_on(self.model.device, TRANSCRIPTION):
            for batch in self._decoder.decode(inputs):
                indices = [window_input.index for window_input in batch.inputs]
                sources = [inputs.sources[i] for i in indices]
                results = self._align(sources, batch)
                found.update(zip(indices, results, strict=True))
                for source, result in zip(sources, results, strict=True):
                    inputs.sources += self._find_gaps(source, result)
                reached = max(reached, len(found) / len(inputs.sources))
                progress(reached)
        of_windows = iter(found[i] for i in range(n_windows))
        of_gaps = [(inputs.sources[i], found[i]) for i in range(n_windows, len(found))]
        of_gaps.sort(key=lambda pair: pair[0].window.start)
        return [
            (
                *(next(of_windows) for _ in request.windows),
                *(result for source, result in of_gaps if source.request is request),
            )
            for request in requests
        ]

    def _find_gaps(self, source: "_Source", result: DecodedWindow) -> list["_Source"]:
        """The windows to decode for the gaps that this one leaves."""
        request, within = source.request, source.gap or source.window
        if not request.regions:
            return []
        words: Sequence[Word] = self._place_words(result, request.options, request.regions)
        if source.gap is not None:
            words = select_words(source.gap, words) if is_reliable(result) else []
            if not words:
                return []  # listening once more would give the same
        found = []
        for gap in find_gaps(words, request.regions, within):
            window = cut_at_gap(gap, request.regions, request.next_bound(gap.start))
            if window.start > source.window.start or source.gap is None and window != source.window:
                found.append(_Source(request, window, gap))
        return found

    def _make_inputs(self, requests: Sequence[DecodingRequest]) -> "_ResumableInputs":
        """The inputs of all windows, each made when a slot is free for it."""
        sources = [_Source(request, window) for request in requests for window in request.windows]
        return _ResumableInputs(sources, self._make_input)

    def _make_input(self, index: int, source: "_Source") -> WindowInput:
        request, window = source.request, source.window
        options, n_ctx = request.options, self.model.dims.n_text_ctx
        mel = self._compute_mel(request.samples, window, request.maximum)
        language, probability = options.language, None
        assert language is not None
        if options.language_per_window and self.is_multilingual:
            language, probability = self._choose_language(mel, language)
        tokenizer = self._tokenizer(language, options.task)
        prompt = build_prompt(tokenizer, options.prompt, n_ctx)
        needed = None if source.gap is None else source.gap.end - window.start
        seed = round(100 * window.start)
        encoded = request.encoded.get(window)
        return WindowInput(index, mel, prompt, seed, probability, needed, request.beams, encoded)

    def _align(self, sources: Sequence["_Source"], batch: DecodedBatch) -> list[DecodedWindow]:
        """Align the texts while the device still holds the windows' cross-attention."""
        windows = [source.window for source in sources]
        texts = [strip_timestamps(text.tokens, self._tokenizer("en")) for text in batch.texts]
        spoken = [self._language_and_task(window_input) for window_input in batch.inputs]
        alignments: list[Alignment] = [None] * len(windows)  # type: ignore[list-item]
        for language_and_task in set(spoken):
            rows = [i for i, one in enumerate(spoken) if one == language_and_task]
            found = self._align_windows(
                self._tokenizer(*language_and_task),
                [windows[i] for i in rows],
                [texts[i] for i in rows],
                batch.cross.rows(rows),
            )
            for i, alignment in zip(rows, found, strict=True):
                alignments[i] = alignment
        return [
            DecodedWindow(
                source.window,
                **vars(text),
                alignment=alignment,
                language=language,
                language_probability=window_input.language_probability,
                gap=source.gap,
            )
            for window_input, source, text, alignment, (language, _) in zip(
                batch.inputs, sources, batch.texts, alignments, spoken, strict=True
            )
        ]

    def _align_windows(
        self,
        tokenizer: Tokenizer,
        windows: Sequence[Window],
        texts: Sequence[list[int]],
        cross: CrossKV,
    ) -> list[Alignment]:
        found: list[Alignment] = []
        n_frames = [round(window.duration * SAMPLE_RATE / HOP_LENGTH) for window in windows]

        def step(first: int, last: int) -> None:
            rows = slice(first, last)
            some = cross.rows([*range(first, last)])
            found.extend(
                align(
                    self.model, tokenizer, texts[rows], n_frames[rows], some, self.alignment_heads
                )
            )

        in_batches(len(texts), ALIGNMENT_BATCH, step, self.halvings)
        return found

    def time_words(
        self,
        decoded: Sequence[DecodedWindow],
        options: WhisperOptions,
        regions: Sequence[SpeechRegion] = (),
    ) -> tuple[Word, ...]:
        """Words with times and probabilities, from Whisper's cross-attention.

        Starts never decrease, and each word lies in its window, or in the gap that it fills. A
        window that Whisper takes for silence has no words; models/quality.py flags it.

        Args:
            decoded: by this engine, for one session.
            regions: a word that reaches into a pause between them is cut off there.
        """
        if options.language is None:
            raise ValueError("options.language must be set")
        words = [
            word
            for result in decoded
            if result.gap is None and not is_silence(result)
            for word in self._place_words(result, options, regions)
        ]
        found = [
            select_words(result.gap, self._place_words(result, options, regions))
            for result in decoded
            if result.gap is not None and is_reliable(result)
        ]
        return fill_gaps(words, found)

    def _place_words(
        self, result: DecodedWindow, options: WhisperOptions, regions: Sequence[SpeechRegion]
    ) -> tuple[Word, ...]:
        if result.alignment is None:
            raise ValueError("a window has no alignment")
        spoken = result.language or options.language
        language = "en" if options.task == "translate" or spoken is None else spoken
        (words,) = place_words(
            self._tokenizer(language),
            [result.window],
            [result.tokens],
            [result.alignment],
            regions,
        )
        return words

    @torch.inference_mode()
    def measure_speed(self) -> float:
        """Estimate the seconds of `decode` per second of audio, on a window of noise."""
        rng = np.random.default_rng(0)
        samples = 0.01 * rng.standard_normal(round(TRIAL_WINDOW * SAMPLE_RATE), dtype=np.float32)
        window, tokenizer = Window(0.0, TRIAL_WINDOW), self._tokenizer("en")
        mel = self._compute_mel(samples, window, 0.0)
        window_input = WindowInput(0, mel, tokenizer.sot_sequence, 0)
        slots = Slots(self.model, self._decoder.rules, min(self._decoder.n_slots, 4))

        def encode() -> None:
            slots.clear()
            slots.add([window_input])

        encoding = time_second_run(encode)
        while slots.n_free:
            slots.add_encoded(slots, 0)
        slots.restart(0.0)
        slots.run()

        def run_steps() -> None:
            for _ in range(TRIAL_STEPS):
                slots.run()

        step = time_second_run(run_steps) / TRIAL_STEPS
        n_tokens = round(TOKENS_PER_SECOND * TRIAL_WINDOW)
        text = tokenizer.encode(" and" * n_tokens)
        cross = slots.cross.rows(slice(1))
        aligning = time_second_run(
            lambda: align(self.model, tokenizer, [text], [2500], cross, self.alignment_heads)
        )
        return (encoding + n_tokens * step / slots.n_slots + aligning) / TRIAL_WINDOW

    def _compute_mel(self, samples: np.ndarray, window: Window, maximum: float) -> Tensor:
        """(n_mels, 3000), float32"""
        return compute_log_mel(
            window.cut(samples), self.model.dims.n_mels, maximum, self.model.device
        )

    def _tokenizer(self, language: str, task: Task = "transcribe") -> Tokenizer:
        return get_tokenizer(
            self.is_multilingual, num_languages=self.num_languages, language=language, task=task
        )

    def _language_and_task(self, window_input: WindowInput) -> tuple[str, Task]:
        """The language and task at the end of the prompt."""
        if not self.is_multilingual:
            return "en", "transcribe"
        known, (language, task) = self._tokenizer("en"), window_input.prompt[-2:]
        code = known.all_language_codes[known.all_language_tokens.index(language)]
        return code, "translate" if task == known.translate else "transcribe"


@dataclass(frozen=True, eq=False)
class _Source:
    """What an input is made from."""

    request: DecodingRequest
    window: Window
    gap: Window | None = None  # whose words are needed; None: all of the window's


class _ResumableInputs:
    """An iterator that repeats an input if making it raised; a generator would be finished.

    Attributes:
        sources: of each input; more may be added at any time.
    """

    def __init__(self, sources: list[_Source], make: Callable[[int, _Source], WindowInput]) -> None:
        self.sources, self._make, self._next = sources, make, 0

    def __iter__(self) -> "_ResumableInputs":
        return self

    def __next__(self) -> WindowInput:
        if self._next == len(self.sources):
            raise StopIteration
        window_input = self._make(self._next, self.sources[self._next])
        self._next += 1
        return window_input


def build_prompt(tokenizer: Tokenizer, prompt: str | None, n_ctx: int) -> tuple[int, ...]:
    """The tokens before the text. Source: whisper/decoding.py, `_get_initial_tokens`."""
    tokens = tuple(tokenizer.sot_sequence)
    if not prompt:
        return tokens
    vocabulary = tokenizer.encode(" " + prompt.strip())[-(n_ctx // 2 - 1) :]
    return (tokenizer.sot_prev, *vocabulary, *tokens)


def count_slots_that_fit(model: InferenceModel) -> int:
    """The largest power of two of slots that fits into memory with its fallback slots."""
    dims, device = model.dims, model.device.type
    position = 2 * dims.n_text_layer * dims.n_text_state * model.dtype.itemsize
    audio = dims.n_audio_ctx * position
    text = dims.n_text_ctx * position + 4 * 4 * dims.n_vocab  # and logits with their copies
    memory = (
        torch.cuda.mem_get_info(model.device)[0]
        if device == "cuda"
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )

    def n_bytes(n_slots: int) -> int:
        fallback = count_fallback_slots(n_slots) * (audio + BEST_OF * text)
        return int(n_slots * (audio + text) + fallback)

    n_slots = MAX_SLOTS[device]
    while n_slots > 1 and n_bytes(n_slots) > MEMORY_SHARE[device] * memory:
        n_slots //= 2
    return n_slots
