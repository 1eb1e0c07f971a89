"""Hashed hidden layers in a chain: the masked dense network, by autograd, in float64."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from module_helpers import (
    CONFIG,
    ON_DEVICES,
    D,
    dense_grad,
    inputs,
    mask_of,
    masked_linear,
    randn,
)
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear, convert, revert
from hashdl.nn import ColumnLinear, HashFeedForward, HashHidden, HashMLP, HashSequential
from hashdl.optim import SGD, Adagrad, Adam, RowWiseAdagrad

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
HIDDEN = [60, 80, 70]
SMALL = CONFIG.replace(active=15, bits=3)
Take = Callable[[HashLinear], Tensor]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Take:
    """Active rows (B, A) of each hashed layer at its last call."""
    seen: dict[int, Tensor] = {}
    for name in ("_active_rows", "_rows_from_active"):
        choose = getattr(HashLinear, name)

        def noting(self: HashLinear, *args: Any, choose: Callable[..., Any] = choose) -> Any:
            found = choose(self, *args)
            seen[id(self)] = found[0] if isinstance(found, tuple) else found
            return found

        monkeypatch.setattr(HashLinear, name, noting)
    return lambda layer: seen[id(layer)]


@pytest.fixture(params=["some", "all"])
def empty_sets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some samples, or all, have no active neuron: others in the first layer than later on.

    To be requested before ``chosen``, which notes what the layers are left with.
    """
    first, later = {"some": (2, 3), "all": (1, 1)}[request.param]
    from_dense, from_active = HashLinear._active_rows, HashLinear._rows_from_active

    def active_rows(self: HashLinear, x: Tensor) -> tuple[Tensor, Tensor | None]:
        rows, known = from_dense(self, x)
        every = torch.arange(len(rows))[:, None] % first == 0
        return rows.masked_fill(every, -1), None if known is None else known.masked_fill(every, 0)

    def rows_from_active(self: HashLinear, *given: Any) -> Tensor:
        rows = from_active(self, *given)
        return rows.masked_fill(torch.arange(len(rows))[:, None] % later == 0, -1)

    monkeypatch.setattr(HashLinear, "_active_rows", active_rows)
    monkeypatch.setattr(HashLinear, "_rows_from_active", rows_from_active)


def make_mlp(
    gated: bool = False,
    dtype: torch.dtype = torch.float64,
    above: float | None = None,
    **changes: object,
) -> HashMLP:
    torch.manual_seed(0)
    changed = {"config": SMALL.replace(**changes), "gated": gated, "above": above}
    model = HashMLP(D, HIDDEN, 4, **changed, dtype=dtype, device="cpu")
    return model.to(torch.get_default_device())


def masked_hidden(layer: HashHidden, x: Tensor, rows: Tensor) -> Tensor:
    """A hidden layer on dense inputs, all but the rows set to 0."""
    z = F.linear(x, layer.hashed.weight, layer.hashed.bias)
    if layer.above is not None:
        z = z - masked_level(layer.hashed, z, rows, layer.above)
    h = layer.activation(z)
    if layer.gate is not None:
        h = h * F.linear(x, layer.up.weight, layer.up.bias)
    return h * mask_of(rows, layer.hashed.out_features)


def masked_level(layer: HashLinear, z: Tensor, rows: Tensor, above: float) -> Tensor:
    """Mean of the outputs at the rows that were found, and some deviations, where it is above 0."""
    if layer.training and layer.tables is not None:
        rows = rows[:, : layer.tables.sizes.A - layer.tables.sizes.R]
    found = mask_of(rows, layer.out_features)
    count = found.sum(1, keepdim=True).clamp_min(1)
    mean = (z * found).sum(1, keepdim=True) / count
    if above == 0:
        return mean.clamp_min(0)
    # One or none that is found has no deviation, whose root would have no gradient.
    variance = ((z - mean).square() * found).sum(1, keepdim=True) / count
    deviation = torch.where(count > 1, variance, 1).sqrt() * (count > 1)
    return (mean + above * deviation).clamp_min(0)


