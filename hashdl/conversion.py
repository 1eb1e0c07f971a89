"""Swap the linear layers of a model for hashed ones, and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TypeGuard

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from hashdl.config import HashConfig
from hashdl.costs import dense_by_auto
from hashdl.nn import HashHidden, HashLinear, HashSequential, HashSoftmaxWithLoss
from hashdl.nn.sequential import has_chain
from hashdl.ops import FLOATING

Swap = Callable[[nn.Module, str], nn.Module | None]


def convert(
    model: nn.Module,
    config: HashConfig | None = None,
    *,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    inplace: bool = True,
) -> nn.Module:
    """Swap the :class:`torch.nn.Linear` layers of a model for :class:`HashLinear`.

    Parameters stay the same objects, so that optimizers, ties and the state dict go on as before;
    a module used in two places stays one module. Left alone: subclasses of nn.Linear (hashed
    and parametrized layers among them), pruned layers and those with the old ``weight_norm``,
    complex and 8-bit weights, and layers whose ``forward`` is never called (the ``out_proj`` of
    :class:`torch.nn.MultiheadAttention`). With ``config.auto``, layers that would run dense stay as
    they are as well. In an nn.Sequential (not a subclass of it), hashed layers that follow each
    other are chained: see :class:`hashdl.nn.HashSequential`. A transformer encoder with hashed
    layers no longer takes torch's fused path for inference, which reads their weights instead of
    calling them.

    An output layer is better trained as a head: with cross entropy over the outputs of
    :class:`HashLinear` a label that is not active has no gradient.
    :meth:`HashSoftmaxWithLoss.from_linear` takes the layer's parameters, and labels always count.

    Args:
        model: the model, or a single nn.Linear.
        config: how to hash. Default: ``HashConfig()``.
        filter_fn: ``filter_fn(module, fqn) -> bool``: which linear layers to swap; of a module in
            two places, ``fqn`` is the first one's name. Default: all.
        inplace: change ``model`` itself; else a deep copy. Default: ``True``.

    Returns:
        The model, or the new layer when ``model`` itself was swapped.

    Raises:
        TypeError: ``model`` is no module, ``config`` no HashConfig, or ``filter_fn`` no function.

    Warns:
        UserWarning: nothing matched.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5000))
        >>> model = convert(model, filter_fn=lambda module, fqn: module.out_features > 1000)
        >>> type(model[0]).__name__, type(model[2]).__name__
        ('Linear', 'HashLinear')
    """
    _check_model(model, "convert")
    if config is not None and not isinstance(config, HashConfig):
        raise TypeError(f"hashdl.convert: config: got {type(config).__name__}, wanted a HashConfig")
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(
            f"hashdl.convert: filter_fn: got {type(filter_fn).__name__}, wanted a function "
            "(module, name) -> bool"
        )

    chosen = HashConfig() if config is None else config
    kept_dense = 0

    def swap(module: nn.Module, fqn: str) -> nn.Module | None:
        nonlocal kept_dense
        if not _is_plain(module) or (filter_fn is not None and not filter_fn(module, fqn)):
            return None
        if dense_by_auto(chosen, module.out_features, module.in_features):
            kept_dense += 1
            return None
        return HashLinear.from_linear(module, chosen)

    converted, count = _swap_modules(model if inplace else copy.deepcopy(model), swap)
    _switch_fast_paths(converted)
    _switch_sequences(converted)
    if count == 0:
        why = "no nn.Linear in it" if filter_fn is None else "no nn.Linear that filter_fn accepts"
        if any(isinstance(module, HashLinear) for module in converted.modules()):
            why += ", but layers that are hashed already (hashdl.revert undoes that)"
        if kept_dense:
            why = f"{kept_dense} nn.Linear, none of which hashing would make cheaper (config.auto)"
        warnings.warn(
            f"hashdl.convert: nothing was swapped: {type(model).__name__} has {why}", stacklevel=2
        )
    return converted


def revert(model: nn.Module) -> nn.Module:
    """Swap every :class:`HashLinear` of a model back for an nn.Linear, in place.

    Parameters stay the same objects. The layers inside a :class:`HashSoftmaxWithLoss`, and those of
    a :class:`hashdl.nn.HashMLP` or :class:`hashdl.nn.HashFeedForward`, stay.

    Args:
        model: the model, or a single HashLinear.

    Returns:
        The model, or the new layer when ``model`` itself was swapped.

    Raises:
        TypeError: ``model`` is no module.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 3000))
        >>> type(revert(convert(model))[0]).__name__
        'Linear'
    """
    _check_model(model, "revert")

    def swap(module: nn.Module, fqn: str) -> nn.Module | None:
        return module.to_linear() if type(module) is HashLinear else None

    reverted = _swap_modules(model, swap)[0]
    _switch_fast_paths(reverted)
    _switch_sequences(reverted)
    return reverted


def _check_model(model: object, function: str) -> None:
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise TypeError(f"hashdl.{function}: model: got {got}, wanted an nn.Module")


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is an nn.Linear that holds its weight and bias, and nothing else."""
    if type(module) is not nn.Linear:
        return False
    # Pruning and the old weight_norm keep the type, and compute the weight before each forward.
    others = set(module._parameters) - {"weight", "bias"}
    if "weight" not in module._parameters or others or module._buffers or module._modules:
        return False
    return module.weight.dtype in FLOATING


