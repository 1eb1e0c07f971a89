"""The schedule of the tables, what a rehash looks at, and their statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from module_helpers import ON_DEVICES, D, N, assert_same_history, inputs, is_balanced, make_layer

import hashdl
from hashdl.hashing import centering
from hashdl.hashing.functions import project_rows
from hashdl.schedule import next_rehash
from hashdl.tables import HashTables


def train(layer: hashdl.HashLinear, steps: int, optimizer: torch.optim.Optimizer) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        layer(inputs(2, seed=step)).square().sum().backward()
        optimizer.step()


def rehashes_by_step(layer: hashdl.HashLinear, steps: int) -> list[int]:
    counts = []
    for _ in range(steps):
        layer(inputs(1))
        counts.append(layer.stats()["rehashes"])
    return counts


@ON_DEVICES
@pytest.mark.parametrize("evaluated_first", [False, True])
def test_the_schedule_grows_and_counts_training_steps_alone(evaluated_first: bool) -> None:
    layer = make_layer(rehash_every=2, rehash_growth=2.0)
    if evaluated_first:
        layer.eval()(inputs(1))
        layer.train()
    # Rehashes are complete at steps 0, 2, 6 and 14.
    assert rehashes_by_step(layer, 5) == [1, 1, 2, 2, 2]
    layer.eval()(inputs(1))
    layer.topk(inputs(1), 3)
    layer.train()
    assert rehashes_by_step(layer, 10) == [2, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert layer.stats()["step"] == 15


@ON_DEVICES
@pytest.mark.parametrize("interrupt", ["rehash", "load", "cast"])
def test_a_rebuild_begins_a_cycle_and_counts_as_no_rehash(interrupt: str) -> None:
    layer = make_layer(rehash_every=3, rehash_growth=1.0)
    layer(inputs(1))
    layer(inputs(1))
    if interrupt == "rehash":
        layer.rehash()
    elif interrupt == "load":
        layer.load_state_dict(layer.state_dict())
    else:
        layer.double().float()
    # Rebuilt at step 2: the next rehash is complete at step 5.
    assert rehashes_by_step(layer, 7) == [1, 1, 1, 2, 2, 2, 3]
    assert layer.stats()["step"] == 9


def test_a_history_saved_goes_on_in_another_layer() -> None:
    changes = {"rehash_every": 2, "rehash_growth": 2.0, "balance": True}
    layer, other = (make_layer(**changes) for _ in range(2))
    for seed in range(4):
        layer(inputs(9, seed=seed))
    history = layer.tables.history()
    # Rebuilt at step 1, which balanced; rehashed at step 3.
    assert history["schedule"].tolist() == [4, 7, 2, 18]
    assert history["moment"].any()
    other.tables.set_history(history)
    assert not other.tables.built
    assert_same_history(other, layer)
    layer.tables.invalidate()  # to be rebuilt, as the other's are
    assert torch.equal(other(inputs(3)), layer(inputs(3)))
    assert is_balanced(other)
    assert rehashes_by_step(other, 8) == rehashes_by_step(layer, 8) == [2, 2, 2, 3, 3, 3, 3, 3]
    assert_same_history(other, layer)
    history["moment"].zero_()  # a copy
    assert layer.tables.moment.any()


@pytest.mark.parametrize("growth", [1.0, 1.05, 2.0, 1e300])
def test_intervals_grow_to_a_hundredfold(growth: float) -> None:
    step, intervals = 0, []
    for rehash in range(500):
        following = next_rehash(step, rehash, 10, growth)
        intervals.append(following - step)
        step = following
    assert intervals[0] == 10
    assert intervals == sorted(intervals)
    assert intervals[-1] == (10 if growth == 1 else 1000)


def test_rehashing_touched_rows_is_a_full_rehash_without_centring() -> None:
    layer = make_layer(center=False, active=5, rehash_every=7, rehash_growth=1.0, sparse_grad=True)
    train(layer, 7, hashdl.optim.SGD(layer.parameters(), lr=0.5))
    stale, dirty = layer.tables.codes.clone(), layer.tables.dirty.bool()
    assert 0 < 2 * int(dirty.sum()) <= N  # else all rows are hashed
    layer(inputs(1))
    touched_only = copy.deepcopy(dict(layer.tables.named_buffers()))
    assert not torch.equal(touched_only["codes"], stale)
    assert torch.equal(touched_only["codes"][:, ~dirty], stale[:, ~dirty])
    layer.rehash()
    for name in ("codes", "offsets", "rows"):
        assert torch.equal(getattr(layer.tables, name), touched_only[name])


def test_touched_rows_are_hashed_against_the_centre_of_the_last_full_rehash() -> None:
    layer = make_layer(active=5, rehash_every=7, rehash_growth=1.0, sparse_grad=True)
    old_center = centering.row_mean(layer.weight, layer.bias).detach()
    train(layer, 7, hashdl.optim.SGD(layer.parameters(), lr=0.5))
    layer(inputs(1))

    def codes(center: torch.Tensor) -> torch.Tensor:
        planes = layer.tables.functions.view(torch.float32)
        projections = project_rows(layer.weight, layer.bias, center, planes)
        return hashdl.ops.pack_signs(projections.detach(), layer.tables.sizes.K).t()

    assert torch.equal(layer.tables.codes, codes(old_center))
    new_center = centering.row_mean(layer.weight, layer.bias)
    assert not torch.equal(layer.tables.codes, codes(new_center))
    layer.rehash()
    assert torch.equal(layer.tables.codes, codes(new_center))


@ON_DEVICES
def test_between_rehashes_the_tables_stay() -> None:
    layer = make_layer(rehash_every=5, sparse_grad=True)
    layer(inputs(1))
    codes = layer.tables.codes.clone()
    train(layer, 4, hashdl.optim.SGD(layer.parameters(), lr=0.5))
    assert torch.equal(layer.tables.codes, codes)
    train(layer, 1, hashdl.optim.SGD(layer.parameters(), lr=0.5))
    assert not torch.equal(layer.tables.codes, codes)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_centre_does_not_depend_on_threads(threads: int) -> None:
    """100,000 biases are enough for torch to add them in parallel."""
    bias = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        center = centering.row_mean(torch.zeros(100_000, 1), bias)
    finally:
        torch.set_num_threads(before)
    exact = float(bias.double().sum() / 100_000)
    assert float(center[1]) == float(torch.tensor(exact, dtype=torch.float32))


@ON_DEVICES
def test_statistics_of_the_buckets() -> None:
    layer = make_layer()
    stats = layer.stats()
    assert {name: stats[name] for name in ("rows", "active", "candidates", "bits", "tables")} == {
        "rows": N,
        "active": 20,
        "candidates": 80,
        "bits": 4,
        "tables": 8,
    }
    loads = layer.tables.offsets.diff(dim=1).flatten()
    assert int(loads.sum()) == 8 * N
    assert (stats["buckets"], stats["kept"]) == (16, 1.0)
    assert stats["max_load"] == int(loads.max())
    assert stats["empty"] == pytest.approx(float((loads == 0).float().mean()))
    assert stats["mean_load"] == pytest.approx(float(loads[loads > 0].float().mean()))
    pairs = (loads[:, None] - loads).abs().double().mean()
    assert stats["gini"] == pytest.approx(float(pairs / (2 * loads.double().mean())))
    assert make_layer(active=1.0).stats() == {"rows": N, "active": N}


def test_statistics_of_one_full_bucket_a_table() -> None:
    layer = make_layer(center=False, bits=1, tables=1)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[0].clone())
        layer.bias.zero_()
    stats = layer.stats()
    assert (stats["empty"], stats["max_load"], stats["mean_load"]) == (0.5, N, N)
    assert stats["gini"] == pytest.approx(0.5)


def test_centring_fills_buckets_more_evenly() -> None:
    gini = []
    for center in (False, True):
        layer = make_layer(center=center)
        with torch.no_grad():
            layer.weight.add_(3.0)
        gini.append(layer.stats()["gini"])
    assert gini[1] < 0.7 * gini[0]


def test_padding_marks_no_row() -> None:
    tables = HashTables(N, D, make_layer().config)
    tables.mark(torch.tensor([[-1, 5]], dtype=torch.int32))
    assert tables.dirty.nonzero().flatten().tolist() == [5]


def test_the_seed_makes_the_functions() -> None:
    one, same, other = make_layer(seed=1), make_layer(seed=1), make_layer(seed=2)
    for layer in (one, same, other):
        layer.rehash()
    assert torch.equal(one.tables.codes, same.tables.codes)
    assert not torch.equal(one.tables.codes, other.tables.codes)
