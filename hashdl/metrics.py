"""How good a hashed layer's retrieval is, and what it costs."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.selection import rows_read, select_active

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


def _hashed(layer: object, k: int, function: str) -> HashLinear:
    """The layer itself, or that of a head, if k of its outputs can count."""
    linear = layer.linear if isinstance(layer, HashSoftmaxWithLoss) else layer
    if not isinstance(linear, HashLinear):
        got, wanted = type(layer).__name__, "wanted a HashLinear or HashSoftmaxWithLoss"
        raise TypeError(f"hashdl.metrics.{function}: layer: got {got}, {wanted}")
    N = linear.out_features
    if not hasattr(k, "__index__") or not 1 <= k <= N:
        wanted = f"wanted 1 to out_features = {N}"
        raise ValueError(f"hashdl.metrics.{function}: k: got {k!r}, {wanted}")
    return linear


@torch.no_grad()
def recall(layer: HashLinear | HashSoftmaxWithLoss, inputs: Tensor, k: int = 10) -> RecallReport:
    r"""Recall at k of a layer's tables against the exact outputs.

    .. math::
        \text{recall} = \frac{1}{B} \sum_b \frac{|\text{topk}(x_b) \cap \text{exact}_b|}{k}

    Args:
        layer: a hashed layer, or a head.
        inputs: what it is asked, (\*, d).
        k: how many of the largest outputs count.

    Raises:
        TypeError: ``layer`` is neither.
        ValueError: ``k`` is not of 1 to N.

    Examples:
        >>> layer = HashLinear(8, 100)
        >>> 0 <= recall(layer, torch.randn(4, 8), k=5).recall <= 1
        True
    """
    layer = _hashed(layer, k, "recall")
    x = layer._flat(inputs)
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


@dataclass(frozen=True)
class ActiveReport:
    """What :func:`active` measured.

    Attributes:
        recall: mean share of the true top k that are active, 0 to 1.
        gradient: mean share of the length of the gradient with respect to the outputs, those of
            the labels aside, that the active rows hold, 0 to 1.
    """

    recall: float
    gradient: float


@torch.no_grad()
def active(
    layer: HashLinear | HashSoftmaxWithLoss,
    inputs: Tensor,
    labels: Tensor | None = None,
    k: int = 10,
) -> ActiveReport:
    r"""What the active sets of a training step hold, of all rows, for a softmax over them.

    .. math::
        \text{gradient} = \frac{1}{B} \sum_b \left( \frac{\sum_{i \text{ active}} p_{bi}^2}
        {\sum_i p_{bi}^2} \right)^{1/2}, \qquad p_b = \text{softmax}(W x_b + c)

    over rows i that are no label of sample b. The tables are met as the next step of training
    would meet them, random rows among the active ones; they are not changed.

    Args:
        layer: a hashed layer, or a head.
        inputs: what it is given, (\*, d).
        labels: int (\*) or (\*, M), padded with -1. Default: none.
        k: how many of the largest outputs count.

    Raises:
        TypeError: ``layer`` is neither.
        ValueError: ``k`` is not of 1 to N.

    Examples:
        >>> layer = HashLinear(8, 100)
        >>> 0 <= active(layer, torch.randn(4, 8)).gradient <= 1
        True
    """
    layer = _hashed(layer, k, "active")
    x = layer._flat(inputs)
    if labels is None:
        labels = torch.full((len(x), 1), -1, device=x.device)
    of_x = labels.reshape(len(x), -1)
    tables = copy.deepcopy(layer.tables)
    shares = []
    for chunk, wanted in zip(x.split(_CHUNK), of_x.split(_CHUNK), strict=True):
        z = F.linear(chunk, layer.weight, layer.bias).float()
        held = torch.ones_like(z, dtype=torch.bool)
        if tables is not None:
            rows, _ = select_active(tables, chunk, layer.weight, layer.bias, training=True)
            held = _named(rows, z.shape[1])
        squares = z.softmax(1).square().masked_fill(_named(wanted, z.shape[1]), 0)
        length = (squares * held).sum(1) / squares.sum(1).clamp_min(torch.finfo(z.dtype).tiny)
        best = z.topk(k).indices
        shares.append(torch.stack([held.gather(1, best).float().mean(1), length.sqrt()]))
    found = torch.cat(shares, 1).mean(1).tolist() if shares else [0.0, 0.0]
    return ActiveReport(*found)


def _named(ids: Tensor, n_rows: int) -> Tensor:
    """Which rows (B, N) ids (B, M) name; -1 = none."""
    named = torch.zeros(ids.shape[0], n_rows + 1, dtype=torch.bool, device=ids.device)
    return named.scatter_(1, torch.where(ids < 0, n_rows, ids).long(), True)[:, :n_rows]


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
