"""Linear layers at active rows, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hashdl.ops.checks import (
    check,
    check_at_least,
    check_bias,
    check_dtype,
    check_floating,
    check_ids,
    check_shape,
)
from hashdl.ops.registration import define_op, has_cuda_kernel, kernels

# ---- gather_linear ------------------------------------------------------------------------------


def check_input(op: str, x: Tensor, weight: Tensor) -> None:
    """Inputs (B, d) of a weight (N, d), of one dtype."""
    check_floating(weight, op, "weight")
    check_shape(weight, (None, None), op, "weight")
    check_dtype(x, weight.dtype, op, "x")
    check_shape(x, (None, weight.shape[1]), op, "x")


def check_layer(op: str, x: Tensor, weight: Tensor, rows: Tensor) -> None:
    """As :func:`check_input`, and active rows (B, A)."""
    check_input(op, x, weight)
    check_ids(rows, (x.shape[0], None), op, "rows")


def _check_gather_linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> None:
    check_layer("gather_linear", x, weight, rows)
    check_bias("gather_linear", weight, bias)


@define_op(
    "gather_linear(Tensor x, Tensor weight, Tensor? bias, Tensor rows) -> Tensor",
    _check_gather_linear,
)
def _(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return x.new_empty(rows.shape)


def gather_linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    r"""Outputs of some rows of a linear layer.

    .. math:: z_{ba} = \langle x_b, w_{r_{ba}} \rangle + b_{r_{ba}}

    Not differentiable: :func:`hashdl.functional.active_linear` is.

    Args:
        x: (B, d) of the weight's dtype.
        weight: (N, d), float32, float64, bfloat16 or float16.
        bias: (N,), or None.
        rows: int32 (B, A).

    Returns:
        z: (B, A), 0 at padding.
    """
    z: Tensor = kernels.gather_linear(x, weight, bias, rows)
    return z


def _check_gather_linear_backward(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None,
    extra_grad: Tensor | None,
    extra_bias: Tensor | None,
) -> None:
    op = "gather_linear_backward"
    check_layer(op, x, weight, rows)
    check_dtype(grad_z, weight.dtype, op, "grad_z")
    check_shape(grad_z, tuple(rows.shape), op, "grad_z")
    together = (extra_rows is None) == (extra_grad is None)
    check(together, op, "extra_grad", "wanted together with extra_rows")
    E = 0 if extra_rows is None else extra_rows.numel()
    if extra_rows is not None and extra_grad is not None:
        check_ids(extra_rows, (None,), op, "extra_rows")
        check_dtype(extra_grad, weight.dtype, op, "extra_grad")
        check_shape(extra_grad, (E, weight.shape[1]), op, "extra_grad")
    if extra_bias is not None:
        check_dtype(extra_bias, weight.dtype, op, "extra_bias")
        check_shape(extra_bias, (E,), op, "extra_bias")


def _size_of_touched(weight: Tensor, room: int) -> Any:
    """How many rows or entries a backward pass answers with: on CUDA those there is room for."""
    if weight.device.type == "cuda" and has_cuda_kernel("gather_linear_backward"):
        return room
    return torch.library.get_ctx().new_dynamic_size()


@define_op(
    "gather_linear_backward(Tensor grad_z, Tensor x, Tensor weight, Tensor rows, "
    "Tensor? extra_rows, Tensor? extra_grad, Tensor? extra_bias) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _check_gather_linear_backward,
)
def _(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None,
    extra_grad: Tensor | None,
    extra_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pairs = rows.numel() + (0 if extra_rows is None else extra_rows.numel())
    U = _size_of_touched(weight, min(weight.shape[0], pairs))
    return (
        x.new_empty(x.shape),
        rows.new_empty((U,)),
        weight.new_empty((U, weight.shape[1])),
        weight.new_empty((U,)),
    )


def gather_linear_backward(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None = None,
    extra_grad: Tensor | None = None,
    extra_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`gather_linear`, compact: only rows that some sample has.

    Args:
        grad_z: (B, A).
        x: (B, d).
        weight: (N, d).
        rows: int32 (B, A).
        extra_rows: int32 (E,), -1 = none: rows whose gradient was computed elsewhere.
        extra_grad: (E, d), added to the gradient of these rows.
        extra_bias: (E,), added to their bias gradient.

    Returns:
        grad_x: (B, d), without the part of the extra rows.
        touched: int32 (U,), the distinct rows, ascending. The CUDA kernels answer with
            min(N, B A + E) entries, so that the host need not wait to learn U: the last row comes
            again and again, with gradients of 0 (row 0, where nothing at all is touched).
        grad_weight: (U, d).
        grad_bias: (U,).
    """
    grad_x, touched, grad_weight, grad_bias = kernels.gather_linear_backward(
        grad_z, x, weight, rows, extra_rows, extra_grad, extra_bias
    )
    return grad_x, touched, grad_weight, grad_bias


