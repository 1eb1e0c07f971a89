"""refresh_tables_: what a refresh leaves in the buffers, and when it leaves them alone."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing import FAMILIES, centering

BUFFERS = ("planes", "center", "codes", "offsets", "rows", "dirty", "step", "state")


def refresh(given: dict[str, Any]) -> None:
    torch.ops.hashdl.refresh_tables_(*given.values())


def snapshot(given: dict[str, Any], names: tuple[str, ...] = BUFFERS) -> list[Tensor]:
    return [given[name].clone() for name in names]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_first_refresh_hashes_every_row(training: bool, bias: bool) -> None:
    given = samples.sample_dict("refresh_tables_", bias=bias, training=training)
    refresh(given)
    weight, some_bias, bits = given["weight"], given["bias"], given["bits"]
    family = FAMILIES[given["family"]]
    planes = family.make_planes(weight.shape[1], given["planes"].shape[1], given["seed"])
    if not bias:
        planes[-1] = 0
    center = centering.row_mean(weight, some_bias)
    codes = ops.pack_signs(family.project_rows(weight, some_bias, center, planes), bits)
    assert torch.equal(given["planes"].view(torch.float32), planes)
    assert torch.equal(given["center"].view(torch.float32), center)
    assert torch.equal(given["codes"], codes)
    expected = list(ops.build_tables(codes, bits))
    samples.assert_same_bits([given["offsets"], given["rows"]], expected)
    assert int(given["step"]) == int(training)


def test_without_centring_rows_are_hashed_as_they_are() -> None:
    given = samples.sample_dict("refresh_tables_") | {"center_rows": False}
    refresh(given)
    assert given["center"].eq(0).all()


def test_training_rehashes_dirty_rows_alone_and_only_when_due() -> None:
    given = samples.sample_dict("refresh_tables_") | {"every": 3, "growth": 1.0}
    refresh(given)
    given["weight"].neg_()
    given["dirty"][4] = 1
    before = given["codes"].clone()
    for _ in (1, 2):
        refresh(given)
        assert torch.equal(given["codes"], before)
    refresh(given)  # step 3
    changed = (given["codes"] != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [4]
    assert given["dirty"].eq(0).all()
    assert int(given["step"]) == 4
    expected = list(ops.build_tables(given["codes"], given["bits"]))
    samples.assert_same_bits([given["offsets"], given["rows"]], expected)


@pytest.mark.parametrize("update", ["torch", "row optimizer"])
def test_evaluation_sees_that_the_weight_has_changed(update: str) -> None:
    given = samples.sample_dict("refresh_tables_", training=False)
    refresh(given)
    before = snapshot(given)
    refresh(given)
    samples.assert_same_bits(snapshot(given), before)  # nothing to do
    weight = given["weight"]
    if update == "torch":
        weight.neg_()
    else:
        every = torch.arange(weight.shape[0]).int()
        ops.sgd_rows_(weight, None, every, weight.clone(), lr=2.0)
    refresh(given)
    again = samples.sample_dict("refresh_tables_", training=False) | {"weight": weight}
    refresh(again)
    assert not torch.equal(given["codes"], before[BUFFERS.index("codes")])
    assert torch.equal(given["codes"], again["codes"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_leaves_the_tables_as_they_are(value: float) -> None:
    given = samples.sample_dict("refresh_tables_", training=False)
    refresh(given)
    tables = tuple(name for name in BUFFERS if name != "center")
    before, good = snapshot(given, tables), given["weight"].clone()
    given["weight"][3, 1] = value
    with pytest.raises(RuntimeError, match=r"hashdl.*got NaN"):
        refresh(given)
    samples.assert_same_bits(snapshot(given, tables), before)
    given["weight"].copy_(good)
    refresh(given)
    codes = BUFFERS.index("codes") - 1
    assert torch.equal(given["codes"], before[codes])
