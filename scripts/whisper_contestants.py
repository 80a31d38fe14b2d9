"""Whisper engines with the same random weights and the same interface, for `scripts/bench whisper`.

Each has a method `decode` that takes windows and text lengths. Random weights never end a text, so
each contestant forces the end after the given number of tokens in its own way. All decode with
timestamps and without fallback.
"""

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch

WINDOW = 30.0  # s
DIMENSIONS = {  # n_mels, n_vocab, n_state, n_head, n_audio_layer, n_text_layer
    "micro": (80, 51865, 64, 2, 2, 2),  # for tests of this module
    "tiny": (80, 51865, 384, 6, 4, 4),
    "base": (80, 51865, 512, 8, 6, 6),
    "small": (80, 51865, 768, 12, 12, 12),
    "medium": (80, 51865, 1024, 16, 24, 24),
    "turbo": (128, 51866, 1280, 20, 32, 4),
    "large-v3": (128, 51866, 1280, 20, 32, 32),
}

Tokens = list[list[int]]


@dataclass(frozen=True)
class Setup:
    """The settings common to all contestants."""

    model: str
    device: str
    threads: int
    batch: int
    windows: int
    tokens: int
    beams: int = 1

    def lengths(self, case: str) -> list[int]:
        """The number of tokens of each window."""
        if case == "fixed":
            return [self.tokens] * self.windows
        # For 110 tokens in a dense window: 85 on average, from 5 to 200.
        drawn = np.random.default_rng(1).normal(85, 30, self.windows).clip(5, 200)
        return [max(1, round(n * self.tokens / 110)) for n in drawn]

    def make_mels(self) -> torch.Tensor:
        """(windows, n_mels, 3000): bands of noise, different in each window."""
        generator = torch.Generator().manual_seed(2)
        shape = (self.windows, DIMENSIONS[self.model][0], 3000)
        bands = torch.randn(*shape[:2], 1, generator=generator)
        return bands + 0.3 * torch.randn(shape, generator=generator)


def make_random_whisper(model: str) -> Any:
    from whisper.model import ModelDimensions, Whisper

    n_mels, n_vocab, n_state, n_head, n_audio, n_text = DIMENSIONS[model]
    torch.manual_seed(0)
    dims = (n_mels, 1500, n_state, n_head, n_audio, n_vocab, 448, n_state, n_head, n_text)
    whisper = Whisper(ModelDimensions(*dims))
    torch.nn.init.normal_(whisper.decoder.positional_embedding, std=0.1)
    torch.nn.init.normal_(whisper.decoder.token_embedding.weight, std=0.05)
    with torch.no_grad():  # else all windows have the same text, and equal tokens prove nothing
        for block in whisper.decoder.blocks:
            block.cross_attn.out.weight.mul_(30)
            block.cross_attn.value.weight.mul_(3)
    return whisper.eval()


def make_tokenizer(whisper: Any) -> Any:
    from whisper.tokenizer import get_tokenizer

    n = whisper.num_languages
    return get_tokenizer(True, num_languages=n, language="en", task="transcribe")


class Unsupported(Exception):
    """A contestant does not support this precision on this device."""


class OpenAIWhisper:
    """openai-whisper in batches, which its own `transcribe` never uses."""

    def __init__(self, setup: Setup, precision: str) -> None:
        if precision == "int8" or (precision == "bf16" and setup.device == "cpu"):
            raise Unsupported
        self.setup = setup
        self.whisper = make_random_whisper(setup.model).to(setup.device)
        self.fp16 = precision != "fp32"  # it has no bf16

    def decode(self, mels: torch.Tensor, lengths: Sequence[int]) -> Tokens:
        from whisper.decoding import DecodingOptions, DecodingTask

        texts: Tokens = []
        for i in range(0, len(mels), self.setup.batch):
            batch = slice(i, i + self.setup.batch)
            options = DecodingOptions(
                language="en",
                fp16=self.fp16,
                sample_len=max(lengths[batch]),
                beam_size=None if self.setup.beams == 1 else self.setup.beams,
            )
            task = DecodingTask(self.whisper, options)
            row_lengths = [length for length in lengths[batch] for _ in range(self.setup.beams)]
            task.logit_filters.append(_ForcedEnd(task, row_lengths))
            mel = mels[batch].to(self.setup.device)
            mel = mel.half() if self.fp16 else mel
            texts += [result.tokens for result in task.run(mel)]
        return texts


