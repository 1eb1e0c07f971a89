"""Sparse gradients as distinct rows, or as distinct entries."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hashdl import distinct, ops


def coalesced(parameter: Tensor) -> Tensor:
    """The gradient of a parameter with distinct, ascending rows, or entries of a 2-d parameter.

    Autograd drops the coalesced flag as it accumulates; merging again costs as much as the
    optimizer's own work, and looking whether the rows ascend costs nothing on a CPU. On a GPU it
    would make the host wait: there they may be padded, and are merged unless they are known to be
    distinct.

    Raises:
        RuntimeError: the gradient is neither one of rows nor one of a 2-d parameter's entries.
    """
    grad = _gradient(parameter)
    if grad.is_coalesced():
        return grad
    if grad.is_cuda and ops.has_cuda_kernel("gather_linear_backward"):
        if distinct.is_remembered(parameter):
            return grad
        grad = merged(parameter, grad)
        distinct.remember(parameter, grad)
        return grad
    places = _places(grad)
    if bool((places[1:] > places[:-1]).all()):
        return grad._coalesced_(True)
    rows_on_cpu = grad.sparse_dim() == 1 and not grad.is_cuda
    return merged(parameter, grad) if rows_on_cpu else grad.coalesce()


def distinct_rows(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """Rows int32 (U,) and values of a gradient of whole rows: those of :func:`coalesced`."""
    grad = _gradient(parameter)
    if grad.is_cuda:
        grad = coalesced(parameter)
        return grad._indices()[0].to(torch.int32), grad._values()
    rows, ascending = ops.row_ids(grad._indices()[0])
    if grad.is_coalesced() or bool(ascending):
        return rows, grad._values()
    return _summed(parameter.detach(), rows, grad._values())


def _gradient(parameter: Tensor) -> Tensor:
    grad = parameter.grad
    assert grad is not None
    if grad.sparse_dim() != 1 and not (grad.sparse_dim() == grad.dim() == 2):
        raise RuntimeError(
            f"hashdl.optim: got a gradient with {grad.sparse_dim()} sparse dimensions of "
            f"{grad.dim()}, wanted 1 (whole rows), or 2 of 2 (entries of a matrix)"
        )
    return grad


def merged(parameter: Tensor, grad: Tensor) -> Tensor:
    """The gradient with each row or entry once, ascending, by the op that sums gradients of rows.

    On all threads, where torch's coalescing takes one on a CPU. On a GPU as many come back as there
    were, so that nothing waits for their number: the last one again and again, with gradients of 0,
    which the row optimizers skip.

    Raises:
        RuntimeError: entries of a parameter with gaps in memory, or of 2^31 elements or more.
    """
    values = grad._values()
    if grad.sparse_dim() == 2:
        _check_places(parameter)
        touched, sums = _summed(in_memory(parameter.detach()), _places(grad), values)
        places = touched.long()
        indices = torch.stack([places // grad.shape[1], places % grad.shape[1]])
    else:
        rows, sums = _summed(parameter.detach(), grad._indices()[0], values)
        indices = rows.long().unsqueeze(0)
    return torch.sparse_coo_tensor(
        indices, sums, grad.shape, is_coalesced=not grad.is_cuda, check_invariants=False
    )


def _summed(like: Tensor, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a tensor like this one, int32, and their values, summed."""
    width = math.prod(values.shape[1:])
    ids, columns = rows.to(torch.int32), values.reshape(rows.shape[0], width)
    if ids.is_cuda:
        ids = without_padding(ids, columns)
    _, touched, sums, _ = ops.gather_linear_backward(
        columns.new_empty((0, 0)),
        columns.new_empty((0, width)),
        like.reshape(like.shape[0], width),
        ids.new_empty((0, 0)),
        ids,
        columns,
    )
    return touched, sums.reshape(touched.shape[0], *values.shape[1:])


def without_padding(ids: Tensor, values: Tensor) -> Tensor:
    """The rows of a gradient with -1 in place of the one before, where it is 0.

    So a backward pass on a GPU pads its gradients, by many thousands of the last row: all of them
    would be added up by one block.

    Args:
        ids: int32 (U,).
        values: (U, d), of these rows.

    Examples:
        >>> ids = torch.tensor([3, 3, 5, 5, 5], dtype=torch.int32)
        >>> without_padding(ids, torch.tensor([[0.0], [2.0], [1.0], [0.0], [0.0]]))
        tensor([ 3,  3,  5, -1, -1], dtype=torch.int32)
    """
    repeats = ids == ids.roll(1)
    repeats[:1] = False
    return ids.masked_fill(repeats & ~values.any(1), -1)


def _places(grad: Tensor) -> Tensor:
    """Where the values stand, as numbers that ascend in the order of a coalesced gradient."""
    indices: Tensor = grad._indices()
    return indices[0] if grad.sparse_dim() == 1 else indices[0] * grad.shape[1] + indices[1]


def _check_places(parameter: Tensor) -> None:
    if parameter.numel() >= 2**31:
        raise RuntimeError(
            f"hashdl.optim: got a gradient of entries for a parameter of {parameter.numel()} "
            "elements, wanted fewer than 2^31"
        )


def in_memory(tensor: Tensor) -> Tensor:
    """All elements (n,) of a tensor as they lie in memory, contiguous or transposed.

    Raises:
        RuntimeError: there are gaps in memory.
    """
    if not tensor.is_contiguous():
        tensor = tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    if not tensor.is_contiguous():
        raise RuntimeError(
            "hashdl.optim: got a non-contiguous parameter; it is updated in place, wanted one "
            "that is contiguous, or transposed as a whole"
        )
    return tensor.view(-1)


def values_in_memory(grad: Tensor, parameter: Tensor) -> Tensor:
    """The elements (n,) of a dense gradient in the order of :func:`in_memory` of its parameter.

    Raises:
        RuntimeError: the parameter has 2^31 elements or more, or gaps in memory.
    """
    _check_places(parameter)
    if grad.stride() == parameter.stride():
        return in_memory(grad)
    in_memory(parameter)  # which has no gaps: a copy of its layout has none, either
    return in_memory(torch.empty_like(parameter).copy_(grad))


def entries_in_memory(grad: Tensor, parameter: Tensor) -> Tensor:
    """Where in :func:`in_memory` of the parameter the entries of its gradient stand: int32.

    Raises:
        RuntimeError: the parameter has 2^31 elements or more.
    """
    _check_places(parameter)
    if parameter.is_contiguous():
        return _places(grad).to(torch.int32)
    indices: Tensor = grad._indices()
    return (indices[1] * parameter.shape[0] + indices[0]).to(torch.int32)
