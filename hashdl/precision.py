"""Products that keep their tensors' dtype, whatever torch.autocast would make of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def own_dtype(tensor: Tensor) -> AbstractContextManager[object]:
    """Autocast off on the tensor's device, for code that has chosen its dtypes itself.

    Codes would differ between a pass with autocast and one without, and kernels take no mixture.

    Examples:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16), own_dtype(x):
        ...     (x @ x).dtype
        torch.float32
    """
    device = tensor.device.type
    if tensor.is_meta or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
