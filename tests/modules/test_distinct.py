"""Gradients of which optimizers know that each row stands in them once."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

from hashdl import distinct, functional, optim
from hashdl.functional import active_linear, active_sparse_linear
from hashdl.optim import sparse

N, D = 20, 6


@pytest.fixture(autouse=True)
def _padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where touched rows may be padded."""
    monkeypatch.setattr(functional, "_is_padded", lambda indices: True)


def backward(layer: nn.Linear, *, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, D, generator=generator)
    rows = torch.randint(N, (4, 3), generator=generator, dtype=torch.int32)
    given = (x, layer.weight, layer.bias, rows)
    active_linear(*given, sparse_grad=True)[0].square().sum().backward()


def parameters_known(layer: nn.Linear) -> list[bool]:
    return [distinct.is_remembered(parameter) for parameter in layer.parameters()]


def test_those_of_one_pass_are_known() -> None:
    layer = nn.Linear(D, N)
    for seed in range(2):
        backward(layer, seed=seed)
        assert parameters_known(layer) == [True, True]
        layer.zero_grad()
        assert parameters_known(layer) == [False, False]


def test_those_of_entries_are_known() -> None:
    layer = nn.Linear(D, N)
    columns, rows = (torch.randint(n, (4, 3), dtype=torch.int32) for n in (D, N))
    given = (torch.randn(4, 3), columns, layer.weight, layer.bias, rows)
    active_sparse_linear(*given, sparse_grad=True).sum().backward()
    assert parameters_known(layer) == [True, True]


def test_those_of_two_passes_are_not() -> None:
    layer = nn.Linear(D, N)
    backward(layer)
    backward(layer, seed=1)
    assert parameters_known(layer) == [False, False]


def test_scaled_ones_are_known_and_others_are_not() -> None:
    layer = nn.Linear(D, N)
    backward(layer)
    grad = layer.weight.grad
    assert grad is not None
    grad._values().mul_(0.5)
    assert distinct.is_remembered(layer.weight)
    layer.weight.grad = grad.clone()
    assert not distinct.is_remembered(layer.weight)


def test_another_gradient_never_lies_where_a_known_one_did() -> None:
    """Their indices are kept: memory is given away again as soon as it is free."""
    layer = nn.Linear(D, N)
    backward(layer)
    indices = layer.weight.grad._indices().clone()  # type: ignore[union-attr]
    values = layer.weight.grad._values().clone()  # type: ignore[union-attr]
    layer.zero_grad()
    gc.collect()
    for _ in range(20):
        layer.weight.grad = torch.sparse_coo_tensor(indices.clone(), values, (N, D))
        assert not distinct.is_remembered(layer.weight)


def test_nothing_is_kept_of_parameters_that_are_gone() -> None:
    layer = nn.Linear(D, N)
    backward(layer)
    before = len(distinct._indices)
    del layer
    gc.collect()
    assert len(distinct._indices) == before - 2


@pytest.mark.parametrize("passes", [1, 2])
def test_optimizers_merge_what_is_not_known(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[Tensor] = []

    def merge(parameter: Tensor, grad: Tensor) -> Tensor:
        merged.append(parameter)
        return grad.coalesce()

    layer = nn.Linear(D, N)
    for seed in range(passes):
        backward(layer, seed=seed)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(sparse.ops, "has_cuda_kernel", lambda name: True)
    monkeypatch.setattr(sparse, "merged", merge)
    optim.clip_grad_norm_(layer.parameters(), 1.0)
    assert len(merged) == (0 if passes == 1 else 2)
    optim.SGD(layer.parameters(), lr=0.1).step()
    assert len(merged) == (0 if passes == 1 else 2)  # those that clipping merged are known
