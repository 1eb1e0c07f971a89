"""Named parts of a step, as ranges of :mod:`torch.profiler`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import record_function

#: Prefix of the names, so that a profile can be searched for them.
PREFIX = "hashdl."


def part(name: str) -> AbstractContextManager[object]:
    """A range called ``hashdl.NAME`` in a profile; nothing without one, or in a compiled graph.

    Examples:
        >>> with part("look-up"):
        ...     pass
    """
    # Asked first: a range that nobody records costs as much as a small op.
    if torch.compiler.is_compiling() or not torch._C._autograd._profiler_enabled():
        return nullcontext()
    return record_function(PREFIX + name)
