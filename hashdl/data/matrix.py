"""A layer's matrix and queries from a file, for tuning and for comparing indices."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import torch
from torch import Tensor, nn

from hashdl.data.errors import DataError


def load_matrix(path: str | os.PathLike[str]) -> tuple[nn.Linear, Tensor]:
    """Read a matrix and queries that it is asked.

    Args:
        path: an .npz file with arrays ``W`` (N, d), ``b`` (N,) if there is one, and ``queries``
            (Q, d), of any floating dtype.

    Returns:
        A linear layer with these rows, float32, and queries float32 (Q, d).

    Raises:
        OSError: the file cannot be read.
        DataError: it is no .npz file, an array is missing, unknown, not finite or of a wrong shape.
    """
    try:
        arrays = np.load(path)
        # A single array (.npy) is no mapping; an .npz file is read name by name.
        found = None if isinstance(arrays, np.ndarray) else dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(path, "it is no .npz file of arrays") from error
    if found is None:
        raise DataError(path, "it is a single array, wanted an .npz file with W and queries")
    unknown = sorted(set(found) - {"W", "b", "queries"})
    if unknown:
        raise DataError(path, f"got arrays {unknown}, wanted W, queries and b alone")
    for name in ("W", "queries"):
        if name not in found:
            raise DataError(path, f"got no array {name}, wanted W and queries")
    tensors = {name: torch.from_numpy(array).float() for name, array in found.items()}
    weight, queries = tensors["W"], tensors["queries"]
    N, d = weight.shape if weight.dim() == 2 else (-1, -1)
    wanted = {"W": (N, d), "queries": (len(queries), d), "b": (N,)}
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            shape = ", ".join(str(size) if size >= 0 else "*" for size in wanted[name])
            raise DataError(path, f"{name}: got shape {tuple(tensor.shape)}, wanted ({shape})")
        if tensor.numel() == 0:
            raise DataError(path, f"{name}: got shape {tuple(tensor.shape)}, wanted some numbers")
        if not bool(tensor.isfinite().all()):
            raise DataError(path, f"{name}: got NaN or infinity")
    linear = nn.Linear(d, N, bias="b" in tensors, device="meta")
    linear.weight = nn.Parameter(weight)
    if "b" in tensors:
        linear.bias = nn.Parameter(tensors["b"])
    return linear, queries
