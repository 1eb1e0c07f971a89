"""Output layers under one interface: the hashed one, and what a user would pick instead.

Dense as torch has it, with its fused Adam; sampled softmax as one matrix product over gathered
rows, by the library that the hashed one takes, with a row optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl.config import HashConfig
from hashdl.costs import hashing_work
from hashdl.huge_pages import prefer_huge_pages
from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.products import linear
from hashdl.profiling import part
from hashdl.selection import rows_read

# Samples whose N logits are held at once in evaluation.
_CHUNK = 512


class Head(nn.Module):
    """An output layer over N classes with a training loss and exact ranking.

    Args:
        features: d, size of its input.
        n_classes: N.
    """

    def __init__(self, features: int, n_classes: int) -> None:
        super().__init__()
        self.features, self.n_classes = features, n_classes

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Training loss; hidden (B, d), targets (B,) or (B, M) padded with -1."""
        raise NotImplementedError

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows (N, d) and biases (N,)."""
        raise NotImplementedError

    def multiplications(self, batch_size: int) -> float:
        """Multiplications a sample of one training step in this layer, forward and backward."""
        raise NotImplementedError

    def rows_read(self, hidden: Tensor, targets: Tensor) -> float:
        """Mean number of rows that a sample of a training step reads."""
        raise NotImplementedError

    @torch.no_grad()
    def topk(self, hidden: Tensor, k: int) -> Tensor:
        """The k classes with the largest logits, exactly: int64 (B, k)."""
        weight, bias = self.rows()
        best = [F.linear(chunk, weight, bias).topk(k).indices for chunk in hidden.split(_CHUNK)]
        return torch.cat(best)


def _spread_over_labels(log_prob: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean log probability of a sample's labels, averaged over samples with labels."""
    present = targets >= 0
    chosen = log_prob.gather(1, targets.clamp_min(0)).masked_fill(~present, 0)
    counts = present.sum(1)
    return -(chosen.sum(1) / counts.clamp_min(1)).sum() / (counts > 0).sum().clamp_min(1)


class DenseHead(Head):
    """All N logits and F.cross_entropy."""

    def __init__(self, features: int, n_classes: int) -> None:
        super().__init__(features, n_classes)
        self.linear = nn.Linear(features, n_classes)

    def logits(self, hidden: Tensor) -> Tensor:
        """All outputs, (B, N)."""
        outputs: Tensor = self.linear(hidden)
        return outputs

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over all classes."""
        with part("forward"):
            logits = self.logits(hidden)
        with part("loss"):
            if targets.dim() == 1:
                return F.cross_entropy(logits, targets)
            return _spread_over_labels(logits.log_softmax(1), targets)

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows and biases."""
        return self.linear.weight, self.linear.bias

    def multiplications(self, batch_size: int) -> float:
        """N d forward, and again for each of the two gradients."""
        return 3.0 * self.n_classes * self.features

    def rows_read(self, hidden: Tensor, targets: Tensor) -> float:
        """All of them."""
        return float(self.n_classes)


