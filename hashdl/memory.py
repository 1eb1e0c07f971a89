"""Memory: how much there is, and how the C library keeps it in long runs."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import torch

# malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE = 1 << 30


def bytes_available(device: torch.device | None = None) -> float | None:
    """Memory that can be had without swapping; None where the system does not say.

    Args:
        device: whose memory. Default: that of the CPU.
    """
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device is not None and device.type != "cpu":
        return None
    try:
        return 1024.0 * kilobytes(Path("/proc/meminfo"), "MemAvailable")
    except OSError:
        return None


def kilobytes(path: Path, name: str) -> int:
    """A figure of one of Linux's files on memory.

    Raises:
        OSError: there is no such file, or no such figure in it.
    """
    for line in path.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"no {name} in {path}")


def release_freed_blocks() -> None:
    """Give freed memory back to the system, so that the next peak counts from what is in use."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def keep_large_blocks() -> None:
    """Let glibc keep large blocks for the next allocation instead of giving them back.

    The (B, N) logits of a dense layer take tens of megabytes; by default each step maps them anew,
    and about half of its time goes to page faults. Without this, every comparison with a dense
    layer would flatter us. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE - 1)
    mallopt(_M_TOP_PAD, 1 << 28)
