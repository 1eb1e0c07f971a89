"""What this installation is."""

from __future__ import annotations

import importlib
import platform
import sys
from typing import Any

import torch


def _extension() -> Any | None:
    return sys.modules.get("hashdl._C")


def has_extension() -> bool:
    """Whether the compiled kernels are loaded; else every op runs on its plain-torch reference."""
    return _extension() is not None


def build_info() -> dict[str, Any]:
    """Versions, the machine's threads, and how the extension was built.

    Returns:
        ``hashdl``, ``torch``, ``python``, ``platform``, ``threads``, ``extension`` (bool); and
        with the extension ``compiler``, ``cxx_standard``, ``cuda``, ``simd`` (the instruction set
        in force) and ``simd_max``.

    Examples:
        >>> build_info()["torch"] == torch.__version__
        True
    """
    info: dict[str, Any] = {
        "hashdl": importlib.import_module("hashdl").__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "extension": has_extension(),
    }
    extension = _extension()
    return info if extension is None else info | extension.build_info()
