"""Every hash family with every transform, on rows that make tables as uneven as can be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from module_helpers import ADVERSARIES, N, inputs, make_layer, masked_linear
from torch import Tensor

from hashdl import HashLinear
from hashdl.hashing import FAMILIES
from hashdl.hashing.transforms import TRANSFORMS

# Of the adversaries, and how many of their rows are distinct.
DISTINCT = {"all rows equal": 1, "zero rows": 1, "duplicated": 4, "huge": N}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def assert_is_of_dense(layer: HashLinear, x: Tensor, values: Tensor, rows: Tensor) -> None:
    """Finite, and the dense outputs at these rows (B, k), each of which is there once."""
    found = rows >= 0
    assert values[found].isfinite().all()
    dense = F.linear(x, layer.weight, layer.bias).gather(1, rows.clamp_min(0).long())
    torch.testing.assert_close(values[found], dense[found], **CLOSE)
    assert all(row[row >= 0].unique().numel() == (row >= 0).sum() for row in rows)


@pytest.mark.parametrize("adversary", DISTINCT)
@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_the_rows_found(
    family: str, transform: str | None, adversary: str
) -> None:
    layer = make_layer(family=family, transform=transform, cap=50)
    with torch.no_grad():
        ADVERSARIES[adversary](layer.weight)
        layer.bias.zero_()
    x = inputs(5)
    rows, values = layer.sparse_forward(x)
    assert rows.shape == (5, 20)
    assert_is_of_dense(layer, x, values, rows)
    layer.eval()
    torch.testing.assert_close(layer(x), masked_linear(layer, x, layer.active(x)), **CLOSE)
    best, indices = layer.topk(x, 7)
    assert_is_of_dense(layer, x, best, indices)
    assert (best[indices < 0] == -torch.inf).all()
    assert (best[:, 1:] <= best[:, :-1]).all()
    assert_sensible_statistics(layer, DISTINCT[adversary])


def assert_sensible_statistics(layer: HashLinear, distinct: int) -> None:
    """And tables that hold each row once, in memory that does not depend on what rows are."""
    stats, tables = layer.stats(), layer.tables
    assert tables is not None
    L = stats["tables"]
    assert tables.offsets[:, -1].tolist() == [N] * L
    assert all(torch.equal(table.unique(), torch.arange(N).int()) for table in tables.rows)
    # Equal rows share their buckets.
    assert N / distinct <= stats["max_load"] <= N
    assert 1 - distinct / 2 ** stats["bits"] <= stats["empty"] < 1
    assert stats["kept"] == 1
    assert 0 <= stats["gini"] < 1
    # A row id and a code a table and row are 8 bytes. The rest, functions above all, does not grow
    # with the rows; with as few as here it is at most twice as much.
    assert 8 * L * N < tables.nbytes < 25 * L * N