# ---- scatter_rows -------------------------------------------------------------------------------


def _check_scatter_rows(values: Tensor, rows: Tensor, n_rows: int, fill: float) -> None:
    op = "scatter_rows"
    check_floating(values, op, "values")
    check_ids(rows, (None, None), op, "rows")
    check_shape(values, tuple(rows.shape), op, "values")
    check_at_least(n_rows, 0, op, "n_rows")


@define_op(
    "scatter_rows(Tensor values, Tensor rows, int n_rows, float fill) -> Tensor",
    _check_scatter_rows,
)
def _(values: Tensor, rows: Tensor, n_rows: int, fill: float) -> Tensor:
    return values.new_empty((values.shape[0], n_rows))


def scatter_rows(values: Tensor, rows: Tensor, *, n_rows: int, fill: float = 0.0) -> Tensor:
    """A dense (B, N) from the values of each sample's rows, ``fill`` elsewhere.

    Args:
        values: (B, A).
        rows: int32 (B, A), distinct within a sample.
        n_rows: N.
        fill: value of the other outputs.
    """
    out: Tensor = kernels.scatter_rows(values, rows, n_rows, fill)
    return out


# ---- combine_rows -------------------------------------------------------------------------------


def _check_combine_rows(values: Tensor, weight: Tensor, rows: Tensor) -> None:
    op = "combine_rows"
    check_floating(weight, op, "weight")
    check_shape(weight, (None, None), op, "weight")
    check_ids(rows, (None, None), op, "rows")
    check_dtype(values, weight.dtype, op, "values")
    check_shape(values, tuple(rows.shape), op, "values")


