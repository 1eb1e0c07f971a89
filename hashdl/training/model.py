"""The small model in front of a huge output layer: sparse features, one hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hashdl.data import Batch
from hashdl.profiling import part
from hashdl.training.heads import HeadFactory


class SparseClassifier(nn.Module):
    r"""Embedding bag, ReLU, output layer.

    The hidden activation is :math:`h = \text{relu}(\sum_j v_j E_j + c)` over a sample's features j;
    features without values get :math:`v_j = 1 / \sqrt{n}`, n being their number in the sample.

    Args:
        n_features: number of features.
        hidden: d, width of the hidden layer.
        n_classes: N.
        make_head: ``make_head(d, N)``.
        seed: of the initial weights.
        init_std: standard deviation of the initial embedding.

    Examples:
        >>> from hashdl.training.heads import DenseHead
        >>> model = SparseClassifier(10, 4, 3, DenseHead)
        >>> batch = Batch(torch.tensor([0, 7]), torch.tensor([0, 1]), None, torch.tensor([2, 0]))
        >>> model.loss(batch).dim()
        0
    """

    def __init__(
        self,
        n_features: int,
        hidden: int,
        n_classes: int,
        make_head: HeadFactory,
        seed: int = 0,
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.EmbeddingBag(n_features, hidden, mode="sum", sparse=True)
            nn.init.normal_(self.embedding.weight, std=init_std)
            self.bias = nn.Parameter(torch.zeros(hidden))
            self.head = make_head(hidden, n_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden activations (B, d)."""
        weights = batch.weights
        if weights is None:
            ends = torch.cat([batch.offsets[1:], batch.offsets.new_tensor([len(batch.indices)])])
            counts = ends - batch.offsets
            weights = counts.clamp_min(1).rsqrt().repeat_interleave(counts)
        with part("hidden"):
            bag: Tensor = self.embedding(batch.indices, batch.offsets, weights)
            return (bag + self.bias).relu()

    def loss(self, batch: Batch) -> Tensor:
        """Training loss of a batch."""
        loss: Tensor = self.head.loss(self(batch), batch.targets)
        return loss

    @torch.no_grad()
    def topk(self, batch: Batch, k: int) -> Tensor:
        """The k best classes of each sample, exactly: int64 (B, k)."""
        best: Tensor = self.head.topk(self(batch), k)
        return best
