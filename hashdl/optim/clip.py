"""Gradient clipping that takes sparse gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hashdl.optim.sparse import coalesced


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    r"""Scale gradients, dense and sparse, so that their total norm is at most ``max_norm``.

    As :func:`torch.nn.utils.clip_grad_norm_`, which refuses sparse gradients:
    :math:`g \leftarrow g \cdot \min(1, \text{max\_norm} / (\|g\| + 10^{-6}))`.

    Args:
        parameters: a parameter or several; those without a gradient are passed over.
        max_norm: largest norm allowed, above 0.
        norm_type: p of the norm, or infinity. Default: 2.
        error_if_nonfinite: refuse a total norm that is NaN or infinite. Default: ``False``.

    Returns:
        The total norm before clipping.

    Raises:
        ValueError: ``max_norm`` is not above 0.
        RuntimeError: the total norm is not finite, with ``error_if_nonfinite``; no gradient has
            changed then.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> weight.grad = torch.tensor([3.0, 0.0, 4.0])
        >>> clip_grad_norm_(weight, 1.0)
        tensor(5.)
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm_: max_norm: got {max_norm}, wanted above 0")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = coalesced(parameter)  # a row that stands twice has one norm
            values.append(parameter.grad._values())
        else:
            values.append(parameter.grad)
    total: Tensor = torch.nn.utils.get_total_norm(values, norm_type, error_if_nonfinite)
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale.to(value.device, value.dtype))
    return total
