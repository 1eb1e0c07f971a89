"""Saving the tables of a layer, and loading them again, checked: an index for inference."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any

import torch
from torch import Tensor

from hashdl.files import atomic_path
from hashdl.rehash import Buffers, State
from hashdl.tables import HashTables

# Of the file: what it holds, and how. Another version is refused, and another layout of the tables.
_FORMAT, _VERSION = "hashdl-index", 2
_LAYOUT = [*Buffers._fields, *(field.name for field in dataclasses.fields(State))]
# What of a configuration tables are made by; all else says how they are used, and how trained.
_MADE_BY = (
    *("family", "transform", "bits", "tables", "buckets", "capacity", "selection"),
    *("sketch_bits", "sketch_levels", "center", "balance", "rank", "seed"),
)
# Bytes hashed at once.
_CHUNK = 1 << 24


def save(
    path: str | os.PathLike[str], tables: HashTables, weight: Tensor, bias: Tensor | None
) -> None:
    """Write tables that are up to date; an interrupted save leaves the old file."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "layout": _LAYOUT,
        "config": dataclasses.asdict(tables.config),
        "shape": tuple(weight.shape),
        "digest": _digest(weight, bias),
        "buffers": {name: buffer.cpu() for name, buffer in tables.named_buffers()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load(
    path: str | os.PathLike[str], tables: HashTables, weight: Tensor, bias: Tensor | None
) -> None:
    """Fill tables from a file, or change nothing.

    Raises:
        ValueError: the file is no index, of another version, of tables that are made in another
            way, or of another size or weight.
    """
    content = _read(path)
    config, shape = dataclasses.asdict(tables.config), tuple(weight.shape)
    differing = [name for name in _MADE_BY if config[name] != content["config"].get(name)]
    _check(path, not differing, f"its configuration differs in {', '.join(differing)}")
    _check(path, content["shape"] == shape, f"it is of a weight of shape {content['shape']}")
    _check(path, content["digest"] == _digest(weight, bias), "it is of other weights")
    tables.take(content["buffers"], weight, bias)


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a file that is none makes of itself
        raise ValueError(f"hashdl: index {os.fspath(path)}: it cannot be read") from error
    known = isinstance(content, dict) and content.get("format") == _FORMAT
    _check(path, known, "it is no index")
    version = content.get("version")
    _check(path, version == _VERSION, f"its version is {version}, wanted {_VERSION}")
    same = content.get("layout") == _LAYOUT
    _check(path, same, "it is of tables of another version of hashdl: save it anew")
    return dict(content)


def _check(path: str | os.PathLike[str], ok: bool, what: str) -> None:
    if not ok:
        raise ValueError(f"hashdl: index {os.fspath(path)}: {what}")


def _digest(weight: Tensor, bias: Tensor | None) -> str:
    """Of the values and their dtype: tables of other weights answer wrongly without a sign."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in (weight, bias):
        digest.update(str(None if tensor is None else (tensor.dtype, tensor.shape)).encode())
        if tensor is not None:
            values = tensor.detach().cpu().contiguous().view(torch.uint8).flatten()
            for chunk in values.split(_CHUNK):
                digest.update(memoryview(chunk.numpy()))
    return digest.hexdigest()
