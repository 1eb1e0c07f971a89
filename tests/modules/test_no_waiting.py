"""A training step reads no value back, and a step in a CUDA graph counts itself.

On tensors in the host's memory that say they are on a GPU: what would make the host wait is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from module_helpers import D, N, inputs, make_layer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hashdl
from hashdl import rehash, schedule, tables
from hashdl.hashing import functions, learned, sketching
from hashdl.hashing.families import FAMILIES
from hashdl.rehash import State

CAPTURED = State.places("captured")
# What a tensor's values come to the host by.
READS = (
    *("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "cpu"),
    *("nonzero", "unique"),
)


def train(layer: hashdl.HashLinear, steps: int, samples: int = 30) -> None:
    optimizer = hashdl.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(steps):
        layer(inputs(samples, seed=step)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def trained_layer(**changes: Any) -> hashdl.HashLinear:
    """At the beginning of a long cycle, with planes that are balanced."""
    layer = make_layer(rehash_every=100_000, balance=True, **changes)
    train(layer, 3)
    return layer


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


@pytest.fixture
def capture(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Begins and ends what passes for a capture."""
    return lambda now: monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now)


class OnHost(Tensor):
    """What came to the host, and all that follows from it, until it is sent back."""


def spy(monkeypatch: pytest.MonkeyPatch, host: Tensor) -> list[str]:
    """Reads to come, but for those of one tensor and of what is on the host."""
    reads: list[str] = []
    for name in READS:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
            storage = tensor.untyped_storage().data_ptr()
            elsewhere = storage != host.untyped_storage().data_ptr() and tensor.numel() > 0
            if elsewhere and not isinstance(tensor, OnHost):
                reads.append(_name)
            return _original(tensor, *args)

        monkeypatch.setattr(Tensor, name, read)
    return reads


