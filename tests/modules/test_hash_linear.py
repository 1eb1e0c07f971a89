"""HashLinear's outputs, gradients and retrieval against nn.Linear."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from module_helpers import (
    CONFIG,
    ON_DEVICES,
    D,
    N,
    dense_grad,
    inputs,
    make_layer,
    mask_of,
    masked_linear,
    randn,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hashdl import HashConfig, HashLinear
from hashdl.ops import SELECTIONS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": {"active": 5}}, "config: got dict, wanted a HashConfig"),
        ({"bias": CONFIG}, "bias: got HashConfig, wanted True or False"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"HashLinear: {message}"):
        HashLinear(D, N, **arguments)


@pytest.mark.parametrize("training", [False, True])
def test_a_weight_of_another_size_is_refused(training: bool) -> None:
    layer = make_layer().train(training)
    layer.weight = nn.Parameter(torch.randn(N + 10, D))
    with pytest.raises(RuntimeError, match=rf"weight: got shape \({N + 10}, {D}\), wanted \({N}"):
        layer(inputs(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("active", [1.0, N, 10 * N])
def test_with_every_row_active_it_is_exactly_linear(
    dtype: torch.dtype, active: float | int
) -> None:
    layer = make_layer(dtype=dtype, active=active)
    dense = nn.Linear(D, N, dtype=dtype)
    dense.load_state_dict(layer.state_dict())
    assert layer.tables is None
    grads = []
    for module in (layer, dense):
        x = inputs(3, 2, dtype=dtype).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        grads.append((y, x.grad, module.weight.grad, module.bias.grad))
    for ours, theirs in zip(*grads, strict=True):
        assert torch.equal(ours, theirs)


@ON_DEVICES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("bias", "fill"), [(True, 0.0), (False, -7.5)])
def test_forward_is_dense_at_active_rows_and_fill_elsewhere(
    dtype: torch.dtype, selection: str, bias: bool, fill: float
) -> None:
    layer = make_layer(bias=bias, dtype=dtype, selection=selection, fill=fill).eval()
    x = inputs(6, dtype=dtype)
    rows = layer.active(x)
    assert rows.dtype == torch.int32
    assert (rows >= 0).any(1).all()
    wanted = masked_linear(layer, x, rows, fill)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(layer(x), wanted, rtol=tolerance, atol=tolerance)


@ON_DEVICES
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_autograds_on_the_masked_dense_layer(
    sparse_grad: bool, bias: bool, training: bool
) -> None:
    layer = make_layer(bias=bias, dtype=torch.float64, sparse_grad=sparse_grad, random=0.5)
    layer.train(training)
    x = inputs(5, dtype=torch.float64).requires_grad_()
    y = layer(x)
    rows = [row.nonzero().squeeze(1) for row in y]  # no output is 0 by chance
    active = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    pull = randn(*y.shape, dtype=y.dtype, seed=3)
    y.backward(pull)
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_sparse == sparse_grad
    ours = [x.grad, *(dense_grad(parameter) for parameter in layer.parameters())]

    parameters = [x, *layer.parameters()]
    wanted = torch.autograd.grad(masked_linear(layer, x, active), parameters, pull)
    for our, want in zip(ours, wanted, strict=True):
        torch.testing.assert_close(our, want, rtol=1e-12, atol=1e-12)


@ON_DEVICES
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (0,), (3, 0), (2, 1, 2)])
def test_leading_dimensions(shape: tuple[int, ...]) -> None:
    layer = make_layer().eval()
    x = inputs(*shape)
    flat = layer(x.reshape(-1, D))
    y = layer(x)
    assert y.shape == (*shape, N)
    assert torch.equal(y.reshape(-1, N), flat)
    assert layer.active(x).shape == (*shape, 20)
    rows, values = layer.sparse_forward(x)
    assert rows.shape == values.shape == (*shape, 20)
    assert [part.shape for part in layer.topk(x, 3)] == [(*shape, 3)] * 2
    y.sum().backward()
    assert torch.isfinite(layer.weight.grad).all()


def test_non_contiguous_inputs_and_weights() -> None:
    layer = make_layer().eval()
    x = inputs(6)
    spread = torch.stack([x, -x], 2)[..., 0]
    assert not spread.is_contiguous()
    assert torch.equal(layer(spread), layer(x))
    assert torch.equal(layer(x.t().contiguous().t()), layer(x))
    wanted = layer(x)
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    torch.testing.assert_close(layer(x), wanted)


def test_autocast_keeps_the_layers_dtype_and_its_codes() -> None:
    layer = make_layer().eval()
    x = inputs(6)
    wanted = layer(x)
    layer.tables.invalidate()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), wanted)
        assert torch.equal(layer(x.bfloat16()), layer(x.bfloat16().float()))
        layer.train()(x).sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, D + 1), r"input: got shape \(2, 13\), wanted \(\*, in_features = 12\)"),
        (torch.tensor(1.0), r"input: got shape \(\), wanted"),
        (torch.zeros(2, D, dtype=torch.float64), "input: got dtype torch.float64, wanted"),
        (torch.zeros(2, D, dtype=torch.int64), "input: got dtype torch.int64, wanted"),
        (torch.full((2, D), torch.nan), "is the input finite"),
        (torch.full((2, D), torch.inf), "is the input finite"),
    ],
)
@pytest.mark.parametrize("method", ["forward", "active", "sparse_forward", "topk"])
def test_a_wrong_input_is_refused_and_changes_nothing(x: Tensor, message: str, method: str) -> None:
    layer = make_layer()
    good = inputs(4)
    wanted, state = layer.eval()(good), copy.deepcopy(layer.state_dict())
    layer.train()
    arguments = (x, 3) if method == "topk" else (x,)
    with pytest.raises(RuntimeError, match=message):
        getattr(layer, method)(*arguments)
    assert layer.weight.grad is None
    assert all(torch.equal(layer.state_dict()[name], state[name]) for name in state)
    assert torch.equal(layer.eval()(good), wanted)
    layer.train()(good).sum().backward()


# ---- what is active ----------------------------------------------------------------------------


@ON_DEVICES
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("active", [1, 7, 0.3])
def test_active_rows_are_distinct(training: bool, active: float | int) -> None:
    layer = make_layer(active=active, random=0.5).train(training)
    for _ in range(3):
        for sample in layer.active(inputs(16)):
            rows = sample[sample >= 0]
            assert rows.unique().numel() == rows.numel() > 0
            assert int(rows.max()) < N


@ON_DEVICES
def test_exact_selection_keeps_the_best_candidates() -> None:
    layer = make_layer(candidates=N, cap=N).eval()
    x = inputs(5)
    values, best = layer.topk(x, 20)
    for sample in range(5):
        assert set(layer.active(x)[sample].tolist()) == set(best[sample].tolist())
    assert (values.diff(dim=1) <= 0).all()


@ON_DEVICES
def test_random_rows_are_active_in_training_alone() -> None:
    layer = make_layer(random=1.0, tables=1, bits=7)
    x = inputs(8)
    first, second = layer.active(x), layer.active(x)
    assert not torch.equal(first, second)
    assert (first >= 0).float().mean() > 0.8
    layer.eval()
    rows = layer.active(x)
    assert torch.equal(rows, layer.active(x))
    found = layer.topk(x, N)[1]
    for sample in range(8):
        assert set(rows[sample].tolist()) <= {*found[sample].tolist(), -1}


@ON_DEVICES
@pytest.mark.parametrize("selection", ["exact", "sketch", "union"])
def test_fewer_rows_are_active_in_evaluation(selection: str) -> None:
    layer = make_layer(selection=selection, active=20, active_eval=7, random=0.25, candidates=N)
    few = make_layer(selection=selection, active=7, candidates=N).eval()
    few.load_state_dict(layer.state_dict())
    x = inputs(6)
    assert layer.active(x).shape == (6, 20)
    assert torch.equal(layer.eval().active(x), few.active(x))
    with pytest.raises(ValueError, match=r"active_eval: got 30, wanted at most active = 20"):
        make_layer(active=20, active_eval=30)


@ON_DEVICES
@pytest.mark.parametrize("levels", [2, 16])
def test_sketch_selection_keeps_the_candidates_of_the_highest_scores(levels: int) -> None:
    layer = make_layer(selection="sketch", sketch_levels=levels).eval()
    x = inputs(5)
    rows = layer.active(x)
    found = layer.tables.lookup(x)
    scores = layer.tables.sketch_scores(x, found, None).masked_fill(found < 0, -torch.inf)
    lowest_kept = scores.topk(20).values[:, -1:]
    for sample in range(5):
        kept = torch.isin(found[sample], rows[sample])
        assert (scores[sample][kept] >= lowest_kept[sample]).all()
        assert kept.sum() == 20


@pytest.mark.parametrize("levels", [2, 16])
def test_sketches_in_the_order_of_the_table_follow_the_weight(levels: int) -> None:
    """An evaluation that finds nothing to do asks what was ordered before; a change is seen."""
    layer = make_layer(selection="sketch", sketch_levels=levels, tables=1, active=10).eval()
    x = inputs(7)

    def answers_are_those_of_the_rows_sketches() -> bool:
        values, _ = layer.topk(x, 5)
        assert layer.tables._ordered is not None
        found = layer.tables.lookup(x)
        scores = layer.tables.sketch_scores(x, found, None).masked_fill(found < 0, -torch.inf)
        best = found.gather(1, scores.topk(10).indices).long()
        z = F.linear(x, layer.weight, layer.bias).gather(1, best.clamp_min(0))
        wanted = z.masked_fill(best < 0, -torch.inf).topk(5).values
        return torch.allclose(values, wanted, atol=1e-5)

    assert answers_are_those_of_the_rows_sketches()
    assert answers_are_those_of_the_rows_sketches()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.roll(17, 0) * torch.rand(len(layer.weight), 1))
    assert answers_are_those_of_the_rows_sketches()


def test_buckets_of_a_capacity_are_not_in_order() -> None:
    layer = make_layer(selection="sketch", tables=1, buckets="fifo", capacity=4).eval()
    layer.topk(inputs(2), 3)
    layer.topk(inputs(2), 3)
    assert layer.tables._ordered is None


def test_sketches_rank_by_length_and_angle() -> None:
    """So that what is kept is better than the first found, and nearly as good as the best."""
    x = inputs(20)
    means = {}
    for name in ("union", "sketch", "sixteen levels", "exact"):
        selection, levels = ("sketch", 16) if name == "sixteen levels" else (name, 2)
        sizes = {"tables": 16, "active": 10, "bias": False, "sketch_levels": levels}
        layer = make_layer(selection=selection, **sizes).eval()
        with torch.no_grad():
            layer.weight.mul_(torch.linspace(0.2, 2, N)[:, None])
        rows, values = layer.sparse_forward(x)
        means[name] = values[rows >= 0].mean()
    for name in ("sketch", "sixteen levels"):
        assert means[name] > means["union"] + 0.5 * (means["exact"] - means["union"])


def test_threshold_drops_candidates_of_few_buckets() -> None:
    x = inputs(8)
    kept = make_layer(selection="threshold", threshold=4).eval().active(x)
    unlimited = make_layer(selection="frequency").eval().active(x)
    assert 0 < int((kept >= 0).sum()) < int((unlimited >= 0).sum())


@ON_DEVICES
@pytest.mark.parametrize("changes", [{"bits": 7}, {"family": "kmeans", "bits": 5, "tables": 2}])
@pytest.mark.parametrize(("bias", "norm"), [(False, 0.1), (True, 10.0)])
def test_recall_on_clustered_rows_is_far_above_chance(
    bias: bool, norm: float, changes: dict[str, Any]
) -> None:
    centers = inputs(50)
    rows = centers.repeat(20, 1) + 0.1 * inputs(1000, seed=2)
    layer = make_layer(1000, bias, active=50, **changes)
    with torch.no_grad():
        layer.weight.copy_(F.normalize(rows, dim=1))
        if bias:
            layer.bias.mul_(0.1)
    queries = norm * F.normalize(centers, dim=1)
    wanted = F.linear(queries, layer.weight, layer.bias).topk(10).indices
    rows_active = mask_of(layer.eval().active(queries), 1000)
    recall = rows_active.gather(1, wanted).float().mean()
    assert recall > 0.9  # by chance: 50 / 1000


# ---- topk and sparse_forward -------------------------------------------------------------------


@ON_DEVICES
def test_topk_pads_where_there_are_fewer_candidates() -> None:
    layer = make_layer(tables=1, bits=7, active=5).eval()
    x = inputs(4)
    values, indices = layer.topk(x, N)
    assert indices.dtype == torch.int64
    none = indices < 0
    assert none.any()
    assert (indices[none] == -1).all()
    assert (values[none] == -torch.inf).all()
    dense = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(values[~none], dense.gather(1, indices.clamp_min(0))[~none])


@pytest.mark.parametrize("active", [20, 1.0])
@pytest.mark.parametrize("k", [0, -1, N + 1, 2.0, "3"])
def test_topk_out_of_range(active: float | int, k: Any) -> None:
    with pytest.raises(ValueError, match=f"k: got {k!r}, wanted an int of 1 to out_features = {N}"):
        make_layer(active=active).topk(inputs(2), k)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_dtype_that_cannot_be_hashed_is_refused(dtype: torch.dtype) -> None:
    linear = nn.Linear(D, N, device="meta").to(dtype)
    with pytest.raises(TypeError, match=f"HashLinear: dtype: got {dtype}, wanted one of float32"):
        HashLinear.from_linear(linear)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_by_torch_jit_is_refused(training: bool) -> None:
    layer = make_layer().train(training)
    with pytest.raises(RuntimeError, match=r"got a trace by torch.jit .* wanted torch.export"):
        torch.jit.trace(layer, inputs(2))


@ON_DEVICES
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("active", [20, 1.0])
def test_sparse_forward_of_given_rows(dtype: torch.dtype, active: float | int) -> None:
    layer = make_layer(active=active)
    x = inputs(2, 2)
    rows = torch.tensor([[[0, 5, 7], [1, 2, 3]], [[9, 8, 199], [4, 0, 6]]]).to(dtype)
    got, values = layer.sparse_forward(x, rows)
    assert torch.equal(got, rows.int())
    torch.testing.assert_close(values, F.linear(x, layer.weight, layer.bias).gather(2, rows.long()))


@ON_DEVICES
def test_padding_of_given_rows_is_zero_and_has_no_gradient() -> None:
    layer = make_layer()
    _, values = layer.sparse_forward(inputs(1), torch.tensor([[-1, 4]]))
    values.sum().backward()
    assert values[0, 0] == 0
    assert layer.weight.grad.any(1).nonzero().tolist() == [[4]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(2, 3), r"rows: got torch.float32 of shape \(2, 3\), wanted integers"),
        (torch.zeros(2, N, dtype=torch.bool), "rows: got torch.bool"),
        (torch.zeros(3, 1, dtype=torch.int64), r"of shape \(3, 1\), wanted .* \(2, A\)"),
        (torch.tensor(3), r"of shape \(\), wanted"),
        (torch.tensor([[N], [0]]), f"rows: got ids from 0 to {N}"),
        (torch.tensor([[-2], [0]]), "rows: got ids from -2 to 0"),
        (torch.tensor([[2**32 + 7], [0]]), f"rows: got ids from 0 to {N}"),
        (torch.tensor([[-(2**32)], [0]]), "rows: got ids from -2 to 0"),
    ],
)
def test_wrong_given_rows_are_refused(rows: Tensor, message: str) -> None:
    layer = make_layer()
    layer.rehash()
    with pytest.raises(RuntimeError, match=message):
        layer.sparse_forward(inputs(2), rows)
    assert not layer.tables.dirty.any()


def test_given_rows_may_be_none_at_all() -> None:
    rows, values = make_layer().sparse_forward(inputs(2), torch.zeros(2, 0, dtype=torch.int64))
    assert rows.shape == values.shape == (2, 0)
    with pytest.raises(TypeError, match="sparse_forward: rows: got list, wanted a Tensor"):
        make_layer().sparse_forward(inputs(2), [[1], [2]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(4, 9)), "ParametrizedLinear whose weight"),
        (lambda: nn.utils.weight_norm(nn.Linear(4, 9)), "a Linear whose weight is computed"),
        (lambda: nn.LazyLinear(9), "a LazyLinear whose weight is not initialized yet"),
        (lambda: nn.Embedding(9, 4), "got Embedding, wanted an nn.Linear"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_holds_no_parameters_cannot_be_hashed(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(TypeError, match=f"HashLinear.from_linear: linear: .*{message}"):
        HashLinear.from_linear(make())


# ---- odd weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("training", [False, True])
def test_weights_that_are_not_finite_are_named_and_can_be_mended(
    bad: float, name: str, training: bool
) -> None:
    layer = make_layer(rehash_every=1).train(training)
    x = inputs(2)
    wanted = copy.deepcopy(layer).eval()(x)
    layer(x)
    parameter = getattr(layer, name)
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter[3] = bad
    layer.tables.dirty.fill_(1)  # as an update of all rows would
    with pytest.raises(RuntimeError, match="weight or bias: got NaN, infinity or values too large"):
        layer(x)
    with torch.no_grad():
        parameter.copy_(kept)
    layer.tables.dirty.zero_()[3] = 1  # only this row is hashed again, against the old centre
    layer(x)
    assert torch.equal(layer.eval()(x), wanted)


@pytest.mark.parametrize("scale", [1e18, 1e-18])
def test_norms_far_from_one(scale: float) -> None:
    layer = make_layer(bias=False).eval()
    x = inputs(4)
    wanted = layer.active(x)
    with torch.no_grad():
        layer.weight.mul_(2.0 ** round(torch.tensor(scale).log2().item()))
    assert torch.equal(layer.active(x), wanted)  # scaling by a power of two keeps all signs
    assert torch.isfinite(layer(x)).all()


def test_rows_that_are_all_equal() -> None:
    layer = make_layer(center=False).eval()
    with torch.no_grad():
        layer.weight.copy_(layer.weight[0].clone())
        layer.bias.fill_(0.5)
    x = layer.weight[:1].detach() * 10
    rows = layer.active(x)
    assert (rows >= 0).all()
    torch.testing.assert_close(layer(x), masked_linear(layer, x, rows))


@pytest.mark.parametrize(("out_features", "active"), [(1, 0.05), (1, 1), (2, 1), (3, 2), (3, 50)])
def test_few_rows(out_features: int, active: float | int) -> None:
    layer = HashLinear(D, out_features, config=CONFIG.replace(active=active, bits=None)).eval()
    x = inputs(5)
    y = layer(x)
    torch.testing.assert_close(y, masked_linear(layer, x, layer.active(x)))
    y.sum().backward()
    assert layer.topk(x, out_features)[0].shape == (5, out_features)
    assert layer.stats()["active"] == min(max(1, int(active)), out_features)


def test_second_derivatives_are_refused_not_wrong() -> None:
    layer = make_layer()
    x = inputs(2).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_repr_tells_what_is_active() -> None:
    layer = HashLinear(8, 1000, config=HashConfig(active=0.1, tables=8))
    assert "in_features=8, out_features=1000, bias=True, active=100, K=8, L=8" in repr(layer)
