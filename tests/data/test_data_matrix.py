"""load_matrix: what it reads and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hashdl.data import DataError, load_matrix


def arrays(**changes: Any) -> dict[str, Any]:
    given = {"W": np.arange(6.0).reshape(3, 2), "queries": np.ones((4, 2), np.float16)}
    return {name: array for name, array in (given | changes).items() if array is not None}


@pytest.mark.parametrize("bias", [None, np.array([1, 2, 3])])
def test_arrays_become_a_layer_and_queries(tmp_path: Path, bias: Any) -> None:
    np.savez(tmp_path / "layer.npz", **arrays(b=bias))
    linear, queries = load_matrix(tmp_path / "layer.npz")
    assert linear.weight.dtype == queries.dtype == torch.float32
    assert linear(queries)[0].tolist() == [1, 5, 9] if bias is None else [2, 7, 12]
    assert (linear.bias is None) == (bias is None)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"W": None}, "got no array W, wanted W and queries"),
        ({"queries": None}, "got no array queries"),
        ({"W": np.ones(3)}, r"W: got shape \(3,\), wanted \(\*, \*\)"),
        ({"queries": np.ones((4, 3))}, r"queries: got shape \(4, 3\), wanted \(4, 2\)"),
        ({"b": np.ones(2)}, r"b: got shape \(2,\), wanted \(3\)"),
        ({"W": np.full((3, 2), np.nan)}, "W: got NaN or infinity"),
        ({"W": np.ones((0, 2)), "b": np.ones(0)}, r"W: got shape \(0, 2\), wanted some numbers"),
        ({"bias": np.ones(3)}, r"got arrays \['bias'\], wanted W, queries and b alone"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    np.savez(tmp_path / "layer.npz", **arrays(**changes))
    with pytest.raises(DataError, match=f"layer.npz: {match}"):
        load_matrix(tmp_path / "layer.npz")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DataError, match=r"text.npz: it is no .npz file"):
        load_matrix(tmp_path / "text.npz")
    for content in (b"", b"PK and no archive"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"broken.npz: it is no .npz file"):
            load_matrix(tmp_path / "broken.npz")
    np.save(tmp_path / "one.npy", np.ones((3, 2)))
    with pytest.raises(DataError, match=r"one.npy: it is a single array, wanted an .npz file"):
        load_matrix(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError):
        load_matrix(tmp_path / "missing.npz")
