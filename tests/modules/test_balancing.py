"""Layers that balance: what they find, and how they learn of their queries."""

from __future__ import annotations

import pytest
import torch
from module_helpers import D, N, assert_same_history, inputs, is_balanced, make_layer
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear
from hashdl.metrics import recall


def uneven_layer(
    *, balance: bool, bias: bool, scale: float = 1.0, leading: float = 1.0
) -> tuple[HashLinear, Tensor]:
    """Rows that vary most where queries vary least, and 256 queries.

    ``leading``: how much more inner products owe to one of the directions than to the others.
    """
    d, n_rows = 24, 2000
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    axes = torch.logspace(0.7, -0.7, d)
    of_rows = axes.clone()
    of_rows[d // 2] *= leading
    config = HashConfig(active=100, tables=8, bits=7, probes=1, candidates=n_rows, balance=balance)
    layer = HashLinear(d, n_rows, bias, config=config).eval()
    with torch.no_grad():
        layer.weight.copy_(scale * (torch.randn(n_rows, d, generator=generator) * of_rows) @ turn)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer, (torch.randn(256, d, generator=generator) / axes) @ turn


@pytest.mark.parametrize("bias", [True, False])
def test_balanced_layers_find_more_of_what_queries_look_for(bias: bool) -> None:
    reports = []
    for balance in (False, True):
        layer, queries = uneven_layer(balance=balance, bias=bias)
        for batch in queries[:192].split(48):
            layer(batch)
        assert is_balanced(layer) == balance
        reports.append(recall(layer, queries[192:]))
    plain, balanced = reports
    assert balanced.recall > 2 * plain.recall
    assert balanced.recall / balanced.touched > 2 * plain.recall / plain.touched


def test_a_layer_without_bias_is_balanced_like_one_whose_biases_are_zero() -> None:
    """No direction is lost with the one that biases would take."""
    found = {}
    for bias in (True, False):
        layer, queries = uneven_layer(balance=True, bias=bias, leading=10.0)
        layer(queries[:48])
        found[bias] = recall(layer, queries[192:]).recall
    assert found[False] > 0.9 * found[True]


@pytest.mark.parametrize("selection", ["exact", "sketch"])
def test_evaluation_calibrates_until_enough_queries_were_seen(selection: str) -> None:
    layer = make_layer(balance=True, selection=selection).eval()
    layer(inputs(8))
    assert not is_balanced(layer)
    layer.topk(inputs(8, seed=2), 3)
    assert is_balanced(layer)
    before = {name: buffer.clone() for name, buffer in layer.tables.named_buffers()}
    x = inputs(4, seed=3)
    wanted = layer(x)
    for other in (100 * inputs(80), inputs(0), torch.zeros(40, D)):
        layer(other)
        layer.topk(other, 3)
        layer.active(other)
    for name, buffer in layer.tables.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert torch.equal(layer(x), wanted)


def test_the_next_step_after_enough_queries_is_balanced() -> None:
    layer = make_layer(balance=True, rehash_every=1000)
    for seed, wanted in enumerate([False, False, True]):
        layer(inputs(5, seed=seed))
        assert is_balanced(layer) == wanted
    assert layer.stats()["rehashes"] == 1


@pytest.mark.parametrize(("features", "balance"), [(1024, True), (1025, False)])
def test_wide_layers_are_not_balanced_unless_asked(features: int, balance: bool) -> None:
    for asked in (None, True, False):
        layer = HashLinear(features, 60, config=HashConfig(active=5, bits=2, balance=asked))
        wanted = balance if asked is None else asked
        assert (layer.tables.moment.numel() > 0) == wanted


def test_queries_that_are_refused_are_not_learnt_from() -> None:
    layer, other = (make_layer(balance=True) for _ in range(2))
    for module in (layer, other):
        module(inputs(20))
    with pytest.raises(RuntimeError, match="is the input finite"):
        layer.eval()(torch.full((4, D), torch.nan))
    assert_same_history(layer, other)
    assert torch.equal(layer(inputs(3)), other.eval()(inputs(3)))


def test_tables_made_on_meta_learn_once_they_have_a_device() -> None:
    layer = make_layer(balance=True)
    on_meta = HashLinear(D, N, config=layer.config, device="meta")
    on_meta.to_empty(device="cpu")
    on_meta.load_state_dict(layer.state_dict())
    for module in (layer, on_meta):
        module(inputs(20))
        module(inputs(20))
    assert_same_history(layer, on_meta)
    assert is_balanced(on_meta)


def test_a_weight_assigned_on_another_device_is_learnt_for_at_once() -> None:
    layer = make_layer(balance=True)
    moved = HashLinear(D, N, config=layer.config, device="meta")
    moved.weight, moved.bias = nn.Parameter(layer.weight), nn.Parameter(layer.bias)
    for module in (layer, moved):
        module(inputs(20))
    assert_same_history(layer, moved)


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_rows_of_any_length_can_be_balanced(scale: float) -> None:
    """Their squares leave float32, their projections do not."""
    layer, queries = uneven_layer(balance=True, bias=False, scale=scale)
    layer(queries[:64])
    assert (layer.active(queries[64:]) >= 0).any(1).all()