def masked_mlp(model: HashMLP, x: Tensor, chosen: Take) -> Tensor:
    for layer in model.hidden:
        x = masked_hidden(layer, x, chosen(layer.hashed))
    return F.linear(x, model.output.weight, model.output.bias)


def assert_same_gradients(
    ours: Tensor, wanted: Tensor, x: Tensor, parameters: Iterator[nn.Parameter]
) -> None:
    every = [x, *parameters]
    pull = randn(*ours.shape, dtype=ours.dtype, seed=3)
    left = torch.autograd.grad(ours, every, pull)
    right = torch.autograd.grad(wanted, every, pull)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one.to_dense(), other, **CLOSE)


# ---- HashMLP -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
def test_parameters_are_drawn_for_the_inputs_that_are_active(gated: bool) -> None:
    model = make_mlp(gated)
    active = [D, *[SMALL.sizes(n).A for n in HIDDEN]]
    for some, layer in zip(active, [*model.hidden, model.output], strict=True):
        for parameter in layer.parameters():
            # Of nn.Linear's uniform distribution.
            assert 0.6 * some**-0.5 < parameter.abs().max() <= 1.0001 * some**-0.5
    every = make_mlp(gated, active=1.0)
    assert every.output.weight.abs().max() <= HIDDEN[-1] ** -0.5


def test_outputs_above_the_mean_do_not_jump_where_neurons_change_places() -> None:
    config = HashConfig(active=4, selection="exact", bits=1, tables=1, probes=2, cap=99)
    config = config.replace(candidates=99, balance=False)
    line = torch.linspace(0, 1, 2001, dtype=torch.float64).unsqueeze(1)
    jumps = []
    for above in (None, 0.0, -0.5):
        torch.manual_seed(0)
        model = HashMLP(D, [40], 1, above=above, config=config, dtype=torch.float64)
        ends = torch.randn(2, D, dtype=torch.float64)
        y = model.eval()(ends[0] * line + ends[1] * (1 - line)).detach()
        jumps.append(float(y.diff(dim=0).abs().max() / y.std()))
    assert jumps[0] > 0.1
    assert max(jumps[1:]) < 0.01


@pytest.mark.parametrize(("above", "factor"), [(0.0, 3.0), (-0.5, 3 * math.exp(-0.25))])
def test_later_layers_are_drawn_larger_where_outputs_count_above_their_mean(
    above: float, factor: float
) -> None:
    plain, larger = make_mlp(), make_mlp(above=above)
    factors = [1.0] * 2 + [factor] * 6  # weights and biases
    for one, other, factor in zip(plain.parameters(), larger.parameters(), factors, strict=True):
        torch.testing.assert_close(other, factor * one)


@ON_DEVICES
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("above", [None, 0.0, -0.5])
def test_an_mlp_is_the_masked_dense_one(
    chosen: Take, above: float | None, sparse_grad: bool, gated: bool, training: bool
) -> None:
    changes = {"sparse_grad": sparse_grad, "random": 0.2}
    model = make_mlp(gated, above=above, **changes).train(training)
    x = inputs(6, dtype=torch.float64).requires_grad_()
    y = model(x)
    wanted = masked_mlp(model, x, chosen)
    for layer in model.hidden:
        rows = chosen(layer.hashed)
        assert rows.shape == (6, 15)
        assert (rows >= 0).any(1).all()
    torch.testing.assert_close(y, wanted, **CLOSE)
    assert_same_gradients(y, wanted, x, model.parameters())


@pytest.mark.usefixtures("empty_sets")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("above", [None, 0.0, -0.5])
def test_active_sets_of_an_mlp_may_be_empty(
    chosen: Take, above: float | None, sparse_grad: bool, gated: bool
) -> None:
    model = make_mlp(gated, above=above, sparse_grad=sparse_grad, random=0.2)
    x = inputs(5, dtype=torch.float64).requires_grad_()
    y = model(x)
    for layer in model.hidden:
        assert (chosen(layer.hashed)[0] < 0).all()
    wanted = masked_mlp(model, x, chosen)
    torch.testing.assert_close(y, wanted, **CLOSE)
    assert_same_gradients(y, wanted, x, model.parameters())


