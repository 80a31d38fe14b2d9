"""Windows to tokens, many windows at a time.

When a window's text ends, its slot takes the next window, possibly of another recording, so no
text waits for the others. A text that fails (improbable, or repetitive) is sampled again at rising
temperatures from the same encoder output. Source: whisper/transcribe.py, `decode_with_fallback`.
"""

import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import torch
from whisper.tokenizer import Tokenizer
from whisper.utils import compression_ratio

from models.device import HalvingCounter
from models.errors import OutOfMemory
from models.whisper_engine.model import CrossKV, InferenceModel
from models.whisper_engine.rules import SpecialTokens, TokenRules
from models.whisper_engine.slots import Slots, WindowInput

# When and how a window is decoded again. Source: whisper/transcribe.py, `transcribe`.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BEST_OF = 5
COMPRESSION_RATIO_THRESHOLD = 2.4
LOGPROB_THRESHOLD = -1.0
NO_SPEECH_THRESHOLD = 0.6

DOUBTFUL_LOGPROB = -0.2  # below it, five beams may find a better text than the greedy one
MIN_LENGTH = 0.95  # of the better text, as a share of the greedy one's

MAX_FALLBACK_SLOTS = 4  # windows sampled again at the same time

RUNS_BETWEEN_CHECKS = 8
MAX_LOOP_TOKENS = 24
MIN_LOOP_REPEATS = 4
TYPICAL_BYTES_PER_TOKEN = 4  # of ordinary text
TYPICAL_RATIO = 1.3  # compression ratio of ordinary text, on the low side


class Scored(Protocol):
    """A decoded text."""

    @property
    def avg_logprob(self) -> float: ...

    @property
    def no_speech_prob(self) -> float: ...

    @property
    def compression_ratio(self) -> float: ...


@dataclass(frozen=True)
class DecodedText:
    """The text of one window. The fields are those of whisper's DecodingResult."""

    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


@dataclass(frozen=True)
class DecodedBatch:
    """Windows whose texts ended in the same step.

    Args:
        cross: their cross-attention keys and values, a row each; valid until the next batch is
            requested.
    """

    inputs: tuple[WindowInput, ...]
    texts: tuple[DecodedText, ...]
    cross: CrossKV


