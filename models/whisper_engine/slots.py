"""Decoding slots: one step adds a token to every text.

A slot holds the encoder output of one window and its hypotheses: one greedy text, or five samples.
A step reads and changes tensors in place and never synchronises with the device, so on a GPU it is
recorded once as a CUDA graph and then replayed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.whisper_engine.beams import BeamSearch
from models.whisper_engine.model import CrossKV, InferenceModel
from models.whisper_engine.rules import TextState, TokenRules

TIMESTAMP_SECONDS = 0.02  # between two timestamps
STEPS_PER_RUN = 8  # on a GPU, where reading the results waits for the device
SPAN_BLOCK = 128  # positions; a GPU has one graph for each number of blocks
ENCODER_BATCH = {"cpu": 4, "cuda": 32}  # windows


@dataclass(frozen=True)
class WindowInput:
    """One window, ready to be decoded.

    Args:
        mel: (n_mels, 3000)
        prompt: the tokens before the text: vocabulary, language and task.
        seed: for sampling; a window always yields the same samples.
        language_probability: of the most probable language, if it was detected for this window.
        needed: seconds from the window's start after which its text is not needed.
        beams: whether to search it with beams if its greedy text is doubtful.
        encoded: the encoder's output, (1500, n_state), if it is known.
    """

    index: int
    mel: Tensor
    prompt: tuple[int, ...]
    seed: int
    language_probability: float | None = None
    needed: float | None = None
    beams: bool = False
    encoded: Tensor | None = None


@dataclass(frozen=True)
class Hypothesis:
    """One text of a window, without the end-of-text token."""

    tokens: tuple[int, ...]
    sum_logprobs: float
    no_speech_prob: float


class Slots:
    """Windows that are decoded together.

    Args:
        n_slots: windows at the same time.
        n_candidates: texts per window. A single one is greedy, several are sampled.

    Attributes:
        occupants: the window in each slot. While steps run, the used slots come first.
        ended: the slots whose texts have all ended, as of the last `run`.
    """

    def __init__(
        self, model: InferenceModel, rules: TokenRules, n_slots: int, n_candidates: int = 1
    ) -> None:
        self.model, self.rules, self.special = model, rules, rules.special
        self.n_slots, self.n_candidates = n_slots, n_candidates
        self.occupants: list[WindowInput | None] = [None] * n_slots
        self.ended: list[int] = []
        self.cross = model.allocate_cross_kv(n_slots)
        self._cache = model.allocate_cache(n_slots * n_candidates)
        self._n_ctx = model.dims.n_text_ctx
        max_tokens = self._n_ctx // 2  # whisper's `sample_len`

        def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(n_slots * n_candidates, *shape, dtype=dtype, device=model.device)

        self._state = TextState(*(tensor(torch.long) for _ in range(4)))
        self._start = tensor(torch.long)  # position of the prompt's last token
        self._limit = tensor(torch.long)  # most tokens a text may have
        self._tokens = tensor(torch.long, max_tokens + 1)  # one spare, for steps after the end
        self._sum_logprobs = tensor(torch.float)
        self._no_speech = tensor(torch.float)
        self._done = tensor(torch.bool).fill_(True)
        self._temperature = tensor(torch.float).fill_(1.0)  # a graph may cover unused slots
        self._uniform = tensor(torch.float, max_tokens + 1)  # random numbers in [0, 1) for sampling
        self._n_steps = [0] * n_slots  # since the slot's texts started
        self._host_copies: list[Tensor] | None = None  # of all texts
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph | None] = {}
        # Shared by all graphs: they never run at the same time and leave nothing in it.
        self._graph_memory = torch.cuda.graph_pool_handle() if self._uses_graphs else None

    @property
    def n_used(self) -> int:
        return sum(occupant is not None for occupant in self.occupants)

    @property
    def n_free(self) -> int:
        return self.n_slots - self.n_used

    # --- windows in and out ---

    def add(self, inputs: list[WindowInput]) -> None:
        """Encode new windows, at most `n_free`, and start their texts."""
        n_batch = ENCODER_BATCH[self.model.device.type]
        for i in range(0, len(inputs), n_batch):
            batch = inputs[i : i + n_batch]
            encoded = self._encode(batch)
            slots = [self._occupy(window_input) for window_input in batch]
            self.model.write_cross_kv(encoded, self.cross, slots)
            self._start_texts(slots, 0.0)

    def _encode(self, batch: list[WindowInput]) -> Tensor:
        """(n_batch, 1500, n_state)"""
        new = [window_input.mel for window_input in batch if window_input.encoded is None]
        outputs = iter(self.model.encode(torch.stack(new)) if new else ())
        return torch.stack(
            [
                next(outputs) if window_input.encoded is None else window_input.encoded
                for window_input in batch
            ]
        )

    def add_encoded(self, other: "Slots", slot: int) -> None:
        """Copy an encoded window from a slot of `other`. `restart` starts its texts."""
        self.cross.copy_row(self._occupy(other.occupant(slot)), other.cross, slot)

    def restart(self, temperature: float) -> None:
        """Start the texts of all slots anew."""
        self._close_gaps()
        self._start_texts(list(range(self.n_used)), temperature)
        self.ended = []

    def select(self, slots: list[int]) -> tuple[tuple[WindowInput, ...], CrossKV]:
        """The windows in these slots and their cross-attention; they stay in their slots."""
        return tuple(self.occupant(slot) for slot in slots), self.cross.rows(slots)

    def stop(self, slot: int) -> None:
        """End a slot's texts as they are."""
        self._done[self._rows(slot)] = True
        if slot not in self.ended:
            self.ended.append(slot)

    def remove(self, slot: int) -> None:
        self.occupants[slot] = None

    def clear(self) -> None:
        self.occupants = [None] * self.n_slots
        self.ended = []

    def _occupy(self, window_input: WindowInput) -> int:
        slot = self.occupants.index(None)
        self.occupants[slot] = window_input
        return slot

    def _start_texts(self, slots: list[int], temperature: float) -> None:
        prompts = {slot: self.occupant(slot).prompt for slot in slots}
        for length in sorted({len(prompt) for prompt in prompts.values()}):
            self._read_prompts([slot for slot in slots if len(prompts[slot]) == length])
        for slot in slots:
            self._reset_texts(slot, temperature)
        self._host_copies = None

    def _read_prompts(self, slots: list[int]) -> None:
        """Read prompts of equal length but for their last token, which the first step reads."""
        start_of_transcript = self.occupant(slots[0]).prompt.index(self.special.sot)
        prompts = torch.tensor([self.occupant(slot).prompt for slot in slots])
        prompts = prompts.to(self.model.device)
        n_tokens = max(start_of_transcript + 1, prompts.shape[1] - 1)
        rows = torch.arange(self.n_candidates) + torch.tensor(slots)[:, None] * self.n_candidates
        rows = rows.to(self.model.device)
        hidden, _ = self.model.decoder.forward(
            prompts[:, :n_tokens], self.cross.rows(slots), cache=self._cache, cache_rows=rows
        )
        probabilities = self.model.logits(hidden[:, start_of_transcript]).softmax(dim=-1)
        self._no_speech[rows] = probabilities[:, self.special.no_speech, None]
        self._state.last[rows] = prompts[:, -1:]

    def _reset_texts(self, slot: int, temperature: float) -> None:
        window_input, rows = self.occupant(slot), self._rows(slot)
        start = len(window_input.prompt) - 1
        self._start[rows] = start
        self._limit[rows] = min(self._n_ctx // 2, self._n_ctx - start)
        self._state.length[rows] = 0
        self._state.last_timestamp[rows] = self.special.timestamp_begin - 1
        self._sum_logprobs[rows] = 0.0
        self._done[rows] = False
        self._temperature[rows] = temperature
        self._n_steps[slot] = 0
        if self.n_candidates > 1:
            generator = torch.Generator().manual_seed(window_input.seed + round(1000 * temperature))
            self._uniform[rows] = torch.rand(self._uniform[rows].shape, generator=generator).to(
                self._uniform.device
            )

    def _close_gaps(self) -> None:
        """Move the last used slots into free ones before them."""
        n_used = self.n_used
        for free in range(n_used):
            if self.occupants[free] is None:
                last = max(i for i, one in enumerate(self.occupants) if one is not None)
                self._move(last, free)

    def _move(self, source: int, slot: int) -> None:
        self.cross.copy_row(slot, self.cross, source)
        self._cache.copy_rows(self._rows(slot), self._rows(source))
        for tensor in self._text_tensors():
            tensor[self._rows(slot)] = tensor[self._rows(source)]
        self.occupants[slot], self.occupants[source] = self.occupants[source], None
        self._n_steps[slot] = self._n_steps[source]

    def _text_tensors(self) -> list[Tensor]:
        return [
            *vars(self._state).values(),
            *(self._start, self._limit, self._tokens, self._sum_logprobs, self._no_speech),
            *(self._done, self._temperature, self._uniform),
        ]

    def _rows(self, slot: int) -> slice:
        """The rows of this slot's texts in the tensors of all texts."""
        return slice(slot * self.n_candidates, (slot + 1) * self.n_candidates)

    def occupant(self, slot: int) -> WindowInput:
        """The window in a used slot."""
        window_input = self.occupants[slot]
        assert window_input is not None
        return window_input

    # --- steps ---

    def run(self) -> None:
        """Run one step of all texts, or STEPS_PER_RUN on a GPU, and update `ended`."""
        self._close_gaps()
        self._host_copies = None
        for _ in range(STEPS_PER_RUN if self._uses_graphs else 1):
            n_slots = self._graph_slots(self.n_used) if self._uses_graphs else self.n_used
            span = 1 + max(
                len(self.occupant(slot).prompt) + self._n_steps[slot] - 1
                for slot in range(self.n_used)
            )
            if self._uses_graphs:
                self._replay_graph(n_slots, min(-(-span // SPAN_BLOCK) * SPAN_BLOCK, self._n_ctx))
            else:
                self._step(n_slots, min(span, self._n_ctx))
            for slot in range(self.n_used):
                self._n_steps[slot] += 1
        done = self._done.view(self.n_slots, self.n_candidates)[: self.n_used].all(dim=1)
        self.ended = done.nonzero()[:, 0].tolist()

    def run_beams(self) -> None:
        """Search the texts of all slots to their ends, each with `n_candidates` beams.

        Nothing is recorded as a CUDA graph: few windows are searched. `restart` comes first.
        Source: whisper/decoding.py, `BeamSearchDecoder`.
        """
        searches = [
            BeamSearch(
                self.n_candidates,
                self.special.eot,
                self.n_steps_left(slot),
                self.find_last_needed(slot),
            )
            for slot in range(self.n_used)
        ]
        n = self.n_used * self.n_candidates
        while not all(search.is_done for search in searches):
            span = 1 + max(
                len(self.occupant(slot).prompt) + self._n_steps[slot] - 1
                for slot in range(self.n_used)
            )
            span = min(span, self._n_ctx)
            logprobs = self._compute_logits(self.n_used, span).log_softmax(dim=1)
            values, tokens = (
                best.view(self.n_used, self.n_candidates, -1).tolist()
                for best in logprobs.topk(self.n_candidates + 1, dim=1)
            )
            chosen, sources = [], []
            for slot, search in enumerate(searches):
                search.add(values[slot], tokens[slot])
                chosen += [sequence[-1] for sequence in search.sequences]
                sources += [slot * self.n_candidates + source for source in search.sources]
            self._continue_beams(n, chosen, sources, span)
        for slot, search in enumerate(searches):
            self._write_texts(slot, search.finish())
        self.ended = list(range(self.n_used))
        self._host_copies = None

    def _continue_beams(self, n: int, chosen: list[int], sources: list[int], span: int) -> None:
        """Give the first n texts the state of the texts that they continue, and a new token."""
        from_rows, last = (torch.tensor(each).to(self.model.device) for each in (sources, chosen))
        if sources != [*range(n)]:
            self._cache.reorder(from_rows, span)
        state = self._state.rows(slice(n))
        for tensor in vars(state).values():
            tensor.copy_(tensor[from_rows])
        state.before_last.copy_(state.last)
        state.last.copy_(last)
        is_timestamp = last >= self.special.timestamp_begin
        state.last_timestamp.copy_(torch.where(is_timestamp, last, state.last_timestamp))
        state.length.add_(1).clamp_(max=self._n_ctx // 2)
        for slot in range(self.n_used):
            self._n_steps[slot] += 1

    def _write_texts(self, slot: int, texts: list[tuple[tuple[int, ...], float]]) -> None:
        """Replace a slot's texts; fewer than its candidates are followed by impossible ones."""
        rows = self._rows(slot)
        self._done[rows] = True
        self._sum_logprobs[rows] = -torch.inf
        self._state.length[rows] = 0
        for row, (tokens, sum_logprobs) in zip(range(rows.start, rows.stop), texts, strict=False):
            self._tokens[row, : len(tokens)] = torch.tensor(tokens).to(self._tokens)
            self._state.length[row] = len(tokens)
            self._sum_logprobs[row] = sum_logprobs

    def hypotheses(self, slot: int) -> list[Hypothesis]:
        """A slot's texts so far."""
        if self._host_copies is None:  # once for all slots: each copy waits for the GPU
            all_texts = (self._tokens, self._state.length, self._sum_logprobs, self._no_speech)
            self._host_copies = [of_all.cpu() for of_all in all_texts]
        of_slot = [of_all[self._rows(slot)].tolist() for of_all in self._host_copies]
        return [
            Hypothesis(tuple(tokens[:length]), sum_logprobs, no_speech)
            for tokens, length, sum_logprobs, no_speech in zip(*of_slot, strict=True)
        ]

    def find_last_needed(self, slot: int) -> int | None:
        """The timestamp after which a slot's text is not needed; None: all of it is."""
        needed = self.occupant(slot).needed
        if needed is None:
            return None
        return self.special.timestamp_begin + math.ceil(needed / TIMESTAMP_SECONDS)

    def n_steps_left(self, slot: int) -> int:
        """Steps until this slot's texts reach their limit."""
        return int(self._limit[slot * self.n_candidates]) - self._n_steps[slot]

    def _step(self, n_slots: int, span: int) -> None:
        """Add a token to each text in the first slots; all positions are below `span`."""
        n = n_slots * self.n_candidates
        state = self._state.rows(slice(n))
        logits = self._compute_logits(n_slots, span)
        greedy = self.n_candidates == 1
        chosen = logits.argmax(dim=1) if greedy else self._sample(logits, state.length)
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

    def _compute_logits(self, n_slots: int, span: int) -> Tensor:
        """The logits of each text's next token under the rules, (n_texts, n_vocab), float32."""
        n = n_slots * self.n_candidates
        state = self._state.rows(slice(n))
        # Ended texts are computed along with the others and discarded; one at its limit would be
        # past the last position.
        positions = (self._start[:n] + state.length).clamp(max=span - 1)
        hidden = self.model.decoder.step(
            state.last, positions, self.cross.rows(slice(n_slots)), self._cache, span
        )
        logits = self.model.logits(hidden)
        self.rules.apply(logits, state)
        return logits

    def _sample(self, logits: Tensor, length: Tensor) -> Tensor:
        """Sample a token of each text at its temperature.

        Each token uses one random number that depends only on the window's seed, so that neither
        the slot nor the other windows change a text.
        """
        n = len(logits)
        probabilities = (logits / self._temperature[:n, None]).softmax(dim=1).cumsum(dim=1)
        chance = self._uniform[:n].gather(1, length[:, None])
        # The sum is 1 up to rounding; a draw must not fall past the last token.
        draw = (chance * probabilities[:, -1:]).clamp(max=1 - 1e-6)
        drawn = torch.searchsorted(probabilities, draw, right=True)[:, 0]
        # An ended text may have no token left to draw; the result must still be a valid token.
        return drawn.clamp(max=logits.shape[1] - 1)

    # --- on a GPU ---

    @property
    def _uses_graphs(self) -> bool:
        return self.model.device.type == "cuda"

    def _graph_slots(self, n_used: int) -> int:
        """How many slots to compute: all, or the power of two that holds those in use if fewer."""
        return min(self.n_slots, 1 << (n_used - 1).bit_length())

    def _replay_graph(self, n_slots: int, span: int) -> None:
        """Run `_step` as a CUDA graph, recorded on the second call; the first sets up libraries."""
        key = (n_slots, span)
        if key not in self._graphs:
            self._graphs[key] = None
            self._step(n_slots, span)
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = self._record_graph(n_slots, span)
        graph.replay()

    def _record_graph(self, n_slots: int, span: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # If recording fails, torch leaves its own stream current.
            with torch.cuda.stream(torch.cuda.current_stream()):
                with torch.cuda.graph(graph, pool=self._graph_memory):
                    self._step(n_slots, span)
        except RuntimeError as error:
            # After running out of memory, ending the recording may fail again with another error.
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None
            raise
        return graph
