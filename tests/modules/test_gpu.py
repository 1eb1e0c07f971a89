"""Layers on a GPU against the same layers on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, optim
from hashdl.functional import active_sparse_linear
from hashdl.hashing.families import FAMILIES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

CONFIG = HashConfig(active=20, random=5, candidates=60, tables=6, probes=4, sparse_grad=True)


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    return layer, copy.deepcopy(layer).cuda()


@pytest.mark.parametrize("selection", ["exact", "sketch", "frequency", "union"])
def test_active_rows_are_those_of_the_cpu(selection: str) -> None:
    """But for projections and scores whose last bits decide."""
    torch.manual_seed(0)
    config = CONFIG.replace(selection=selection)
    on_cpu, on_gpu = pair(HashLinear(16, 500, config=config).eval())
    x = torch.randn(30, 16)
    expected, actual = on_cpu.active(x), on_gpu.active(x.cuda()).cpu()
    assert (actual == expected).float().mean() > 0.99


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_training_goes_as_on_the_cpu(sparse_grad: bool) -> None:
    torch.manual_seed(0)
    config = CONFIG.replace(active=1.0, candidates=500, sparse_grad=sparse_grad)
    layers = pair(HashSoftmaxWithLoss(16, 500, config=config))
    optimizers = [optim.Adam(layer.parameters(), lr=0.01) for layer in layers]
    for _ in range(5):
        x, target = torch.randn(30, 16), torch.randint(500, (30,))
        losses = []
        for layer, optimizer, device in zip(layers, optimizers, ("cpu", "cuda"), strict=True):
            loss = layer(x.to(device), target.to(device)).loss
            loss.backward()
            optim.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach().cpu())
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_active_times_active_trains_as_on_the_cpu(sparse_grad: bool) -> None:
    """Gradients of entries, which repeat on a GPU, through clipping and the optimizer."""
    torch.manual_seed(0)
    layers = pair(nn.Linear(40, 50))
    optimizers = [optim.Adam(layer.parameters(), lr=0.01) for layer in layers]
    for _ in range(3):
        values = torch.randn(30, 9)
        columns, rows = (torch.randint(-1, n, (30, 9), dtype=torch.int32) for n in (40, 50))
        for layer, optimizer, device in zip(layers, optimizers, ("cpu", "cuda"), strict=True):
            given = (values.to(device), columns.to(device), layer.weight, layer.bias)
            z = active_sparse_linear(*given, rows.to(device), sparse_grad=sparse_grad)
            z.square().sum().backward()
            optim.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(layers[1].weight.cpu(), layers[0].weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layers[1].bias.cpu(), layers[0].bias, rtol=1e-3, atol=1e-5)


def test_a_sparse_gradient_of_two_passes_is_that_of_a_dense_one() -> None:
    torch.manual_seed(0)
    sparse = HashLinear(16, 500, config=CONFIG).cuda()
    dense = copy.deepcopy(sparse)
    dense.config = CONFIG.replace(sparse_grad=False)
    x = torch.randn(30, 16, device="cuda")
    for layer in (sparse, dense):
        for part in x.chunk(2):
            layer(part).square().sum().backward()
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


@pytest.mark.parametrize(
    ("every", "before", "changes"),
    [
        (100_000, 3, {}),
        (8, 17, {}),  # a cycle whose functions stay
        *((8, 25, {"family": name}) for name in FAMILIES),  # they are renewed at rehash 1, 2, 4
        *((8, 25, {"transform": "simple"}), (8, 25, {"selection": "sketch"})),
        (8, 25, {"selection": "sketch", "rank": 5}),
        (16, 17, {"rehash_drift": 0.01}),
    ],
    ids=str,
)
def test_a_training_step_does_not_wait(every: int, before: int, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = CONFIG.replace(rehash_every=every, rehash_growth=1.0, **changes)
    layer = HashLinear(16, 20_000, config=config).cuda()
    optimizer = optim.SGD(layer.parameters(), lr=0.01)
    x = torch.randn(30, 16, device="cuda")

    def step() -> None:
        layer(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(before):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(9):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert layer.stats()["step"] == before + 9


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.RowWiseAdam])
def test_replays_of_a_whole_step_are_steps(make: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    config = CONFIG.replace(rehash_every=100_000)
    layers = pair(HashSoftmaxWithLoss(16, 500, config=config).cuda())
    options = {} if make is optim.SGD else {"capturable": True}
    x, target = torch.randn(30, 16, device="cuda"), torch.randint(500, (30,), device="cuda")

    def stepping(layer: nn.Module) -> Callable[[], None]:
        optimizer = make(layer.parameters(), lr=0.01, **options)

        def step() -> None:
            layer(x, target).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    eager, captured = (stepping(layer) for layer in layers)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            eager()
            captured()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        captured()
    for _ in range(4):
        eager()
        graph.replay()
    torch.testing.assert_close(layers[1].weight, layers[0].weight)


def test_replays_of_a_graph_draw_anew_and_count() -> None:
    torch.manual_seed(0)
    layer = HashLinear(16, 500, config=CONFIG.replace(random=20)).cuda()
    x, graph = torch.randn(30, 16, device="cuda"), torch.cuda.CUDAGraph()
    with torch.no_grad():
        for _ in range(3):
            layer.sparse_forward(x)
        with torch.cuda.graph(graph):
            rows, _ = layer.sparse_forward(x)
    found = []
    for _ in range(2):
        graph.replay()
        found.append(rows.clone())
    assert not torch.equal(*found)
    assert layer.stats()["step"] == 5
    layer.tables.refresh(layer.weight, layer.bias, training=True)
    assert layer.stats()["step"] == 6
