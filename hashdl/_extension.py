"""Loads ``hashdl._C``, whose import registers the compiled kernels of the ops.

An extension that was never built leaves every op on its reference implementation, with one
warning; an extension that is installed but does not load is an error, never a silent fallback.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch  # noqa: F401  (first: loads the libraries that hashdl._C links to)

_FALLBACK = (
    "hashdl: {reason}; every op runs on its plain-torch reference, which is exact but slow. "
    "Build it with `pip install --no-build-isolation .`, or set HASHDL_JIT=1 in a source checkout."
)


def _build_in_place() -> None:
    """Run setup.py of the source checkout that this package lies in (HASHDL_JIT=1)."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "setup.py").is_file() or not (root / "csrc").is_dir():
        raise ImportError(f"hashdl: HASHDL_JIT=1, but {root} is not a source checkout of hashdl")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        output = (result.stdout + result.stderr)[-4000:]
        raise ImportError(f"hashdl: HASHDL_JIT=1, but the build failed:\n{output}")
    importlib.invalidate_caches()


def _is_built() -> bool:
    # Beside this file: another installation's extension would be that of other sources.
    return PathFinder.find_spec("hashdl._C", [str(Path(__file__).resolve().parent)]) is not None


def load() -> ModuleType | None:
    """Import and return ``hashdl._C``, or None (with a warning) where it was never built.

    Raises:
        ImportError: the extension is there but does not load, or HASHDL_JIT=1 could not build it.
    """
    if os.environ.get("HASHDL_DISABLE_EXTENSION", "0") == "1":
        warnings.warn(_FALLBACK.format(reason="HASHDL_DISABLE_EXTENSION=1"), stacklevel=3)
        return None
    if not _is_built() and os.environ.get("HASHDL_JIT", "0") == "1":
        _build_in_place()
    if not _is_built():
        warnings.warn(_FALLBACK.format(reason="the C++ extension is not built"), stacklevel=3)
        return None
    try:
        return importlib.import_module("hashdl._C")
    except ImportError as error:
        raise ImportError(
            "hashdl: the C++ extension is installed but does not load; it was probably built "
            f"for another torch or Python. Reinstall hashdl. ({error})"
        ) from error
