"""Named parts of a step, as ranges of :mod:`torch.profiler`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import record_function

#: Prefix of the names, so that a profile can be searched for them.
PREFIX = "hashdl."


def part(name: str) -> AbstractContextManager[object]:
    """A range called ``hashdl.NAME`` in a profile; nothing in a compiled graph.

    Examples:
        >>> with part("look-up"):
        ...     pass
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    return record_function(PREFIX + name)
