"""Memory allocation of long runs."""

from __future__ import annotations

import ctypes
import gc
import sys

# malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE = 1 << 30


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
