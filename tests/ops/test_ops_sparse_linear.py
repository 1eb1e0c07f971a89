"""From active inputs to active outputs: the masked dense layer, by autograd, in float64."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl import functional, ops

sizes = st.integers(0, 6)
paddings = st.sampled_from([0.0, 0.3, 1.0])
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def dense(values: Tensor, columns: Tensor, d: int) -> Tensor:
    """Inputs (B, d), differentiable; a column more takes what padding would have."""
    at = torch.where(columns < 0, d, columns).long()
    return values.new_zeros(values.shape[0], d + 1).scatter_add(1, at, values)[:, :d]


def taken(whole: Tensor, rows: Tensor) -> Tensor:
    """Of outputs (B, N), those of the rows; 0 at padding."""
    padded = torch.nn.functional.pad(whole, (0, 1))
    return padded.gather(1, torch.where(rows < 0, whole.shape[1], rows).long())


def gradients(z: Tensor, pull: Tensor, *parameters: Tensor) -> list[Tensor]:
    grads = torch.autograd.grad(z, parameters, pull, materialize_grads=True)
    return [grad.to_dense() for grad in grads]


# ---- active_sparse_linear ----------------------------------------------------------------------


@given(sizes, sizes, sizes, st.integers(1, 9), st.integers(1, 9), paddings, st.booleans())
@samples.many_examples
def test_outputs_and_gradients_are_those_of_the_masked_dense_layer(
    B: int, inputs: int, A: int, N: int, d: int, padding: float, sparse_grad: bool
) -> None:
    args = samples.active_sparse_linear_args(
        sparse_grad, True, B=B, inputs=inputs, A=A, N=N, d=d, dtype=torch.float64, padding=padding
    )
    values, columns, weight, bias, rows, _ = args
    z = functional.active_sparse_linear(*args[:5], sparse_grad=sparse_grad)
    x = dense(values, columns, d)
    wanted = taken(torch.nn.functional.linear(x, weight, bias), rows)
    torch.testing.assert_close(z, wanted, **CLOSE)
    pull = samples.randn(B, A, dtype=torch.float64, seed=9)
    parameters = (values, weight, bias)
    for ours, theirs in zip(
        gradients(z, pull, *parameters), gradients(wanted, pull, *parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck_of_active_sparse_linear(bias: bool) -> None:
    args = samples.active_sparse_linear_args(
        requires_grad=True, dtype=torch.float64, bias=bias, B=2, inputs=3, A=3, N=5, d=4
    )
    values, columns, weight, some_bias, rows, _ = args
    assert (rows < 0).any()
    assert (columns < 0).any()

    def outputs(values: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return functional.active_sparse_linear(values, columns, weight, *(bias or (None,)), rows)

    parameters = (values, weight, some_bias) if bias else (values, weight)
    assert torch.autograd.gradcheck(outputs, parameters)


@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_sparse_gradients_hold_the_entries_met(dtype: torch.dtype) -> None:
    grads = []
    for sparse_grad in (False, True):
        args = samples.active_sparse_linear_args(sparse_grad, requires_grad=True, dtype=dtype)
        values, columns, weight, bias, rows, _ = args
        z = functional.active_sparse_linear(*args[:5], sparse_grad=sparse_grad)
        grads.append(torch.autograd.grad(z.square().sum(), [weight, bias, values]))
    met = {
        (row, column)
        for b in range(len(rows))
        for row in rows[b].tolist()
        for column in columns[b].tolist()
        if row >= 0 and column >= 0
    }
    weight_grad, bias_grad, _ = grads[1]
    assert weight_grad.is_coalesced()
    assert weight_grad.indices().t().tolist() == [list(entry) for entry in sorted(met)]
    assert bias_grad.indices()[0].tolist() == sorted({row for row, _ in met})
    for whole, sparse in zip(grads[0], grads[1], strict=True):
        assert torch.equal(sparse.to_dense(), whole)


def test_inputs_that_repeat_are_added_up() -> None:
    values, weight = samples.randn(1, 3), samples.randn(2, 4)
    rows, columns = samples.int32([[1, 0]]), samples.int32([[2, 2, 3]])
    z = ops.gather_sparse_linear(values, columns, weight, None, rows)
    wanted = torch.stack([values[0, 0] + values[0, 1], values[0, 2]]) @ weight[[1, 0]][:, 2:].t()
    torch.testing.assert_close(z[0], wanted)
    *_, entries, grad = ops.gather_sparse_linear_backward(
        torch.ones(1, 2), values, columns, weight, rows
    )
    assert entries.tolist() == [2, 3, 2, 3]
    torch.testing.assert_close(grad[:2], torch.stack([values[0, 0] + values[0, 1], values[0, 2]]))


@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_padding_reads_nothing(dtype: torch.dtype) -> None:
    """Neither row nor column 0 leaks into padded places, not even as NaN."""
    nothing = samples.int32([[-1] * 5])
    weight = torch.full((2, 3), torch.nan, dtype=dtype)
    values = torch.full((1, 5), torch.nan, dtype=dtype)
    bias, some_rows = torch.ones(2, dtype=dtype), samples.int32([[1, 0]])
    assert ops.gather_sparse_linear(values, nothing, weight, bias, nothing).eq(0).all()
    assert ops.gather_sparse_linear(values, nothing, weight, bias, some_rows).eq(1).all()
    for rows in (nothing, some_rows):
        grad_z = torch.ones(1, rows.shape[1], dtype=dtype)
        grads = ops.gather_sparse_linear_backward(grad_z, values, nothing, weight, rows)
        assert grads[0].eq(0).all()
        assert grads[1].tolist() == sorted(rows[rows >= 0].tolist())
        assert grads[5].numel() == 0


# ---- active_columns ----------------------------------------------------------------------------


@given(sizes, sizes, st.integers(1, 9), st.integers(1, 9), paddings, st.booleans(), st.booleans())
@samples.many_examples
def test_active_columns_are_the_dense_layer(
    B: int, inputs: int, N: int, d: int, padding: float, transposed: bool, sparse_grad: bool
) -> None:
    args = samples.active_columns_args(
        B, inputs, N, d, torch.float64, transposed, padding, sparse_grad, requires_grad=True
    )
    values, columns, weight, _ = args
    y = functional.active_columns(*args[:3], sparse_grad=sparse_grad)
    wanted = dense(values, columns, d) @ weight.t()
    torch.testing.assert_close(y, wanted, **CLOSE)
    pull = samples.randn(B, N, dtype=torch.float64, seed=9)
    for ours, theirs in zip(
        gradients(y, pull, values, weight), gradients(wanted, pull, values, weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_gradcheck_of_active_columns() -> None:
    args = samples.active_columns_args(2, 3, 3, 5, torch.float64, requires_grad=True)
    values, columns, weight, _ = args
    assert (columns < 0).any()
    assert torch.autograd.gradcheck(
        lambda v, w: functional.active_columns(v, columns, w), (values, weight)
    )


def test_sparse_gradients_hold_the_columns_met() -> None:
    args = samples.active_columns_args(sparse_grad=True, requires_grad=True)
    _, columns, weight, _ = args
    y = functional.active_columns(*args[:3], sparse_grad=True)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert grad.is_coalesced()
    met = sorted(set(columns[columns >= 0].tolist()))
    wanted = [[row, column] for row in range(weight.shape[0]) for column in met]
    assert grad.indices().t().tolist() == wanted


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_bad_columns_are_refused(call: samples.Path) -> None:
    values, columns, weight, _ = samples.active_columns_args()
    for bad in (columns.long(), columns + 19):
        with pytest.raises(RuntimeError, match="hashdl::combine_rows: rows: "):
            call("active_columns")(values, bad, weight, False)
    with pytest.raises(RuntimeError, match="hashdl::active_columns: weight: "):
        call("active_columns")(values, columns, weight[0], False)
