"""Windows to tokens, many windows at a time.

When a window's text ends, its slot takes the next window, possibly of another recording, so no
text waits for the others. A text that fails (improbable, or repetitive) is sampled again at rising
temperatures from the same encoder output. Source: whisper/transcribe.py, `decode_with_fallback`.
"""

import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

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

MAX_FALLBACK_SLOTS = 4  # windows sampled again at the same time

RUNS_BETWEEN_LOOP_CHECKS = 8
MAX_LOOP_TOKENS = 24
MIN_LOOP_REPEATS = 4
TYPICAL_BYTES_PER_TOKEN = 4  # of ordinary text
TYPICAL_RATIO = 1.3  # compression ratio of ordinary text, on the low side


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
            inputs: if memory runs out while one is being made, it is requested again.

        Raises:
            OutOfMemory: not even one window fits.
        """
        waiting = iter(inputs)
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
            waiting = chain(unfinished.values(), waiting)

    def _decode(
        self, waiting: Iterator[WindowInput], unfinished: dict[int, WindowInput]
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
        for run in count():
            new = []
            for window_input in islice(waiting, slots.n_free):
                # At once: making the next input may run out of memory.
                unfinished[window_input.index] = window_input
                new.append(window_input)
            slots.add(new)
            if slots.n_used == 0:
                break
            slots.run()
            if run % RUNS_BETWEEN_LOOP_CHECKS == 0:
                self._stop_loops(slots)
            texts = {slot: self._choose_text(slots, slot, 0.0) for slot in slots.ended}
            yield from self._accept(slots, texts, unfinished)
            for slot in slots.ended:
                if needs_fallback(texts[slot]):
                    if fallback is None:
                        fallback = self._fallback = self._create_fallback_slots()
                    elif fallback.n_free == 0:
                        yield from self._sample_again(fallback, unfinished)
                    fallback.add_encoded(slots, slot)
                slots.remove(slot)
        if fallback is not None:
            yield from self._sample_again(fallback, unfinished)

    def _create_fallback_slots(self) -> Slots:
        return Slots(self.model, self.rules, count_fallback_slots(self.n_slots), BEST_OF)

    def _sample_again(
        self, slots: Slots, unfinished: dict[int, WindowInput]
    ) -> Iterator[DecodedBatch]:
        """Sample every window in the slots at rising temperatures until a text passes.

        The text of the last temperature is kept even if it fails, so no window is left empty.
        """
        for temperature in TEMPERATURES[1:]:
            if slots.n_used == 0:
                return
            slots.restart(temperature)
            while len(slots.ended) < slots.n_used:
                slots.run()
            texts = {slot: self._choose_text(slots, slot, temperature) for slot in slots.ended}
            is_last = temperature == TEMPERATURES[-1]
            yield from self._accept(slots, texts, unfinished, accept_all=is_last)
            for slot in slots.ended:
                if is_last or not needs_fallback(texts[slot]):
                    slots.remove(slot)

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


def count_fallback_slots(n_slots: int) -> int:
    """A quarter of the slots, because each holds five texts; at most MAX_FALLBACK_SLOTS."""
    return max(1, min(MAX_FALLBACK_SLOTS, n_slots // 4))


def needs_fallback(text: DecodedText) -> bool:
    """Whether to sample again. Source: whisper/transcribe.py, `decode_with_fallback`."""
    improbable = text.avg_logprob < LOGPROB_THRESHOLD
    if improbable and text.no_speech_prob > NO_SPEECH_THRESHOLD:
        return False  # silence: another temperature would only invent something
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