@ON_DEVICES
def test_with_every_neuron_active_it_is_dense() -> None:
    model = make_mlp(active=1.0)
    x = inputs(2, 3, dtype=torch.float64)
    h = x
    for layer in model.hidden:
        h = layer.up.weight.new_tensor(0).maximum(F.linear(h, layer.up.weight, layer.up.bias))
    wanted = F.linear(h, model.output.weight, model.output.bias)
    torch.testing.assert_close(model(x), wanted, **CLOSE)
    assert model(x).shape == (2, 3, 4)


@ON_DEVICES
def test_gradients_of_hidden_layers_are_of_entries() -> None:
    model = make_mlp(sparse_grad=True)
    model(inputs(3, dtype=torch.float64)).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert grads["hidden.0.up.weight"].sparse_dim() == 1
    for name in ("hidden.1.up.weight", "hidden.2.up.weight", "output.weight"):
        assert grads[name].sparse_dim() == 2
        assert grads[name]._nnz() <= 3 * 15 * 15


@ON_DEVICES
@pytest.mark.parametrize("make", [SGD, Adagrad, RowWiseAdagrad, Adam])
@pytest.mark.parametrize("gated", [False, True])
def test_row_optimizers_train_it(make: type[torch.optim.Optimizer], gated: bool) -> None:
    model = make_mlp(gated, torch.float32, sparse_grad=True)
    optimizer = make(model.parameters(), lr=1.0 if make is SGD else 0.05)
    x = inputs(64)
    target = (x[:, 0] > 0).long()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert model.output.weight.t().is_contiguous()


@ON_DEVICES
def test_sparse_and_dense_gradients_train_alike() -> None:
    models = [make_mlp(sparse_grad=sparse_grad) for sparse_grad in (False, True)]
    x = inputs(8, dtype=torch.float64)
    for _ in range(3):
        for model in models:
            optimizer = SGD(model.parameters(), lr=0.1)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_configurations_a_layer() -> None:
    configs = [SMALL, SMALL.replace(active=7), SMALL.replace(active=9)]
    model = HashMLP(D, HIDDEN, 4, config=configs)
    assert [layer.hashed.config for layer in model.hidden] == configs
    assert isinstance(HashMLP(D, [9], 2, gated=True).hidden[0].activation, nn.SiLU)
    with pytest.raises(ValueError, match="HashMLP: config: got 2 configurations"):
        HashMLP(D, HIDDEN, 4, config=configs[:2])
    with pytest.raises(ValueError, match="HashMLP: hidden: got no layer"):
        HashMLP(D, [], 4)


@pytest.mark.parametrize(
    ("above", "error"),
    [(True, TypeError), ("mean", TypeError), (math.nan, ValueError), (-math.inf, ValueError)],
)
def test_outputs_count_above_a_finite_number(above: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"HashMLP: above: got {above!r}, wanted a finite number"):
        HashMLP(D, HIDDEN, 4, above=above)


