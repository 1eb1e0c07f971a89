"""Large pages for large tensors whose rows are read here and there.

A row somewhere in a weight of hundreds of megabytes misses the cache of address translations as
well as that of data: with pages of 2 MB instead of 4 KB the first miss mostly goes away.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

from torch import Tensor

# Below this a tensor's pages fit into the second-level translation cache as they are.
_LEAST_BYTES = 16 << 20
# Linux 6.1: put large pages under what stands in small ones, now.
_MADV_COLLAPSE = 25


@cache
def _madvise() -> Any:
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def prefer_huge_pages(tensor: Tensor, *, now: bool = False) -> Tensor:
    """Ask the system for large pages under a CPU tensor: a hint, which changes no value.

    Best before the tensor is first written, when it costs nothing.

    Args:
        tensor: small ones are left alone.
        now: move what has been written already, at about a second a gigabyte; else the system does
            so when it likes.

    Returns:
        The tensor.
    """
    storage = tensor.untyped_storage()  # that of a fake tensor is on no real device
    size = storage.nbytes()
    if storage.device.type != "cpu" or size < _LEAST_BYTES or (madvise := _madvise()) is None:
        return tensor
    first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (storage.data_ptr() + size - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if madvise(first, length, mmap.MADV_HUGEPAGE) == 0 and now:
        madvise(first, length, _MADV_COLLAPSE)
    return tensor
