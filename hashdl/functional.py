"""Differentiable functions over the ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hashdl import ops, reference
from hashdl.precision import own_dtype

# ---- active_linear -----------------------------------------------------------------------------


def _check_shared(shared: Tensor | None) -> None:
    if shared is not None:
        ops._check_ids(shared, (None,), "active_linear", "shared")


def _check_known(known: Tensor | None, x: Tensor, rows: Tensor) -> None:
    if known is not None:
        ops._check_dtype(known, x.dtype, "active_linear", "known")
        ops._check_shape(known, tuple(rows.shape), "active_linear", "known")


def _shared_weight(weight: Tensor, shared: Tensor) -> Tensor:
    return weight.index_select(0, shared.clamp_min(0).long())


def _without_padding(values: Tensor, shared: Tensor) -> Tensor:
    """Values (B, T) with 0 in the columns of shared rows that are padding."""
    # On a CPU a look at T ids is cheaper than a pass over B T values, and there is mostly nothing.
    if shared.device.type == "cpu" and not bool((shared < 0).any()):
        return values
    return values.masked_fill(shared < 0, 0)


def _active_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor]:
    _check_shared(shared)
    _check_known(known, x, rows)
    z = ops.gather_linear(x, weight, bias, rows) if known is None else known.clone()
    if shared is None:
        return z, x.new_empty((x.shape[0], 0))
    if shared.device.type == "cpu":  # a GPU's own check of indices does not make the host wait
        reference._check_ids(shared, -1, weight.shape[0], "active_linear", "shared")
    columns = _shared_weight(weight, shared).t()
    with own_dtype(x):
        if bias is None:
            s = x @ columns
        else:
            s = torch.addmm(bias.index_select(0, shared.clamp_min(0).long()), x, columns)
    return z, _without_padding(s, shared)


def _active_linear_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor]:
    _check_shared(shared)
    _check_known(known, x, rows)
    T = 0 if shared is None else shared.shape[0]
    return x.new_empty(rows.shape), x.new_empty((x.shape[0], T))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, rows, shared, _, sparse_grad = inputs
    ctx.save_for_backward(x, weight, rows, shared)
    ctx.has_bias, ctx.sparse_grad = bias is not None, sparse_grad


def _row_gradient(rows: Tensor, grad: Tensor, shape: torch.Size, sparse: bool) -> Tensor:
    """The gradient of a whole parameter from that of its touched rows.

    They are distinct and ascending, but for padding at the end on a GPU: the last row again, with
    gradients of 0.
    """
    padded = rows.device.type != "cpu"
    if sparse:
        return torch.sparse_coo_tensor(
            rows.long().unsqueeze(0), grad, shape, is_coalesced=not padded, check_invariants=False
        )
    whole = grad.new_zeros(shape)
    if padded:
        return whole.index_add_(0, rows.long(), grad)
    return whole.index_copy_(0, rows.long(), grad)


@once_differentiable
def _active_linear_backward(ctx: Any, grad_z: Tensor, grad_s: Tensor) -> tuple[Any, ...]:
    x, weight, rows, shared = ctx.saved_tensors
    extra: tuple[Tensor | None, ...] = (None, None, None)
    if shared is not None:
        grad_s = grad_s.masked_fill(shared < 0, 0)
        with own_dtype(x):
            extra = (shared, grad_s.t() @ x, grad_s.sum(0))
    grad_x, touched, grad_weight, grad_bias = ops.gather_linear_backward(
        grad_z, x, weight, rows, *extra
    )
    if shared is not None:
        with own_dtype(x):
            grad_x.addmm_(grad_s, _shared_weight(weight, shared))
    weight_grad = bias_grad = None
    if ctx.needs_input_grad[1]:
        weight_grad = _row_gradient(touched, grad_weight, weight.shape, ctx.sparse_grad)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        bias_grad = _row_gradient(touched, grad_bias, weight.shape[:1], ctx.sparse_grad)
    return grad_x, weight_grad, bias_grad, None, None, None, None


ops.define_differentiable(
    "active_linear(Tensor x, Tensor weight, Tensor? bias, Tensor rows, Tensor? shared, "
    "Tensor? known, bool sparse_grad) -> (Tensor, Tensor)",
    kernel=_active_linear,
    fake=_active_linear_fake,
    backward=_active_linear_backward,
    setup_context=_save_for_backward,
)


def active_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None = None,
    known: Tensor | None = None,
    *,
    sparse_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""A linear layer at each sample's active rows, and at rows shared by the batch.

    .. math::
        z_{ba} = \langle x_b, w_{r_{ba}} \rangle + b_{r_{ba}}, \qquad
        s_{bt} = \langle x_b, w_{u_t} \rangle + b_{u_t}

    The shared part is one matrix product on gathered rows. Backward touches the rows met alone;
    it has no second derivative.

    Args:
        x: inputs.
        weight: all rows.
        bias: all biases, or None.
        rows: int32 active rows, -1 = padding (output 0, no gradient).
        shared: int32 rows that every sample has, -1 = padding; None: there are none.
        known: z, where it has been computed already (:func:`hashdl.ops.find_active`), else None.
        sparse_grad: give ``weight`` and ``bias`` sparse COO gradients; in a graph of
            torch.compile they are dense.

    Shape:
        - x: :math:`(B, d)`, weight: :math:`(N, d)`, bias: :math:`(N)`
        - rows: :math:`(B, A)`, shared: :math:`(T)`
        - Output: :math:`(B, A)` and :math:`(B, T)`

    Raises:
        RuntimeError: shapes or dtypes do not fit, or a row id is out of range.

    Examples:
        >>> x, weight = torch.ones(1, 2), torch.arange(6.0).reshape(3, 2)
        >>> active_linear(x, weight, None, torch.tensor([[2, -1]], dtype=torch.int32))[0]
        tensor([[9., 0.]])
    """
    # Inductor looks at the storage of every tensor of a graph, and a sparse one has none.
    sparse_grad = sparse_grad and not torch.compiler.is_compiling()
    z, s = torch.ops.hashdl.active_linear(x, weight, bias, rows, shared, known, sparse_grad)
    return z, s


# ---- scatter_rows ------------------------------------------------------------------------------


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _scatter_rows_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (rows,) = ctx.saved_tensors
    values = grad.gather(1, rows.clamp_min(0).long()).masked_fill(rows < 0, 0)
    return values, None, None, None


ops.make_differentiable("scatter_rows", _scatter_rows_backward, _save_rows)


def scatter_rows(values: Tensor, rows: Tensor, n_rows: int, fill: float = 0.0) -> Tensor:
    """Differentiable :func:`hashdl.ops.scatter_rows`."""
    return ops.scatter_rows(values, rows, n_rows=n_rows, fill=fill)


# ---- active_log_prob ---------------------------------------------------------------------------


def _save_logits(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    z, s, rows, shared, _ = inputs
    _, logsumexp, places = output
    ctx.mark_non_differentiable(logsumexp, places)
    ctx.save_for_backward(z, s, rows, shared, logsumexp, places)


@once_differentiable
def _active_log_prob_backward(ctx: Any, grad_log_prob: Tensor, *_: Any) -> tuple[Any, ...]:
    grad_z, grad_s = ops.active_log_prob_backward(grad_log_prob, *ctx.saved_tensors)
    return grad_z, grad_s if ctx.needs_input_grad[1] else None, None, None, None


ops.make_differentiable("active_log_prob", _active_log_prob_backward, _save_logits)


def active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> Tensor:
    """Differentiable :func:`hashdl.ops.active_log_prob`: its first output."""
    return ops.active_log_prob(z, s, rows, shared, labels)[0]
