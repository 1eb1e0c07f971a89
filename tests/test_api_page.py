"""docs/api.md names whatever is public."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import hashdl
from hashdl import data, distributed, energy, functional, metrics, nn, optim, tuning

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text()


def public_names(module: ModuleType) -> list[str]:
    """Those of ``__all__``, or else the functions and classes that a module defines itself."""
    own = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]
    return getattr(module, "__all__", own)


@pytest.mark.parametrize(
    "module",
    [hashdl, data, distributed, energy, functional, metrics, nn, optim, tuning],
    ids=lambda module: module.__name__,
)
def test_every_public_name_stands_there(module: ModuleType) -> None:
    names = public_names(module)
    assert names
    missing = [name for name in names if not re.search(rf"\b{re.escape(name)}\b", PAGE)]
    assert missing == []


@pytest.mark.parametrize("kind", [hashdl.HashLinear, hashdl.HashSoftmaxWithLoss])
def test_every_method_of_a_layer_stands_there(kind: type) -> None:
    taken_over = {"reset_parameters", "extra_repr", "in_features", "n_classes", "config"}
    taken_over |= {"weight", "bias", "default_config"}
    names = [name for name in vars(kind) if not name.startswith("_")]
    missing = [name for name in set(names) - taken_over if f".{name}(" not in PAGE]
    assert missing == []
