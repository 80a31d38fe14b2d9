import pytest
import torch
from torch import Tensor

from models.whisper_engine import linear
from models.whisper_engine.linear import HAS_ONEDNN, make_linear

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="int8 needs oneDNN")


def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Activations, a matrix and its bias."""
    torch.manual_seed(0)
    return torch.randn(3, 400, 512), 0.05 * torch.randn(1536, 512), torch.randn(1536)


@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize("many_rows", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_every_implementation_gives_torchs_product(monkeypatch, avx512, many_rows, gelu):
    monkeypatch.setattr(linear, "has_avx512", lambda: avx512)
    x, weight, bias = matrices()
    given = x.clone()

    product = make_linear(weight, bias, torch.float32, many_rows=many_rows)(x, gelu=gelu)

    expected = torch.nn.functional.linear(x, weight, bias)
    expected = torch.nn.functional.gelu(expected) if gelu else expected
    torch.testing.assert_close(product, expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(x, given)


@needs_onednn
@pytest.mark.parametrize(("vnni", "error"), [(True, 0.012), (False, 0.019)])
def test_int8_is_as_exact_as_its_bits_allow(monkeypatch, vnni, error):
    if vnni and not linear.has_vnni():
        pytest.skip("8-bit activations need VNNI")
    monkeypatch.setattr(linear, "has_vnni", lambda: vnni)
    x, weight, bias = matrices()

    product = make_linear(weight, bias, torch.float32, quantised=True)(x)

    expected = torch.nn.functional.linear(x, weight, bias)
    assert (product - expected).norm() < error * (expected - bias).norm()


@needs_onednn
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_int8_values_do_not_overflow(sign):
    """Without VNNI, twice 255 times 127 would exceed 16 bits."""
    product = make_linear(torch.ones(64, 512), None, torch.float32, quantised=True)(
        torch.full((9, 512), sign)
    )
    torch.testing.assert_close(product, torch.full((9, 64), 512 * sign))
