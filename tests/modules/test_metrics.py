"""Recall and precision against naive counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from module_helpers import D, N, inputs, make_layer
from torch import Tensor, nn

from hashdl import HashSoftmaxWithLoss
from hashdl.metrics import active, precision_at, recall


@pytest.mark.parametrize("shape", [(7,), (2, 3), (300,)])
@pytest.mark.parametrize("k", [1, 10])
def test_recall_counts_the_true_best_that_topk_found(shape: tuple[int, ...], k: int) -> None:
    layer = make_layer(tables=2, bits=5).eval()
    x = inputs(*shape)
    flat = x.reshape(-1, D)
    exact = F.linear(flat, layer.weight, layer.bias).topk(k).indices
    found, candidates = layer.topk(flat, k)[1], layer.topk(flat, N)[1] >= 0
    shares = [len(set(a.tolist()) & set(b.tolist())) / k for a, b in zip(found, exact, strict=True)]
    report = recall(layer, x, k)
    assert report.recall == pytest.approx(sum(shares) / len(shares))
    assert 0 < report.recall < 1
    mean = candidates.sum(1).float().mean().item()
    assert report.candidates == pytest.approx(mean, rel=1e-5)
    assert report.touched == pytest.approx(mean / N, rel=1e-5)


def test_recall_of_an_exact_layer_is_one() -> None:
    report = recall(make_layer(active=1.0), inputs(5), 10)
    assert (report.recall, report.touched, report.candidates) == (1, 1, N)


@pytest.mark.parametrize("k", [1, 20, 45])
def test_with_sketches_only_the_active_or_k_rows_are_read(k: int) -> None:
    layer = make_layer(selection="sketch")
    x = inputs(30)
    layer.rehash()
    assert (layer.tables.lookup(x) >= 0).sum(1).min() > 45
    report = recall(layer, x, k)
    assert report.candidates == max(20, k)
    assert 0 < report.recall < 1
    values, rows = layer.topk(x, k)
    assert (rows >= 0).all()
    exact = F.linear(x, layer.weight, layer.bias).gather(1, rows)
    torch.testing.assert_close(values, exact)
    assert (values.diff(dim=1) <= 0).all()


def test_more_probes_find_more() -> None:
    few, many = (recall(make_layer(tables=2, bits=5, probes=p), inputs(20), 10) for p in (1, 16))
    assert many.recall > few.recall
    assert many.touched > few.touched


@pytest.mark.parametrize("measure", [recall, active])
def test_a_head_is_measured_by_its_layer(measure: Any) -> None:
    head, x = HashSoftmaxWithLoss(D, N).eval(), inputs(20)
    assert measure(head, x, k=5) == measure(head.linear, x, k=5)


@pytest.mark.parametrize("measure", [recall, active])
def test_what_cannot_be_measured_is_refused(measure: Any) -> None:
    name = f"hashdl.metrics.{measure.__name__}"
    with pytest.raises(TypeError, match=f"{name}: layer: got Linear, wanted a HashLinear"):
        measure(nn.Linear(D, N), inputs(2))
    for k in (0, N + 1, 1.5):
        with pytest.raises(ValueError, match=f"{name}: k: got {k}, wanted 1 to out_features"):
            measure(make_layer(), inputs(2), k=k)
    with pytest.raises(RuntimeError, match=r"input: got shape \(2, 13\)"):
        measure(make_layer(), torch.zeros(2, D + 1), k=5)


@pytest.mark.parametrize(
    ("top", "targets", "k", "wanted"),
    [
        ([[3, 1], [4, 5]], [1, 4], 1, [0, 1]),
        ([[3, 1], [4, 5]], [1, 4], 2, [0.5, 0.5]),
        ([[3, 1, 2]], [[2, 3, -1]], 3, [2 / 3]),
        ([[3, 1, 2]], [[2, 3, -1]], 1, [1]),
        ([[3, -1, -1]], [[2, 3, -1]], 3, [1 / 3]),
        ([[-1, -1]], [[-1, -1]], 2, [0]),
    ],
)
def test_precision_counts_labels_and_no_padding(
    top: list[list[int]], targets: list[int], k: int, wanted: list[float]
) -> None:
    got: Tensor = precision_at(torch.tensor(top), torch.tensor(targets), k)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float32))
