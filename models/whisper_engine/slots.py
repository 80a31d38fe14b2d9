"""Texts being written, many at a time, a token of each at every step.

A slot holds one window's sound and the texts written of it: one, or five samples beside each other.
All that a step reads and changes are tensors, changed in place and without asking the device
anything, so that on a GPU a step is recorded once, as a CUDA graph, and then replayed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.whisper_engine.model import CrossKV, InferenceModel
from models.whisper_engine.rules import Rules, TextState

STEPS_BETWEEN_LOOKS = 8  # on a GPU, where to look is to wait
SPAN_BLOCK = 128  # positions; on a GPU there is a graph for each number of blocks
ENCODER_BATCH = {"cpu": 4, "cuda": 32}  # windows


@dataclass(frozen=True)
class Sound:
    """A window to be decoded.

    Args:
        mel: (n_mels, 3000)
        prompt: tokens before the text: vocabulary, language and task.
        seed: of sampling; the same window always samples the same texts.
        language_probability: of the most probable language, where it was asked for this window.
    """

    index: int
    mel: Tensor
    prompt: tuple[int, ...]
    seed: int
    language_probability: float | None = None


@dataclass(frozen=True)
class Written:
    """One text, without the end of text token."""

    tokens: tuple[int, ...]
    sum_logprobs: float
    no_speech_prob: float


class Slots:
    """
    Args:
        n_slots: windows at the same time.
        n_lanes: texts of each. More than one are sampled, one is not.

    Attributes:
        occupants: the sound in each slot. Those in use come first while steps run.
        ended: slots whose texts have all ended, as of the last look.
    """

    def __init__(self, model: InferenceModel, rules: Rules, n_slots: int, n_lanes: int = 1) -> None:
        self.model, self.rules, self.special = model, rules, rules.special
        self.n_slots, self.n_lanes = n_slots, n_lanes
        self.occupants: list[Sound | None] = [None] * n_slots
        self.ended: list[int] = []
        self.cross = model.empty_cross_kv(n_slots)
        self._cache = model.empty_cache(n_slots * n_lanes)
        self._n_ctx = model.dims.n_text_ctx
        longest = self._n_ctx // 2  # whisper's `sample_len`

        def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(n_slots * n_lanes, *shape, dtype=dtype, device=model.device)

        self._state = TextState(*(tensor(torch.long) for _ in range(4)))
        self._start = tensor(torch.long)  # position of the prompt's last token
        self._limit = tensor(torch.long)  # tokens this text may have
        self._tokens = tensor(torch.long, longest + 1)  # one more, for steps after the end
        self._sum_logprobs = tensor(torch.float)
        self._no_speech = tensor(torch.float)
        self._done = tensor(torch.bool).fill_(True)
        self._temperature = tensor(torch.float).fill_(1.0)  # a graph may hold slots never used
        self._chance = tensor(torch.float, longest + 1)  # uniform in [0, 1): what sampling draws
        self._n_steps = [0] * n_slots  # that a slot's texts may have by now
        self._looked_at: list[Tensor] | None = None  # all texts, on the host
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph | None] = {}
        # One for all graphs: they never run at the same time, and leave nothing there.
        self._graph_memory = torch.cuda.graph_pool_handle() if self._recorded else None

    @property
    def n_used(self) -> int:
        return sum(sound is not None for sound in self.occupants)

    @property
    def n_free(self) -> int:
        return self.n_slots - self.n_used

    # --- windows in and out ---

    def add(self, sounds: list[Sound]) -> None:
        """Hear new windows, at most `n_free`, and begin their texts."""
        n_batch = ENCODER_BATCH[self.model.device.type]
        for i in range(0, len(sounds), n_batch):
            batch = sounds[i : i + n_batch]
            encoded = self.model.encode(torch.stack([sound.mel for sound in batch]))
            slots = [self._occupy(sound) for sound in batch]
            self.model.hear(encoded, self.cross, slots)
            self._begin(slots, 0.0)

    def add_heard(self, other: "Slots", slot: int) -> None:
        """A window that is in another's slot. Its texts begin with `begin_again`."""
        self.cross.copy_row(self._occupy(other._sound(slot)), other.cross, slot)

    def begin_again(self, temperature: float) -> None:
        """The texts of all slots, from the beginning."""
        self._close_gaps()
        self._begin(list(range(self.n_used)), temperature)
        self.ended = []

    def heard(self, slots: list[int]) -> tuple[tuple[Sound, ...], CrossKV]:
        """What is in some slots, and stays there."""
        return tuple(self._sound(slot) for slot in slots), self.cross.rows(slots)

    def stop(self, slot: int) -> None:
        """End a slot's texts where they are."""
        self._done[self._lanes(slot)] = True
        if slot not in self.ended:
            self.ended.append(slot)

    def remove(self, slot: int) -> None:
        self.occupants[slot] = None

    def clear(self) -> None:
        self.occupants = [None] * self.n_slots
        self.ended = []

    def _occupy(self, sound: Sound) -> int:
        slot = self.occupants.index(None)
        self.occupants[slot] = sound
        return slot

    def _begin(self, slots: list[int], temperature: float) -> None:
        prompts = {slot: self._sound(slot).prompt for slot in slots}
        for length in sorted({len(prompt) for prompt in prompts.values()}):
            self._read_prompts([slot for slot in slots if len(prompts[slot]) == length])
        for slot in slots:
            self._begin_texts(slot, temperature)
        self._looked_at = None

    def _read_prompts(self, slots: list[int]) -> None:
        """All but the last token, which is the first step's; the prompts are of one length."""
        start_of_transcript = self._sound(slots[0]).prompt.index(self.special.sot)
        prompts = torch.tensor([self._sound(slot).prompt for slot in slots])
        prompts = prompts.to(self.model.device)
        n_tokens = max(start_of_transcript + 1, prompts.shape[1] - 1)
        lanes = torch.arange(self.n_lanes) + torch.tensor(slots)[:, None] * self.n_lanes
        lanes = lanes.to(self.model.device)
        hidden, _ = self.model.decoder.forward(
            prompts[:, :n_tokens], self.cross.rows(slots), cache=self._cache, cache_rows=lanes
        )
        probabilities = self.model.logits(hidden[:, start_of_transcript]).softmax(dim=-1)
        self._no_speech[lanes] = probabilities[:, self.special.no_speech, None]
        self._state.last[lanes] = prompts[:, -1:]

    def _begin_texts(self, slot: int, temperature: float) -> None:
        sound, lanes = self._sound(slot), self._lanes(slot)
        start = len(sound.prompt) - 1
        self._start[lanes] = start
        self._limit[lanes] = min(self._n_ctx // 2, self._n_ctx - start)
        self._state.length[lanes] = 0
        self._state.last_timestamp[lanes] = self.special.timestamp_begin - 1
        self._sum_logprobs[lanes] = 0.0
        self._done[lanes] = False
        self._temperature[lanes] = temperature
        self._n_steps[slot] = 0
        if self.n_lanes > 1:
            generator = torch.Generator().manual_seed(sound.seed + round(1000 * temperature))
            self._chance[lanes] = torch.rand(self._chance[lanes].shape, generator=generator).to(
                self._chance.device
            )

    def _close_gaps(self) -> None:
        """Move the last slots in use into the places of those that are free."""
        n_used = self.n_used
        for free in range(n_used):
            if self.occupants[free] is None:
                last = max(i for i, sound in enumerate(self.occupants) if sound is not None)
                self._move(last, free)

    def _move(self, source: int, slot: int) -> None:
        self.cross.copy_row(slot, self.cross, source)
        self._cache.copy_rows(self._lanes(slot), self._lanes(source))
        for tensor in self._per_text():
            tensor[self._lanes(slot)] = tensor[self._lanes(source)]
        self.occupants[slot], self.occupants[source] = self.occupants[source], None
        self._n_steps[slot] = self._n_steps[source]

    def _per_text(self) -> list[Tensor]:
        return [
            *vars(self._state).values(),
            *(self._start, self._limit, self._tokens, self._sum_logprobs, self._no_speech),
            *(self._done, self._temperature, self._chance),
        ]

    def _lanes(self, slot: int) -> slice:
        """Where this slot's texts are in the tensors of all texts."""
        return slice(slot * self.n_lanes, (slot + 1) * self.n_lanes)

    def _sound(self, slot: int) -> Sound:
        sound = self.occupants[slot]
        assert sound is not None
        return sound

    # --- steps ---

    def run(self) -> None:
        """One step of all texts, or a few of them on a GPU; then `ended` is up to date."""
        self._close_gaps()
        self._looked_at = None
        for _ in range(STEPS_BETWEEN_LOOKS if self._recorded else 1):
            n_slots = self._in_a_graph(self.n_used) if self._recorded else self.n_used
            span = 1 + max(
                len(self._sound(slot).prompt) + self._n_steps[slot] - 1
                for slot in range(self.n_used)
            )
            if self._recorded:
                self._replay(n_slots, min(-(-span // SPAN_BLOCK) * SPAN_BLOCK, self._n_ctx))
            else:
                self._step(n_slots, min(span, self._n_ctx))
            for slot in range(self.n_used):
                self._n_steps[slot] += 1
        done = self._done.view(self.n_slots, self.n_lanes)[: self.n_used].all(dim=1)
        self.ended = done.nonzero()[:, 0].tolist()

    def written(self, slot: int) -> list[Written]:
        """The texts of a slot as far as they are."""
        if self._looked_at is None:  # once for all slots: each look is a wait on a GPU
            all_texts = (self._tokens, self._state.length, self._sum_logprobs, self._no_speech)
            self._looked_at = [of_all.cpu() for of_all in all_texts]
        of_slot = [of_all[self._lanes(slot)].tolist() for of_all in self._looked_at]
        return [
            Written(tuple(tokens[:length]), sum_logprobs, no_speech)
            for tokens, length, sum_logprobs, no_speech in zip(*of_slot, strict=True)
        ]

    def n_left(self, slot: int) -> int:
        """Steps until this slot's texts reach their limit."""
        return int(self._limit[slot * self.n_lanes]) - self._n_steps[slot]

    def _step(self, n_slots: int, span: int) -> None:
        """One token of each text in the first slots; all positions are below `span`."""
        n = n_slots * self.n_lanes
        state = self._state.rows(slice(n))
        # Texts that have ended are computed with the others and not kept; one at its limit would
        # be a position behind the last.
        positions = (self._start[:n] + state.length).clamp(max=span - 1)
        hidden = self.model.decoder.step(
            state.last, positions, self.cross.rows(slice(n_slots)), self._cache, span
        )
        logits = self.model.logits(hidden)
        self.rules.apply(logits, state)
        chosen = self._sample(logits, state.length) if self.n_lanes > 1 else logits.argmax(dim=1)
        logprobs = logits.log_softmax(dim=1).gather(1, chosen[:, None])[:, 0]

        live = ~self._done[:n]
        ends = chosen == self.special.eot
        self._sum_logprobs[:n] += torch.where(live, logprobs, 0.0)
        self._tokens[:n].scatter_(1, state.length[:, None], chosen[:, None])
        state.before_last.copy_(state.last)
        state.last.copy_(chosen)
        is_timestamp = live & (chosen >= self.special.timestamp_begin)
        state.last_timestamp.copy_(torch.where(is_timestamp, chosen, state.last_timestamp))
        state.length.add_(live & ~ends)
        self._done[:n] |= ends | (state.length >= self._limit[:n])

    def _sample(self, logits: Tensor, length: Tensor) -> Tensor:
        """A token of each text, as probable as its temperature makes it.

        Drawn with one number per token that the window's seed decides alone, so that neither the
        slot nor its neighbours change a text.
        """
        n = len(logits)
        probabilities = (logits / self._temperature[:n, None]).softmax(dim=1).cumsum(dim=1)
        chance = self._chance[:n].gather(1, length[:, None])
        # The sum of all is 1 but for rounding; a draw must not fall behind the last token.
        draw = (chance * probabilities[:, -1:]).clamp(max=1 - 1e-6)
        drawn = torch.searchsorted(probabilities, draw, right=True)[:, 0]
        # A text that has ended may have no token left; what is drawn must be one all the same.
        return drawn.clamp(max=logits.shape[1] - 1)

    # --- on a GPU ---

    @property
    def _recorded(self) -> bool:
        return self.model.device.type == "cuda"

    def _in_a_graph(self, n_used: int) -> int:
        """Slots to compute: all, or the power of two that holds those in use when few are left."""
        return min(self.n_slots, 1 << (n_used - 1).bit_length())

    def _replay(self, n_slots: int, span: int) -> None:
        """`_step` as a CUDA graph, recorded the second time: the first sets the libraries up."""
        key = (n_slots, span)
        if key not in self._graphs:
            self._graphs[key] = None
            self._step(n_slots, span)
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = self._record(n_slots, span)
        graph.replay()

    def _record(self, n_slots: int, span: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # torch leaves its own stream behind where a recording fails.
            with torch.cuda.stream(torch.cuda.current_stream()):
                with torch.cuda.graph(graph, pool=self._graph_memory):
                    self._step(n_slots, span)
        except RuntimeError as error:
            # Ending a recording that memory ran out of may fail once more, with another error.
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None
            raise
        return graph
