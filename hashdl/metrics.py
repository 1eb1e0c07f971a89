"""How good a hashed layer's retrieval is, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hashdl.nn import HashLinear
from hashdl.selection import rows_read

# Inputs whose N exact outputs are held at once.
_CHUNK = 256


@dataclass(frozen=True)
class RecallReport:
    """What :func:`recall` measured.

    Attributes:
        recall: mean share of the true top k that :meth:`HashLinear.topk` returned, 0 to 1.
        touched: mean share of all rows whose weights were read, 0 to 1.
        candidates: mean number of rows an input whose weights were read.
    """

    recall: float
    touched: float
    candidates: float


@torch.no_grad()
def recall(layer: HashLinear, inputs: Tensor, k: int = 10) -> RecallReport:
    r"""Recall at k of a layer's tables against the exact outputs.

    .. math::
        \text{recall} = \frac{1}{B} \sum_b \frac{|\text{topk}(x_b) \cap \text{exact}_b|}{k}

    Args:
        layer: a hashed layer.
        inputs: what it is asked, (\*, d).
        k: how many of the largest outputs count.

    Examples:
        >>> layer = HashLinear(8, 100)
        >>> 0 <= recall(layer, torch.randn(4, 8), k=5).recall <= 1
        True
    """
    x = inputs.reshape(-1, layer.in_features)
    hits, candidates = 0.0, 0.0
    for chunk in x.split(_CHUNK):
        exact = F.linear(chunk, layer.weight, layer.bias).topk(k).indices
        found = layer.topk(chunk, k)[1]
        hits += float((found.unsqueeze(2) == exact.unsqueeze(1)).any(2).sum())
        if layer.tables is None:
            candidates += chunk.shape[0] * layer.out_features
        else:
            has_bias = layer.bias is not None
            candidates += float(rows_read(layer.tables, chunk, k, has_bias=has_bias).sum())
    B = max(x.shape[0], 1)
    mean = candidates / B
    return RecallReport(hits / (B * k), mean / layer.out_features, mean)


def precision_at(top: Tensor, targets: Tensor, k: int) -> Tensor:
    """P@k of each sample: the share of its k best classes that are labels.

    Args:
        top: int (B, k or more), the best classes, best first, padded with -1.
        targets: int (B,), or (B, M) padded with -1.
        k: how many count.

    Returns:
        float32 (B,).

    Examples:
        >>> precision_at(torch.tensor([[3, 1]]), torch.tensor([[1, 7]]), 2)
        tensor([0.5000])
    """
    labels = targets if targets.dim() == 2 else targets.unsqueeze(1)
    best = top[:, :k].unsqueeze(2)
    is_label = ((best == labels.unsqueeze(1)) & (best >= 0)).any(2)  # padding is no hit
    return is_label.sum(1).float() / k
