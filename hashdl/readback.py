"""What goes between the host and a GPU while neither waits for the other."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """Copies of tensors in the host's memory, begun now and waited for when they are asked for.

    Asked for a training step later they have long arrived, and the GPU still has work when they
    have not: the host waits for what was launched before the copies, and for nothing after.

    Args:
        tensors: on one GPU.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._copies = tuple(
            torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors
        )
        for copy, tensor in zip(self._copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def arrived(self) -> tuple[Tensor, ...]:
        """The copies."""
        self._arrived.synchronize()
        return self._copies


def send(tensor: Tensor, to: Tensor) -> Tensor:
    """The tensor where another one is: for a GPU a copy that the host does not wait for.

    A plain ``.to(device)`` would wait for all that was launched before it.

    Examples:
        >>> send(torch.ones(2), to=torch.zeros(3))
        tensor([1., 1.])
    """
    if tensor.device == to.device:
        return tensor
    source = tensor.pin_memory() if to.is_cuda and not tensor.is_cuda else tensor
    return source.to(to.device, non_blocking=to.is_cuda)
