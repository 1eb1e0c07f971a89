"""Layers that hash and sketch in few coordinates: what they find, and how they follow training."""

from __future__ import annotations

import pytest
import torch
from module_helpers import assert_same_history
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear, HashMLP, optim
from hashdl.metrics import recall

D, N, RANK = 60, 500, 6
# One bit, both buckets of which are read: every row is ranked by its sketch.
ALL = HashConfig(
    rank=RANK, selection="sketch", bits=1, tables=1, probes=2, cap=N, candidates=N, active=40
)


def inputs(count: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Queries that vary in few directions."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randn(RANK, D, generator=torch.Generator().manual_seed(99))
    few = torch.randn(count, RANK, generator=generator) @ turn
    return spread * (few + 0.1 * torch.randn(count, D, generator=generator))


def make_layer(bias: bool = True, **changes: object) -> HashLinear:
    torch.manual_seed(0)
    return HashLinear(D, N, bias, config=ALL.replace(**changes))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("family", ["simhash", "kmeans", "dwta"])
def test_few_coordinates_find_what_queries_look_for(family: str, bias: bool) -> None:
    layer = make_layer(bias, family=family, bits=4, probes=6, tables=2).eval()
    before = recall(layer, inputs(20, seed=1), k=40).recall  # so few tell nothing yet
    layer.calibrate(inputs(256))
    report = recall(layer, inputs(100, seed=1), k=40)
    assert report.recall > 0.8 * min(1.0, report.touched * N / 40)
    assert report.recall > before


def test_sketches_that_tell_all_find_all() -> None:
    layer = make_layer(rank=D + 1).eval()
    layer.calibrate(inputs(256))
    assert recall(layer, inputs(100, seed=1), k=40).recall > 0.99


def test_coordinates_follow_the_rows_in_training() -> None:
    """The rows turn to other directions: those of the first rehash see nothing of them."""
    layer = make_layer(rehash_every=5, rehash_growth=1.0)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :3] = torch.randn(N, 3)
    for step in range(20):
        layer.active(inputs(32, seed=step))
    with torch.no_grad():
        layer.weight[:, :3] = 0
        layer.weight[:, 3:6] = torch.randn(N, 3)
    for step in range(20, 40):
        layer.sparse_forward(inputs(32, seed=step))
        layer.tables.mark(torch.arange(N).int()[None])
    layer.train(False)
    layer.tables.state[0] = 1
    x = inputs(100, seed=77)
    kept = layer.active(x)
    best = (x @ layer.weight.t() + layer.bias).topk(40).indices
    shared = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(kept, best, strict=True))
    assert shared / best.numel() > 0.9


def test_only_so_many_queries_are_remembered() -> None:
    layer = make_layer()
    assert layer.tables.recent.shape == (256, D + 1)
    assert layer.tables.moment.numel() == 0
    layer.calibrate(inputs(2000))
    assert layer.tables.recent.view(torch.float32)[:, -1].eq(1).all()


@pytest.mark.parametrize("selection", ["sketch", "exact"])
def test_a_trained_layer_goes_on_as_before_from_its_history(selection: str) -> None:
    layer, other = (make_layer(selection=selection, rehash_every=4) for _ in range(2))
    for step in range(10):
        layer.sparse_forward(inputs(16, seed=step))
    other.load_state_dict(layer.state_dict())
    other.tables.set_history(layer.tables.history())
    assert_same_history(layer, other)
    layer.rehash(), other.rehash()
    x = inputs(9, seed=50)
    for one, same in zip(layer.sparse_forward(x), other.sparse_forward(x), strict=True):
        assert torch.equal(one, same)


def test_an_index_keeps_the_coordinates(tmp_path: object) -> None:
    layer = make_layer().eval()
    layer.calibrate(inputs(256))
    layer.save_index(f"{tmp_path}/index")
    other = make_layer().eval()
    other.load_index(f"{tmp_path}/index")
    x = inputs(20, seed=3)
    assert torch.equal(layer.active(x), other.active(x))


@pytest.mark.parametrize("selection", ["sketch", "exact"])
@pytest.mark.parametrize("family", ["simhash", "kmeans"])
def test_active_inputs_find_what_dense_ones_find(selection: str, family: str) -> None:
    layer = make_layer(selection=selection, family=family, bits=3, probes=3).eval()
    layer.calibrate(inputs(256))
    columns = torch.stack([torch.randperm(D)[:20] for _ in range(30)]).int()
    columns[:, 15:] = -1
    values = torch.randn(30, 20)
    x = torch.zeros(30, D + 1).scatter_(1, torch.where(columns < 0, D, columns).long(), values)
    rows, z = layer.sparse_to_sparse(columns, values)
    wanted, outputs = layer.sparse_forward(x[:, :D])
    same = (rows == wanted).float().mean()
    assert same > 0.95  # ties of rounding apart
    torch.testing.assert_close(z[rows == wanted], outputs[rows == wanted])


def test_a_net_of_such_layers_learns() -> None:
    torch.manual_seed(0)
    config = HashConfig(
        rank=8, selection="sketch", bits=1, tables=1, probes=2, cap=300, candidates=300, active=20
    )
    net = HashMLP(D, [300, 300], 5, config=config.replace(sparse_grad=True))
    optimizer = optim.Adam(net.parameters(), lr=3e-3)
    teacher = torch.randn(D, 5, generator=torch.Generator().manual_seed(5))
    for step in range(150):
        x = inputs(32, seed=step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), (x @ teacher).argmax(1)).backward()
        optimizer.step()
    x = inputs(400, seed=1000)
    assert (net.eval()(x).argmax(1) == (x @ teacher).argmax(1)).float().mean() > 0.8


@pytest.mark.parametrize("balance", [True, False])
def test_balance_and_rank_exclude_each_other(balance: bool) -> None:
    with pytest.raises(ValueError, match=r"balance: got .*, wanted None, with rank=6"):
        ALL.replace(balance=balance)


@pytest.mark.parametrize("rank", [0, 2.0, True])
def test_ranks_that_are_none_are_refused(rank: object) -> None:
    with pytest.raises(ValueError, match="HashConfig: rank: got"):
        HashConfig(rank=rank)
