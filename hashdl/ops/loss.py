"""The softmax over active rows."""

from __future__ import annotations

from torch import Tensor

from hashdl import reference
from hashdl.ops.checks import check, check_dtype, check_floating, check_ids, check_shape
from hashdl.ops.registration import define_op, kernels


def _check_logits(
    op: str, z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None
) -> None:
    check_floating(z, op, "z")
    check_ids(rows, (None, None), op, "rows")
    check_shape(z, tuple(rows.shape), op, "z")
    check((s is None) == (shared is None), op, "s", "wanted together with shared")
    if s is not None and shared is not None:
        check_ids(shared, (None,), op, "shared")
        check_dtype(s, z.dtype, op, "s")
        check_shape(s, (rows.shape[0], shared.shape[0]), op, "s")


def _check_label_columns(op: str, columns: Tensor, rows: Tensor, argument: str) -> None:
    check_ids(columns, (rows.shape[0], None), op, argument)
    what = f"got shape {tuple(columns.shape)}, wanted at most {rows.shape[1]} columns, as rows has"
    check(columns.shape[1] <= rows.shape[1], op, argument, what)


def _check_active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> None:
    op = "active_log_prob"
    _check_logits(op, z, s, rows, shared)
    _check_label_columns(op, labels, rows, "labels")


@define_op(
    "active_log_prob(Tensor z, Tensor? s, Tensor rows, Tensor? shared, Tensor labels) "
    "-> (Tensor, Tensor, Tensor)",
    _check_active_log_prob,
)
def _(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B = z.shape[0]
    logsumexp = z.new_empty((B,), dtype=reference.accumulator(z.dtype))
    return z.new_empty((B,)), logsumexp, labels.new_empty(labels.shape)


def active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Log probability of each sample's labels, under a softmax over its active rows.

    .. math::
        \ell_b = \frac{1}{|Y_b|} \sum_{y \in Y_b} u_{by} - \log \sum_i e^{u_{bi}}

    with u the logits of z and s that are not padding: those of the sample's own rows and of the
    rows that the batch shares. A logit may be -inf; a label that is not active has that logit.
    Sums are in float32 (float64 for float64). Differentiable in z and s by
    :func:`hashdl.functional.active_log_prob`.

    Args:
        z: (B, Q), logits of the sample's own rows.
        s: (B, T), logits of the shared rows, or None together with ``shared``.
        rows: int32 (B, Q), -1 = padding.
        shared: int32 (T,), distinct, -1 = padding; or None.
        labels: int32 (B, M), distinct within a sample, -1 = none. Label m stands in column m of
            ``rows``, as :func:`select` puts it, or in ``shared``.

    Returns:
        log_prob: (B,), 0 for a sample without labels.
        logsumexp: float32 or float64 (B,), over the logits that count.
        places: int32 (B, M), each label's column in (z, s); -1 = no label, Q + T = not active.

    Examples:
        >>> import torch
        >>> z, rows = torch.zeros(1, 3), torch.tensor([[7, 2, -1]], dtype=torch.int32)
        >>> log_prob, _, places = active_log_prob(z, None, rows, None, rows[:, :1])
        >>> log_prob.exp(), places
        (tensor([0.5000]), tensor([[0]], dtype=torch.int32))
    """
    log_prob, logsumexp, places = kernels.active_log_prob(z, s, rows, shared, labels)
    return log_prob, logsumexp, places


def _check_active_log_prob_backward(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> None:
    op = "active_log_prob_backward"
    _check_logits(op, z, s, rows, shared)
    B = rows.shape[0]
    check_dtype(grad_log_prob, z.dtype, op, "grad_log_prob")
    check_shape(grad_log_prob, (B,), op, "grad_log_prob")
    check_dtype(logsumexp, reference.accumulator(z.dtype), op, "logsumexp")
    check_shape(logsumexp, (B,), op, "logsumexp")
    _check_label_columns(op, places, rows, "places")


@define_op(
    "active_log_prob_backward(Tensor grad_log_prob, Tensor z, Tensor? s, Tensor rows, "
    "Tensor? shared, Tensor logsumexp, Tensor places) -> (Tensor, Tensor)",
    _check_active_log_prob_backward,
)
def _(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    T = 0 if shared is None else shared.shape[0]
    return z.new_empty(z.shape), z.new_empty((z.shape[0], T))


def active_log_prob_backward(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Gradients of :func:`active_log_prob`.

    .. math::
        \frac{\partial \ell_b}{\partial u_{bi}}
        = \frac{[i \in Y_b]}{|Y_b|} - e^{u_{bi} - \log \sum_j e^{u_{bj}}}

    Args:
        grad_log_prob: (B,), of z's dtype.
        z: (B, Q), see :func:`active_log_prob`.
        s: (B, T), or None.
        rows: int32 (B, Q).
        shared: int32 (T,), or None.
        logsumexp: (B,), of :func:`active_log_prob`.
        places: int32 (B, M), of :func:`active_log_prob`.

    Returns:
        grad_z: (B, Q), 0 at padding and for samples without labels.
        grad_s: (B, T), likewise; T = 0 where s is None.
    """
    grad_z, grad_s = kernels.active_log_prob_backward(
        grad_log_prob, z, s, rows, shared, logsumexp, places
    )
    return grad_z, grad_s