# What uses its layers by more than their forward.
_WHOLE = (HashSoftmaxWithLoss, HashHidden)


def _swap_modules(model: nn.Module, swap: Swap) -> tuple[nn.Module, int]:
    """Replace each module that ``swap`` answers for, once, wherever it stands; how many it was."""
    swapped: dict[nn.Module, nn.Module] = {}
    found = [
        (fqn, module)
        for fqn, module in model.named_modules(remove_duplicate=True)
        if not isinstance(module, NonDynamicallyQuantizableLinear)
    ]
    wholes = [module for _, module in found if isinstance(module, _WHOLE)]
    inside = {id(part) for whole in wholes for part in whole.modules() if part is not whole}
    for fqn, module in found:
        if id(module) in inside:
            continue
        replacement = swap(module, fqn)
        if replacement is not None:
            _keep_hooks(module, replacement)
            swapped[module] = replacement
    if model in swapped:
        return swapped[model], 1
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is not None and child in swapped:
                parent._modules[name] = swapped[child]
    return model, len(swapped)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def _keep_hooks(module: nn.Module, replacement: nn.Module) -> None:
    """Let hooks that somebody registered on the old layer run on the new one."""
    for name in _HOOKS:
        setattr(replacement, name, getattr(module, name))


# Attributes that let torch run an encoder as one kernel on the weights of its linear layers.
_FAST_PATHS = (
    (nn.TransformerEncoderLayer, "activation_relu_or_gelu"),
    (nn.TransformerEncoder, "use_nested_tensor"),
)


def _switch_fast_paths(model: nn.Module) -> None:
    """Take encoders with hashed layers off torch's fast path, and others back on it."""
    for module in model.modules():
        for kind, switch in _FAST_PATHS:
            if not isinstance(module, kind):
                continue
            saved = f"_{switch}_unhashed"
            hashed = any(isinstance(inner, HashLinear) for inner in module.modules())
            if hashed and not hasattr(module, saved):
                setattr(module, saved, getattr(module, switch))
                setattr(module, switch, False)
            elif not hashed and hasattr(module, saved):
                setattr(module, switch, getattr(module, saved))
                delattr(module, saved)


def _switch_sequences(model: nn.Module) -> None:
    """Let sequences with hashed layers that follow each other chain them, and no others.

    The modules stay the same objects: whoever holds one, and the state dict, sees no change.
    """
    for module in model.modules():
        if type(module) in (nn.Sequential, HashSequential):
            chained = has_chain(list(module.children()))
            module.__class__ = HashSequential if chained else nn.Sequential
