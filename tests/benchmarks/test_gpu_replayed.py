"""The contender of benchmarks/gpu.py that replays a CUDA graph, with one that runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu
from hashdl import HashSoftmaxWithLoss

D, ROWS, BATCH = 32, 500, 8


class Graph:
    """Replays count a step, as those of a graph do; what else they do is left out."""

    def __init__(self) -> None:
        self.replays = 0
        self.on_replay: Callable[[], None] = lambda: None

    def replay(self) -> None:
        self.replays += 1
        self.on_replay()


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[HashSoftmaxWithLoss]:
    """Those that are made, on what passes for a GPU."""
    made: list[HashSoftmaxWithLoss] = []
    capturing = False

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        nonlocal capturing
        layer = made[0]
        assert layer.linear.tables.settled, "planes are not balanced"
        assert all(parameter.grad is None for parameter in layer.parameters())
        before = layer.linear.tables.state.clone()
        capturing = True
        yield
        capturing = False
        assert int((layer.linear.tables.state != before).sum()) == 1  # that it was captured
        graph.on_replay = lambda: layer.linear.tables.step.add_(1)
        layer.linear.tables.step.sub_(1)  # a capture runs nothing

    class Layer(HashSoftmaxWithLoss):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            made.append(self)

    monkeypatch.setattr(gpu, "HashSoftmaxWithLoss", Layer)
    monkeypatch.setattr("hashdl.rehash.is_captured", lambda tensor: capturing)
    monkeypatch.setattr("hashdl.tables.is_captured", lambda tensor: capturing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return made


def test_replays_take_new_inputs_and_keep_the_schedule(
    layers: list[HashSoftmaxWithLoss],
) -> None:
    args = gpu.parser().parse_args(
        ["--device", "cpu", "--dim", str(D), "--batch", str(BATCH), "--rows", str(ROWS)]
    )
    torch.manual_seed(0)
    contender = gpu._replayed(ROWS, args)
    (layer,) = layers
    assert contender.find is None
    steps = layer.linear.tables.stats()["step"]

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(BATCH, D, dtype=torch.bfloat16, requires_grad=True)
        return x, torch.randint(ROWS, (BATCH,))

    for _ in range(3):
        contender.train(*batch())
    # A replay counts as a step, and so does the refresh after it.
    assert layer.linear.tables.stats()["step"] == steps + 6
