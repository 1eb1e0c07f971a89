"""Differentiable functions over the ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hashdl import distinct, ops, reference
from hashdl.ops import checks
from hashdl.precision import own_dtype
from hashdl.products import product, weight_gradient
from hashdl.profiling import part


def _take_sparse(*parameters: Tensor | None) -> bool:
    """Whether sparse gradients can go on from here: to leaves, and outside of graphs.

    What a weight was computed by (a parametrization) mostly takes dense gradients alone; inductor
    looks at the storage of every tensor of a graph, and a sparse one has none.
    """
    leaves = all(parameter is None or parameter.is_leaf for parameter in parameters)
    return leaves and not torch.compiler.is_compiling()


# ---- active_linear -----------------------------------------------------------------------------


def _check_shared(shared: Tensor | None) -> None:
    if shared is not None:
        checks.check_ids(shared, (None,), "active_linear", "shared")


def _check_known(known: Tensor | None, x: Tensor, rows: Tensor) -> None:
    if known is not None:
        checks.check_dtype(known, x.dtype, "active_linear", "known")
        checks.check_shape(known, tuple(rows.shape), "active_linear", "known")


def _shared_logits(
    x: Tensor, weight: Tensor, bias: Tensor | None, shared: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T) of shared rows, 0 at padding, and these rows (T, d): backward wants them."""
    padded = True
    if shared.device.type == "cpu":
        # A look at T ids is cheaper than a pass over B T outputs, and there is mostly no padding.
        lowest = reference._check_ids(shared, -1, weight.shape[0], "active_linear", "shared")
        padded = lowest < 0
    ids = shared.clamp_min(0) if padded else shared
    gathered = weight.index_select(0, ids)
    with own_dtype(x):
        s = product(x, gathered, None if bias is None else bias.index_select(0, ids))
    return s.masked_fill_(shared < 0, 0) if padded else s, gathered


def _active_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    z, s, gathered = _logits(x, weight, bias, rows, shared, known)
    return z.clone() if z is known else z, s, gathered


