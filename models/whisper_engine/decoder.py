"""Windows to tokens, many at a time.

When a text ends, its slot takes the next window, which may be another recording's: no text waits
for its neighbours. A text that fails (improbable, or repeating itself) is sampled again at rising
temperatures, on the same sound. Source: whisper/transcribe.py, `decode_with_fallback`.
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
from models.whisper_engine.rules import Rules, SpecialTokens
from models.whisper_engine.slots import Slots, Sound

# When a window is decoded again, and how. Source: whisper/transcribe.py, `transcribe`.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BEST_OF = 5
COMPRESSION_RATIO = 2.4
LOGPROB = -1.0
NO_SPEECH = 0.6

FALLBACK_SLOTS = 4  # windows that are sampled again at the same time, at most

LOOKS_BETWEEN_LOOP_CHECKS = 8
LONGEST_LOOP = 24  # tokens
LOOP_REPEATS = 4
BYTES_PER_TOKEN = 4  # of ordinary text
ORDINARY_RATIO = 1.3  # how well zlib compresses it; less than it really does


@dataclass(frozen=True)
class Text:
    """What was written of one window. The fields are those of whisper's DecodingResult."""

    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float


@dataclass(frozen=True)
class Decoded:
    """Windows whose texts have ended together.

    Args:
        cross: what the decoder hears of them, a row each; it holds until the next are asked for.
    """

    sounds: tuple[Sound, ...]
    texts: tuple[Text, ...]
    cross: CrossKV


class Decoder:
    """
    Args:
        n_slots: windows decoded at the same time; memory grows with it. They are halved where it
            runs out, and stay so.
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
        self.rules = Rules(special, model.dims.n_vocab, model.device)
        self._slots: Slots | None = None
        self._fallback: Slots | None = None

    @torch.inference_mode()
    def decode(self, sounds: Iterable[Sound]) -> Generator[Decoded, None, None]:
        """The text of every sound, as they end.

        Args:
            sounds: where memory runs out in making one, it is asked for again.

        Raises:
            OutOfMemory: not even one window fits.
        """
        waiting = iter(sounds)
        while True:
            in_work: dict[int, Sound] = {}
            try:
                yield from self._decode(waiting, in_work)
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
            waiting = chain(in_work.values(), waiting)

    def _decode(self, waiting: Iterator[Sound], in_work: dict[int, Sound]) -> Iterator[Decoded]:
        """
        Args:
            in_work: sounds by index that were taken from `waiting` and have no text yet.
        """
        slots = self._slots = self._slots or Slots(self.model, self.rules, self.n_slots)
        again = self._fallback
        for left_over in (slots, again):  # of a job that was stopped
            if left_over is not None:
                left_over.clear()
        for look in count():
            new = []
            for sound in islice(waiting, slots.n_free):
                in_work[sound.index] = sound  # at once: to make the next may take too much memory
                new.append(sound)
            slots.add(new)
            if slots.n_used == 0:
                break
            slots.run()
            if look % LOOKS_BETWEEN_LOOP_CHECKS == 0:
                self._stop_loops(slots)
            texts = {slot: self._best_text(slots, slot, 0.0) for slot in slots.ended}
            yield from self._finish(slots, texts, in_work)
            for slot in slots.ended:
                if needs_fallback(texts[slot]):
                    if again is None:
                        again = self._fallback = self._new_fallback()
                    elif again.n_free == 0:
                        yield from self._sample_again(again, in_work)
                    again.add_heard(slots, slot)
                slots.remove(slot)
        if again is not None:
            yield from self._sample_again(again, in_work)

    def _new_fallback(self) -> Slots:
        return Slots(self.model, self.rules, fallback_slots(self.n_slots), BEST_OF)

    def _sample_again(self, slots: Slots, in_work: dict[int, Sound]) -> Iterator[Decoded]:
        """Every window in the slots, at rising temperatures until a text will do.

        The last text is kept, never nothing.
        """
        for temperature in TEMPERATURES[1:]:
            if slots.n_used == 0:
                return
            slots.begin_again(temperature)
            while len(slots.ended) < slots.n_used:
                slots.run()
            texts = {slot: self._best_text(slots, slot, temperature) for slot in slots.ended}
            is_last = temperature == TEMPERATURES[-1]
            yield from self._finish(slots, texts, in_work, whatever=is_last)
            for slot in slots.ended:
                if is_last or not needs_fallback(texts[slot]):
                    slots.remove(slot)

    def _finish(
        self,
        slots: Slots,
        texts: dict[int, Text],
        in_work: dict[int, Sound],
        whatever: bool = False,
    ) -> Iterator[Decoded]:
        """Those of the texts, by slot, that will do, or all of them."""
        good = [slot for slot, text in texts.items() if whatever or not needs_fallback(text)]
        if not good:
            return
        sounds, cross = slots.heard(good)
        for sound in sounds:
            del in_work[sound.index]
        yield Decoded(sounds, tuple(texts[slot] for slot in good), cross)

    def _best_text(self, slots: Slots, slot: int, temperature: float) -> Text:
        """Of the texts in a slot the one whose tokens are the most probable on average."""
        best = max(slots.written(slot), key=lambda one: one.sum_logprobs / max(len(one.tokens), 1))
        text = self.tokenizer.decode(list(best.tokens)).strip()
        return Text(
            best.tokens,
            text,
            temperature,
            best.sum_logprobs / (len(best.tokens) + 1),
            best.no_speech_prob,
            compression_ratio(text),
        )

    def _stop_loops(self, slots: Slots) -> None:
        """End texts that repeat themselves and so could only fail, here and not at their limit."""
        for slot in range(slots.n_used):
            (written,) = slots.written(slot)
            if written.no_speech_prob <= NO_SPEECH and in_loop(written.tokens):
                text = self.tokenizer.decode(list(written.tokens)).strip()
                if can_only_fail(text, slots.n_left(slot)):
                    slots.stop(slot)


def fallback_slots(n_slots: int) -> int:
    """A quarter, because each has five texts, up to FALLBACK_SLOTS."""
    return max(1, min(FALLBACK_SLOTS, n_slots // 4))


def needs_fallback(text: Text) -> bool:
    """Source: whisper/transcribe.py, `decode_with_fallback`."""
    improbable = text.avg_logprob < LOGPROB
    if improbable and text.no_speech_prob > NO_SPEECH:
        return False  # silence: another temperature would only invent something
    return improbable or text.compression_ratio > COMPRESSION_RATIO


def in_loop(tokens: Sequence[int]) -> bool:
    """Whether the last tokens are the same few again and again."""
    return any(
        len(tokens) >= LOOP_REPEATS * n
        and all(tokens[-i] == tokens[-i - n] for i in range(1, (LOOP_REPEATS - 1) * n + 1))
        for n in range(1, LONGEST_LOOP + 1)
    )


def can_only_fail(text: str, n_left: int) -> bool:
    """Whether a text is too repetitive even if ordinary text follows, of so many tokens."""
    n_bytes, compressed = len(text.encode()), len(zlib.compress(text.encode()))
    n_more = n_left * BYTES_PER_TOKEN
    return (n_bytes + n_more) / (compressed + n_more / ORDINARY_RATIO) > COMPRESSION_RATIO
