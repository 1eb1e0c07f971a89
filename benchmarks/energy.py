"""Joules of a training step: by the machine's counters, and estimated from what the step does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from hashdl.energy import ESTIMATED, EnergyMeter, estimate
from hashdl.nn import HashLinear

_FLOAT = 4  # bytes
#: States of Adam, which each step reads and writes as it does the weight.
_STATES = 2


def step_energy(
    meter: EnergyMeter,
    steps: int,
    parameters: Iterable[nn.Parameter],
    multiplications: float,
    read: float,
) -> dict[str, Any]:
    """What a report says of the energy of a step.

    Args:
        meter: of ``steps`` steps.
        steps: how many.
        parameters: with the gradients of a step; optimized by Adam.
        multiplications: of a step, all samples.
        read: weights that it reads to find its outputs, and to rehash.

    Returns:
        ``energy_source``; ``joules_step`` where there are counters; ``joules_step_estimated``, and
        of it ``joules_arithmetic`` and ``joules_memory``.
    """
    work = estimate(multiplications, moved_bytes(parameters, read))
    figures: dict[str, Any] = {"energy_source": meter.source}
    if meter.joules is not None:
        figures["joules_step"] = meter.joules / steps
    return figures | {
        "estimate_source": ESTIMATED,
        "joules_step_estimated": work.joules,
        "joules_arithmetic": work.arithmetic,
        "joules_memory": work.memory,
    }


def moved_bytes(parameters: Iterable[nn.Parameter], read: float) -> float:
    """Between processor and memory, if nothing stays in a cache from one pass to the next.

    Each weight that a step reads is read once; each that it updates is read again to go backward,
    its gradient is written and read, and weight and states are read and written.

    Args:
        parameters: with the gradients of a step.
        read: weights that it reads forward.
    """
    updated = sum(map(_updated, parameters))
    return _FLOAT * (read + updated * (1 + 2 + 2 * (1 + _STATES)))


def _updated(parameter: nn.Parameter) -> int:
    """Numbers of the parameter that its gradient has."""
    grad = parameter.grad
    if grad is None:
        return 0
    return grad.coalesce().values().numel() if grad.is_sparse else grad.numel()


def rehash_reads(module: nn.Module) -> float:
    """Weights that a step reads to rehash, at most: each row once an interval."""
    return sum(
        layer.weight.numel() / layer.tables.rehash_every
        for layer in module.modules()
        if isinstance(layer, HashLinear) and layer.tables is not None
    )