def test_layers_step_in_proportion_to_their_weights() -> None:
    model = make_mlp(active=0.25, random=0.2)
    groups = model.parameter_groups(0.01)
    layers = [*model.hidden, model.output]
    for group, layer in zip(groups, layers, strict=True):
        assert [id(some) for some in group["params"]] == [id(some) for some in layer.parameters()]
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.02, 0.02, 0.02], rel=0.05)
    before = [layer.weight.detach().clone() for layer in [h.hashed for h in model.hidden]]
    optimizer = Adam(groups)
    model(inputs(8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    for hidden, old, group in zip(model.hidden, before, groups, strict=False):
        change = (hidden.hashed.weight - old).abs().max().item()
        assert change == pytest.approx(group["lr"], rel=1e-3)


def test_layers_that_auto_runs_dense_are_drawn_and_stepped_as_dense_ones() -> None:
    sizes = (D, [200, 200], 4)
    torch.manual_seed(0)
    model = HashMLP(*sizes, config=HashConfig(active=20, auto=True))
    torch.manual_seed(0)
    dense = HashMLP(*sizes, config=HashConfig(active=1.0))
    assert all(hidden.hashed.tables is None for hidden in model.hidden)
    for ours, wanted in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(ours, wanted)
    assert [group["lr"] for group in model.parameter_groups(0.01)] == [0.01] * 3


def test_what_an_activation_learns_is_of_no_layer() -> None:
    slope = nn.PReLU()
    model = HashMLP(D, HIDDEN, 4, activation=slope, above=-0.5, config=SMALL)
    assert slope.weight.item() == 0.25
    groups = model.parameter_groups(0.01)
    assert groups[-1] == {"params": [slope.weight], "lr": 0.01}
    Adam(groups)  # which refuses a parameter in two of them


def test_all_layers_step_alike_where_all_neurons_are_active() -> None:
    model = HashMLP(D, HIDDEN, 4, config=SMALL.replace(active=1.0), gated=True)
    groups = model.parameter_groups(0.01)
    assert [group["lr"] for group in groups] == [0.01] * 4
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_bad_active_inputs_are_refused() -> None:
    layer = HashLinear(30, 200, config=CONFIG)
    columns, values = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3)
    columns[1, 2] = 30
    with pytest.raises(RuntimeError, match="hashdl::scatter_rows: rows: got ids from 0 to 30"):
        layer.sparse_to_sparse(columns, values)
    with pytest.raises(RuntimeError, match="hashdl::scatter_rows: rows: got dtype int64"):
        layer.sparse_to_sparse(columns.long() * 0, values)
    with pytest.raises(RuntimeError, match=r"rows: got torch.int32 of shape \(3, 1\)"):
        layer.sparse_to_sparse(columns * 0, values, torch.zeros(3, 1, dtype=torch.int32))


# ---- ColumnLinear ------------------------------------------------------------------------------


def test_a_column_linear_is_a_linear_in_another_layout() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(9, 4)
    layer = ColumnLinear(9, 4)
    layer.load_state_dict(dense.state_dict(), strict=True)
    x = torch.randn(2, 3, 9)
    torch.testing.assert_close(layer(x), dense(x))
    columns = torch.arange(9, dtype=torch.int32).expand(2, 3, 9)
    torch.testing.assert_close(layer.from_active(columns, x), dense(x))
    other = nn.Linear(9, 4)
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other.weight, dense.weight)
    assert other.weight.is_contiguous()


def test_the_layout_survives() -> None:
    layer = ColumnLinear(9, 4)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    loaded = ColumnLinear(9, 4)
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded]
    for same in copies:
        assert torch.equal(same.weight, layer.weight)
    meta = ColumnLinear(9, 4, device="meta").to_empty(device="cpu")
    for moved in [*copies, copy.deepcopy(layer).double(), meta]:
        assert moved.weight.t().is_contiguous()


def test_column_linear_there_and_back() -> None:
    dense = nn.Linear(9, 4).requires_grad_(False).eval()
    layer = ColumnLinear.from_linear(dense)
    assert layer.bias is dense.bias
    assert not layer.training
    assert (layer.in_features, layer.out_features) == (9, 4)
    back = layer.to_linear()
    assert torch.equal(back.weight, dense.weight)
    assert back.weight.is_contiguous()
    assert not back.weight.requires_grad
    assert repr(back) == repr(dense)


# ---- HashFeedForward ---------------------------------------------------------------------------


def dense_block(gated: bool) -> nn.ModuleDict:
    torch.manual_seed(1)
    names = {"up": (D, 90), "down": (90, D)} | ({"gate": (D, 90)} if gated else {})
    return nn.ModuleDict({k: nn.Linear(*v, dtype=torch.float64) for k, v in names.items()})


def feed_forward(layers: nn.ModuleDict, config: HashConfig) -> HashFeedForward:
    gate = dict(layers).get("gate")
    return HashFeedForward.from_linears(
        layers["up"], layers["down"], nn.SiLU(), gate=gate, config=config
    )


