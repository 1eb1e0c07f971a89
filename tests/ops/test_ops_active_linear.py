"""hashdl.functional: gradients by finite differences, and against the dense layer."""

from __future__ import annotations

import itertools
from typing import Any

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import functional


class Densify(torch.autograd.Function):
    """The identity, whose gradient is dense: gradcheck knows no sparse one."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.to_dense() if grad.is_sparse else grad


@pytest.mark.parametrize("T", [None, 0, 1, 4], ids=lambda T: f"T={T}")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("sparse_grad", [False, True], ids=["dense", "sparse"])
def test_gradcheck_of_active_linear(sparse_grad: bool, bias: bool, T: int | None) -> None:
    small = {"B": 2, "A": 3, "N": 5, "d": 3, "T": T, "bias": bias}
    args = samples.active_linear_args(
        **small, dtype=torch.float64, sparse_grad=sparse_grad, requires_grad=True
    )
    rows, shared = args[3:5]
    assert (rows < 0).any()

    def outputs(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        weight, some_bias = [Densify.apply(p) for p in parameters] + [None] * (not bias)
        z, s = functional.active_linear(x, weight, some_bias, rows, shared, sparse_grad=sparse_grad)
        return (z, s) if T else (z,)

    assert torch.autograd.gradcheck(outputs, args[: 3 if bias else 2])


@pytest.mark.parametrize("fill", [0.0, 2.0])
def test_gradcheck_of_scatter_rows(fill: float) -> None:
    values, rows, N, _ = samples.scatter_rows_args(dtype=torch.float64)
    assert (rows < 0).any()
    assert torch.autograd.gradcheck(
        lambda v: functional.scatter_rows(v, rows, N, fill), values.requires_grad_()
    )


def test_outputs_are_those_of_the_whole_layer() -> None:
    x, weight, bias, rows, shared, *_ = samples.active_linear_args(dtype=torch.float64)
    z, s = functional.active_linear(x, weight, bias, rows, shared)
    whole = torch.nn.functional.linear(x, weight, bias)
    for part, ids in ((z, rows), (s, shared.expand(x.shape[0], -1))):
        expected = whole.gather(1, ids.clamp_min(0).long()).masked_fill(ids < 0, 0)
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("T", [None, 3])
def test_sparse_gradients_hold_the_rows_met(T: int | None, dtype: torch.dtype) -> None:
    """Coalesced, and equal to the dense ones."""
    grads = []
    for sparse_grad in (False, True):
        args = samples.active_linear_args(
            T=T, dtype=dtype, sparse_grad=sparse_grad, requires_grad=True
        )
        x, weight, bias, rows, shared, *_ = args
        z, s = functional.active_linear(x, weight, bias, rows, shared, sparse_grad=sparse_grad)
        loss = z.square().sum() + s.square().sum()
        grads.append(torch.autograd.grad(loss, [x, weight, bias]))
    met = set(rows[rows >= 0].tolist())
    met |= set() if shared is None else set(shared[shared >= 0].tolist())
    for dense, sparse in zip(grads[0][1:], grads[1][1:], strict=True):
        assert dense.layout == torch.strided
        assert sparse.is_coalesced()
        assert sparse.indices()[0].tolist() == sorted(met)
        assert torch.equal(sparse.to_dense(), dense)
    assert torch.equal(grads[0][0], grads[1][0])


@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_outputs_that_are_known_are_taken_and_have_the_same_gradient(dtype: torch.dtype) -> None:
    results = []
    for known in (False, True):
        *args, sparse_grad = samples.active_linear_args(
            dtype=dtype, known=known, requires_grad=True
        )
        z, s = functional.active_linear(*args, sparse_grad=sparse_grad)
        grads = torch.autograd.grad(z.square().sum() + s.square().sum(), args[:3])
        results.append([z.detach(), s.detach(), *grads])
    samples.assert_same_bits(*results)
    marked = torch.full_like(results[0][0], 7.0)
    assert functional.active_linear(*args[:5], marked)[0].eq(7).all()


@pytest.mark.parametrize("known", [torch.zeros(3, 5), torch.zeros(3, 4).double()])
@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_bad_known_outputs_are_refused(known: Tensor, call: samples.Path) -> None:
    args = samples.active_linear_args()
    with pytest.raises(RuntimeError, match="hashdl::active_linear: known: "):
        call("active_linear")(*args[:5], known, False)


@pytest.mark.parametrize("wanted", [w for w in itertools.product([0, 1], repeat=3) if any(w)])
def test_only_wanted_gradients_are_given(wanted: tuple[int, int, int]) -> None:
    args = samples.active_linear_args()
    for tensor, requires_grad in zip(args, wanted, strict=False):
        tensor.requires_grad_(bool(requires_grad))
    z, s = functional.active_linear(*args[:5])
    (z.sum() + s.sum()).backward()
    assert [int(tensor.grad is not None) for tensor in args[:3]] == list(wanted)


def test_in_place_update_before_backward_is_noticed() -> None:
    """The row optimizers count versions: autograd must not use weights that have changed."""
    args = samples.active_linear_args(requires_grad=True)
    z, _ = functional.active_linear(*args[:5])
    with torch.no_grad():
        rows = samples.int32([0])
        torch.ops.hashdl.sgd_rows_(args[1], None, rows, torch.ones(1, 5), 0.1, 0.0, False, 0.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@pytest.mark.parametrize(
    "shared",
    [
        pytest.param(torch.tensor([0]), id="int64"),
        pytest.param(samples.int32([[0]]), id="2-d"),
        pytest.param(samples.int32([12]), id="too-large"),
        pytest.param(samples.int32([-2]), id="too-small"),
    ],
)
@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_bad_shared_rows_are_refused(shared: Tensor, call: samples.Path) -> None:
    args = samples.active_linear_args()
    with pytest.raises(RuntimeError, match="hashdl::active_linear: shared: "):
        call("active_linear")(*args[:4], shared, None, False)
