"""Sparse gradients as distinct rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hashdl import ops


def coalesced(parameter: Tensor) -> Tensor:
    """The gradient of a parameter with distinct, ascending rows.

    Autograd drops the coalesced flag as it accumulates; sorting again costs as much as the
    optimizer's own work, and looking whether the rows ascend costs nothing on a CPU. On a GPU it
    would make the host wait: there rows are merged again, and may be padded (see :func:`merged`).

    Raises:
        RuntimeError: the gradient is sparse in more than rows.
    """
    grad = parameter.grad
    assert grad is not None
    if grad.sparse_dim() != 1:
        raise RuntimeError(
            f"hashdl.optim: got a gradient with {grad.sparse_dim()} sparse dimensions, wanted 1 "
            "(whole rows)"
        )
    if grad.is_coalesced():
        return grad
    if grad.is_cuda and ops.has_cuda_kernel("gather_linear_backward"):
        return merged(parameter, grad)
    rows = grad._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):
        return grad._coalesced_(True)
    return grad.coalesce()


def merged(parameter: Tensor, grad: Tensor) -> Tensor:
    """The gradient with each row once, ascending, by the op that sums gradients of rows.

    On a GPU as many entries come back as there were, so that nothing waits for their number: the
    last row again and again, with gradients of 0, which the row optimizers skip.
    """
    rows, values = grad._indices()[0].to(torch.int32), grad._values()
    width = math.prod(values.shape[1:])
    columns = values.reshape(rows.shape[0], width)
    _, touched, sums, _ = ops.gather_linear_backward(
        columns.new_empty((0, 0)),
        columns.new_empty((0, width)),
        parameter.detach().reshape(parameter.shape[0], width),
        rows.new_empty((0, 0)),
        rows,
        columns,
    )
    return torch.sparse_coo_tensor(
        touched.long().unsqueeze(0),
        sums.reshape(touched.shape[0], *values.shape[1:]),
        grad.shape,
        is_coalesced=not grad.is_cuda,
        check_invariants=False,
    )
