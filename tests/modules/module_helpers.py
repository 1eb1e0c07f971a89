"""Small layers, and their dense counterparts in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear

# Few rows a bucket, and enough tables, that candidates abound. Not balanced: an answer does not
# depend on the questions before.
CONFIG = HashConfig(active=20, tables=8, bits=4, probes=1, balance=False)
N, D = 200, 12

# For tests whose layers and tensors are made on each device in turn: see conftest.py.
ON_DEVICES = pytest.mark.usefixtures("device")


def make_layer(
    out_features: int = N,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
    config: HashConfig = CONFIG,
    **changes: object,
) -> HashLinear:
    """A layer whose weights depend on nothing but its sizes: on every device the same."""
    torch.manual_seed(0)
    config = config.replace(**changes)
    layer = HashLinear(D, out_features, bias, config=config, dtype=dtype, device="cpu")
    return layer.to(torch.get_default_device())


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Numbers that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, device="cpu")
    return drawn.to(torch.get_default_device(), dtype)


def inputs(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Inputs (*shape, D)."""
    return randn(*shape, D, dtype=dtype, seed=seed)


def is_balanced(layer: HashLinear) -> bool:
    """Whether rows and queries meet functions of their own."""
    assert layer.tables is not None
    return not torch.equal(layer.tables.functions, layer.tables.query_functions)


def assert_same_history(one: HashLinear, other: HashLinear) -> None:
    assert one.tables is not None
    assert other.tables is not None
    left, right = one.tables.history(), other.tables.history()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def mask_of(rows: Tensor, n_rows: int) -> Tensor:
    """True (B, N) at the active rows (B, A)."""
    mask = torch.zeros(rows.shape[0], n_rows + 1, dtype=torch.bool)
    mask.scatter_(1, torch.where(rows < 0, n_rows, rows).long(), True)
    return mask[:, :n_rows]


def masked_linear(layer: nn.Linear, x: Tensor, rows: Tensor, fill: float = 0.0) -> Tensor:
    """The dense layer's output, ``fill`` where a row is not active."""
    dense = F.linear(x, layer.weight, layer.bias)
    return dense.masked_fill(~mask_of(rows, layer.out_features), fill)


def dense_grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def duplicated(weight: Tensor) -> None:
    weight.copy_(weight[:4].repeat(N // 4, 1))


def huge(weight: Tensor) -> None:
    """Squares of half of the rows are beyond float32."""
    weight[::2] *= 1e25


#: Rows that make tables as uneven as can be, by what they are; each changes a weight in place.
ADVERSARIES: dict[str, Callable[[Tensor], object]] = {
    "all rows equal": lambda weight: weight.copy_(weight[0].clone()),
    "zero rows": torch.Tensor.zero_,
    "half zero": lambda weight: weight[::2].zero_(),
    "duplicated": duplicated,
    "huge": huge,
    "one direction": lambda weight: weight.copy_(torch.rand(N, 1) * weight[0].clone()),
}