class WindowDecoder:
    """Decodes any number of windows in a fixed number of slots.

    Args:
        n_slots: windows decoded at the same time; memory grows with it. Halved, for good, when
            memory runs out.
    """

    def __init__(
        self,
        model: InferenceModel,
        special: SpecialTokens,
        tokenizer: Tokenizer,
        n_slots: int,
        halvings: HalvingCounter | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.n_slots = n_slots
        self.halvings = halvings or HalvingCounter()
        self.rules = TokenRules(special, model.dims.n_vocab, model.device)
        self._slots: Slots | None = None
        self._fallback: Slots | None = None

    @torch.inference_mode()
    def decode(self, inputs: Iterable[WindowInput]) -> Generator[DecodedBatch, None, None]:
        """Yield the text of every window, in the order in which the texts end.

        Args:
            inputs: if memory runs out while one is being made, it is requested again. An iterator
                that has ended is asked again after every text.

        Raises:
            OutOfMemory: not even one window fits.
        """
        waiting = _Waiting(inputs)
        while True:
            unfinished: dict[int, WindowInput] = {}
            try:
                yield from self._decode(waiting, unfinished)
                return
            except torch.OutOfMemoryError as error:
                self._slots = self._fallback = None
                if self.n_slots == 1:
                    message = f"One window does not fit into the memory of {self.model.device}."
                    raise OutOfMemory(message) from error
            self.n_slots //= 2
            self.halvings.count += 1
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            waiting.returned += unfinished.values()

    def _decode(
        self, waiting: "_Waiting", unfinished: dict[int, WindowInput]
    ) -> Iterator[DecodedBatch]:
        """Decode with the present number of slots.

        Args:
            unfinished: inputs by index that were taken from `waiting` and have no text yet.
        """
        slots = self._slots = self._slots or Slots(self.model, self.rules, self.n_slots)
        fallback = self._fallback
        for left_over in (slots, fallback):  # by a job that was stopped
            if left_over is not None:
                left_over.clear()
        greedy: dict[int, DecodedText] = {}  # the texts of windows in the fallback slots, by index
        for run in count():
            new = []
            for window_input in islice(waiting, slots.n_free):
                # At once: making the next input may run out of memory.
                unfinished[window_input.index] = window_input
                new.append(window_input)
            slots.add(new)
            if slots.n_used == 0:
                if fallback is None or fallback.n_used == 0:
                    break
                yield from self._try_again(fallback, greedy, unfinished)
                continue  # its texts may have added inputs
            slots.run()
            if run % RUNS_BETWEEN_CHECKS == 0:
                self._stop_loops(slots)
                self._stop_texts_not_needed(slots)
            texts = {slot: self._choose_text(slots, slot, 0.0) for slot in slots.ended}
            again = [slot for slot, text in texts.items() if is_tried_again(slots, slot, text)]
            good = {slot: text for slot, text in texts.items() if slot not in again}
            yield from self._accept(slots, good, unfinished, accept_all=True)
            for slot in slots.ended:
                if slot in again:
                    if fallback is None:
                        fallback = self._fallback = self._create_fallback_slots()
                    elif fallback.n_free == 0:
                        yield from self._try_again(fallback, greedy, unfinished)
                    fallback.add_encoded(slots, slot)
                    greedy[slots.occupant(slot).index] = texts[slot]
                slots.remove(slot)

    def _create_fallback_slots(self) -> Slots:
        return Slots(self.model, self.rules, count_fallback_slots(self.n_slots), BEST_OF)

    def _try_again(
        self, slots: Slots, greedy: dict[int, DecodedText], unfinished: dict[int, WindowInput]
    ) -> Iterator[DecodedBatch]:
        """Search every window in the slots with beams, then sample at rising temperatures.

        Each ends with the first text that passes. The text of the last temperature is kept even if
        it fails, so no window is left empty.

        Args:
            greedy: the first text of each window, by its index.
        """
        for temperature in TEMPERATURES:
            if slots.n_used == 0:
                return
            if temperature == 0.0:
                texts = self._search(slots, greedy)
            else:
                slots.restart(temperature)
                while len(slots.ended) < slots.n_used:
                    slots.run()
                texts = {slot: self._choose_text(slots, slot, temperature) for slot in slots.ended}
            is_last = temperature == TEMPERATURES[-1]
            yield from self._accept(slots, texts, unfinished, accept_all=is_last)
            for slot, text in texts.items():
                if is_last or not needs_fallback(text):
                    slots.remove(slot)

    def _search(self, slots: Slots, greedy: dict[int, DecodedText]) -> dict[int, DecodedText]:
        """The better of the text that beams find and the greedy one, of each window with beams."""
        if not any(one is not None and one.beams for one in slots.occupants):
            return {}
        slots.restart(0.0)
        slots.run_beams()
        texts = {}
        for slot in slots.ended:
            if slots.occupant(slot).beams:
                found = self._choose_text(slots, slot, 0.0)
                texts[slot] = choose_better(greedy.pop(slots.occupant(slot).index), found)
        return texts

    def _accept(
        self,
        slots: Slots,
        texts: dict[int, DecodedText],
        unfinished: dict[int, WindowInput],
        accept_all: bool = False,
    ) -> Iterator[DecodedBatch]:
        """Yield the texts, by slot, that need no fallback, or all of them."""
        good = [slot for slot, text in texts.items() if accept_all or not needs_fallback(text)]
        if not good:
            return
        inputs, cross = slots.select(good)
        for window_input in inputs:
            del unfinished[window_input.index]
        yield DecodedBatch(inputs, tuple(texts[slot] for slot in good), cross)

    def _choose_text(self, slots: Slots, slot: int, temperature: float) -> DecodedText:
        """The slot's hypothesis with the highest mean log-probability per token."""
        best = max(
            slots.hypotheses(slot), key=lambda one: one.sum_logprobs / max(len(one.tokens), 1)
        )
        text = self.tokenizer.decode(list(best.tokens)).strip()
        return DecodedText(
            best.tokens,
            text,
            temperature,
            best.sum_logprobs / (len(best.tokens) + 1),
            best.no_speech_prob,
            compression_ratio(text),
        )

    def _stop_loops(self, slots: Slots) -> None:
        """Stop texts in a repetition loop that are bound to fail, well before their limit."""
        for slot in range(slots.n_used):
            (hypothesis,) = slots.hypotheses(slot)
            is_speech = hypothesis.no_speech_prob <= NO_SPEECH_THRESHOLD
            if is_speech and ends_in_loop(hypothesis.tokens):
                text = self.tokenizer.decode(list(hypothesis.tokens)).strip()
                if is_bound_to_fail(text, slots.n_steps_left(slot)):
                    slots.stop(slot)

    def _stop_texts_not_needed(self, slots: Slots) -> None:
        """Stop texts that have passed the part of their window that is needed."""
        for slot in range(slots.n_used):
            enough = slots.find_last_needed(slot)
            if enough is None:
                continue
            (hypothesis,) = slots.hypotheses(slot)
            times = [t for t in hypothesis.tokens if t >= self.rules.special.timestamp_begin]
            if times and times[-1] >= enough:
                slots.stop(slot)


class _Waiting:
    """Inputs in order, and those that are decoded again after memory ran out.

    An input may be added after the last one was taken.
    """

    def __init__(self, inputs: Iterable[WindowInput]) -> None:
        self._inputs = iter(inputs)
        self.returned: list[WindowInput] = []

    def __iter__(self) -> "_Waiting":
        return self

    def __next__(self) -> WindowInput:
        return self.returned.pop(0) if self.returned else next(self._inputs)


def count_fallback_slots(n_slots: int) -> int:
    """A quarter of the slots, because each holds five texts; at most MAX_FALLBACK_SLOTS."""
    return max(1, min(MAX_FALLBACK_SLOTS, n_slots // 4))


def is_tried_again(slots: Slots, slot: int, text: DecodedText) -> bool:
    """Whether a greedy text fails, or is doubtful in a window that may be searched with beams."""
    doubtful = text.avg_logprob < DOUBTFUL_LOGPROB and not is_silence(text)
    return needs_fallback(text) or (doubtful and slots.occupant(slot).beams)


def choose_better(greedy: DecodedText, found: DecodedText) -> DecodedText:
    """The text that beams found if it is more probable, else the greedy one.

    Beams gain probability by leaving words out: a text that is much shorter is not better.
    """
    if needs_fallback(greedy) != needs_fallback(found):
        return found if needs_fallback(greedy) else greedy
    if len(found.text) < MIN_LENGTH * len(greedy.text):
        return greedy
    return found if found.avg_logprob > greedy.avg_logprob else greedy


def is_silence(text: Scored) -> bool:
    """Whether Whisper takes the window for silence, so that its text is invented.

    Source: whisper/transcribe.py, `transcribe`, which skips such a window.
    """
    return text.avg_logprob < LOGPROB_THRESHOLD and text.no_speech_prob > NO_SPEECH_THRESHOLD


def needs_fallback(text: DecodedText) -> bool:
    """Whether to sample again. Source: whisper/transcribe.py, `decode_with_fallback`."""
    if is_silence(text):
        return False  # another temperature would only invent something
    improbable = text.avg_logprob < LOGPROB_THRESHOLD
    return improbable or text.compression_ratio > COMPRESSION_RATIO_THRESHOLD


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether the tokens end with the same short sequence repeated MIN_LOOP_REPEATS times."""
    return any(
        len(tokens) >= MIN_LOOP_REPEATS * n
        and all(tokens[-i] == tokens[-i - n] for i in range(1, (MIN_LOOP_REPEATS - 1) * n + 1))
        for n in range(1, MAX_LOOP_TOKENS + 1)
    )


def is_bound_to_fail(text: str, n_tokens_left: int) -> bool:
    """Whether the text stays too repetitive even if all tokens left are ordinary text."""
    n_bytes, compressed = len(text.encode()), len(zlib.compress(text.encode()))
    n_more = n_tokens_left * TYPICAL_BYTES_PER_TOKEN
    ratio = (n_bytes + n_more) / (compressed + n_more / TYPICAL_RATIO)
    return ratio > COMPRESSION_RATIO_THRESHOLD
