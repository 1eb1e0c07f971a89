"""Tables built in a thread: what it does not change, and what becomes of it in copies."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
import torch
from module_helpers import inputs, make_layer

import hashdl
from hashdl import rehash
from hashdl.background import Background
from hashdl.hashing import FAMILIES

Begin = Callable[[Background, Callable[[], Any]], None]
BEGIN = Background.begin


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small layer's work is spread as a huge one's is."""
    monkeypatch.setattr(rehash, "_SLICE", 4)


def new(**changes: object) -> hashdl.HashLinear:
    given = {"background": True, "rehash_every": 7, "rehash_growth": 1.0, "tables": 20}
    return make_layer(sparse_grad=True, **given | changes)


def train(layer: hashdl.HashLinear, steps: range) -> list[torch.Tensor]:
    """Outputs and tables after each step."""
    optimizer = hashdl.optim.SGD(layer.parameters(), lr=0.3)
    seen = []
    for step in steps:
        optimizer.zero_grad()
        out = layer(inputs(2, seed=step))
        out.square().sum().backward()
        optimizer.step()
        seen += [out.detach(), layer.tables.offsets.clone(), layer.tables.rows.clone()]
    return seen


def slow(self: Background, work: Callable[[], Any]) -> None:
    def late() -> Any:
        time.sleep(0.02)
        return work()

    BEGIN(self, late)


def lost(self: Background, work: Callable[[], Any]) -> None:
    """As in a copy."""


def in_flight(layer: hashdl.HashLinear) -> bool:
    state = rehash.State.of(layer.tables.state)
    return state.begun < state.begun_end


def until_in_flight(layer: hashdl.HashLinear) -> int:
    """Train until a step has begun to build; how many steps that took."""
    for step in range(30):
        train(layer, range(step, step + 1))
        if in_flight(layer):
            return step + 1
    raise AssertionError("nothing was begun")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"balance": True},
        {"selection": "sketch", "sketch_bits": 32},
        {"buckets": "reservoir", "capacity": 5},
        {"family": "kmeans"},
        {"tables": 3, "rehash_every": 1},
        {"rehash_drift": 0.01, "rehash_every": 16},
    ],
    ids=str,
)
def test_results_do_not_depend_on_the_thread(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for begin in (BEGIN, slow, lost):
        monkeypatch.setattr(Background, "begin", begin)
        layer = new(**changes)
        runs.append([*train(layer, range(20)), layer.weight.detach()])
    for run in runs[1:]:
        for got, wanted in zip(run, runs[0], strict=True):
            assert torch.equal(got, wanted)


def test_tables_come_in_force_a_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle of 5 steps that is done in one: begun at step 5, met at step 6."""
    monkeypatch.undo()  # of the small slices
    layers = [new(background=on, rehash_every=5, tables=2) for on in (False, True)]
    seen: list[list[torch.Tensor]] = [[], []]
    with torch.no_grad():
        for step in range(8):
            for tables, layer in zip(seen, layers, strict=True):
                layer(inputs(1))
                tables.append(layer.tables.rows.clone())
                if step == 0:
                    layer.weight.neg_()
                    layer.tables.mark(torch.arange(50, dtype=torch.int32))
    at_once, later = seen
    assert [torch.equal(rows, at_once[0]) for rows in at_once] == [True] * 5 + [False] * 3
    for step in range(1, 8):
        assert torch.equal(later[step], at_once[step - 1])


def test_the_thread_builds_of_the_codes_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    go = Event()

    def waiting(self: Background, work: Callable[[], Any]) -> None:
        def late() -> Any:
            go.wait()
            return work()

        BEGIN(self, late)

    layer, other = new(), new()
    until_in_flight(other)
    monkeypatch.setattr(Background, "begin", waiting)
    step = until_in_flight(layer)
    codes = layer.tables.codes.clone()
    layer.tables.codes.zero_()
    go.set()
    monkeypatch.setattr(Background, "begin", BEGIN)
    layer.tables.background._wait()
    layer.tables.codes.copy_(codes)
    for got, wanted in zip(
        train(layer, range(step, 20)), train(other, range(step, 20)), strict=True
    ):
        assert torch.equal(got, wanted)


def reloaded(layer: hashdl.HashLinear) -> hashdl.HashLinear:
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    return layer


def rehashed(layer: hashdl.HashLinear) -> hashdl.HashLinear:
    layer.rehash()
    return layer


def evaluated(layer: hashdl.HashLinear) -> hashdl.HashLinear:
    layer.eval()(inputs(1))
    return layer.train()


def emptied(layer: hashdl.HashLinear) -> hashdl.HashLinear:
    layer.to("meta").to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    return layer


@pytest.mark.parametrize(
    "interrupt",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: layer.double().float(),
        reloaded,
        rehashed,
        evaluated,
        emptied,
    ],
    ids=["copy", "pickle", "cast", "load", "rehash", "evaluation", "meta"],
)
def test_tables_in_flight_are_no_matter_of_the_thread(
    interrupt: Callable[[hashdl.HashLinear], hashdl.HashLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied, moved, rebuilt: as if there had been no thread; and the layer itself goes on."""
    runs = []
    for begin in (slow, lost):
        monkeypatch.setattr(Background, "begin", begin)
        layer = new()
        step = until_in_flight(layer)
        other = interrupt(layer)
        runs.append(train(other, range(step, 25)))
        if other is not layer:
            assert other.tables.background is not layer.tables.background
            runs[-1] += train(layer, range(step, 25))
    for got, wanted in zip(*runs, strict=True):
        assert torch.equal(got, wanted)


def test_an_error_of_the_thread_is_raised_and_training_can_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, other = new(), new()
    steps = until_in_flight(other)

    def fail(self: Background, work: Callable[[], Any]) -> None:
        def failing() -> None:
            raise MemoryError("no room for a table")

        BEGIN(self, failing)

    monkeypatch.setattr(Background, "begin", fail)
    assert until_in_flight(layer) == steps
    monkeypatch.setattr(Background, "begin", BEGIN)
    before = int(layer.tables.step)
    with pytest.raises(MemoryError, match="no room for a table"):
        train(layer, range(steps, steps + 1))
    assert int(layer.tables.step) == before
    both = [train(one, range(steps, 25)) for one in (layer, other)]
    for got, wanted in zip(*both, strict=True):
        assert torch.equal(got, wanted)


def test_a_layer_that_goes_leaves_nothing_behind() -> None:
    layer = new()
    until_in_flight(layer)
    number = layer.tables.background.number
    assert hashdl.background.background(number) is layer.tables.background
    layer.tables.background._wait()  # a thread that works holds what it works for
    del layer
    assert hashdl.background.background(number) is None


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_trains_with_tables_in_the_background(family: str) -> None:
    layer = new(family=family, tables=4, rehash_every=2)
    train(layer, range(5))
    assert layer.stats()["rehashes"] >= 2
