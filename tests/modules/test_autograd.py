"""Layers in what torch builds on autograd: checkpoints, parametrizations, forward mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import hashdl

CONFIG = hashdl.HashConfig(active=20, random=0.5, rehash_every=1)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpoint_recomputes_the_rows_that_were_active(use_reentrant: bool) -> None:
    layer = hashdl.HashLinear(16, 3000, config=CONFIG)
    x = torch.randn(40, 16, requires_grad=True)
    for step in range(1, 4):
        plain = copy.deepcopy(layer)
        expected = torch.autograd.grad(plain(x).sum(), [x, *plain.parameters()])
        layer.zero_grad()
        x.grad = None
        output = checkpoint(layer, x, use_reentrant=use_reentrant)
        output.sum().backward()
        for leaf, wanted in zip((x, layer.weight, layer.bias), expected, strict=True):
            assert torch.equal(leaf.grad, wanted)
        assert layer.stats()["step"] == step
        assert torch.equal(layer.tables.history()["moment"], plain.tables.history()["moment"])
        with torch.no_grad():
            layer.weight.sub_(layer.weight.grad, alpha=0.01)


def test_a_checkpointed_loss_is_that_of_the_forward_pass() -> None:
    head = hashdl.HashSoftmaxWithLoss(16, 3000, config=CONFIG.replace(shared=50, log_q=True))
    plain, x = copy.deepcopy(head), torch.randn(8, 16)
    for target in torch.arange(16).split(8):  # labels of the first step are shared in the second
        expected = plain(x, target).loss
        expected.backward()
        got = checkpoint(head, x, target, use_reentrant=False).loss
        got.backward()
        assert torch.equal(got, expected)
        assert torch.equal(head.weight.grad, plain.weight.grad)
        assert torch.equal(head.recent_labels, plain.recent_labels)


class LowRank(nn.Module):
    """W + A B, as of LoRA."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rows, 2))
        self.b = nn.Parameter(torch.randn(2, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_a_parametrized_weight_takes_gradients(sparse_grad: bool) -> None:
    config = CONFIG.replace(sparse_grad=sparse_grad)
    layer = hashdl.HashLinear(16, 300, config=config)
    parametrize.register_parametrization(layer, "weight", LowRank(300, 16))
    x = torch.randn(4, 16)
    rows, values = layer.sparse_forward(x)
    values.sum().backward()
    active = torch.zeros(4, 301).scatter_(1, rows.long() % 301, 1)[:, :300]  # -1: the last column
    wanted = active.t() @ x
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, wanted)


def test_a_parametrized_head_takes_gradients() -> None:
    grads = []
    for sparse_grad in (False, True):
        torch.manual_seed(0)
        config = CONFIG.replace(sparse_grad=sparse_grad)
        head = hashdl.HashSoftmaxWithLoss(16, 300, config=config)
        parametrize.register_parametrization(head.linear, "weight", LowRank(300, 16))
        head(torch.randn(4, 16), torch.arange(4)).loss.backward()
        grads.append(head.linear.parametrizations.weight.original.grad)
    assert not grads[1].is_sparse
    torch.testing.assert_close(grads[1], grads[0])


def test_forward_mode_is_refused_by_a_head() -> None:
    head, x = hashdl.HashSoftmaxWithLoss(16, 300), torch.randn(4, 16)
    with pytest.raises(RuntimeError, match=r"active_linear_log_prob: got forward-mode"):
        torch.func.jvp(lambda x: head(x, torch.arange(4)).loss, (x,), (x,))


def test_forward_mode_is_refused() -> None:
    layer, x = hashdl.HashLinear(16, 300).eval(), torch.randn(4, 16)
    with pytest.raises(RuntimeError, match=r"active_linear: got forward-mode differentiation"):
        torch.func.jvp(layer, (x,), (x,))


def test_transforms_of_torch_func_are_refused() -> None:
    layer, x = hashdl.HashLinear(16, 300), torch.randn(4, 16)
    with pytest.raises(RuntimeError, match=r"active_linear: got a transform of torch.func"):
        torch.func.grad(lambda x: layer(x).sum())(x)