class Launches(TorchDispatchMode):
    """What is run on tensors other than one, and than numbers on their way into it."""

    def __init__(self, host: Tensor) -> None:
        super().__init__()
        self.host, self.names = host.untyped_storage().data_ptr(), []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        number = func is torch.ops.aten.lift_fresh.default
        if not number and args[0].untyped_storage().data_ptr() != self.host:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def refresh_arguments(layer: hashdl.HashLinear, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of refresh_tables_ in a training step."""
    given: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(tables, "refresh_tables_", lambda *args: given.extend(args))
        layer.tables.refresh(layer.weight, layer.bias, training=True)
    return given


@pytest.mark.skipif(not hashdl.has_extension(), reason="the reference reads values")
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("selection", ["exact", "sketch"])
def test_a_step_with_nothing_due_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    layer = trained_layer(selection=selection)
    state = layer.tables.state.clone()
    with monkeypatch.context() as patch:
        reads = spy(patch, layer.tables.state)
        train(layer, 8)  # in two of them queries are observed
        assert reads == []
        layer.rehash()
        assert reads != []  # there it is allowed, and seen
    assert int(layer.tables.step) == 11
    changed = set((layer.tables.state != state).nonzero().flatten().tolist())
    assert {*State.places("step", "seen")} <= changed


class Arrived:
    """In the place of a Readback."""

    def __init__(self, *tensors: Tensor) -> None:
        self.copies = tuple(tensor.clone().as_subclass(OnHost) for tensor in tensors)

    def arrived(self) -> tuple[Tensor, ...]:
        return self.copies


def send(tensor: Tensor, to: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def cycling_layer(
    monkeypatch: pytest.MonkeyPatch, rehashes: int = 3, samples: int = 1, **changes: Any
) -> hashdl.HashLinear:
    """At the beginning of a cycle of seven steps whose functions stay if few rows are touched."""
    monkeypatch.setattr(rehash, "Readback", Arrived)
    for module in (functions, learned, sketching):
        monkeypatch.setattr(module, "send", send)
    settings = {"active": 5, "rehash_every": 7, "rehash_growth": 1.0, "balance": True}
    layer = make_layer(**settings | changes)
    while layer.stats()["rehashes"] < rehashes:  # at 1, 2 and 4 functions are renewed
        train(layer, 1, samples=samples)
    return layer


@pytest.mark.skipif(not hashdl.has_extension(), reason="the reference reads values")
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("changes", [{}, {"tables": 20}, {"selection": "sketch"}])
def test_a_cycle_whose_functions_stay_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    layer = cycling_layer(monkeypatch, **changes)
    codes, functions = layer.tables.codes.clone(), layer.tables.functions.clone()
    with monkeypatch.context() as patch:
        reads = spy(patch, layer.tables.state)
        train(layer, 7, samples=1)
        assert reads == []
    assert layer.stats()["rehashes"] == 4
    assert torch.equal(layer.tables.functions, functions)
    assert not torch.equal(layer.tables.codes, codes)


@pytest.mark.skipif(not hashdl.has_extension(), reason="the reference reads values")
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    "changes",
    [
        *({"family": name} for name in FAMILIES),
        *({"transform": name} for name in ("simple", "sign_alsh")),
        *({"selection": "sketch"}, {"rank": 5, "selection": "sketch", "balance": None}),
        {"balance": False},
        *({"tables": 20}, {"buckets": "fifo"}, {"background": True}),
    ],
    ids=str,
)
def test_a_cycle_that_renews_functions_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    layer = cycling_layer(monkeypatch, rehashes=4, samples=30, **changes)
    before = {name: getattr(layer.tables, name).clone() for name in ("functions", "maps", "center")}
    with monkeypatch.context() as patch:
        reads = spy(patch, layer.tables.state)
        moves = layer.config.balance is False
        if moves:  # all rows move: a new centre
            layer.tables.mark(torch.arange(N).int()[None])
        train(layer, 7, samples=1)
        assert reads == []
    assert layer.stats()["rehashes"] == 5
    renewed = "center" if moves else "maps"
    assert not torch.equal(getattr(layer.tables, renewed), before[renewed])


@pytest.mark.skipif(not hashdl.has_extension(), reason="the reference reads values")
@pytest.mark.usefixtures("on_gpu")
def test_a_look_at_the_drift_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the cycle that it begins."""
    settings = {"rehash_every": 16, "rehash_drift": 0.01}
    layer = cycling_layer(monkeypatch, rehashes=1, **settings)
    with monkeypatch.context() as patch:
        reads = spy(patch, layer.tables.state)
        for _ in range(8):
            with torch.no_grad():
                layer.weight.neg_()
            train(layer, 1, samples=1)
        assert reads == []
    assert layer.stats()["rehashes"] > 1


@pytest.mark.parametrize("changes", [{}, {"tables": 20}, {"selection": "sketch"}])
def test_all_rows_of_a_slice_get_what_touched_ones_get(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    layers = [cycling_layer(monkeypatch, **changes) for _ in range(2)]
    train(layers[0], 7, samples=1)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    train(layers[1], 7, samples=1)
    for name in ("codes", "sketches", "dirty", "offsets", "rows"):
        assert torch.equal(*(getattr(layer.tables, name) for layer in layers)), name


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("steps", [5, 6])
def test_functions_are_renewed_where_most_rows_have_moved_before_the_last_step(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    layer = cycling_layer(monkeypatch)
    functions = layer.tables.functions.clone()
    train(layer, steps, samples=1)
    layer.tables.mark(torch.arange(N).int()[None])
    train(layer, 7 - steps, samples=1)
    assert layer.stats()["rehashes"] == 4
    assert torch.equal(layer.tables.functions, functions) == (steps == 6)


def test_a_number_that_arrived_is_forgotten_when_all_rows_are_hashed(
    on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = cycling_layer(monkeypatch)
    layer.tables.mark(torch.arange(N).int()[None])
    train(layer, 6, samples=1)
    assert layer.tables.state in rehash._asked
    layer.rehash()
    assert layer.tables.state not in rehash._asked


@pytest.mark.skipif(not hashdl.has_extension(), reason="the reference reads values")
@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (hashdl.optim.SGD, {"momentum": 0.9}),
        (hashdl.optim.Adam, {}),
        (hashdl.optim.Adam, {"capturable": True}),
        (hashdl.optim.RowWiseAdam, {"capturable": True}),
    ],
)
def test_steps_of_row_optimizers_read_nothing(
    monkeypatch: pytest.MonkeyPatch, make: Any, options: dict[str, Any]
) -> None:
    layer = make_layer(sparse_grad=True)
    optimizer = make(layer.parameters(), lr=0.1, **options)
    monkeypatch.setattr(hashdl.ops, "has_cuda_kernel", lambda name: True)
    with monkeypatch.context() as patch:
        reads = spy(patch, layer.tables.state)
        for step in range(3):
            layer(inputs(30, seed=step)).square().sum().backward()
            reads.clear()
            hashdl.optim.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            assert reads == []


def test_a_refresh_with_nothing_due_launches_nothing_but_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = trained_layer()
    args = refresh_arguments(layer, monkeypatch)
    with torch.no_grad(), Launches(layer.tables.state) as launches:
        rehash._refresh_tables_(*args)
    assert launches.names == ["aten.add_.Tensor"]
    assert int(layer.tables.step) == int(layer.tables.state[State.places("step")]) == 4


def test_queries_that_are_not_finite_change_no_moment(on_gpu: None) -> None:
    layer = trained_layer()
    moment, x = layer.tables.moment.clone(), inputs(30)
    x[3] = torch.nan
    assert schedule.OBSERVED_EVERY == 4
    layer.tables.refresh(layer.weight, layer.bias, training=True)  # now step 4 comes
    layer.tables.observe(x, training=True)
    assert torch.equal(layer.tables.moment, moment)
    layer.tables.observe(x.nan_to_num(1.0), training=True)
    assert not torch.equal(layer.tables.moment, moment)


def test_the_state_stays_in_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tables go: here to a place without memory, and back."""
    layer = trained_layer()
    moved: list[str] = []
    monkeypatch.setattr(tables, "_on_host", lambda tensor: moved.append("state") or tensor)
    layer.to_empty(device="cpu")
    assert moved == ["state"]
    assert hashdl.HashLinear(D, N, device="meta").tables.state.is_meta
    assert moved == ["state"] * 2  # as a layer is made


# ---- CUDA graphs ---------------------------------------------------------------------------------


def replay(layer: hashdl.HashLinear) -> None:
    """What a graph of a training step does to the layer, unseen by the host."""
    layer.tables.step.data.add_(1)
    layer.weight.data.neg_()


def test_a_captured_step_does_nothing_but_count(
    capture: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = trained_layer()
    args, state = refresh_arguments(layer, monkeypatch), layer.tables.state.clone()
    capture(True)
    with torch.no_grad(), Launches(layer.tables.state) as launches:
        rehash._refresh_tables_(*args)
        rehash._refresh_tables_(*args[:-1], False)  # in evaluation not even that
    assert launches.names == ["aten.add_.Tensor"]
    moment = layer.tables.moment.clone()
    layer.tables.observe(inputs(30), training=True)
    assert torch.equal(layer.tables.moment, moment)
    state[CAPTURED] = 1
    assert torch.equal(layer.tables.state, state)


def test_a_capture_needs_tables(capture: Callable[[bool], None]) -> None:
    layer = make_layer()
    capture(True)
    with pytest.raises(RuntimeError, match="capture of a CUDA graph: got no tables"):
        layer(inputs(2))
    assert int(layer.tables.step) == 0


def test_replays_count_and_the_next_refresh_does_what_became_due(
    capture: Callable[[bool], None],
) -> None:
    layer = make_layer(rehash_every=20, rehash_growth=1.0)
    train(layer, 3)
    capture(True)
    layer(inputs(4))
    capture(False)
    for _ in range(30):
        replay(layer)
    assert layer.stats()["rehashes"] == 1
    assert layer.tables.history()["schedule"][0] == 34
    layer.tables.refresh(layer.weight, layer.bias, training=True)
    assert layer.stats()["rehashes"] == 2
    assert layer.stats()["step"] == 35


def test_evaluation_after_replays_hashes_all_rows(capture: Callable[[bool], None]) -> None:
    layer = trained_layer()
    capture(True)
    layer(inputs(4))
    capture(False)
    layer.eval()
    for _ in range(2):
        replay(layer)
        codes = layer.tables.codes.clone()
        layer(inputs(4))
        assert not torch.equal(layer.tables.codes, codes)
        hashed = layer.tables.codes.clone()
        layer.rehash()
        assert torch.equal(layer.tables.codes, hashed)


def test_who_counts_outlives_a_load_and_no_move(capture: Callable[[bool], None]) -> None:
    layer = trained_layer()
    capture(True)
    layer(inputs(4))
    capture(False)
    replay(layer)
    layer.load_state_dict(layer.state_dict())
    assert layer.tables.state[CAPTURED] == 1  # the graph is that of the same memory
    assert layer.tables.history()["schedule"][0] == 5
    layer.double()
    assert layer.tables.state[CAPTURED] == 0
    assert layer.tables.history()["schedule"][0] == 5
