"""Hash functions that are trained on labels: what they find, and how long they stay."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hashdl import HashConfig, HashLinear
from hashdl.tables import HashTables

N, D = 400, 24
CONFIG = HashConfig(
    family="learned", bits=5, tables=6, probes=1, active=40, candidates=N, cap=N, balance=False
)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def new(bias: bool = True, **changes: object) -> HashLinear:
    layer = HashLinear(D, N, bias, config=CONFIG.replace(**changes))
    with torch.no_grad():
        layer.weight.copy_(randn(N, D, seed=0))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer.eval()


def task(layer: HashLinear, count: int = 600) -> tuple[Tensor, Tensor]:
    """The label is the row whose first coordinates are like the input's next ones."""
    x = randn(count, D, seed=1)
    return x, (x[:, 8:16] @ layer.weight[:, :8].t()).argmax(1).detach()


def found(layer: HashLinear, x: Tensor, labels: Tensor) -> float:
    """Share of the inputs among whose candidates the label is."""
    tables = tables_of(layer)
    tables.refresh(layer.weight, layer.bias, training=False)
    candidates = tables.lookup(x, has_bias=layer.bias is not None)
    return float((candidates == labels[:, None]).any(1).double().mean())


def tables_of(layer: HashLinear) -> HashTables:
    assert layer.tables is not None
    return layer.tables


@pytest.mark.parametrize(
    ("changes", "bias"),
    [({}, True), ({}, False), ({"balance": True}, True), ({"transform": "simple"}, True)],
    ids=str,
)
def test_more_labels_of_inputs_not_seen_are_found(changes: dict[str, object], bias: bool) -> None:
    layer = new(bias, **changes)
    x, labels = task(layer)
    before = found(layer, x[400:], labels[400:])
    layer.fit_codes(x[:400], labels[:400])
    assert found(layer, x[400:], labels[400:]) > 1.2 * before


def test_functions_stay_through_rehashes_and_training() -> None:
    layer = new(rehash_every=2, rehash_growth=1.0)
    x, labels = task(layer)
    layer.fit_codes(x, labels)
    functions = tables_of(layer).functions.clone()
    share = found(layer, x, labels)
    layer.rehash()
    assert found(layer, x, labels) == share
    optimizer = torch.optim.SGD(layer.train().parameters(), lr=1e-4)
    for _ in range(6):
        layer(x[:20]).square().mean().backward()
        optimizer.step()
    assert layer.stats()["rehashes"] >= 3
    assert torch.equal(tables_of(layer).functions, functions)
    layer.eval()(x[:1])
    assert torch.equal(tables_of(layer).functions, functions)
    layer.fit_codes(x, labels.roll(1))
    assert not torch.equal(tables_of(layer).functions, functions)


def test_functions_stay_in_copies_moves_histories_and_indices(tmp_path: Path) -> None:
    layer = new()
    x, labels = task(layer)
    layer.fit_codes(x, labels)
    functions, share = tables_of(layer).functions.clone(), found(layer, x, labels)
    history = tables_of(layer).history()
    layer.save_index(tmp_path / "index.pt")
    of_history, of_index = new(), new()
    tables_of(of_history).set_history(history)
    of_index.load_index(tmp_path / "index.pt")
    moved = copy.deepcopy(layer).double().float()
    for other in (copy.deepcopy(layer), moved, of_history, of_index):
        assert found(other, x, labels) == share
        assert torch.equal(tables_of(other).functions, functions)
    other.rehash()
    assert found(other, x, labels) == share


def test_several_labels_of_any_shape() -> None:
    layer, same = new(), new()
    x, labels = task(layer, 60)
    padded = torch.stack([torch.full_like(labels, -1), labels], 1).int()
    layer.fit_codes(x.reshape(6, 10, D), padded.reshape(6, 10, 2))
    same.fit_codes(x, labels)
    assert torch.equal(tables_of(layer).codes, tables_of(same).codes)


@pytest.mark.parametrize("family", ["simhash", "kmeans"])
def test_other_families_have_nothing_to_train(family: str) -> None:
    layer = new(family=family)
    with pytest.raises(ValueError, match=rf"family: got '{family}', wanted 'learned'"):
        layer.fit_codes(*task(layer))


def test_a_layer_without_tables_is_refused() -> None:
    layer = new(active=1.0)
    with pytest.raises(ValueError, match="fit_codes: the layer has no tables"):
        layer.fit_codes(*task(layer))


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(5),
        torch.zeros(4, dtype=torch.long),
        torch.zeros(5, 1, 1, dtype=torch.long),
        torch.full((5,), -2),
        torch.full((5,), N),
    ],
    ids=["floats", "few", "deep", "low", "high"],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor) -> None:
    layer = new()
    layer.rehash()
    before = [buffer.clone() for buffer in tables_of(layer).buffers()]
    with pytest.raises(RuntimeError, match=r"fit_codes: labels: got .* wanted "):
        layer.fit_codes(randn(5, D, seed=3), labels)
    for buffer, wanted in zip(tables_of(layer).buffers(), before, strict=True):
        assert torch.equal(buffer, wanted)
