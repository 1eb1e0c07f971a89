"""gather_linear, its backward and scatter_rows by what they mean."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hashdl import ops

sizes = st.integers(0, 6)


@given(sizes, sizes, st.integers(1, 9), st.integers(0, 40), st.booleans())
@samples.few_examples
def test_outputs_are_those_of_the_whole_layer(B: int, A: int, N: int, d: int, bias: bool) -> None:
    x, weight, some_bias, rows = samples.gather_linear_args(B, A, N, d, torch.float64, bias)
    whole = torch.nn.functional.linear(x, weight, some_bias)
    expected = whole.gather(1, rows.clamp_min(0).long()).masked_fill(rows < 0, 0)
    actual = ops.gather_linear(x, weight, some_bias, rows)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@given(sizes, sizes, st.integers(1, 9), st.integers(0, 40), st.none() | sizes, st.booleans())
@samples.few_examples
def test_gradients_are_those_of_the_whole_layer(
    B: int, A: int, N: int, d: int, extras: int | None, extra_bias: bool
) -> None:
    args = samples.gather_linear_backward_args(B, A, N, d, torch.float64, extras, extra_bias)
    grad_z, x, weight, rows, extra_rows, extra_grad, extra_bias_grad = args
    grad_x, touched, grad_weight, grad_bias = ops.gather_linear_backward(*args)

    # Gradient of all outputs; a column more takes what padding would have, and is dropped.
    column = torch.where(rows < 0, N, rows).long()
    whole = grad_z.new_zeros(B, N + 1).scatter_add_(1, column, grad_z)[:, :N]
    expected_weight, expected_bias = whole.t() @ x, whole.sum(0)
    met = set(rows[rows >= 0].tolist())
    if extras is not None:
        real = extra_rows >= 0
        met |= set(extra_rows[real].tolist())
        expected_weight.index_add_(0, extra_rows[real], extra_grad[real])
        if extra_bias_grad is not None:
            expected_bias.index_add_(0, extra_rows[real], extra_bias_grad[real])

    assert touched.tolist() == sorted(met)
    for actual, expected in (
        (grad_x, whole @ weight),
        (grad_weight, expected_weight[touched.long()]),
        (grad_bias, expected_bias[touched.long()]),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_row_twice_in_a_sample_counts_twice() -> None:
    x, weight = samples.randn(1, 5), samples.randn(3, 5)
    once, twice = samples.int32([[2]]), samples.int32([[2, 2]])
    one = ops.gather_linear_backward(torch.ones(1, 1), x, weight, once)
    two = ops.gather_linear_backward(torch.ones(1, 2), x, weight, twice)
    assert torch.equal(two[1], one[1])
    for of_two, of_one in zip(two[::2], one[::2], strict=True):
        torch.testing.assert_close(of_two, 2 * of_one)


def test_sums_of_16_bit_layers_are_in_float32() -> None:
    """256 + 1 + 1 ... stays 256 where bfloat16 sums."""
    x = torch.ones(1, 257, dtype=torch.bfloat16)
    x[0, 0] = 256
    z = ops.gather_linear(x, torch.ones(1, 257, dtype=torch.bfloat16), None, samples.int32([[0]]))
    assert z.item() == 512


@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_padding_does_not_read_the_weight(dtype: torch.dtype) -> None:
    """Neither row 0 nor the last one leaks into padded places, not even as NaN."""
    x, weight = torch.ones(1, 33, dtype=dtype), torch.full((2, 33), torch.nan, dtype=dtype)
    rows = samples.int32([[-1, -1, -1, -1, -1]])
    assert ops.gather_linear(x, weight, weight[:, 0], rows).eq(0).all()
    grad_x, touched, _, _ = ops.gather_linear_backward(
        torch.ones(1, 5, dtype=dtype), x, weight, rows
    )
    assert grad_x.eq(0).all()
    assert touched.numel() == 0


@given(sizes, sizes, st.integers(0, 9), st.sampled_from([0.0, -1.5, float("-inf")]))
@samples.few_examples
def test_scatter_puts_values_at_their_rows(B: int, A: int, N: int, fill: float) -> None:
    values, rows, _, _ = samples.scatter_rows_args(B, A, N)
    dense = ops.scatter_rows(values, rows, n_rows=N, fill=fill)
    expected = [[fill] * N for _ in range(B)]
    for b in range(B):
        for row, value in zip(rows[b].tolist(), values[b].tolist(), strict=True):
            if row >= 0:
                expected[b][row] = value
    assert torch.equal(dense, torch.tensor(expected).reshape(B, N))
