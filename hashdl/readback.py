"""A number that comes from a GPU while the host goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """A copy of a number in the host's memory, begun now and waited for when it is read.

    Read a training step later it has long arrived, and the GPU still has work when it is not: the
    host waits for what was launched before the copy, and for nothing after.

    Args:
        number: one element, on a GPU.
    """

    def __init__(self, number: Tensor) -> None:
        self._number = torch.empty_like(number, device="cpu", pin_memory=True)
        self._number.copy_(number, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(number.device))

    def __int__(self) -> int:
        self._arrived.synchronize()
        return int(self._number)
