"""Held-out accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hashdl.data import SparseDataset
from hashdl.metrics import precision_at
from hashdl.training.model import SparseClassifier

_BATCH = 1024


@torch.no_grad()
def ranked(
    model: SparseClassifier, dataset: SparseDataset, k: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The k best classes (B, k) of all samples, exactly, and their labels (B, M), by batches.

    Args:
        model: the model; its mode is kept.
        dataset: held-out samples.
        k: how many.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in dataset.batches(_BATCH, shuffle_seed=None):
            yield model.topk(batch, k), batch.targets.reshape(len(batch), -1)
    finally:
        model.train(was_training)


def evaluate(
    model: SparseClassifier, dataset: SparseDataset, ks: Sequence[int] = (1, 3, 5)
) -> dict[str, float]:
    """Accuracy over all classes, exactly ranked.

    Args:
        model: the model; its mode is kept.
        dataset: held-out samples.
        ks: for each k, P@k (several labels a sample) or top-k accuracy (one label a sample).

    Returns:
        ``{"p1": …, "p3": …}`` for several labels, ``{"top1": …}`` for one; of samples with labels.
    """
    deepest = min(max(ks), dataset.n_labels)
    sums = dict.fromkeys(ks, 0.0)
    count = 0
    for top, targets in ranked(model, dataset, deepest):
        labelled = (targets >= 0).any(1)
        count += int(labelled.sum())
        for k in ks:
            precision = precision_at(top, targets, k)[labelled]
            # With one label, "in the top k" is k times the precision at k.
            sums[k] += float(precision.sum()) * (k if dataset.single_label else 1)
    name = "top" if dataset.single_label else "p"
    return {f"{name}{k}": total / max(count, 1) for k, total in sums.items()}