def _logits(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of own rows, which may be ``known`` itself, and of shared ones, and the latter."""
    _check_shared(shared)
    _check_known(known, x, rows)
    z = ops.gather_linear(x, weight, bias, rows) if known is None else known
    if shared is None:
        return z, x.new_empty((x.shape[0], 0)), x.new_empty((0, x.shape[1]))
    return z, *_shared_logits(x, weight, bias, shared)


def _active_linear_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_shared(shared)
    _check_known(known, x, rows)
    T = 0 if shared is None else shared.shape[0]
    return x.new_empty(rows.shape), x.new_empty((x.shape[0], T)), x.new_empty((T, x.shape[1]))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, rows, shared, _, sparse_grad = inputs
    gathered = output[2]
    ctx.mark_non_differentiable(gathered)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, rows, shared, gathered)
    ctx.sparse_grad = sparse_grad


def _is_padded(indices: Tensor) -> bool:
    """Whether touched rows, distinct and ascending, have the last one again at the end."""
    return indices.device.type != "cpu"


def _sparse_gradient(parameter: Tensor, indices: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a parameter from that of its touched rows, or entries, int64."""
    padded = _is_padded(indices)
    whole = torch.sparse_coo_tensor(
        indices, grad, parameter.shape, is_coalesced=not padded, check_invariants=False
    )
    if padded:
        distinct.remember(parameter, whole)
    return whole


def _dense_gradient(rows: Tensor, grad: Tensor, shape: torch.Size) -> Tensor:
    """All rows of a gradient from those touched, int64."""
    whole = grad.new_zeros(shape)
    if _is_padded(rows):  # with gradients of 0
        return whole.index_add_(0, rows, grad)
    return whole.index_copy_(0, rows, grad)


def _row_gradient(parameter: Tensor, rows: Tensor, grad: Tensor, sparse: bool) -> Tensor:
    """The gradient of a parameter from that of its touched rows, int64."""
    if sparse:
        return _sparse_gradient(parameter, rows.unsqueeze(0), grad)
    return _dense_gradient(rows, grad, parameter.shape)


@once_differentiable
def _active_linear_backward(
    ctx: Any, grad_z: Tensor | None, grad_s: Tensor | None, _: Any
) -> tuple[Any, ...]:
    x, weight, bias, rows, shared, gathered = ctx.saved_tensors
    if grad_z is None:
        grad_z = x.new_zeros(rows.shape)
    if grad_s is None:
        grad_s = x.new_zeros((x.shape[0], gathered.shape[0]))
    if shared is not None:
        grad_s = grad_s.masked_fill(shared < 0, 0)  # without a look: this may be traced
    grads = _layer_gradients(ctx, grad_z, grad_s, x, weight, bias, rows, shared, gathered)
    return *grads, None, None, None, None


def _layer_gradients(
    ctx: Any,
    grad_z: Tensor,
    grad_s: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    gathered: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias; ``grad_s`` is 0 at padding."""
    extra: tuple[Tensor | None, ...] = (None, None, None)
    if shared is not None:
        with own_dtype(x):
            extra = (shared, weight_gradient(grad_s, x), grad_s.sum(0))
    grad_x, touched, grad_weight, grad_bias = ops.gather_linear_backward(
        grad_z, x, weight, rows, *extra
    )
    if shared is not None:
        with own_dtype(x):
            grad_x.add_(product(grad_s, gathered.t()))
    weight_grad = bias_grad = None
    ids = touched.long()
    if ctx.needs_input_grad[1]:
        weight_grad = _row_gradient(weight, ids, grad_weight, ctx.sparse_grad)
    if bias is not None and ctx.needs_input_grad[2]:
        bias_grad = _row_gradient(bias, ids, grad_bias, ctx.sparse_grad)
    return grad_x, weight_grad, bias_grad


_active_linear_op = ops.define_differentiable(
    "active_linear(Tensor x, Tensor weight, Tensor? bias, Tensor rows, Tensor? shared, "
    "Tensor? known, bool sparse_grad) -> (Tensor, Tensor, Tensor)",
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
        sparse_grad: give ``weight`` and ``bias`` sparse COO gradients; dense ones in a graph of
            torch.compile, and where the weight is computed from other tensors.

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
    checks.check_mode("active_linear")
    sparse_grad = sparse_grad and _take_sparse(weight, bias)
    z, s, _ = _active_linear_op(x, weight, bias, rows, shared, known, sparse_grad)
    return z, s


# ---- active_sparse_linear ----------------------------------------------------------------------


def _entry_gradient(
    weight: Tensor, rows: Tensor, columns: Tensor, grad: Tensor, sparse: bool
) -> Tensor:
    """The gradient of a weight from that of some entries, as :func:`_row_gradient`'s rows."""
    if sparse:
        return _sparse_gradient(weight, torch.stack([rows.long(), columns.long()]), grad)
    places = rows.long() * weight.shape[1] + columns
    return _dense_gradient(places, grad, torch.Size((weight.numel(),))).view(weight.shape)


def _active_sparse_linear(
    values: Tensor,
    columns: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    sparse_grad: bool,
) -> Tensor:
    return ops.gather_sparse_linear(values, columns, weight, bias, rows)


def _active_sparse_linear_fake(
    values: Tensor,
    columns: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    sparse_grad: bool,
) -> Tensor:
    return values.new_empty(rows.shape)


def _save_sparse_layer(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    values, columns, weight, bias, rows, sparse_grad = inputs
    ctx.save_for_backward(values, columns, weight, bias, rows)
    ctx.sparse_grad = sparse_grad


@once_differentiable
def _active_sparse_linear_backward(ctx: Any, grad_z: Tensor) -> tuple[Any, ...]:
    values, columns, weight, bias, rows = ctx.saved_tensors
    grad_values, touched, grad_bias, starts, entries, grad = ops.gather_sparse_linear_backward(
        grad_z, values, columns, weight, rows
    )
    weight_grad = bias_grad = None
    if ctx.needs_input_grad[2]:
        entry_rows = touched.repeat_interleave(starts.diff(), output_size=entries.shape[0])
        weight_grad = _entry_gradient(weight, entry_rows, entries, grad, ctx.sparse_grad)
    if bias is not None and ctx.needs_input_grad[3]:
        bias_grad = _row_gradient(bias, touched.long(), grad_bias, ctx.sparse_grad)
    return grad_values, None, weight_grad, bias_grad, None, None


_active_sparse_linear_op = ops.define_differentiable(
    "active_sparse_linear(Tensor values, Tensor columns, Tensor weight, Tensor? bias, "
    "Tensor rows, bool sparse_grad) -> Tensor",
    kernel=_active_sparse_linear,
    fake=_active_sparse_linear_fake,
    backward=_active_sparse_linear_backward,
    setup_context=_save_sparse_layer,
)


def active_sparse_linear(
    values: Tensor,
    columns: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    *,
    sparse_grad: bool = False,
) -> Tensor:
    r"""A linear layer from active inputs to active outputs: active times active, both ways.

    .. math:: z_{ba} = \sum_i v_{bi} \, W_{r_{ba} c_{bi}} + b_{r_{ba}}

    Forward, and backward to the values and to the weight, cost B I A multiplications each; backward
    touches the entries met alone. It has no second derivative.

    Args:
        values: the inputs that are not zero.
        columns: int32, which inputs these are, -1 = padding (it contributes nothing).
        weight: all rows.
        bias: all biases, or None.
        rows: int32 active rows, -1 = padding (output 0, no gradient).
        sparse_grad: give ``weight`` a sparse COO gradient of its entries (two sparse dimensions),
            and ``bias`` one of its rows, for :mod:`hashdl.optim`; dense ones where those of
            :func:`active_linear` are.

    Shape:
        - values, columns: :math:`(B, I)`, weight: :math:`(N, d)`, bias: :math:`(N)`
        - rows: :math:`(B, A)`
        - Output: :math:`(B, A)`

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an id is out of range.

    Examples:
        >>> values, columns = torch.tensor([[3.0, 9.0]]), torch.tensor([[1, -1]], dtype=torch.int32)
        >>> weight = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> rows = torch.tensor([[0]], dtype=torch.int32)
        >>> active_sparse_linear(values, columns, weight, None, rows).sum().backward()
        >>> weight.grad
        tensor([[0., 3.]])
    """
    checks.check_mode("active_sparse_linear")
    sparse_grad = sparse_grad and _take_sparse(weight, bias)
    z: Tensor = _active_sparse_linear_op(values, columns, weight, bias, rows, sparse_grad)
    return z


# ---- active_columns ----------------------------------------------------------------------------


def _check_columns(values: Tensor, columns: Tensor, weight: Tensor) -> None:
    checks.check_shape(weight, (None, None), "active_columns", "weight")


def _active_columns(values: Tensor, columns: Tensor, weight: Tensor, sparse_grad: bool) -> Tensor:
    _check_columns(values, columns, weight)
    return ops.combine_rows(values, weight.t(), columns)


def _active_columns_fake(
    values: Tensor, columns: Tensor, weight: Tensor, sparse_grad: bool
) -> Tensor:
    _check_columns(values, columns, weight)
    return values.new_empty((values.shape[0], weight.shape[0]))


def _save_columns(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.sparse_grad = inputs[3]


@once_differentiable
def _active_columns_backward(ctx: Any, grad_y: Tensor) -> tuple[Any, ...]:
    values, columns, weight = ctx.saved_tensors
    grad_values = ops.gather_linear(grad_y, weight.t(), None, columns)
    weight_grad = None
    if ctx.needs_input_grad[2]:
        _, touched, grad, _ = ops.gather_linear_backward(values, grad_y, weight.t(), columns)
        weight_grad = _column_gradient(weight, touched, grad, ctx.sparse_grad)
    return grad_values, None, weight_grad, None


def _column_gradient(weight: Tensor, columns: Tensor, grad: Tensor, sparse: bool) -> Tensor:
    """The gradient of a whole weight from that of its touched columns, grad (U, N)."""
    if not sparse:
        return _dense_gradient(columns.long(), grad, weight.t().shape).t()
    rows = torch.arange(weight.shape[0], device=grad.device)
    entry_rows = rows.repeat_interleave(columns.shape[0])
    entry_columns = columns.repeat(weight.shape[0])
    return _entry_gradient(weight, entry_rows, entry_columns, grad.t().reshape(-1), True)


_active_columns_op = ops.define_differentiable(
    "active_columns(Tensor values, Tensor columns, Tensor weight, bool sparse_grad) -> Tensor",
    kernel=_active_columns,
    fake=_active_columns_fake,
    backward=_active_columns_backward,
    setup_context=_save_columns,
)


def active_columns(
    values: Tensor, columns: Tensor, weight: Tensor, *, sparse_grad: bool = False
) -> Tensor:
    r"""A linear layer from active inputs to all outputs, without bias.

    .. math:: y_{bn} = \sum_i v_{bi} \, W_{n c_{bi}}

    Columns of the weight are read and have a gradient: a weight whose memory is transposed
    (``weight.t()`` is contiguous) is read as it lies; another one is copied first. It has no second
    derivative.

    Args:
        values: the inputs that are not zero.
        columns: int32, which inputs these are, -1 = padding (it contributes nothing).
        weight: the layer's weight.
        sparse_grad: give ``weight`` a sparse COO gradient of its entries (two sparse dimensions),
            for :mod:`hashdl.optim`; a dense one where that of :func:`active_linear` is.

    Shape:
        - values, columns: :math:`(B, I)`, weight: :math:`(N, d)`
        - Output: :math:`(B, N)`

    Raises:
        RuntimeError: shapes or dtypes do not fit, or an id is out of range.

    Examples:
        >>> values, columns = torch.tensor([[3.0, 9.0]]), torch.tensor([[1, -1]], dtype=torch.int32)
        >>> active_columns(values, columns, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[ 6., 12.]])
    """
    checks.check_mode("active_columns")
    sparse_grad = sparse_grad and _take_sparse(weight)
    y: Tensor = _active_columns_op(values, columns, weight, sparse_grad)
    return y


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
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z, s, rows, shared, logsumexp, places)


@once_differentiable
def _active_log_prob_backward(ctx: Any, grad_log_prob: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad_log_prob is None:
        return (None,) * 5
    grad_z, grad_s = ops.active_log_prob_backward(grad_log_prob, *ctx.saved_tensors)
    return grad_z, grad_s if ctx.needs_input_grad[1] else None, None, None, None


ops.make_differentiable("active_log_prob", _active_log_prob_backward, _save_logits)


def active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> Tensor:
    """Differentiable :func:`hashdl.ops.active_log_prob`: its first output."""
    return ops.active_log_prob(z, s, rows, shared, labels)[0]


# ---- active_linear_log_prob --------------------------------------------------------------------


def _check_corrections(
    x: Tensor,
    rows: Tensor,
    shared: Tensor | None,
    log_q: Tensor | None,
    shared_log_q: Tensor | None,
    places: Tensor | None,
) -> None:
    op, T = "active_linear_log_prob", 0 if shared is None else shared.shape[0]
    if log_q is not None:
        checks.check_dtype(log_q, x.dtype, op, "log_q")
        checks.check_shape(log_q, tuple(rows.shape), op, "log_q")
    if shared_log_q is not None:
        checks.check_dtype(shared_log_q, x.dtype, op, "shared_log_q")
        wanted = (T,) if shared_log_q.dim() == 1 else (x.shape[0], T)
        checks.check_shape(shared_log_q, wanted, op, "shared_log_q")
    if places is not None:
        checks.check_dtype(places, torch.int32, op, "places")
        checks.check_shape(places, tuple(rows.shape), op, "places")


def _leave_out(s: Tensor, places: Tensor) -> None:
    """Make outputs (B, T) of shared rows -inf at ``places`` (B, Q), -1 = nowhere."""
    if s.shape[1] == 0:
        return
    values = torch.where(places >= 0, -torch.inf, torch.inf).to(s.dtype)
    # The least of what is written to a place, and of what stands there: padding changes nothing.
    s.scatter_reduce_(1, places.clamp_min(0).long(), values, "amin")


def _active_linear_log_prob(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
    labels: Tensor,
    log_q: Tensor | None,
    shared_log_q: Tensor | None,
    places: Tensor | None,
    sparse_grad: bool,
) -> tuple[Tensor, ...]:
    _check_corrections(x, rows, shared, log_q, shared_log_q, places)
    with part("forward"):
        z, s, gathered = _logits(x, weight, bias, rows, shared, known)
    with part("loss"):
        z = z if log_q is None else z - log_q
        if shared_log_q is not None:
            s.sub_(shared_log_q)
        if places is not None:
            _leave_out(s, places)
        given = (z, None if shared is None else s, rows, shared, labels)
        log_prob, logsumexp, at_labels = ops.active_log_prob(*given)
    return log_prob, z.new_empty(0) if z is known else z, s, gathered, logsumexp, at_labels


def _active_linear_log_prob_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    known: Tensor | None,
    labels: Tensor,
    log_q: Tensor | None,
    shared_log_q: Tensor | None,
    places: Tensor | None,
    sparse_grad: bool,
) -> tuple[Tensor, ...]:
    z, s, gathered = _active_linear_fake(x, weight, bias, rows, shared, known, sparse_grad)
    _check_corrections(x, rows, shared, log_q, shared_log_q, places)
    given = (z, None if shared is None else s, rows, shared, labels)
    log_prob, logsumexp, at_labels = ops.active_log_prob(*given)
    z = x.new_empty(0) if log_q is None and known is not None else z
    return log_prob, z, s, gathered, logsumexp, at_labels


def _save_for_log_prob(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, rows, shared, known, _, log_q, _, _, sparse_grad = inputs
    _, z, s, gathered, logsumexp, at_labels = output
    ctx.mark_non_differentiable(z, s, gathered, logsumexp, at_labels)
    ctx.set_materialize_grads(False)  # zeros for what has no gradient: as large as the outputs
    z = known if log_q is None and known is not None else z
    s = None if shared is None else s
    ctx.save_for_backward(x, weight, bias, gathered, z, s, rows, shared, logsumexp, at_labels)
    ctx.sparse_grad = sparse_grad


@once_differentiable
def _active_linear_log_prob_backward(
    ctx: Any, grad_log_prob: Tensor | None, *_: Any
) -> tuple[Any, ...]:
    if grad_log_prob is None:
        return (None,) * 11
    x, weight, bias, gathered, *logits = ctx.saved_tensors
    rows, shared = logits[2:4]
    grad_z, grad_s = ops.active_log_prob_backward(grad_log_prob, *logits)
    grads = _layer_gradients(ctx, grad_z, grad_s, x, weight, bias, rows, shared, gathered)
    return *grads, None, None, None, None, None, None, None, None


_active_linear_log_prob_op = ops.define_differentiable(
    "active_linear_log_prob(Tensor x, Tensor weight, Tensor? bias, Tensor rows, Tensor? shared, "
    "Tensor? known, Tensor labels, Tensor? log_q, Tensor? shared_log_q, Tensor? places, "
    "bool sparse_grad) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    kernel=_active_linear_log_prob,
    fake=_active_linear_log_prob_fake,
    backward=_active_linear_log_prob_backward,
    setup_context=_save_for_log_prob,
)


def active_linear_log_prob(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    labels: Tensor,
    shared: Tensor | None = None,
    known: Tensor | None = None,
    log_q: Tensor | None = None,
    shared_log_q: Tensor | None = None,
    places: Tensor | None = None,
    *,
    sparse_grad: bool = False,
) -> Tensor:
    r"""Log probability of each sample's labels, under a softmax over a layer's active rows.

    :func:`active_log_prob` of the outputs of :func:`active_linear`, minus log q:

    .. math:: u_{bi} = \langle x_b, w_{r_{bi}} \rangle + b_{r_{bi}} - \log q_{bi}

    as one step of autograd, which keeps no second copy of the outputs.

    Args:
        x: inputs.
        weight: all rows.
        bias: all biases, or None.
        rows: int32 active rows, -1 = padding.
        labels: int32, see :func:`hashdl.ops.active_log_prob`.
        shared: int32 rows that every sample has, -1 = padding; None: there are none.
        known: outputs of ``rows``, where they have been computed already, else None.
        log_q: subtracted from the outputs of ``rows``, of x's dtype; has no gradient. None: 0.
        shared_log_q: likewise of ``shared``, for all samples or for each.
        places: int32, for each of ``rows`` that is one of ``shared``, its place there, which is
            left out of that sample's softmax; -1 = it is none. None: nothing is left out.
        sparse_grad: as for :func:`active_linear`.

    Shape:
        - x: :math:`(B, d)`, weight: :math:`(N, d)`, bias: :math:`(N)`, labels: :math:`(B, M)`
        - rows, known: :math:`(B, A)`, shared: :math:`(T)`
        - log_q, places: :math:`(B, A)`, shared_log_q: :math:`(T)` or :math:`(B, T)`
        - Output: :math:`(B)`, 0 for a sample without labels

    Raises:
        RuntimeError: shapes or dtypes do not fit, or a row id is out of range.

    Examples:
        >>> x, weight = torch.zeros(1, 2), torch.arange(6.0).reshape(3, 2)
        >>> rows = torch.tensor([[2, 0]], dtype=torch.int32)
        >>> active_linear_log_prob(x, weight, None, rows, rows[:, :1]).exp()
        tensor([0.5000])
    """
    checks.check_mode("active_linear_log_prob")
    sparse_grad = sparse_grad and _take_sparse(weight, bias)
    log_prob: Tensor = _active_linear_log_prob_op(
        x, weight, bias, rows, shared, known, labels, log_q, shared_log_q, places, sparse_grad
    )[0]
    return log_prob
