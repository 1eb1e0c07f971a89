"""Centring: hash w - mean(W) instead of w.

It shifts all logits of a query by one constant, so their order stays; and the rows, which often
share a large common direction, spread over more buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_mean(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Mean of the rows (w, b): float32 (d + 1,)."""
    mean = weight.mean(dim=0, dtype=torch.float32)
    if bias is None:
        return torch.cat([mean, mean.new_zeros(1)])
    # bias.mean() adds each thread's part: the last digit would depend on the number of threads.
    total = bias.cumsum(0, dtype=torch.float64)[-1:]
    return torch.cat([mean, (total / bias.shape[0]).to(mean.dtype)])