@define_op("combine_rows(Tensor values, Tensor weight, Tensor rows) -> Tensor", _check_combine_rows)
def _(values: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    return weight.new_empty((rows.shape[0], weight.shape[1]))


def combine_rows(values: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    r"""Weighted sums of some rows: a linear layer with active inputs, on its transposed weight.

    .. math:: y_b = \sum_a v_{ba} \, w_{r_{ba}}

    Not differentiable: :func:`hashdl.functional.active_columns` is.

    Args:
        values: (B, A) of the weight's dtype.
        weight: (N, d), float32, float64, bfloat16 or float16.
        rows: int32 (B, A), -1 = none.

    Returns:
        y: (B, d).

    Examples:
        >>> weight, rows = torch.eye(3), torch.tensor([[2, 0, -1]], dtype=torch.int32)
        >>> combine_rows(torch.tensor([[5.0, 7.0, 9.0]]), weight, rows)
        tensor([[7., 0., 5.]])
    """
    y: Tensor = kernels.combine_rows(values, weight, rows)
    return y


# ---- gather_sparse_linear -----------------------------------------------------------------------


def _check_sparse_layer(
    op: str, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> None:
    check_floating(weight, op, "weight")
    check_shape(weight, (None, None), op, "weight")
    check_ids(columns, (None, None), op, "columns")
    check_dtype(values, weight.dtype, op, "values")
    check_shape(values, tuple(columns.shape), op, "values")
    check_ids(rows, (columns.shape[0], None), op, "rows")


def _check_gather_sparse_linear(
    values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor
) -> None:
    _check_sparse_layer("gather_sparse_linear", values, columns, weight, rows)
    check_bias("gather_sparse_linear", weight, bias)


@define_op(
    "gather_sparse_linear(Tensor values, Tensor columns, Tensor weight, Tensor? bias, "
    "Tensor rows) -> Tensor",
    _check_gather_sparse_linear,
)
def _(values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    return values.new_empty(rows.shape)


def gather_sparse_linear(
    values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor
) -> Tensor:
    r"""Outputs of some rows of a linear layer, from the inputs that are not zero alone.

    .. math:: z_{ba} = \sum_i v_{bi} \, W_{r_{ba} c_{bi}} + b_{r_{ba}}

    Not differentiable: :func:`hashdl.functional.active_sparse_linear` is.

    Args:
        values: (B, I) of the weight's dtype, the inputs of each sample that are not zero.
        columns: int32 (B, I), which inputs these are, -1 = none; what repeats is added up.
        weight: (N, d), float32, float64, bfloat16 or float16.
        bias: (N,), or None.
        rows: int32 (B, A).

    Returns:
        z: (B, A), 0 at padding.

    Examples:
        >>> values, columns = torch.tensor([[3.0, 9.0]]), torch.tensor([[1, -1]], dtype=torch.int32)
        >>> weight, rows = torch.tensor([[1.0, 2.0]]), torch.tensor([[0]], dtype=torch.int32)
        >>> gather_sparse_linear(values, columns, weight, None, rows)
        tensor([[6.]])
    """
    z: Tensor = kernels.gather_sparse_linear(values, columns, weight, bias, rows)
    return z


def _check_gather_sparse_linear_backward(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> None:
    op = "gather_sparse_linear_backward"
    _check_sparse_layer(op, values, columns, weight, rows)
    check_dtype(grad_z, weight.dtype, op, "grad_z")
    check_shape(grad_z, tuple(rows.shape), op, "grad_z")


@define_op(
    "gather_sparse_linear_backward(Tensor grad_z, Tensor values, Tensor columns, Tensor weight, "
    "Tensor rows) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _check_gather_sparse_linear_backward,
)
def _(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    N, d = weight.shape
    U = _size_of_touched(weight, min(N, rows.numel()))
    E = _size_of_touched(weight, min(min(N, rows.numel()) * d, rows.numel() * columns.shape[1]))
    return (
        *(values.new_empty(values.shape), rows.new_empty((U,)), weight.new_empty((U,))),
        *(rows.new_empty((U + 1,), dtype=torch.int64), rows.new_empty((E,))),
        weight.new_empty((E,)),
    )


def gather_sparse_linear_backward(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`gather_sparse_linear`, compact: only entries that some sample meets.

    Args:
        grad_z: (B, A).
        values: (B, I).
        columns: int32 (B, I).
        weight: (N, d).
        rows: int32 (B, A).

    Returns:
        grad_values: (B, I), 0 at padding.
        touched: int32 (U,), the distinct rows, ascending.
        grad_bias: (U,).
        starts: int64 (U + 1,): row ``touched[u]`` has the entries from starts[u] to starts[u + 1].
        entry_columns: int32 (E,), ascending within a row.
        grad_weight: (E,), of these entries.

    The CUDA kernels answer with min(N, B A) rows, G, and min(G d, B A I) entries, so that the host
    need not wait to learn U and E: the last row, and the last entry, come again and again, with
    gradients of 0 (column 0 of the first of the rows, where there is no entry at all).
    """
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] = (
        kernels.gather_sparse_linear_backward(grad_z, values, columns, weight, rows)
    )
    return gradients
