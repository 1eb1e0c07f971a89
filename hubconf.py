"""Entry points of ``torch.hub.load``.

    torch.hub.load(repo, "hash_linear", 512, 100_000)

Works with torch alone: without the compiled extension every op runs on its plain-torch reference,
with one warning. With HASHDL_JIT=1 the extension is built on first use (needs a C++ compiler,
setuptools, ninja and pybind11).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

dependencies = ["torch"]

# torch.hub puts the repository on sys.path only while this file is loaded.
_ROOT = str(Path(__file__).resolve().parent)
if _ROOT not in sys.path:
    sys.path.append(_ROOT)

import torch.nn as nn  # noqa: E402

import hashdl  # noqa: E402


def hash_linear(in_features: int, out_features: int, bias: bool = True, **config: Any) -> nn.Module:
    """A :class:`hashdl.HashLinear`.

    Args:
        in_features: size of an input.
        out_features: number of rows.
        bias: learn an additive bias.
        config: fields of :class:`hashdl.HashConfig`.
    """
    return hashdl.HashLinear(in_features, out_features, bias, config=hashdl.HashConfig(**config))


def hash_softmax(
    in_features: int,
    n_classes: int,
    bias: bool = True,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    **config: Any,
) -> nn.Module:
    """A :class:`hashdl.HashSoftmaxWithLoss`.

    Args:
        in_features: size of an input.
        n_classes: number of classes.
        bias: learn an additive bias.
        ignore_index: target that has no loss.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        config: fields of :class:`hashdl.HashConfig` that differ from the class's default.
    """
    chosen = hashdl.HashSoftmaxWithLoss.default_config.replace(**config)
    return hashdl.HashSoftmaxWithLoss(
        *(in_features, n_classes, bias),
        config=chosen,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def convert(
    model: nn.Module,
    *,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    inplace: bool = True,
    **config: Any,
) -> nn.Module:
    """:func:`hashdl.convert`.

    Args:
        model: the model whose linear layers are hashed.
        filter_fn: ``filter_fn(module, fqn) -> bool``: which.
        inplace: change the model itself.
        config: fields of :class:`hashdl.HashConfig`.
    """
    return hashdl.convert(model, hashdl.HashConfig(**config), filter_fn=filter_fn, inplace=inplace)
