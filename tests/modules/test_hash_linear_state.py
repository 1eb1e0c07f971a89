"""A HashLinear saved, loaded, copied, moved, cast, tied and edited: its tables always follow."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from module_helpers import (
    CONFIG,
    D,
    N,
    assert_same_history,
    inputs,
    is_balanced,
    make_layer,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from hashdl import HashLinear, tables
from hashdl.rehash import State


def fresh_copy(layer: HashLinear) -> HashLinear:
    """A layer that never was anything else, with the same weights, and told of the same queries."""
    twin = HashLinear(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        config=layer.config,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
            ours.copy_(theirs)
    twin.tables.set_history(layer.tables.history())
    return twin


def assert_up_to_date(layer: HashLinear) -> None:
    """In evaluation the layer computes what a fresh one with its weights computes."""
    x = inputs(8, dtype=layer.weight.dtype)
    wanted = fresh_copy(layer).eval()(x)
    assert (wanted != 0).any()
    assert torch.equal(layer.eval()(x), wanted)


def used_layer(**changes: object) -> HashLinear:
    """A layer with balanced tables, an age, and dirty rows."""
    layer = make_layer(**{"balance": True} | changes)
    for _ in range(3):
        layer(inputs(8))
    assert is_balanced(layer)
    return layer


# ---- state dict --------------------------------------------------------------------------------


def test_the_state_dict_is_that_of_linear_both_ways() -> None:
    layer, dense = used_layer(), nn.Linear(D, N)
    assert list(layer.state_dict()) == list(dense.state_dict())
    dense.load_state_dict(layer.state_dict(), strict=True)
    other = make_layer(seed=5)
    other.load_state_dict(dense.state_dict(), strict=True)
    assert torch.equal(other.weight, layer.weight)


def test_loading_makes_the_tables_follow() -> None:
    layer = used_layer()
    layer.load_state_dict(nn.Linear(D, N).state_dict())
    assert_up_to_date(layer)
    layer.load_state_dict(nn.Linear(D, N).state_dict(), assign=True)
    assert_up_to_date(layer)


def test_loading_makes_the_tables_follow_in_training() -> None:
    layer = used_layer(rehash_every=1000)
    layer.load_state_dict(nn.Linear(D, N).state_dict())
    twin = fresh_copy(layer)
    layer(inputs(1))
    twin(inputs(1))
    assert torch.equal(layer.tables.codes, twin.tables.codes)


def test_save_and_load_of_state_dict_and_module() -> None:
    layer = used_layer()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make_layer(config=layer.config)
    other.load_state_dict(torch.load(file, weights_only=True))
    other.tables.set_history(layer.tables.history())
    assert torch.equal(other.eval()(inputs(4)), copy.deepcopy(layer).eval()(inputs(4)))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    assert_up_to_date(torch.load(file, weights_only=False))


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_clones_are_equal_and_independent(clone: Callable[[HashLinear], HashLinear]) -> None:
    layer = used_layer()
    twin = clone(layer)
    assert twin.config == layer.config
    assert twin.stats() == layer.stats()
    assert_same_history(twin, layer)
    assert is_balanced(twin)
    with torch.no_grad():
        twin.weight.neg_()
    assert_up_to_date(twin)
    assert_up_to_date(layer)


# ---- moved, cast, materialized -----------------------------------------------------------------


@pytest.mark.parametrize(
    "move",
    [
        lambda layer: layer.half(),
        lambda layer: layer.bfloat16(),
        lambda layer: layer.double(),
        lambda layer: layer.to(torch.float64).to("cpu").float(),
        lambda layer: layer.bfloat16().float(),
        lambda layer: layer.share_memory(),
        lambda layer: layer.requires_grad_(False),
        lambda layer: layer.apply(lambda module: None),
    ],
    ids=["half", "bfloat16", "double", "to", "roundtrip", "share", "freeze", "apply"],
)
def test_moves_and_casts(move: Callable[[HashLinear], HashLinear]) -> None:
    layer = used_layer()
    before = copy.deepcopy(layer)
    layer = move(layer)
    assert_same_history(layer, before)
    assert all(not buffer.is_floating_point() for buffer in layer.buffers())
    assert layer.stats()["step"] == 3
    assert_up_to_date(layer)


@pytest.mark.parametrize("training", [False, True])
def test_meta_then_to_empty_then_reset(training: bool) -> None:
    layer = HashLinear(D, N, config=CONFIG, device="meta").train(training)
    assert all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers()))
    layer.rehash()  # nothing to hash yet
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    layer(inputs(2))
    assert layer.stats()["step"] == int(training)
    assert_up_to_date(layer)


def test_to_empty_leaves_garbage_behind_and_it_does_no_harm() -> None:
    layer = used_layer()
    before = copy.deepcopy(layer)
    layer._apply(lambda tensor: torch.empty_like(tensor).fill_(77))  # what to_empty may find
    assert_same_history(layer, before)
    layer.reset_parameters()
    layer.train()(inputs(2))
    assert layer.stats()["step"] == 4
    assert_up_to_date(layer)


@pytest.mark.parametrize("rank", [None, 4])
def test_garbage_is_no_balancing(rank: int | None) -> None:
    layer = make_layer(rank=rank, balance=None).to("meta")
    assert layer(inputs(2).to("meta")).shape == (2, N)
    layer.to_empty(device="cpu")
    assert not layer.tables.maps.any()
    layer = make_layer(rank=rank, balance=None)
    nan = 2**31 - 1  # the bits, as of a float32
    layer._apply(lambda tensor: torch.full_like(tensor, 1 if tensor.dtype == torch.uint8 else nan))
    layer.reset_parameters()
    layer.train()(inputs(2))
    assert_up_to_date(layer)


def test_meta_then_load_with_assign() -> None:
    layer = HashLinear(D, N, config=CONFIG, device="meta")
    layer.load_state_dict(nn.Linear(D, N).state_dict(), assign=True)
    layer.train()(inputs(2))
    assert_up_to_date(layer)


# ---- weights that change -----------------------------------------------------------------------


def _swap(layer: HashLinear) -> None:
    layer.weight = nn.Parameter(torch.randn(N, D))


def _edit(layer: HashLinear) -> None:
    with torch.no_grad():
        layer.weight[::2] *= -1


def _edit_bias(layer: HashLinear) -> None:
    with torch.no_grad():
        layer.bias.add_(torch.linspace(-9, 9, N))


def _edit_data(layer: HashLinear) -> None:
    layer.weight.data.neg_()
    layer.rehash()


def _optimizer(layer: HashLinear) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    layer(inputs(8)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "change", [_swap, _edit, _edit_bias, _edit_data, _optimizer, HashLinear.reset_parameters]
)
def test_evaluation_sees_every_change(change: Callable[[HashLinear], None]) -> None:
    layer = used_layer().eval()
    before = layer(inputs(8))
    change(layer)
    assert not torch.equal(layer(inputs(8)), before)
    assert_up_to_date(layer)


def test_reset_parameters_in_training_is_seen_at_once() -> None:
    layer = used_layer(rehash_every=1000)
    layer.reset_parameters()
    layer(inputs(1))
    twin = fresh_copy(layer)
    twin.rehash()
    assert torch.equal(layer.tables.codes, twin.tables.codes)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_no_grad_and_inference_mode(mode: Callable[[], object]) -> None:
    layer = make_layer().eval()
    with mode():
        inside = layer(inputs(4))
        top = layer.topk(inputs(4), 3)
    assert not inside.requires_grad
    assert torch.equal(layer(inputs(4)), inside)
    assert torch.equal(layer.topk(inputs(4), 3)[1], top[1])
    layer.train()(inputs(4)).sum().backward()
    assert_up_to_date(layer)


def test_a_layer_made_in_inference_mode_sees_replaced_weights() -> None:
    with torch.inference_mode():
        layer = make_layer().eval()
        layer(inputs(8))
        layer.weight = nn.Parameter(torch.randn(N, D), requires_grad=False)
        assert_up_to_date(layer)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_a_frozen_parameter_has_no_gradient(frozen: str, sparse_grad: bool) -> None:
    layer = make_layer(sparse_grad=sparse_grad)
    getattr(layer, frozen).requires_grad_(False)
    x = inputs(4).requires_grad_()
    layer(x).sum().backward()
    assert getattr(layer, frozen).grad is None
    assert x.grad is not None
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_a_weight_tied_to_an_embedding(sparse_grad: bool) -> None:
    embedding = nn.Embedding(N, D)
    layer = make_layer(bias=False, sparse_grad=sparse_grad)
    layer.weight = embedding.weight
    tokens = torch.tensor([3, 3, 150])
    hidden = embedding(tokens)
    rows, values = layer.sparse_forward(hidden)
    values.sum().backward()

    twin = nn.Embedding.from_pretrained(embedding.weight.detach().clone(), freeze=False)
    outputs = twin(tokens) @ twin.weight.t()
    outputs.gather(1, rows.clamp_min(0).long()).masked_fill(rows < 0, 0).sum().backward()
    torch.testing.assert_close(embedding.weight.grad.to_dense(), twin.weight.grad)
    with torch.no_grad():
        embedding.weight.neg_()
    x = inputs(8)
    wanted = layer.eval()(x)
    layer.rehash()
    assert torch.equal(layer(x), wanted)


def test_buffers_are_hash_state_and_parameters_are_linears() -> None:
    layer = used_layer()
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    buffers = dict(layer.named_buffers())
    assert set(buffers) == {
        f"tables.{name}"
        for name in (
            *("functions", "next_query_functions", "center", "codes", "dirty"),
            *("sketch_planes", "next_query_sketch_planes", "next_sketches", "next_norms"),
            *("query_functions", "offsets", "rows"),
            *("query_sketch_planes", "sketches", "norms"),
            *("moment", "recent", "maps", "scale", "step", "state"),
        )
    }
    assert not set(buffers) & set(layer.state_dict())
    assert all(not buffer.is_floating_point() for buffer in buffers.values())


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_models_follow_their_own_weights(use_buffers: bool) -> None:
    layer = make_layer()
    layer.calibrate(inputs(100))
    averaged = AveragedModel(layer, use_buffers=use_buffers)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        layer(inputs(8, seed=seed)).square().sum().backward()
        optimizer.step()
        averaged.update_parameters(layer)
        copied = averaged.module.eval()
        fresh = copy.deepcopy(copied)
        fresh.rehash()
        for ours, wanted in zip(copied.topk(inputs(20), 5), fresh.topk(inputs(20), 5), strict=True):
            assert torch.equal(ours, wanted)


# ---- weights that are computed, and replaced ---------------------------------------------------


def assert_as_after_rehash(layer: HashLinear, ask: Callable[[], Tensor]) -> None:
    found = ask()
    layer.rehash()
    assert torch.equal(found, ask())


@torch.no_grad()
def test_evaluation_sees_that_a_computed_weight_has_changed() -> None:
    """It is another tensor each time, which mostly comes to lie where the one before it lay."""
    layer, x = parametrizations.weight_norm(make_layer()).eval(), inputs(20)
    for seed in range(6):
        torch.manual_seed(seed)
        original = layer.parametrizations.weight.original1
        original.copy_(torch.randn_like(original))
        assert_as_after_rehash(layer, lambda: layer(x))


@torch.no_grad()
def test_evaluation_sees_that_another_weight_is_called_with() -> None:
    layer, x = make_layer().eval(), inputs(20)
    for seed in range(6):
        torch.manual_seed(seed)
        weights = {"weight": torch.randn(N, D), "bias": torch.randn(N)}
        found = torch.func.functional_call(layer, weights, x)
        wanted = make_layer().eval()
        wanted.load_state_dict(weights)
        assert torch.equal(found, wanted(x))
        del weights, found, wanted  # makes room for the next


@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_a_computed_weight_that_is_kept_is_hashed_once(
    cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = parametrizations.weight_norm(make_layer()).eval(), inputs(20)
    hashed, refresh = [], tables.refresh_tables_
    monkeypatch.setattr(tables, "refresh_tables_", lambda *a: (hashed.append(1), refresh(*a)))
    with parametrize.cached() if cached else nullcontext():
        answers = [layer(x) for _ in range(3)]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert len(hashed) == (1 if cached else 3)


def test_tables_of_a_computed_weight_keep_to_the_schedule_in_training() -> None:
    layer = parametrizations.weight_norm(make_layer(rehash_every=1000))
    for _ in range(10):
        layer(inputs(8)).sum().backward()
    state = State.of(layer.tables.state)
    assert (state.start, state.rehashes, state.step) == (0, 1, 10)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    layer(inputs(8))
    assert State.of(layer.tables.state).start == 10  # all rows were hashed again


def test_another_configuration_makes_other_tables() -> None:
    layer = make_layer()
    layer(inputs(8))
    layer.config = CONFIG.replace(active=7)
    assert layer.active(inputs(3)).shape == (3, 7)
    assert_up_to_date(layer)
    with pytest.raises(TypeError, match="config: got int"):
        layer.config = 3


@pytest.mark.parametrize("steps", [0, 5, 8])
def test_calibration_looks_at_what_it_is_given_whenever_it_comes(steps: int) -> None:
    layer = make_layer(balance=True)
    for _ in range(steps):
        layer(inputs(64))
    given = 3 * inputs(2 * D, seed=5) + 1
    layer.calibrate(given)
    fresh = make_layer(balance=True)
    fresh.calibrate(given)
    assert torch.equal(layer.tables.moment, fresh.tables.moment)
    before = layer.tables.moment.clone()
    layer.calibrate(inputs(3))  # too few to count alone
    assert not torch.equal(layer.tables.moment, before)
    assert int(layer.tables.history()["schedule"][-1]) == 2 * D + 3


def test_a_layer_made_and_moved_in_inference_mode_is_used_outside_of_it() -> None:
    with torch.inference_mode():
        layer = make_layer().eval()
        layer(inputs(3))
        layer.to(torch.float64)
        inside = layer(inputs(3, dtype=torch.float64))
    with torch.no_grad():  # such weights have no gradients
        assert torch.equal(layer(inputs(3, dtype=torch.float64)), inside)
        layer.rehash()
        assert layer.topk(inputs(3, dtype=torch.float64), 5)[0].shape == (3, 5)
