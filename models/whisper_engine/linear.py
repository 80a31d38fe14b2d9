"""Matrices in the precision and the layout that the device multiplies fastest.

A CPU has two libraries that multiply: MKL, which is torch's own path, and oneDNN, which is asked
here for matrices that it has laid out itself. Which is faster depends on the processor and on how
many rows there are (docs/developer/experiments.md).
"""

from functools import cache
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.precision import Precision

HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

QUANTISED_ROWS = 375  # at a time, so that what is in between stays in the processor's cache


class Linear(Protocol):
    """(..., n_in) to (..., n_out)"""

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor: ...


def dtype_of(precision: Precision | None, device: torch.device) -> tuple[torch.dtype, bool]:
    """What activations are, and whether matrices are int8.

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
def mkl_is_fast() -> bool:
    """Whether MKL uses all of this processor: it leaves AVX-512 alone on others than Intel's."""
    about = Path("/proc/cpuinfo")
    return not has_avx512() or (about.exists() and "GenuineIntel" in about.read_text())


def has_bf16(device: torch.device) -> bool:
    """Any GPU since 2020 has it, and CPUs with AVX512-BF16 or AMX."""
    return bool(
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )


@cache
def has_vnni() -> bool:
    """Whether the processor adds up products of int8 without cutting their sums off at 16 bits."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_vnni") or found.get("avx_vnni") or found.get("amx_int8"))


def make_linear(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    quantised: bool = False,
    many_rows: bool = False,
) -> Linear:
    """
    Args:
        weight: (n_out, n_in)
        many_rows: it will be given hundreds at a time, never the few of a decoding step.
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
        return torch.ops.aten.gelu_(x) if gelu else x  # memory of its own takes longer


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


class _QuantisedLinear:
    """int8 times int8: a scale for each row of the matrix and for each token's activations.

    Activations are stored as unsigned numbers around the middle of their range, which is what the
    processor's instructions multiply; oneDNN takes the middle out again. Without VNNI two products
    are added up in 16 bits, which only numbers of 7 bits are sure to fit into.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        weight = weight.float()
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12)
        quantised = (weight / scales[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(quantised, None)
        self.largest = 127 if has_vnni() else 63
        self.scales = scales / self.largest  # a token's own is what its largest number is
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
        middle = self.largest + 1
        scale = x.abs().amax(dim=1, keepdim=True).clamp_(min=1e-10)  # a norm takes 8 times as long
        # The half rounds: what is behind the point is cut off.
        unsigned = torch.addcmul(torch.tensor(middle + 0.5), x, self.largest / scale).to(
            torch.uint8
        )
        product = torch.ops.onednn.qlinear_pointwise(
            *(unsigned, 1.0, middle, self.weight, self.scales, self.zeros, None),
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
    """(n, k) and (m, k) to (n, m), on a CPU."""
    if not HAS_ONEDNN:
        return a @ b.t()
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")  # type: ignore[no-any-return]
