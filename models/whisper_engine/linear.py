"""Linear layers in the precision and memory layout that the device multiplies fastest.

A CPU has two libraries for this: MKL, which torch uses by default, and oneDNN, which is called here
with matrices in its own layout. Which is faster depends on the processor and on the number of rows
(docs/developer/experiments.md).
"""

from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.precision import Precision

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

QUANTISED_ROWS = 375  # at a time, so that intermediate results stay in the processor's cache


class Linear(Protocol):
    """(..., n_in) to (..., n_out)"""

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor: ...


def dtype_of(precision: Precision | None, device: torch.device) -> tuple[torch.dtype, bool]:
    """The type of activations, and whether matrices are int8.

    Args:
        precision: None: bf16 where the device computes in it, else fp32.
    """
    if precision == "int8" and device.type != "cpu":
        raise ValueError("int8 is for CPUs")
    if precision == "fp32":
        return torch.float32, False
    dtype = torch.bfloat16 if has_bf16(device) or precision == "bf16" else torch.float32
    return dtype, precision == "int8"


@cache
def has_avx512() -> bool:
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX512")


@cache
def is_mkl_fast() -> bool:
    """Whether MKL uses this processor fully: it does not use AVX-512 on non-Intel processors."""
    cpuinfo = Path("/proc/cpuinfo")
    return not has_avx512() or (cpuinfo.exists() and "GenuineIntel" in cpuinfo.read_text())


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16: GPUs since 2020, CPUs with AVX512-BF16 or AMX."""
    return bool(
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )


@cache
def has_vnni() -> bool:
    """Whether the processor sums products of int8 without saturating at 16 bits."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_vnni") or found.get("avx_vnni") or found.get("amx_int8"))


def make_linear(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    quantised: bool = False,
    many_rows: bool = False,
) -> Linear:
    """The fastest implementation for this matrix.

    Args:
        weight: (n_out, n_in)
        many_rows: inputs have hundreds of rows, never the few of a decoding step.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if quantised:
        return _QuantisedLinear(weight, bias, dtype)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    torch_is_faster = many_rows and dtype == torch.float32 and not has_avx512()
    if weight.device.type == "cpu" and HAS_ONEDNN and not torch_is_faster:
        return _PackedLinear(weight, bias)
    return _PlainLinear(weight, bias)


class _PlainLinear:
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        x = F.linear(x, self.weight, self.bias)
        return torch.ops.aten.gelu_(x) if gelu else x  # in place: allocating takes longer


class _PackedLinear:
    """In oneDNN's layout, with the GELU fused into the multiplication."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self.bias = bias

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        after, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            x, self.weight, self.bias, after, [], algorithm
        )


class _QuantisedLinear:
    """int8 times int8, with a scale for each row of the matrix and for each token's activations.

    Activations are stored as unsigned numbers around a zero point, because the processor multiplies
    unsigned by signed; oneDNN subtracts the zero point again. Without VNNI the processor sums two
    products in 16 bits, which can overflow unless activations have only 7 bits.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        weight = weight.float()
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12)
        quantised = (weight / scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.limit = 127 if has_vnni() else 63
        self.scales = scales / self.limit  # the scale of a token is its largest magnitude
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = None if bias is None else bias.to(dtype)
        self.dtype = dtype

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty(len(rows), len(self.scales), dtype=self.dtype)
        for i in range(0, len(rows), QUANTISED_ROWS):
            some = slice(i, i + QUANTISED_ROWS)
            self._multiply(rows[some], out[some], gelu)
        return out.view(*x.shape[:-1], -1)

    def _multiply(self, x: Tensor, out: Tensor, gelu: bool) -> None:
        x = x.float()
        zero_point = self.limit + 1
        scale = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-10)  # a norm takes 8 times as long
        # Adding a half rounds: the conversion truncates.
        unsigned = torch.addcmul(torch.tensor(zero_point + 0.5), x, self.limit / scale).to(
            torch.uint8
        )
        product = torch.ops.onednn.qlinear_pointwise(
            *(unsigned, 1.0, zero_point, self.weight, self.scales, self.zeros, None),
            *(1.0, 0, self.dtype, "none", [], ""),
        )
        scale = scale.to(self.dtype)
        if self.bias is None:
            torch.mul(product, scale, out=out)
        else:
            torch.addcmul(self.bias, product, scale, out=out)
        if gelu:
            torch.ops.aten.gelu_(out)


def matmul_nt(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.t() on a CPU: (n, k) and (m, k) to (n, m)."""
    if not HAS_ONEDNN:
        return a @ b.t()
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")  # type: ignore[no-any-return]
