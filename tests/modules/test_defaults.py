"""What a layer does depends neither on torch's default dtype nor on its default device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import hashdl
from hashdl.hashing import FAMILIES

CONFIGS = [
    *({"family": family} for family in sorted(FAMILIES)),
    {"selection": "sketch"},
    {"rank": 4, "selection": "sketch"},
    {"transform": "simple"},
    {"buckets": "reservoir", "cap": 4},
    {"rehash_every": 2, "rehash_drift": 0.01},
]


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@cache
def default_device_reaches_torchs_adam() -> bool:
    """Whether torch's own step, for dense gradients, counts on the default device: up to 2.12."""
    parameter = nn.Parameter(torch.ones(1, device="cpu"))
    parameter.grad = torch.ones(1, device="cpu")
    with torch.device("meta"):
        optimizer = torch.optim.Adam([parameter])
        try:
            optimizer.step()
        except RuntimeError:
            return True
    return False


def train_and_ask(config: dict[str, object]) -> Tensor:
    chosen = hashdl.HashConfig(active=20, random=0.2, **config)
    layer = hashdl.HashLinear(16, 300, config=chosen, device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    with torch.no_grad():
        layer.weight.copy_(draw(300, 16))
        layer.bias.zero_()
    make = hashdl.optim.SGD if default_device_reaches_torchs_adam() else hashdl.optim.Adam
    optimizer = make(layer.parameters(), lr=1e-3)
    x = draw(40, 16)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    return layer.eval().topk(x, 5)[1]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_default_dtype(config: dict[str, object], request: pytest.FixtureRequest) -> None:
    expected = train_and_ask(config)
    request.getfixturevalue("float64_by_default")
    assert torch.equal(train_and_ask(config), expected)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_default_device(config: dict[str, object]) -> None:
    expected = train_and_ask(config)
    with torch.device("meta"):
        assert torch.equal(train_and_ask(config), expected)