class OpenAIWhisperUnbatched(OpenAIWhisper):
    """openai-whisper one window at a time, as its `transcribe` decodes."""

    def __init__(self, setup: Setup, precision: str) -> None:
        super().__init__(replace(setup, batch=1), precision)


class _ForcedEnd:
    """A logit filter that ends each text after its number of tokens."""

    def __init__(self, task: Any, lengths: Sequence[int]) -> None:
        self.eot, self.begin, self.lengths = task.tokenizer.eot, task.sample_begin, lengths

    def apply(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        n = tokens.shape[1] - self.begin
        logits[:, self.eot] = -torch.inf
        for row, length in enumerate(self.lengths):
            if n >= length:
                logits[row] = -torch.inf
                logits[row, self.eot] = 0.0


class Transformers:
    """Hugging Face transformers' `generate`."""

    def __init__(self, setup: Setup, precision: str) -> None:
        if precision == "int8":
            raise Unsupported
        from models.pyannote_guard import stub_torchaudio_extension
        from models.weights.hugging_face import openai_name

        stub_torchaudio_extension()
        from transformers import WhisperConfig, WhisperForConditionalGeneration, logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of every call's arguments
        self.setup, self.dtype = setup, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        whisper = make_random_whisper(setup.model)
        dims, tokenizer = whisper.dims, make_tokenizer(whisper)
        config = WhisperConfig(
            vocab_size=dims.n_vocab,
            num_mel_bins=dims.n_mels,
            d_model=dims.n_audio_state,
            encoder_layers=dims.n_audio_layer,
            encoder_attention_heads=dims.n_audio_head,
            encoder_ffn_dim=4 * dims.n_audio_state,
            decoder_layers=dims.n_text_layer,
            decoder_attention_heads=dims.n_text_head,
            decoder_ffn_dim=4 * dims.n_audio_state,
            bos_token_id=tokenizer.eot,
            eos_token_id=tokenizer.eot,
            pad_token_id=tokenizer.eot,
            decoder_start_token_id=tokenizer.sot,
        )
        self.model = WhisperForConditionalGeneration(config)
        self.model.eval()  # type: ignore[no-untyped-call]
        state = whisper.state_dict()
        names = {name: openai_name(name) for name in self.model.state_dict()}
        names["proj_out.weight"] = "decoder.token_embedding.weight"
        self.model.load_state_dict({name: state[names[name]] for name in names})
        self.model.to(device=setup.device, dtype=self.dtype)  # type: ignore[call-arg]
        self.sot_sequence = tokenizer.sot_sequence
        self._configure(whisper, tokenizer)

    def _configure(self, whisper: Any, tokenizer: Any) -> None:
        """Set the values of a published model's generation_config.json."""
        from whisper.decoding import DecodingOptions, DecodingTask

        suppressed = DecodingTask(whisper, DecodingOptions(language="en"))._get_suppress_tokens()
        values = {
            "is_multilingual": True,
            "lang_to_id": {"<|en|>": tokenizer.sot_sequence[1]},
            "task_to_id": {"transcribe": tokenizer.transcribe, "translate": tokenizer.translate},
            "no_timestamps_token_id": tokenizer.no_timestamps,
            "prev_sot_token_id": tokenizer.sot_prev,
            "max_initial_timestamp_index": 50,
            "suppress_tokens": list(suppressed),
            "begin_suppress_tokens": [*tokenizer.encode(" "), tokenizer.eot],
            "max_length": None,
        }
        for name, value in values.items():
            setattr(self.model.generation_config, name, value)

    def decode(self, mels: torch.Tensor, lengths: Sequence[int]) -> Tokens:
        texts: Tokens = []
        for i in range(0, len(mels), self.setup.batch):
            batch = slice(i, i + self.setup.batch)
            features = mels[batch].to(self.setup.device, self.dtype)
            found = self.model.generate(
                features,
                attention_mask=torch.ones_like(features[:, 0], dtype=torch.long),
                language="en",
                task="transcribe",
                return_timestamps=True,
                # Otherwise it decodes the audio after a window's last timestamp again.
                force_unique_generate_call=True,
                num_beams=self.setup.beams,
                do_sample=False,
                max_new_tokens=max(lengths[batch]),
                logits_processor=[self._forced_end(lengths[batch])],
            )
            texts += [
                [token for token in row if token not in self.sot_sequence] for row in found.tolist()
            ]
        eot = self.model.generation_config.eos_token_id
        return [[token for token in text if token != eot] for text in texts]

    def _forced_end(self, lengths: Sequence[int]) -> Callable[..., torch.Tensor]:
        eot, begin = self.model.generation_config.eos_token_id, len(self.sot_sequence)

        def force(tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            logits[:, eot] = -torch.inf
            for row, length in enumerate(lengths):
                if tokens.shape[1] - begin >= length:
                    logits[row] = -torch.inf
                    logits[row, eot] = 0.0
            return logits

        return force


class FasterWhisper:
    """CTranslate2 as faster-whisper's `BatchedInferencePipeline` calls it."""

    def __init__(self, setup: Setup, precision: str) -> None:
        import ctranslate2

        names = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
        if precision == "int8" and setup.device == "cuda":
            names["int8"] = "int8_bfloat16"
        if names[precision] not in ctranslate2.get_supported_compute_types(setup.device):
            raise Unsupported
        self.setup = setup
        whisper = make_random_whisper(setup.model)
        tokenizer = make_tokenizer(whisper)
        self.prompt = list(tokenizer.sot_sequence)
        with tempfile.TemporaryDirectory() as folder:
            save_for_ctranslate2(whisper, tokenizer, folder)
            self.model = ctranslate2.models.Whisper(
                folder,
                device=setup.device,
                compute_type=names[precision],
                intra_threads=setup.threads,
            )
        from whisper.decoding import DecodingOptions, DecodingTask

        suppressed = DecodingTask(whisper, DecodingOptions(language="en"))._get_suppress_tokens()
        self.suppressed = [*suppressed, tokenizer.eot, tokenizer.no_timestamps]

    def decode(self, mels: torch.Tensor, lengths: Sequence[int]) -> Tokens:
        import ctranslate2

        texts: Tokens = []
        for i in range(0, len(mels), self.setup.batch):
            batch = slice(i, i + self.setup.batch)
            n_tokens = round(statistics.mean(lengths[batch]))
            # Its limit is the smaller of max_length / 2 and max_length - prompt.
            limit = max(2 * n_tokens, n_tokens + len(self.prompt))
            features = ctranslate2.StorageView.from_array(mels[batch].numpy())
            encoded = self.model.encode(features)
            found = self.model.generate(
                encoded,
                [self.prompt] * len(mels[batch]),
                beam_size=self.setup.beams,
                max_length=limit,
                suppress_blank=True,
                suppress_tokens=self.suppressed,
                max_initial_timestamp_index=50,
                return_scores=True,
                return_no_speech_prob=True,
            )
            texts += [result.sequences_ids[0][:n_tokens] for result in found]
        return texts


def save_for_ctranslate2(
    whisper: Any, tokenizer: Any, folder: str, vocabulary: Sequence[str] = ()
) -> None:
    """Write the weights in CTranslate2's format.

    Source: ctranslate2/converters/transformers.py, `WhisperLoader`.

    Args:
        vocabulary: the text of every token; without it only those of special tokens are known.
    """
    from ctranslate2.converters.utils import fuse_linear
    from ctranslate2.specs import common_spec, whisper_spec

    def to_numpy(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().float().numpy()

    def set_linear(spec: Any, layer: Any) -> None:
        spec.weight = to_numpy(layer.weight)
        if layer.bias is not None:
            spec.bias = to_numpy(layer.bias)

    def set_norm(spec: Any, layer: Any) -> None:
        spec.gamma, spec.beta = to_numpy(layer.weight), to_numpy(layer.bias)

    def set_attention(spec: Any, layer: Any, *, cross: bool = False) -> None:
        parts = [common_spec.LinearSpec() for _ in range(3)]
        for part, own in zip(parts, (layer.query, layer.key, layer.value), strict=True):
            set_linear(part, own)
        groups = [parts[:1], parts[1:]] if cross else [parts]
        for target, group in zip(spec.linear, groups, strict=False):
            fuse_linear(target, group)
        set_linear(spec.linear[-1], layer.out)

    dims, encoder, decoder = whisper.dims, whisper.encoder, whisper.decoder
    spec = whisper_spec.WhisperSpec(
        dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head
    )
    set_linear(spec.encoder.conv1, encoder.conv1)
    set_linear(spec.encoder.conv2, encoder.conv2)
    spec.encoder.position_encodings.encodings = to_numpy(encoder.positional_embedding)
    set_norm(spec.encoder.layer_norm, encoder.ln_post)
    spec.decoder.embeddings.weight = to_numpy(decoder.token_embedding.weight)
    spec.decoder.projection.weight = to_numpy(decoder.token_embedding.weight)
    spec.decoder.position_encodings.encodings = to_numpy(decoder.positional_embedding)
    set_norm(spec.decoder.layer_norm, decoder.ln)
    for stack, blocks in ((spec.encoder, encoder.blocks), (spec.decoder, decoder.blocks)):
        for layer, block in zip(stack.layer, blocks, strict=True):
            set_attention(layer.self_attention, block.attn)
            set_norm(layer.self_attention.layer_norm, block.attn_ln)
            if block.cross_attn is not None:
                set_attention(layer.attention, block.cross_attn, cross=True)
                set_norm(layer.attention.layer_norm, block.cross_attn_ln)
            set_linear(layer.ffn.linear_0, block.mlp[0])
            set_linear(layer.ffn.linear_1, block.mlp[2])
            set_norm(layer.ffn.layer_norm, block.mlp_ln)
    names = list(vocabulary) or [f"token{i}" for i in range(dims.n_vocab)]
    for token, i in tokenizer.special_tokens.items():
        names[i] = token
    spec.register_vocabulary(names)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [*tokenizer.encode(" "), tokenizer.eot]
    spec.config.lang_ids = list(tokenizer.all_language_tokens)
    spec.config.alignment_heads = [(dims.n_text_layer - 1, 0)]
    spec.validate()
    spec.optimize()
    spec.save(folder)


class Fieldscribe:
    """This project's engine."""

    def __init__(self, setup: Setup, precision: str) -> None:
        if precision == "int8" and setup.device == "cuda":
            raise Unsupported
        from models.whisper_engine.decoder import WindowDecoder
        from models.whisper_engine.engine import count_slots_that_fit
        from models.whisper_engine.model import InferenceModel
        from models.whisper_engine.rules import read_special_tokens

        whisper = make_random_whisper(setup.model).to(setup.device)
        tokenizer = make_tokenizer(whisper)
        self.prompt = tuple(tokenizer.sot_sequence)
        model = InferenceModel(whisper, precision)  # type: ignore[arg-type]
        n_slots = setup.batch or count_slots_that_fit(model)
        self.decoder = WindowDecoder(model, read_special_tokens(whisper), tokenizer, n_slots)

    def decode(self, mels: torch.Tensor, lengths: Sequence[int]) -> Tokens:
        from models.whisper_engine.slots import WindowInput

        inputs = [WindowInput(i, mel, self.prompt, seed=0) for i, mel in enumerate(mels)]
        with force_ends(self.decoder, lengths.__getitem__):
            found = {
                window_input.index: text
                for ended in self.decoder.decode(inputs)
                for window_input, text in zip(ended.inputs, ended.texts, strict=True)
            }
        return [list(found[i].tokens) for i in range(len(mels))]


@contextlib.contextmanager
def force_ends(engine_decoder: Any, length_of: Callable[[int], int]) -> Iterator[None]:
    """Give each text the length for its window's index, and disable fallback.

    Random text is improbable and repetitive; the other contestants have no fallback either.
    """
    from models.whisper_engine import decoder
    from models.whisper_engine.slots import Slots

    reset = Slots._reset_texts

    def reset_with_limit(slots: Slots, slot: int, temperature: float) -> None:
        reset(slots, slot, temperature)
        slots._limit[slots._rows(slot)] = length_of(slots.occupant(slot).index)

    engine_decoder.rules.suppressed[engine_decoder.rules.special.eot] = -torch.inf
    with (
        mock.patch.object(Slots, "_reset_texts", reset_with_limit),
        mock.patch.object(decoder, "needs_fallback", lambda text: False),
        mock.patch.object(decoder, "is_bound_to_fail", lambda text, n_tokens_left: False),
    ):
        yield


CONTESTANTS: dict[str, Callable[[Setup, str], Any]] = {
    "openai-whisper": OpenAIWhisperUnbatched,
    "openai-whisper in batches": OpenAIWhisper,
    "transformers": Transformers,
    "faster-whisper": FasterWhisper,
    "fieldscribe": Fieldscribe,
}
DEFAULTS = {  # batch and beams
    "openai-whisper": (1, 5),  # as its command
    "transformers": (1, 1),  # its pipeline
    "faster-whisper": (8, 5),  # its BatchedInferencePipeline
    "fieldscribe": (0, 1),  # as many slots as fit and are still faster
}
