"""Matrices in the precision and the layout that the device multiplies fastest.

On a CPU, oneDNN multiplies with a matrix that it has laid out itself two to three times as fast as
torch's own path does in fp32, and up to twice as fast in bf16 (docs/experiments.md).
"""

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["fp32", "bf16", "int8"]


class Linear(Protocol):
    """(..., n_in) to (..., n_out)"""

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor: ...


def dtype_of(precision: Precision | None, device: torch.device) -> tuple[torch.dtype, bool]:
    """What activations are, and whether matrices are int8.

    bf16 is the default where the device computes in it: any GPU since 2020, and CPUs with
    AVX512-BF16 or AMX.
    """
    has_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    if precision == "int8" and device.type != "cpu":
        raise ValueError("int8 is for CPUs")
    if precision == "fp32":
        return torch.float32, False
    dtype = torch.bfloat16 if has_bf16 or precision == "bf16" else torch.float32
    return dtype, precision == "int8"


def make_linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, quantised: bool) -> Linear:
    """weight: (n_out, n_in)"""
    weight, bias = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return _PackedLinear(weight, bias)
    return _PlainLinear(weight, bias)


class _PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        x = F.linear(x, self.weight, self.bias)
        return F.gelu(x) if gelu else x


class _PackedLinear:
    """Laid out by oneDNN, the GELU part of the multiplication."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = bias

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        after, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            x, self.weight, self.bias, after, [], algorithm
        )


def matmul_nt(a: Tensor, b: Tensor) -> Tensor:
    """(n, k) and (m, k) to (n, m), on a CPU."""
    if not torch.backends.mkldnn.is_available():
        return a @ b.t()
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")  # type: ignore[no-any-return]
