"""What both searches are given: a layer, inputs, and families."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hashdl.hashing import FAMILIES
from hashdl.nn import HashSoftmaxWithLoss


def linear_of(function: str, layer: object) -> nn.Linear:
    """The linear layer that a function was given.

    Raises:
        TypeError: it is none.
    """
    if isinstance(layer, HashSoftmaxWithLoss):
        return layer.linear
    if isinstance(layer, nn.Linear):
        return layer
    wanted = "an nn.Linear, a HashLinear or a HashSoftmaxWithLoss"
    raise TypeError(f"hashdl.{function}: layer: got {type(layer).__name__}, wanted {wanted}")


def refusal(function: str, name: str, got: object, wanted: str) -> ValueError:
    """Of an argument's value."""
    return ValueError(f"hashdl.{function}: {name}: got {got}, wanted {wanted}")


def check_tensor(function: str, name: str, given: object) -> None:
    """Refuse what is no tensor.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(given, Tensor):
        got = type(given).__name__
        raise TypeError(f"hashdl.{function}: {name}: got {got}, wanted a Tensor")


def check_inputs(function: str, inputs: Tensor, features: int) -> None:
    """Refuse what are no inputs (*, d).

    Raises:
        TypeError: they are no tensor.
        ValueError: they have another shape.
    """
    check_tensor(function, "inputs", inputs)
    if inputs.dim() == 0 or inputs.shape[-1] != features:
        raise refusal(function, "inputs", f"shape {tuple(inputs.shape)}", f"(*, {features})")


def family_names(function: str, families: str | Sequence[str] | None) -> list[str]:
    """Those that a search was asked for: one by its name, some, or all.

    Raises:
        ValueError: there are none, or unknown ones.
    """
    if families is None:
        return sorted(FAMILIES)
    names = [families] if isinstance(families, str) else list(families)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        wanted = f"some of {sorted(FAMILIES)}"
        raise refusal(function, "families", unknown or "none", wanted)
    return names
