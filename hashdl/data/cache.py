"""Where built data sets are kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hashdl.data.dataset import SparseDataset
from hashdl.data.errors import DataError

Split = tuple[SparseDataset, SparseDataset]


def cache_dir() -> Path:
    """Return the folder that built data sets are kept in; it need not exist yet.

    Returns:
        The environment variable ``HASHDL_CACHE`` where set, else ``hashdl`` in the platform's
        folder for caches (``~/.cache`` or ``$XDG_CACHE_HOME`` on Linux).
    """
    chosen = os.environ.get("HASHDL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hashdl"


def cached_split(
    name: str,
    key: Mapping[str, Any],
    build: Callable[[], Split],
    directory: str | os.PathLike[str] | None = None,
) -> Split:
    """Load a training and a held-out set from the cache, or build them and keep them there.

    A cache that cannot be read or written costs time, not the run: it is reported as a warning.

    Args:
        name: Beginning of the file names.
        key: All that the result depends on, as JSON types.
        build: Makes the two sets.
        directory: Where to keep them; by default `cache_dir()`.

    Returns:
        The training set and the held-out set.
    """
    folder = cache_dir() if directory is None else Path(directory)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    paths = [folder / f"{name}-{digest}-{part}.pt" for part in ("train", "test")]
    if all(path.exists() for path in paths):
        try:
            return SparseDataset.load(paths[0]), SparseDataset.load(paths[1])
        except (DataError, OSError) as error:
            warnings.warn(f"unreadable cache, building it again: {error}", stacklevel=3)
    split = build()
    try:
        for dataset, path in zip(split, paths, strict=True):
            dataset.save(path)
    except OSError as error:
        warnings.warn(f"cannot keep {name} in {folder}: {error}", stacklevel=3)
    return split