class SampledHead(Head):
    """Sampled softmax: uniform negatives shared by the batch, and the batch's labels.

    Args:
        features: d.
        n_classes: N.
        negatives: uniform draws a step.
        log_q: how many times the log of a negative's probability of being drawn is subtracted from
            its logit: 1 makes the sum under the softmax an unbiased estimate. Default: 0.
    """

    def __init__(
        self, features: int, n_classes: int, negatives: int = 1000, log_q: float = 0.0
    ) -> None:
        super().__init__(features, n_classes)
        self.negatives, self.log_q = negatives, log_q
        initial = nn.Linear(features, n_classes)
        self.weight = nn.Parameter(prefer_huge_pages(initial.weight.detach(), now=True))
        self.bias = nn.Parameter(initial.bias.detach().unsqueeze(1))

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the drawn classes and the batch's labels."""
        with part("select"):
            drawn = torch.randint(self.n_classes, (self.negatives,))
            labels = targets[targets >= 0]
            # Ascending and distinct: the gradient needs no second sort.
            classes = torch.cat([labels, drawn]).unique()
            places = torch.searchsorted(classes, targets)
            places = torch.where(targets >= 0, places, -1)
        with part("forward"):
            weight = F.embedding(classes, self.weight, sparse=True)
            bias = F.embedding(classes, self.bias, sparse=True)
            logits = linear(hidden, weight, bias.squeeze(1))
        with part("loss"):
            if self.log_q:
                log_q = self.log_q * math.log(self._inclusion())
                correction = torch.full_like(bias.squeeze(1), log_q)
                correction[places[places >= 0]] = 0
                logits = logits - correction
            if places.dim() == 1:
                return F.cross_entropy(logits, places)
            return _spread_over_labels(logits.log_softmax(1), places)

    def _inclusion(self) -> float:
        """Probability that a class is drawn in a step."""
        return -math.expm1(self.negatives * math.log1p(-1 / self.n_classes))

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows and biases."""
        return self.weight, self.bias.squeeze(1)

    def multiplications(self, batch_size: int) -> float:
        """Negatives and labels, forward and two gradients."""
        return 3.0 * (self.negatives + batch_size) * self.features

    def rows_read(self, hidden: Tensor, targets: Tensor) -> float:
        """The draws and the batch's labels."""
        return float(self.negatives + targets[targets >= 0].unique().numel())


class HashedHead(Head):
    """:class:`HashSoftmaxWithLoss`.

    Args:
        features: d.
        n_classes: N.
        config: how to hash.
    """

    def __init__(self, features: int, n_classes: int, config: HashConfig) -> None:
        super().__init__(features, n_classes)
        self.softmax = HashSoftmaxWithLoss(features, n_classes, config=config)

    @property
    def linear(self) -> HashLinear:
        """The hashed rows."""
        return self.softmax.linear

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the active sets."""
        loss: Tensor = self.softmax(hidden, targets).loss
        return loss

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows and biases."""
        return self.linear.weight, self.linear.bias

    def multiplications(self, batch_size: int) -> float:
        """Hashing, ranking, active and shared rows; rehashing spread over its interval.

        An upper bound: every sample is taken to find all its candidates.
        """
        config, sizes = self.linear.config, self.linear.config.sizes(self.n_classes)
        if self.linear.tables is None:
            return 3.0 * self.n_classes * self.features
        hashing = hashing_work(config, self.n_classes, self.features)
        ranking = sizes.C * self.features if config.selection == "exact" else 0
        interval = config.rehash_interval(self.n_classes)
        rehash = self.n_classes * hashing / (interval * batch_size)
        return hashing + ranking + 3.0 * (sizes.A + config.shared + 1) * self.features + rehash

    def rows_read(self, hidden: Tensor, targets: Tensor) -> float:
        """Candidates found, random and shared rows, labels."""
        tables, config = self.linear.tables, self.linear.config
        if tables is None:
            return float(self.n_classes)
        best = tables.sizes.A - tables.sizes.R
        read = rows_read(tables, hidden, best, has_bias=self.linear.bias is not None)
        found = float(read.float().mean())
        labels = float((targets >= 0).sum()) / max(len(targets), 1)
        return found + tables.sizes.R + config.shared + labels


HeadFactory = Callable[[int, int], Head]


def head_factory(kind: str, config: HashConfig, negatives: int = 1000) -> HeadFactory:
    """What makes a head of a kind: ``"hashed"``, ``"dense"`` or ``"sampled"``.

    Args:
        kind: which.
        config: how to hash, for ``"hashed"``.
        negatives: draws a step, for ``"sampled"``.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "dense":
        return DenseHead
    if kind == "sampled":
        return lambda features, n_classes: SampledHead(features, n_classes, negatives)
    if kind == "hashed":
        return lambda features, n_classes: HashedHead(features, n_classes, config)
    raise ValueError(f"head: got {kind!r}, wanted 'hashed', 'dense' or 'sampled'")
