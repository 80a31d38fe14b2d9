"""Whisper's network, for inference only.

It rearranges the weights of a loaded openai-whisper model: queries, keys and values of
self-attention are one matrix, the scale of the attention scores is folded into the queries, and
each matrix has the precision and layout that the device multiplies fastest. The mathematics is
openai-whisper's. Source: whisper/model.py.

The decoder has two modes. `forward` takes whole rows of tokens (a prompt, or a finished text to
align); `step` takes one more token of each row and reads the keys and values of earlier tokens from
a `SelfCache`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from whisper import Whisper
from whisper.model import ModelDimensions, MultiHeadAttention, ResidualAttentionBlock

from models.precision import Precision
from models.whisper_engine.linear import (
    Linear,
    dtype_of,
    has_avx512,
    has_vnni,
    is_mkl_fast,
    make_linear,
    matmul_nt,
)

Module = TypeVar("Module", bound=nn.Module)
BuildLinear = partial[Linear]  # `make_linear` but for weight and bias


@dataclass(frozen=True)
class CrossKV:
    """Cross-attention keys and values of a batch of windows, one tensor per layer.

    Args:
        keys, values: (batch, n_heads, 1500, head_dim), in the memory layout that a step reads
            fastest (`stores_keys_by_channel`).
        picked: the windows selected from the batch, int64, (n_windows,); None: all.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    picked: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys[0] if self.picked is None else self.picked)

    def layer(self, i: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer.

        Selected windows are copied only here: all layers of large-v3 together take a quarter of a
        gigabyte per window.
        """
        keys, values = self.keys[i], self.values[i]
        return (keys, values) if self.picked is None else (keys[self.picked], values[self.picked])

    def rows(self, rows: slice | list[int]) -> "CrossKV":
        """Select windows of the batch without copying them."""
        if (
            isinstance(rows, list)
            and self.picked is None
            and rows == [*range(rows[0], rows[-1] + 1)]
        ):
            rows = slice(rows[0], rows[-1] + 1)
        if isinstance(rows, slice):
            assert self.picked is None
            keys, values = (tuple(t[rows] for t in each) for each in (self.keys, self.values))
            return CrossKV(keys, values)
        picked = torch.tensor(rows, device=self.keys[0].device)
        return replace(self, picked=picked if self.picked is None else self.picked[picked])

    def copy_row(self, row: int, source: "CrossKV", source_row: int) -> None:
        for mine, other in zip(self.keys + self.values, source.keys + source.values, strict=True):
            mine[row].copy_(other[source_row])


class SelfCache:
    """Self-attention keys and values of each text's tokens, (n_rows, n_heads, n_ctx, head_dim)."""

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.keys, self.values = keys, values

    def copy_rows(self, rows: slice, source_rows: slice) -> None:
        for tensor in self.keys + self.values:
            tensor[rows] = tensor[source_rows]

    def reorder(self, source_rows: Tensor, span: int) -> None:
        """Give the first rows the first `span` positions of other rows."""
        for tensor in self.keys + self.values:
            tensor[: len(source_rows), :, :span] = tensor[source_rows, :, :span]


class InferenceModel:
    """Whisper's encoder and decoder on one device, in one precision.

    Args:
        precision: of the matrices; None: bf16 where the device has it, else fp32.
        device: to compute on; None: the model's. A model on another device is moved block by block,
            because a small GPU has no room for all of it in fp32.
    """

    def __init__(
        self,
        model: Whisper,
        precision: Precision | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.dims: ModelDimensions = model.dims
        self.device: torch.device = device or model.device
        self.dtype, quantised = dtype_of(precision, self.device)
        # With bf16 available, int8 makes the encoder less exact and hardly faster.
        quantised_encoder = quantised and self.dtype == torch.float32
        self.encoder = _AudioEncoder(model, self.device, self.dtype, quantised_encoder)
        # Without VNNI, a step of few rows is slower than in fp32 (docs/developer/experiments.md).
        self.decoder = _TextDecoder(model, self.device, self.dtype, quantised and has_vnni())

    def encode(self, mel: Tensor) -> Tensor:
        """(batch, n_mels, 3000) to (batch, 1500, n_state)"""
        mel = mel.to(self.device, self.dtype)
        if self.device.type == "cuda":
            return self.encoder(mel)
        # One window at a time, activations stay in the processor's cache.
        return torch.cat([self.encoder(window) for window in mel[:, None]])

    def make_cross_kv(self, encoded: Tensor) -> CrossKV:
        """The cross-attention keys and values of encoder output (batch, 1500, n_state)."""
        cross = self.allocate_cross_kv(len(encoded))
        self.write_cross_kv(encoded, cross, range(len(encoded)))
        return cross

    def write_cross_kv(self, encoded: Tensor, cross: CrossKV, rows: Sequence[int]) -> None:
        """Write the keys and values of encoder output into these rows of `cross`."""
        for block, keys, values in zip(self.decoder.blocks, cross.keys, cross.values, strict=True):
            for made, kept in (
                (block.cross.key(encoded), keys),
                (block.cross.value(encoded), values),
            ):
                for row, of_window in zip(rows, made, strict=True):
                    _copy_heads(of_window, kept[row])

    def allocate_cross_kv(self, n_windows: int) -> CrossKV:
        """Memory for the keys and values of some windows."""
        dims, head_dim = self.dims, self.dims.n_text_state // self.dims.n_text_head

        def allocate(by_channel: bool) -> tuple[Tensor, ...]:
            """In its final layout, never copied: it takes most of a GPU's memory."""
            if by_channel:
                transposed = self._zeros((n_windows, dims.n_text_head, head_dim, dims.n_audio_ctx))
                return tuple(tensor.mT for tensor in transposed)
            return self._zeros((n_windows, dims.n_text_head, dims.n_audio_ctx, head_dim))

        return CrossKV(
            allocate(stores_keys_by_channel(self.device)),
            allocate(stores_values_by_channel(self.device)),
        )

    def allocate_cache(self, n_rows: int) -> SelfCache:
        dims = self.dims
        head_dim = dims.n_text_state // dims.n_text_head
        shape = (n_rows, dims.n_text_head, dims.n_text_ctx, head_dim)
        return SelfCache(list(self._zeros(shape)), list(self._zeros(shape)))

    def _zeros(self, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """One tensor for each of the decoder's layers."""
        return tuple(
            torch.zeros(shape, device=self.device, dtype=self.dtype)
            for _ in range(self.dims.n_text_layer)
        )

    def logits_and_scores(
        self, tokens: Tensor, cross: CrossKV, heads: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder on whole texts.

        Args:
            tokens: (batch, n_tokens), int64, one row per window of `cross`.
            heads: (layer, head) of the cross-attention heads whose scores to return.

        Returns:
            Logits, (batch, n_tokens, n_vocab), and scores before their softmax,
            (batch, n_heads_given, n_tokens, 1500), float32.
        """
        hidden, scores = self.decoder.forward(tokens, cross, heads=heads)
        return self.logits(hidden), scores

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., n_state) to (..., n_vocab), float32"""
        return self.decoder.vocabulary(hidden).float()


class _Attention:
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, attention: MultiHeadAttention, build_linear: BuildLinear) -> None:
        self.n_heads: int = attention.n_head
        query, key, value = attention.query, attention.key, attention.value
        scale = (query.weight.shape[0] // self.n_heads) ** -0.5
        self.qkv = build_linear(
            torch.cat([query.weight * scale, key.weight, value.weight]),
            torch.cat([query.bias * scale, torch.zeros_like(value.bias), value.bias]),
        )
        self.out = build_linear(attention.out.weight, attention.out.bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, n_tokens, n_state) to three times (batch, n_heads, n_tokens, head_dim)"""
        query, key, value = (
            split_heads(part, self.n_heads).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        return query, key, value


class _CrossAttention:
    """Attention of the text to the audio."""

    def __init__(self, attention: MultiHeadAttention, build_linear: BuildLinear) -> None:
        self.n_heads: int = attention.n_head
        query, key, value = attention.query, attention.key, attention.value
        scale = (query.weight.shape[0] // self.n_heads) ** -0.5
        self.query = build_linear(query.weight * scale, query.bias * scale)
        self.key = build_linear(key.weight, None, many_rows=True)
        self.value = build_linear(value.weight, value.bias, many_rows=True)
        self.out = build_linear(attention.out.weight, attention.out.bias)


class _AudioEncoder:
    def __init__(
        self, model: Whisper, device: torch.device, dtype: torch.dtype, quantised: bool
    ) -> None:
        encoder = model.encoder
        self.convolutions = [
            (conv.weight.detach().to(device, dtype), conv.bias.detach().to(device, dtype), stride)
            for conv, stride in ((encoder.conv1, 1), (encoder.conv2, 2))
        ]
        self.positions = encoder.positional_embedding.to(device, dtype)
        build_linear = partial(make_linear, dtype=dtype, quantised=quantised, many_rows=True)
        self.blocks = [
            _EncoderBlock(copy_to_device(block, device), dtype, build_linear)
            for block in encoder.blocks
        ]
        self.norm = _Norm(copy_to_device(encoder.ln_post, device), dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, n_mels, 3000) to (batch, 1500, n_state)"""
        for weight, bias, stride in self.convolutions:
            x = F.gelu(F.conv1d(x, weight, bias, stride=stride, padding=1))
        x = x.transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _EncoderBlock:
    def __init__(
        self, block: ResidualAttentionBlock, dtype: torch.dtype, build_linear: BuildLinear
    ) -> None:
        self.attention_norm = _Norm(block.attn_ln, dtype)
        self.attention = _Attention(block.attn, build_linear)
        self.mlp = _MLP(block, dtype, build_linear)

    def __call__(self, x: Tensor) -> Tensor:
        query, key, value = self.attention.project(self.attention_norm(x))
        one_by_one = x.device.type == "cpu" and not (is_mkl_fast() and x.dtype == torch.float32)
        attend = attend_head_by_head if one_by_one else _attend_at_once
        x = self.attention.out(attend(query, key, value)).add_(
            x
        )  # in place: allocating takes longer
        return self.mlp(x).add_(x)


class _MLP:
    def __init__(
        self, block: ResidualAttentionBlock, dtype: torch.dtype, build_linear: BuildLinear
    ) -> None:
        self.norm = _Norm(block.mlp_ln, dtype)
        first, _, second = block.mlp
        self.first = build_linear(first.weight, first.bias)
        self.second = build_linear(second.weight, second.bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.norm(x), gelu=True))


class _TextDecoder:
    def __init__(
        self, model: Whisper, device: torch.device, dtype: torch.dtype, quantised: bool
    ) -> None:
        decoder = model.decoder
        build_linear = partial(make_linear, dtype=dtype, quantised=quantised)
        self.blocks = [
            _DecoderBlock(copy_to_device(block, device), dtype, build_linear)
            for block in decoder.blocks
        ]
        self.norm = _Norm(copy_to_device(decoder.ln, device), dtype)
        embedding = decoder.token_embedding.weight.detach().to(device)
        self.embedding = embedding.to(dtype)
        self.positions = decoder.positional_embedding.detach().to(device, dtype)
        self.vocabulary: Linear = build_linear(embedding, None)

    def forward(
        self,
        tokens: Tensor,
        cross: CrossKV,
        heads: Sequence[tuple[int, int]] = (),
        cache: SelfCache | None = None,
        cache_rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run whole rows of tokens, (batch, n_tokens), from position 0.

        Args:
            cache: receives the keys and values, for the steps that follow.
            cache_rows: (batch, n_candidates), the cache rows for each row of tokens.

        Returns:
            The last layer's output, (batch, n_tokens, n_state), and the cross-attention scores of
            `heads`.
        """
        n_tokens = tokens.shape[1]
        x = self.embedding[tokens] + self.positions[:n_tokens]
        future = torch.full((n_tokens, n_tokens), -torch.inf, device=x.device, dtype=x.dtype).triu(
            1
        )
        scores: dict[tuple[int, int], Tensor] = {}
        for i, block in enumerate(self.blocks):
            query, keys, values = block.attention.project(block.attention_norm(x))
            if cache is not None:
                cache.keys[i][cache_rows, :, :n_tokens] = keys[:, None]
                cache.values[i][cache_rows, :, :n_tokens] = values[:, None]
            x = x + block.attention.out(_attend(query, keys, values, future))
            query = block.cross_query(x)
            keys, values = cross.layer(i)
            for head in (head for layer, head in heads if layer == i):
                seen = keys[:, head].float().transpose(1, 2)
                scores[i, head] = query[:, head].float() @ seen
            x = x + block.cross.out(_attend(query, keys, values))
            x = x + block.mlp(x)
        given = [scores[layer, head] for layer, head in heads]
        return self.norm(x), torch.stack(given, dim=1) if given else torch.empty(0)

    def step(
        self, tokens: Tensor, positions: Tensor, cross: CrossKV, cache: SelfCache, span: int
    ) -> Tensor:
        """Run one more token of each text.

        Args:
            tokens, positions: (n_rows,), int64. n_rows is a multiple of the windows in `cross`;
                the texts of a window are consecutive rows.
            cache: its first n_rows rows belong to these texts.
            span: all positions are below it.

        Returns:
            (n_rows, n_state)
        """
        n_rows = len(tokens)
        rows = torch.arange(n_rows, device=tokens.device)
        later = torch.arange(span, device=tokens.device) > positions[:, None]
        future = torch.where(later, -torch.inf, 0.0).to(self.positions.dtype)[:, None]
        x = self.embedding[tokens] + self.positions[positions]
        for i, block in enumerate(self.blocks):
            query, key, value = block.attention.project(block.attention_norm(x)[:, None])
            keys, values = cache.keys[i], cache.values[i]
            keys[rows, :, positions] = key[:, :, 0]
            values[rows, :, positions] = value[:, :, 0]
            scores = (keys[:n_rows, :, :span] @ query.mT)[..., 0] + future
            attended = scores.softmax(dim=-1)[:, :, None] @ values[:n_rows, :, :span]
            x = x + block.attention.out(attended.flatten(1))
            query = block.cross_query(x[:, None])[:, :, 0]
            x = x + block.cross.out(_attend_to_audio(query, *cross.layer(i)))
            x = x + block.mlp(x)
        return self.norm(x)


class _DecoderBlock:
    def __init__(
        self, block: ResidualAttentionBlock, dtype: torch.dtype, build_linear: BuildLinear
    ) -> None:
        self.attention_norm = _Norm(block.attn_ln, dtype)
        self.attention = _Attention(block.attn, build_linear)
        self.cross_norm = _Norm(block.cross_attn_ln, dtype)
        self.cross = _CrossAttention(block.cross_attn, build_linear)
        self.mlp = _MLP(block, dtype, build_linear)

    def cross_query(self, x: Tensor) -> Tensor:
        """(batch, n_tokens, n_state) to (batch, n_heads, n_tokens, head_dim)"""
        query = self.cross.query(self.cross_norm(x))
        return split_heads(query, self.cross.n_heads).transpose(1, 2)


def copy_to_device(module: Module, device: torch.device) -> Module:
    """The module itself, or a copy if it is on another device."""
    here = next(module.parameters()).device
    return module if here == device else copy.deepcopy(module).to(device)


class _Norm:
    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        self.weight, self.bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(..., n_state) to (..., n_heads, head_dim)"""
    return x.view(*x.shape[:-1], n_heads, -1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """(batch, n_heads, n_tokens, head_dim) to (batch, n_tokens, n_state)"""
    scores = query @ keys.transpose(2, 3)
    if mask is not None:
        scores += mask
    return (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)


def stores_keys_by_channel(device: torch.device) -> bool:
    """Whether to store keys channel by channel instead of position by position.

    Whichever makes a step faster (docs/developer/experiments.md).
    """
    return is_mkl_fast() and device.type == "cpu"


def stores_values_by_channel(device: torch.device) -> bool:
    return not (stores_keys_by_channel(device) and has_avx512())


def _copy_heads(source: Tensor, target: Tensor) -> None:
    """(1500, n_state) to (n_heads, 1500, head_dim) in either memory layout."""
    by_channel = target.mT
    if by_channel.is_contiguous():
        by_channel.flatten(0, 1).copy_(source.t())  # half the time of copying head by head
    else:
        target.copy_(split_heads(source, len(target)).transpose(0, 1))


def _attend_to_audio(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Queries of one token of each text, (n_rows, n_heads, head_dim), to (n_rows, n_state).

    Texts of the same window share a matrix multiplication.
    """
    n_windows = len(keys)
    query = query.view(n_windows, -1, *query.shape[1:])
    if stores_keys_by_channel(query.device):
        weights = (query.transpose(1, 2) @ keys.mT).softmax(dim=-1)
        return (weights @ values).transpose(1, 2).flatten(0, 1).flatten(1)
    query = query.permute(0, 2, 3, 1)  # (n_windows, n_heads, head_dim, n_texts)
    weights = (keys @ query).mT.softmax(dim=-1)
    attended = values.mT @ weights.mT
    return attended.permute(0, 3, 1, 2).flatten(0, 1).flatten(1)


def _attend_at_once(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    attended = F.scaled_dot_product_attention(query, keys, values, scale=1.0)
    return attended.transpose(1, 2).flatten(2)


def attend_head_by_head(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`_attend` on a CPU, one head at a time, so that its scores fit into the processor's cache.

    On other processors than Intel's, torch's own kernel takes ten times as long on 1500 positions
    (docs/developer/experiments.md).
    """
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    # For strided matrices, oneDNN uses a kernel that is a thousand times slower.
    query, keys, values = query.contiguous(), keys.contiguous(), values.mT.contiguous()
    for window in range(query.shape[0]):
        for head in range(query.shape[1]):
            scores = matmul_nt(query[window, head], keys[window, head])
            out[window, :, head] = matmul_nt(scores.softmax(dim=-1), values[window, head])
    return out.flatten(2)
