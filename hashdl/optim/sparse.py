"""Sparse gradients as distinct rows."""

from __future__ import annotations

from torch import Tensor


def coalesced(grad: Tensor) -> Tensor:
    """The gradient with distinct, ascending rows.

    Autograd drops the coalesced flag as it accumulates; sorting again costs as much as the
    optimizer's own work, and looking whether the rows ascend costs nothing.

    Raises:
        RuntimeError: the gradient is sparse in more than rows.
    """
    if grad.sparse_dim() != 1:
        raise RuntimeError(
            f"hashdl.optim: got a gradient with {grad.sparse_dim()} sparse dimensions, wanted 1 "
            "(whole rows)"
        )
    rows = grad._indices()[0]
    if not grad.is_coalesced() and bool((rows[1:] > rows[:-1]).all()):
        return grad._coalesced_(True)
    return grad.coalesce()
