"""Updates of the rows that have a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hashdl.ops.checks import (
    check,
    check_dtype,
    check_floating,
    check_ids,
    check_in_place,
    check_one_element,
    check_shape,
)
from hashdl.ops.registration import define_op, kernels
from hashdl.reference import accumulator


def _check_row_ids(ids: Tensor) -> None:
    check_dtype(ids, torch.int64, "row_ids", "ids")
    check_shape(ids, (None,), "row_ids", "ids")


@define_op("row_ids(Tensor ids) -> (Tensor, Tensor)", _check_row_ids)
def _(ids: Tensor) -> tuple[Tensor, Tensor]:
    return ids.new_empty(ids.shape, dtype=torch.int32), ids.new_empty((), dtype=torch.bool)


def row_ids(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a sparse gradient as the row optimizers take them.

    Args:
        ids: int64 (U,), each 0 to 2^31 - 1.

    Returns:
        rows: int32 (U,), the same.
        ascending: bool (), whether each is larger than the one before it: they are distinct then.

    Examples:
        >>> row_ids(torch.tensor([2, 5, 7]))
        (tensor([2, 5, 7], dtype=torch.int32), tensor(True))
    """
    rows, ascending = kernels.row_ids(ids)
    return rows, ascending


def _check_update(op: str, weight: Tensor, rows: Tensor, grad: Tensor) -> None:
    check_floating(weight, op, "weight")
    check(
        weight.dim() in (1, 2),
        op,
        "weight",
        f"got shape {tuple(weight.shape)}, wanted (N, d) or (N,)",
    )
    check_in_place(op, weight, "weight")
    check_ids(rows, (None,), op, "rows")
    check_dtype(grad, weight.dtype, op, "grad")
    check_shape(grad, (rows.shape[0], *weight.shape[1:]), op, "grad")


def _check_state(
    op: str, state: Tensor, weight: Tensor, argument: str, *, row_wise: bool = False
) -> None:
    """A state has the weight's shape, or, where ``row_wise`` allows it, one scalar a row."""
    check_dtype(state, accumulator(weight.dtype), op, argument)
    _check_state_shape(op, state, weight, argument, row_wise=row_wise)


def _check_state_shape(
    op: str, state: Tensor, weight: Tensor, argument: str, *, row_wise: bool = False
) -> None:
    check_in_place(op, state, argument)
    compact = row_wise and state.dim() == 1
    check_shape(state, weight.shape[:1] if compact else tuple(weight.shape), op, argument)


