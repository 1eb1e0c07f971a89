"""Sparse gradients as distinct rows, or as distinct entries."""

from __future__ import annotations

import torch
from torch import Tensor


def coalesced(grad: Tensor) -> Tensor:
    """The gradient with distinct, ascending rows, or entries of a 2-d parameter.

    Autograd drops the coalesced flag as it accumulates; sorting again costs as much as the
    optimizer's own work, and looking whether the rows ascend costs nothing.

    Raises:
        RuntimeError: the gradient is neither one of rows nor one of a 2-d parameter's entries.
    """
    if grad.sparse_dim() != 1 and not (grad.sparse_dim() == grad.dim() == 2):
        raise RuntimeError(
            f"hashdl.optim: got a gradient with {grad.sparse_dim()} sparse dimensions of "
            f"{grad.dim()}, wanted 1 (whole rows), or 2 of 2 (entries of a matrix)"
        )
    if grad.is_coalesced():
        return grad
    places = _places(grad)
    if bool((places[1:] > places[:-1]).all()):
        return grad._coalesced_(True)
    return grad.coalesce()


def _places(grad: Tensor) -> Tensor:
    """Where the values stand, as numbers that ascend in the order of a coalesced gradient."""
    indices: Tensor = grad._indices()
    return indices[0] if grad.sparse_dim() == 1 else indices[0] * grad.shape[1] + indices[1]


def in_memory(tensor: Tensor) -> Tensor:
    """All elements (n,) of a matrix as they lie in memory, contiguous or transposed.

    Raises:
        RuntimeError: there are gaps in memory.
    """
    rows = tensor if tensor.is_contiguous() else tensor.t()
    if not rows.is_contiguous():
        raise RuntimeError(
            "hashdl.optim: got a non-contiguous parameter; it is updated in place, wanted one "
            "that is contiguous, or transposed as a whole"
        )
    return rows.view(-1)


def entries_in_memory(grad: Tensor, parameter: Tensor) -> Tensor:
    """Where in :func:`in_memory` of the parameter the entries of its gradient stand: int32.

    Raises:
        RuntimeError: the parameter has 2^31 elements or more.
    """
    if parameter.numel() >= 2**31:
        raise RuntimeError(
            f"hashdl.optim: got a gradient of entries for a parameter of {parameter.numel()} "
            "elements, wanted fewer than 2^31"
        )
    if parameter.is_contiguous():
        return _places(grad).to(torch.int32)
    indices: Tensor = grad._indices()
    return (indices[1] * parameter.shape[0] + indices[0]).to(torch.int32)
