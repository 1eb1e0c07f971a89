"""Dense products by oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_samples import few_examples
from torch import Tensor

from hashdl import products
from hashdl.products import linear, product, weight_gradient

HAS_ONEDNN = products._onednn_linear is not None
sizes = st.integers(0, 70)


def factors(B: int, d: int, N: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, and a gradient of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, d), (N, d), (N,), (B, N))
    x, weight, bias, grad = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias, grad


@given(sizes, sizes, sizes, st.booleans(), st.booleans())
@few_examples
def test_products_are_those_of_torch(B: int, d: int, N: int, turned: bool, biased: bool) -> None:
    x, weight, bias, grad = factors(B, d, N)
    if turned:
        weight = weight.t().contiguous().t()
    expected = x @ weight.t() + (bias if biased else 0)
    made = product(x, weight, bias if biased else None)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-4)
    of_weight = weight_gradient(grad, x)
    torch.testing.assert_close(of_weight, grad.t() @ x, rtol=1e-5, atol=1e-4)
    assert made.is_contiguous()
    assert of_weight.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight, bias, grad = (tensor.to(dtype) for tensor in factors(5, 6, 7))
    assert torch.equal(product(x, weight, bias), torch.addmm(bias, x, weight.t()))
    assert torch.equal(weight_gradient(grad, x), grad.t() @ x)


def test_gradients_are_those_of_a_linear_layer() -> None:
    x, weight, bias, grad = factors(5, 6, 7)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    expected = torch.nn.functional.linear(x, weight, bias)
    made = linear(x, weight, bias)
    torch.testing.assert_close(made, expected)
    wanted = torch.autograd.grad(expected, leaves, grad)
    torch.testing.assert_close(torch.autograd.grad(made, leaves, grad, retain_graph=True), wanted)
    (of_x,) = torch.autograd.grad(made, x, grad.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_x.sum().backward()


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(256, 128, 1000), (3, 4096, 5), (64, 1256, 128), (17, 513, 33)])
@pytest.mark.usefixtures("threads")
def test_bits_do_not_depend_on_threads(shape: tuple[int, int, int]) -> None:
    x, weight, bias, grad = factors(*shape)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        results.append((product(x, weight, bias), weight_gradient(grad, x)))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN")
def test_who_does_without_onednn_gets_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, grad = factors(64, 300, 70)
    asked = []
    op = products._onednn_linear
    assert op is not None

    def spy(*args: object) -> Tensor:
        asked.append(args)
        return op(*args)

    monkeypatch.setattr(products, "_onednn_linear", spy)
    product(x, weight, bias)
    weight_gradient(grad, x)
    assert len(asked) == 2
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(product(x, weight, bias), torch.addmm(bias, x, weight.t()))
        assert torch.equal(weight_gradient(grad, x), grad.t() @ x)
    product(*factors(2, products._MOST_TERMS + 1, 2)[:2])
    assert len(asked) == 2