def _check_sgd_rows_(
    weight: Tensor,
    momentum_buffer: Tensor | None,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    _check_update("sgd_rows_", weight, rows, grad)
    if momentum_buffer is not None:
        _check_state("sgd_rows_", momentum_buffer, weight, "momentum_buffer")


@define_op(
    "sgd_rows_(Tensor(a!) weight, Tensor(b!)? momentum_buffer, Tensor rows, Tensor grad, "
    "float lr, float momentum, bool nesterov, float weight_decay) -> ()",
    _check_sgd_rows_,
)
def _(*args: Any) -> None:
    return None


def sgd_rows_(
    weight: Tensor,
    momentum_buffer: Tensor | None,
    rows: Tensor,
    grad: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """A step of :class:`torch.optim.SGD` on some rows, in place; the others are not looked at.

    Args:
        weight: (N, d) or (N,), contiguous.
        momentum_buffer: of the weight's shape, float32 (float64 for float64), or None.
        rows: int32 (U,), distinct; an entry with the row of the one before is padding, and skipped.
        grad: (U, d) or (U,), of these rows.
        lr: learning rate.
        momentum: factor on the buffer, applied when a row is touched.
        nesterov: Nesterov momentum.
        weight_decay: L2 penalty, applied when a row is touched.
    """
    kernels.sgd_rows_(weight, momentum_buffer, rows, grad, lr, momentum, nesterov, weight_decay)


def _check_adagrad_rows_(
    weight: Tensor,
    sum: Tensor,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
) -> None:
    _check_update("adagrad_rows_", weight, rows, grad)
    _check_state("adagrad_rows_", sum, weight, "sum", row_wise=True)


@define_op(
    "adagrad_rows_(Tensor(a!) weight, Tensor(b!) sum, Tensor rows, Tensor grad, float lr, "
    "float eps, float weight_decay) -> ()",
    _check_adagrad_rows_,
)
def _(*args: Any) -> None:
    return None


def adagrad_rows_(
    weight: Tensor,
    sum: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> None:
    """A step of :class:`torch.optim.Adagrad` on some rows, in place.

    Args:
        weight: (N, d) or (N,), contiguous.
        sum: sums of squares, of the weight's shape; or (N,) for a 2-d weight: row-wise, the mean
            of the squares of the row is added.
        rows: int32 (U,), distinct; an entry with the row of the one before is padding, and skipped.
        grad: (U, d) or (U,).
        lr: learning rate.
        eps: added to the root.
        weight_decay: L2 penalty, applied when a row is touched.
    """
    kernels.adagrad_rows_(weight, sum, rows, grad, lr, eps, weight_decay)


def _check_adam_rows_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: Tensor,
    seed: int,
) -> None:
    op = "adam_rows_"
    _check_update(op, weight, rows, grad)
    check_dtype(step, torch.float32, op, "step")
    check_one_element(step, op, "step")
    wide, got = accumulator(weight.dtype), exp_avg.dtype
    what = f"got dtype {str(got)[6:]}, wanted {str(wide)[6:]} or bfloat16"
    check(got in (wide, torch.bfloat16), op, "exp_avg", what)
    _check_state_shape(op, exp_avg, weight, "exp_avg")
    _check_state_shape(op, exp_avg_sq, weight, "exp_avg_sq", row_wise=True)
    check_dtype(exp_avg_sq, got if exp_avg_sq.dim() == weight.dim() else wide, op, "exp_avg_sq")


@define_op(
    "adam_rows_(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor rows, "
    "Tensor grad, float lr, float beta1, float beta2, float eps, float weight_decay, "
    "bool decoupled, Tensor step, int seed) -> ()",
    _check_adam_rows_,
)
def _(*args: Any) -> None:
    return None


def adam_rows_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    grad: Tensor,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    step: Tensor,
    seed: int = 0,
) -> None:
    r"""A step of :class:`torch.optim.Adam` on some rows, in place.

    The averages of a row decay only when it is touched; the bias correction is that of the global
    step, as in :class:`torch.optim.SparseAdam`.

    States in bfloat16 are widened, and rounded when they are stored: a number
    :math:`x = a + p (b - a)` between its neighbours a and b becomes b with probability p, so that
    the expectation is x. With ``betas`` of .999 a step moves a second moment by less than half the
    distance of neighbours, and rounding to the nearest would lose it. The weight is updated by what
    has not been rounded yet.

    Args:
        weight: (N, d) or (N,), contiguous.
        exp_avg: of the weight's shape, float32 (float64 for float64), or bfloat16.
        exp_avg_sq: likewise, in the same dtype; or (N,) for a 2-d weight: row-wise, the mean over
            the row, in float32 (float64 for float64).
        rows: int32 (U,), distinct; an entry with the row of the one before is padding, and skipped.
        grad: (U, d) or (U,).
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the root.
        weight_decay: L2 penalty, or with ``decoupled`` a decay as in AdamW, on touched rows.
        decoupled: see ``weight_decay``.
        step: float32, one element: the number of this step, from 1; in the host's memory, or on the
            GPU of the weight, where the host does not wait for it.
        seed: of the rounding to bfloat16, which depends on seed, step, row and column alone.

    Examples:
        >>> weight, rows, grad = torch.zeros(2, 1), torch.tensor([1]).int(), torch.ones(1, 1)
        >>> states = torch.zeros_like(weight), torch.zeros_like(weight)
        >>> adam_rows_(weight, *states, rows, grad, lr=0.1, step=torch.tensor(1.0))
        >>> weight
        tensor([[ 0.0000],
                [-0.1000]])
    """
    options = lr, *betas, eps, weight_decay, decoupled, step, seed
    kernels.adam_rows_(weight, exp_avg, exp_avg_sq, rows, grad, *options)