@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_block_is_the_masked_dense_one(chosen: Take, gated: bool) -> None:
    layers = dense_block(gated)
    block = feed_forward(layers, SMALL)
    x = inputs(6, dtype=torch.float64).requires_grad_()
    y = block(x)
    h = masked_hidden(block, x, chosen(block.hashed))
    wanted = F.linear(h, block.down.weight, block.down.bias)
    torch.testing.assert_close(y, wanted, **CLOSE)
    assert_same_gradients(y, wanted, x, block.parameters())


@pytest.mark.usefixtures("empty_sets")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_active_sets_of_a_feed_forward_block_may_be_empty(
    chosen: Take, sparse_grad: bool, gated: bool
) -> None:
    block = feed_forward(dense_block(gated), SMALL.replace(sparse_grad=sparse_grad))
    x = inputs(5, dtype=torch.float64).requires_grad_()
    y = block(x)
    rows = chosen(block.hashed)
    assert (rows[0] < 0).all()
    assert torch.equal(y[0], block.down.bias)
    wanted = F.linear(masked_hidden(block, x, rows), block.down.weight, block.down.bias)
    torch.testing.assert_close(y, wanted, **CLOSE)
    assert_same_gradients(y, wanted, x, block.parameters())


@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_block_loads_and_saves_as_linears(gated: bool) -> None:
    layers = dense_block(gated)
    block = feed_forward(layers, SMALL)
    fresh = HashFeedForward(D, 90, gated=gated, config=SMALL, dtype=torch.float64)
    for state in (layers.state_dict(), block.state_dict()):
        fresh.load_state_dict(state, strict=True)
        x = inputs(1, dtype=torch.float64)
        fresh.activation = block.activation
        torch.testing.assert_close(fresh.eval()(x), block.eval()(x), rtol=0, atol=0)
    layers.load_state_dict(fresh.state_dict(), strict=True)
    assert fresh.down.weight.t().is_contiguous()


def test_layers_that_do_not_fit_are_refused() -> None:
    up, down = nn.Linear(8, 20), nn.Linear(19, 8)
    with pytest.raises(ValueError, match="got up 8 to 20, down 19 to 8, wanted"):
        HashFeedForward.from_linears(up, down, nn.GELU())
    with pytest.raises(ValueError, match="gate 8 to 21"):
        HashFeedForward.from_linears(
            up, nn.Linear(20, 8), nn.GELU(), gate=nn.Linear(8, 21), config=SMALL
        )


# ---- chains made by convert --------------------------------------------------------------------


def sequence(*between: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(D, 60), *between, nn.Linear(60, 80), *between, nn.Linear(80, 50)
    ).to(dtype)


def unchained(model: nn.Sequential) -> nn.Sequential:
    same = copy.deepcopy(model)
    same.__class__ = nn.Sequential
    return same


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fill", [0.0, -2.0])
@pytest.mark.parametrize(
    "between",
    [(), (nn.ReLU(),), (nn.ReLU(inplace=True),), (nn.GELU(), nn.Dropout(0.0)), (nn.Tanh(),)],
    ids=["nothing", "relu", "inplace", "gelu-dropout", "tanh"],
)
def test_a_chain_is_the_unchained_model(
    between: tuple[nn.Module, ...], fill: float, training: bool
) -> None:
    model = convert(sequence(*between), SMALL.replace(fill=fill))
    assert isinstance(model, HashSequential) == (fill == 0)
    model.train(training)
    plain = unchained(model)
    x = inputs(2, 3, dtype=torch.float64)
    results = []
    for module in (model, plain):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.square().sum().backward()
        results.append([y, leaf.grad, *map(dense_grad, module.parameters())])
    torch.testing.assert_close(*results, **CLOSE)


@pytest.mark.usefixtures("empty_sets")
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_active_sets_of_a_chain_may_be_empty(chosen: Take, sparse_grad: bool) -> None:
    model = convert(sequence(nn.GELU()), SMALL.replace(sparse_grad=sparse_grad))
    assert isinstance(model, HashSequential)
    x = inputs(5, dtype=torch.float64).requires_grad_()
    y = model(x)
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    wanted = x
    for module in model:
        if isinstance(module, HashLinear):
            wanted = masked_linear(module, wanted, chosen(module))
        else:
            wanted = module(wanted)
    torch.testing.assert_close(y, wanted, **CLOSE)
    assert_same_gradients(y, wanted, x, model.parameters())


