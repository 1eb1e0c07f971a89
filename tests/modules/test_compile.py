"""torch.compile(fullgraph=True): compiled training and evaluation are the eager ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from module_helpers import CONFIG, D, inputs, is_balanced
from torch import Tensor, nn

import hashdl
from hashdl import HashLinear, HashSoftmaxWithLoss

KINDS = ["layer", "head", "shared head"]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(nn.Module):
    """A hidden layer, and a hashed one with its loss."""

    def __init__(self, kind: str, sparse_grad: bool, **changes: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(D, 10)
        config = CONFIG.replace(random=0.3, rehash_every=2, sparse_grad=sparse_grad, balance=True)
        config = config.replace(**changes)
        if kind == "layer":
            config = config.replace(background=True, rehash_drift=0.5)
            self.last: nn.Module = HashLinear(10, 100, config=config)
        else:
            config = config.replace(shared=15 * (kind == "shared head"), log_q=True)
            self.last = HashSoftmaxWithLoss(10, 100, config=config)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        hidden = self.hidden(x).relu()
        if isinstance(self.last, HashLinear):
            return F.cross_entropy(self.last(hidden), target)
        return self.last(hidden, target).loss

    @property
    def hashed(self) -> HashLinear:
        return self.last if isinstance(self.last, HashLinear) else self.last.linear


def assert_trains_alike(kind: str, sparse_grad: bool, backend: str, **changes: object) -> None:
    eager = Model(kind, sparse_grad, **changes)
    original = copy.deepcopy(eager)
    compiled = torch.compile(original, backend=backend, fullgraph=True)
    optimizers = [hashdl.optim.SGD(model.parameters(), lr=0.2) for model in (eager, original)]
    for step in range(5):
        x, target = inputs(4, seed=step), torch.arange(4) * 20 + step
        losses = []
        for model, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(x, target)
            loss.backward()
            optimizer.step()
            losses.append(loss)
        torch.testing.assert_close(losses[1], losses[0])
    for ours, theirs in zip(original.parameters(), eager.parameters(), strict=True):
        assert not ours.grad.is_sparse
        torch.testing.assert_close(ours, theirs)
    untrained = Model(kind, sparse_grad, **changes)
    assert not torch.equal(eager.hidden.weight, untrained.hidden.weight)
    ages = [
        {name: int(b) for name, b in model.named_buffers() if name.endswith("step")}
        for model in (original, eager)
    ]
    assert ages[0] == ages[1]
    assert list(ages[0].values()) == [5]
    assert is_balanced(original.hashed)
    moments = [model.hashed.tables.moment.view(torch.float32) for model in (original, eager)]
    torch.testing.assert_close(*moments)
    # The tables, rehashed within the graph, are those of eager steps as well.
    for model in (original, eager):
        model.eval()
    x, target = inputs(4), torch.arange(4)
    torch.testing.assert_close(compiled(x, target), eager(x, target))


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_training_is_eager_training(kind: str, sparse_grad: bool) -> None:
    assert_trains_alike(kind, sparse_grad, "aot_eager")


@pytest.mark.parametrize("kind", ["layer", "head"])
def test_compiled_training_with_learned_functions_and_sketches(kind: str) -> None:
    assert_trains_alike(kind, True, "aot_eager", family="kmeans", selection="sketch")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inductor_training_is_eager_training(kind: str) -> None:
    assert_trains_alike(kind, True, "inductor")


@pytest.mark.parametrize("grad", [False, True])
def test_a_compiled_layer_sees_weights_that_change(grad: bool) -> None:
    layer = HashLinear(D, 100, config=CONFIG).eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = inputs(8)
    with torch.set_grad_enabled(grad):
        before = compiled(x)
        assert torch.equal(before, layer(x))
        with torch.no_grad():
            layer.weight[::2] *= -1
            layer.bias.add_(torch.linspace(-2, 2, 100))
        after = compiled(x)
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, copy.deepcopy(layer)(x))


@pytest.mark.parametrize("label", [-1, -7, 100, 2**32 + 5])
@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_head_refuses_labels_out_of_range(training: bool, label: int) -> None:
    head = HashSoftmaxWithLoss(D, 100, config=CONFIG).train(training)
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    x = inputs(3).requires_grad_()
    ignored = compiled(x, torch.tensor([0, 1, -100])).output
    assert ignored[2] == 0
    with pytest.raises(RuntimeError, match=r"labels: got ids|index .* is out of bounds"):
        compiled(x, torch.tensor([0, 1, label]))


def test_compiled_under_autocast() -> None:
    model = Model("shared head", False)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    x, target = inputs(4), torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, got = model(x, target), compiled(x, target)
    torch.testing.assert_close(got, wanted)
    got.backward()
    assert torch.isfinite(twin.last.weight.grad).all()
