"""Layers whose buckets keep few rows, and tables that are as uneven as can be."""

from __future__ import annotations

import pytest
import torch
from module_helpers import ADVERSARIES, N, dense_grad, inputs, make_layer, masked_linear

import hashdl

KINDS = ["exact", "fifo", "reservoir"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("center", [True, False])
def test_adversarial_rows(name: str, kind: str, center: bool) -> None:
    """Outputs and gradients are those of the active rows; buckets hold no more than they may."""
    capacity = None if kind == "exact" else 7
    layer = make_layer(buckets=kind, capacity=capacity, center=center, cap=50)
    with torch.no_grad():
        ADVERSARIES[name](layer.weight)
        layer.bias.zero_()
    x = inputs(5).requires_grad_()
    rows, values = layer.sparse_forward(x)
    assert all((row >= 0).sum() == row[row >= 0].unique().numel() for row in rows)
    dense = masked_linear(layer, x, rows)
    wanted = dense.gather(1, rows.clamp_min(0).long()).masked_fill(rows < 0, 0)
    torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-4)
    values.sum().backward()
    counts = torch.bincount(rows[rows >= 0].long(), minlength=N).float()
    torch.testing.assert_close(dense_grad(layer.bias), counts)
    stats = layer.stats()
    assert stats["max_load"] <= (N if capacity is None else capacity)
    assert 0 < stats["kept"] <= 1
    assert 0 <= stats["empty"] < 1
    assert 0 <= stats["gini"] < 1
    assert (stats["kept"] == 1) == (kind == "exact" or stats["max_load"] < 7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_rows", [1, 2, 5, 21])
def test_few_rows(kind: str, n_rows: int) -> None:
    """N = 1; fewer rows than are active; hardly more."""
    layer = make_layer(out_features=n_rows, buckets=kind, bits=4)
    x = inputs(3)
    values, indices = layer.topk(x, n_rows)
    exact = torch.nn.functional.linear(x, layer.weight, layer.bias)
    found = indices >= 0
    torch.testing.assert_close(values[found], exact.gather(1, indices.clamp_min(0))[found])
    assert layer(x).shape == (3, n_rows)
    if layer.tables is None:
        assert torch.equal(layer(x), exact)


@pytest.mark.parametrize("kind", ["fifo", "reservoir"])
def test_one_bucket_that_holds_everything_takes_the_memory_of_its_capacity(kind: str) -> None:
    layer = make_layer(out_features=5000, buckets=kind, capacity=8, bits=3, tables=4, cap=50)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    stats = layer.stats()
    assert layer.tables.rows.shape == (4, 8 * 2**3)
    assert (stats["max_load"], stats["kept"], stats["empty"]) == (8, 8 / 5000, 7 / 8)
    assert stats["gini"] == pytest.approx(7 / 8)
    found = layer.active(inputs(2))
    assert ((found >= 0).sum(1) <= 32).all()


def test_fifo_forgets_the_same_rows_in_every_table_and_a_reservoir_others() -> None:
    missed = {}
    for kind in ("fifo", "reservoir"):
        layer = make_layer(buckets=kind, capacity=40, bits=1, tables=16)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        layer.rehash()
        held = layer.tables.rows[:, :40].unique()
        missed[kind] = N - held.numel()
    assert missed["fifo"] == N - 40
    assert missed["reservoir"] < 20  # .8^16 of 200 is 6


def test_a_capacity_is_as_large_as_what_a_look_up_reads_by_default() -> None:
    config = hashdl.HashConfig(buckets="fifo", cap=9)
    assert config.bucket_capacity == 9
    assert config.replace(capacity=3).bucket_capacity == 3
    assert hashdl.HashConfig().bucket_capacity is None


@pytest.mark.parametrize("kind", ["fifo", "reservoir"])
def test_tables_that_are_built_one_by_one_are_those_of_a_full_rehash(kind: str) -> None:
    """A cycle builds them one by one."""
    changes = {"buckets": kind, "capacity": 5, "center": False, "rehash_every": 3}
    layer, other = (make_layer(**changes) for _ in range(2))
    for step in range(4):
        layer(inputs(2, seed=step))
    assert layer.stats()["rehashes"] == 2
    other.rehash()
    for name in ("offsets", "rows"):
        assert torch.equal(getattr(layer.tables, name), getattr(other.tables, name))