def test_a_chain_never_makes_a_dense_hidden_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convert(sequence(nn.ReLU()), SMALL)
    shapes: list[tuple[int, ...]] = []
    relu = nn.ReLU.forward
    monkeypatch.setattr(
        nn.ReLU, "forward", lambda self, x: shapes.append(tuple(x.shape)) or relu(self, x)
    )
    assert model(inputs(3, dtype=torch.float64)).shape == (3, 50)
    assert shapes == [(3, 15), (3, 15)]


@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.LayerNorm(60), nn.Hardtanh(0.5, 1)])
def test_what_does_not_keep_zero_ends_a_chain(between: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(D, 60), between, nn.Linear(60, 80))
    assert type(convert(model, SMALL)) is nn.Sequential


def test_hooks_get_dense_tensors() -> None:
    model = convert(sequence(nn.ReLU()), SMALL)
    wanted = unchained(model)(inputs(3, dtype=torch.float64))
    shapes = []
    model[1].register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    torch.testing.assert_close(model(inputs(3, dtype=torch.float64)), wanted, **CLOSE)
    assert (3, 60) in shapes


def test_sequences_stay_the_same_objects_there_and_back() -> None:
    class Own(nn.Sequential):
        """A forward of its own, for all that convert knows."""

    layers = [nn.Linear(D, 60), nn.ReLU(), nn.Linear(60, 80)]
    model = nn.ModuleList([sequence(nn.ReLU()), Own(*layers), nn.Sequential(layers[0])])
    sequences, keys = list(model), list(model.state_dict())
    x = inputs(3, dtype=torch.float64)
    wanted = sequences[0](x)
    convert(model, SMALL)
    assert [type(module) for module in model] == [HashSequential, Own, nn.Sequential]
    assert list(model) == sequences
    assert list(model.state_dict()) == keys
    copied = copy.deepcopy(sequences[0])
    torch.testing.assert_close(copied.eval()(x), sequences[0].eval()(x), **CLOSE)
    revert(model)
    assert [type(module) for module in model] == [nn.Sequential, Own, nn.Sequential]
    assert torch.equal(sequences[0](x), wanted)


def test_layers_that_run_dense_are_not_chained() -> None:
    model = convert(sequence(nn.ReLU()), HashConfig(active=1.0))
    assert type(model) is nn.Sequential
    sparse = HashLinear(D, 60, config=SMALL, dtype=torch.float64)
    dense = HashLinear(60, 70, config=HashConfig(active=1.0), dtype=torch.float64)
    rows, values = sparse.sparse_forward(inputs(3, dtype=torch.float64))
    found, z = dense.sparse_to_sparse(rows, values)
    assert torch.equal(found, torch.arange(70, dtype=torch.int32).expand(3, -1))
    hidden = torch.zeros(3, 61, dtype=torch.float64).scatter(
        1, torch.where(rows < 0, 60, rows).long(), values
    )
    torch.testing.assert_close(z, F.linear(hidden[:, :60], dense.weight, dense.bias), **CLOSE)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden": 500}, r"HashMLP: hidden: got 500, wanted sizes, such as \[500\]"),
        ({"activation": nn.GELU}, r"HashMLP: activation: got .*GELU.*, wanted an nn.Module"),
    ],
)
def test_what_is_no_list_of_sizes_or_no_activation_is_refused(
    change: dict[str, Any], match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        HashMLP(**({"in_features": 16, "hidden": [50], "out_features": 4} | change))


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (3, 4)])
def test_a_linear_layer_of_columns_has_a_weight_of_its_own(sizes: tuple[int, int]) -> None:
    columns = ColumnLinear(*sizes)
    linear = columns.to_linear()
    before = columns.weight.detach().clone()
    with torch.no_grad():
        linear.weight.zero_()
    assert torch.equal(columns.weight, before)
