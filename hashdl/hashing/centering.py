"""Centring: hash w - mean(W) instead of w.

It shifts all logits of a query by one constant, so their order stays; and the rows, which often
share a large common direction, spread over more buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_mean(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Mean of the rows (w, b): float32 (d + 1,)."""
    mean_bias = weight.new_zeros(()) if bias is None else bias.mean(dtype=torch.float32)
    mean = weight.mean(dim=0, dtype=torch.float32)
    return torch.cat([mean, mean_bias.to(mean.dtype).reshape(1)])
