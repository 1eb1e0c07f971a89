"""Training steps: every optimizer, accumulation, and the same weights on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
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
    is_balanced,
    make_layer,
    masked_linear,
)
from torch import Tensor, nn

import hashdl
from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, has_extension

Make = Callable[..., torch.optim.Optimizer]
DENSE: list[tuple[Make, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.Adagrad, {"lr": 0.1}),
    (torch.optim.AdamW, {"lr": 0.01}),
    (hashdl.optim.SGD, {"lr": 0.1}),
    (hashdl.optim.Adam, {"lr": 0.01}),
]
SPARSE: list[tuple[Make, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.Adagrad, {"lr": 0.1}),
    (torch.optim.SparseAdam, {"lr": 0.01}),
    (hashdl.optim.SGD, {"lr": 0.1}),
    (hashdl.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (hashdl.optim.Adagrad, {"lr": 0.1}),
    (hashdl.optim.RowWiseAdagrad, {"lr": 0.1}),
    (hashdl.optim.Adam, {"lr": 0.01}),
    (hashdl.optim.RowWiseAdam, {"lr": 0.01}),
]
OPTIMIZERS = [(*pair, False) for pair in DENSE] + [(*pair, True) for pair in SPARSE]


@pytest.mark.parametrize(("make", "options", "sparse_grad"), OPTIMIZERS)
@pytest.mark.parametrize("family", ["simhash", "kmeans"])
@pytest.mark.parametrize("kind", ["layer", "head", "shared head"])
def test_a_few_steps_of_every_optimizer_lower_the_loss(
    make: Make, options: dict[str, Any], sparse_grad: bool, kind: str, family: str
) -> None:
    torch.manual_seed(0)
    config = CONFIG.replace(sparse_grad=sparse_grad, rehash_every=3, family=family)
    x, target = inputs(16), torch.arange(16)
    if kind == "layer":
        model: nn.Module = HashLinear(D, 200, config=config)

        def loss_of() -> Tensor:
            return model.sparse_forward(x, wanted_rows)[1].add(-1).square().mean()

        wanted_rows = torch.arange(48).reshape(16, 3)
    else:
        config = config.replace(random=0.5, shared=20 * (kind == "shared head"))
        model = HashSoftmaxWithLoss(D, 200, config=config)

        def loss_of() -> Tensor:
            return model(x, target).loss

    optimizer = make(model.parameters(), **options)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_model_that_begins_from_nothing_learns_with_the_default() -> None:
    """Hard negatives alone, even the hardest of all, would shrink the head's inputs to nothing."""
    torch.manual_seed(0)
    N, groups = 4000, 400
    body = nn.Sequential(nn.EmbeddingBag(N, 16, mode="mean"), nn.Linear(16, 16))
    head = HashSoftmaxWithLoss(16, N)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.02)
    for _ in range(150):
        group = torch.randint(groups, (128, 1))
        items = group + groups * torch.randint(N // groups, (128, 6))
        hidden = body(items[:, 1:])
        optimizer.zero_grad()
        loss = head(hidden, items[:, 0]).loss
        loss.backward()
        optimizer.step()
    best = head.eval().topk(hidden, 10, exact=True)[1]
    assert hidden.norm(dim=1).mean() > 4
    assert (best % groups == group).float().mean() > 0.2


@ON_DEVICES
@pytest.mark.parametrize("sparse_grad", [False, True])
def test_gradients_accumulate(sparse_grad: bool) -> None:
    layer = make_layer(dtype=torch.float64, sparse_grad=sparse_grad).eval()
    batches = [inputs(4, dtype=torch.float64, seed=seed) for seed in (1, 2, 1)]
    for x in batches:
        layer(x).square().sum().backward()
    wanted = [torch.zeros_like(p) for p in layer.parameters()]
    for x in batches:
        loss = masked_linear(layer, x, layer.active(x)).square().sum()
        for total, grad in zip(wanted, torch.autograd.grad(loss, layer.parameters()), strict=True):
            total += grad
    for p, want in zip(layer.parameters(), wanted, strict=True):
        torch.testing.assert_close(dense_grad(p), want)
    layer.zero_grad(set_to_none=False)
    assert not any(dense_grad(p).any() for p in layer.parameters())
    layer(batches[0]).square().sum().backward()
    assert dense_grad(layer.weight).any()


@ON_DEVICES
def test_sparse_and_dense_gradients_train_alike() -> None:
    weights = []
    for sparse_grad in (False, True):
        layer = make_layer(sparse_grad=sparse_grad, random=0.5)
        optimizer = hashdl.optim.SGD(layer.parameters(), lr=0.1)
        for step in range(8):
            optimizer.zero_grad()
            layer(inputs(4, seed=step)).square().sum().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    torch.testing.assert_close(weights[0], weights[1])


@ON_DEVICES
def test_the_same_layer_twice_in_one_graph() -> None:
    layer = make_layer(dtype=torch.float64, sparse_grad=True).eval()
    a, b = inputs(2, dtype=torch.float64), inputs(3, dtype=torch.float64, seed=7)
    (layer(a).sum() * layer(b).square().sum()).backward()
    got = dense_grad(layer.weight)
    first, second = (masked_linear(layer, x, layer.active(x)) for x in (a, b))
    (wanted,) = torch.autograd.grad(first.sum() * second.square().sum(), layer.weight)
    torch.testing.assert_close(got, wanted)


# ---- threads and runs --------------------------------------------------------------------------


def trained(kind: str, make: Make, threads: int, **changes: Any) -> list[Tensor]:
    """Weights after training a layer large enough that kernels and matmul use their threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        config = HashConfig(active=40, random=0.25, tables=6, rehash_every=2, sparse_grad=True)
        config = config.replace(**changes)
        body = nn.Linear(D, 48)
        if kind == "layer":
            model: nn.Module = HashLinear(48, 3000, config=config)
        else:
            config = config.replace(shared=60 * (kind == "shared head"), log_q=True)
            model = HashSoftmaxWithLoss(48, 3000, config=config)
        parameters = [*body.parameters(), *model.parameters()]
        optimizer = make(parameters, lr=0.01)
        for step in range(20 if has_extension() else 4):  # plain torch is slow
            hidden = body(inputs(32, seed=step)).relu()
            target = (torch.arange(32) * 37 + step) % 3000
            optimizer.zero_grad()
            if kind == "layer":
                loss = F.mse_loss(model(hidden), torch.ones(()).expand(32, 3000))
            else:
                loss = model(hidden, target).loss
            loss.backward()
            hashdl.optim.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        assert is_balanced(model if kind == "layer" else model.linear)
        return [p.detach().clone() for p in parameters]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["layer", "head", "shared head"])
@pytest.mark.parametrize("make", [hashdl.optim.SGD, hashdl.optim.Adam])
def test_runs_and_threads_give_the_same_weights_bit_for_bit(kind: str, make: Make) -> None:
    one, again, two = (trained(kind, make, threads) for threads in (1, 1, 2))
    for a, b, c in zip(one, again, two, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "kmeans"},
        {"family": "kmeans", "selection": "sketch", "balance": None},
        {"selection": "sketch", "sketch_levels": 16, "sketch_bits": 64, "balance": None},
    ],
    ids=str,
)
def test_learned_functions_and_sketches_train_alike_on_any_number_of_threads(
    changes: dict[str, Any],
) -> None:
    one, two = (trained("head", hashdl.optim.Adam, threads, **changes) for threads in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@ON_DEVICES
@pytest.mark.parametrize("family", ["simhash", "kmeans"])
@pytest.mark.parametrize(("selection", "levels"), [("exact", 2), ("sketch", 2), ("sketch", 16)])
def test_a_hashed_head_learns_what_a_dense_one_does(
    family: str, selection: str, levels: int
) -> None:
    """400 classes about centres of their own: through rehashes that must follow the weights."""
    torch.manual_seed(0)
    centers, n_classes = inputs(400, seed=99), 400
    changes = {"active": 40, "random": 0.2, "tables": 8, "rehash_every": 5, "bits": 4}
    sketch = {"sketch_levels": levels, "sketch_bits": 64 if levels == 16 else 256}
    changes |= sketch
    config = CONFIG.replace(family=family, selection=selection, balance=True, **changes)
    head = HashSoftmaxWithLoss(D, n_classes, config=config)
    optimizer = hashdl.optim.Adam(head.parameters(), lr=0.05)
    for step in range(60):
        target = (torch.arange(64) * 37 + 64 * step) % n_classes
        optimizer.zero_grad()
        head(centers[target] + 0.1 * inputs(64, seed=step), target).loss.backward()
        optimizer.step()
    head.eval()
    every = torch.arange(n_classes)
    hashed = head.topk(centers, 1)[1][:, 0] == every
    exact = head.topk(centers, 1, exact=True)[1][:, 0] == every
    assert exact.float().mean() > 0.9
    assert hashed.float().mean() > 0.9 * exact.float().mean()
