"""The CUDA kernels against their oracles, on the host: see tests/cuda/simt/cuda_runtime.h."""

from __future__ import annotations

import ctypes
import shutil
from typing import Any

import cuda_samples
import ops_samples as samples
import pytest
import simt_library
import torch
from torch import Tensor

from hashdl import reference

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def cases() -> list[Any]:
    return [
        pytest.param(name, parameters, id=f"{name}-{parameters or 'default'}")
        for name, every in cuda_samples.CASES.items()
        for parameters in every
    ]


def dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    return samples.DTYPES if name in cuda_samples.FLOATING else (torch.float32,)


def arguments(name: str, parameters: dict[str, Any], dtype: torch.dtype) -> samples.Args:
    own = {"dtype": dtype} if name in cuda_samples.FLOATING else {}
    return cuda_samples.builder(name)(**parameters, **own)


def run(name: str, args: samples.Args, order: int = 0) -> list[Tensor]:
    """The kernels' results, with threads and blocks in some order."""
    simt_library.define_ops()
    ctypes.CDLL(str(simt_library.build())).simt_set_order(order)
    return samples.run(getattr(torch.ops.hashdl_simt, name), args)


def without_padding(name: str, results: list[Tensor]) -> list[Tensor]:
    """The backward pass has an output for each row that could be touched: the touched ones."""
    if name != "gather_linear_backward":
        return results
    grad_x, rows, grad_weight, grad_bias, *args = results
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    assert not grad_weight[~first].any()
    assert not grad_bias[~first].any()
    touched = samples.tensors((args[3], *args[4:5]))
    if not any(bool((ids >= 0).any()) for ids in touched if ids.dtype == torch.int32):
        first[:] = False  # nothing is touched: row 0 stands in
    return [grad_x, rows[first], grad_weight[first], grad_bias[first], *args]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for got, wanted in zip(actual, expected, strict=True):
        bound = samples.TOLERANCE.get(wanted.dtype, 0)
        torch.testing.assert_close(got, wanted, rtol=bound, atol=bound, equal_nan=True)


@pytest.mark.parametrize(("name", "parameters"), cases())
def test_kernels_equal_the_reference(name: str, parameters: dict[str, Any]) -> None:
    for dtype in dtypes_of(name):
        args = arguments(name, parameters, dtype)
        expected = samples.run(getattr(reference, name), args)
        assert_close(without_padding(name, run(name, args)), expected)


@pytest.mark.parametrize(("name", "parameters"), cases())
def test_results_do_not_depend_on_the_order_of_threads(
    name: str, parameters: dict[str, Any]
) -> None:
    args = arguments(name, parameters, torch.float32)
    samples.assert_same_bits(run(name, args), run(name, args, order=7))


@pytest.mark.parametrize("name", ["sgd_rows_", "adagrad_rows_", "adam_rows_"])
def test_padding_of_rows_is_skipped(name: str) -> None:
    given = samples.sample_dict(name)
    rows = torch.cat([given["rows"], given["rows"][-1:].expand(70)])
    grad = torch.cat([given["grad"], samples.randn(70, *given["grad"].shape[1:])])
    args = tuple((given | {"rows": rows, "grad": grad}).values())
    assert_close(run(name, args), samples.run(getattr(reference, name), args))


# ---- bad values ----------------------------------------------------------------------------------

BAD: list[tuple[str, str, Any, str]] = [
    ("pack_signs", "projections", torch.nan, "pack_signs: projections: got NaN or infinity"),
    ("build_tables", "codes", 8, "build_tables: codes: got a code outside"),
    ("mark_rows_", "rows", 40, "mark_rows_: rows: got an id outside"),
    ("probe_signs", "projections", torch.inf, "probe_signs: projections: got NaN or infinity"),
    ("best_columns", "scores", -torch.inf, "best_columns: scores: got NaN or infinity"),
    ("lookup", "buckets", 16, "lookup: buckets: got a bucket outside"),
    ("lookup", "buckets", -2, "lookup: buckets: got a bucket outside"),
    ("lookup", "offsets", 61, "lookup: offsets: got a bucket that ends before it starts"),
    ("lookup", "offsets", -1, "lookup: offsets: got a bucket that ends before it starts"),
    ("lookup", "rows", -1, "lookup: rows: got a negative id"),
    ("sketch_scores", "candidates", 40, "sketch_scores: candidates: got an id outside"),
    ("select", "candidates", 40, "select: candidates: got an id outside"),
    ("select", "labels", -2, "select: labels: got an id outside"),
    ("shared_rows", "labels", 40, "shared_rows: labels: got an id outside"),
    ("gather_linear", "rows", 20, "gather_linear: rows: got an id outside"),
    ("gather_linear_backward", "rows", -2, "gather_linear_backward: rows: got an id outside"),
    ("gather_linear_backward", "extra_rows", 20, "gather_linear_backward: rows: got an id"),
    ("scatter_rows", "rows", 20, "scatter_rows: rows: got an id outside"),
    ("active_log_prob_backward", "places", 13, "active_log_prob_backward: places: got a column"),
    ("sgd_rows_", "rows", 20, "row optimizer: rows: got an id outside"),
    ("adagrad_rows_", "rows", -1, "row optimizer: rows: got an id outside"),
    ("adam_rows_", "rows", 20, "row optimizer: rows: got an id outside"),
]


@pytest.mark.parametrize(("name", "argument", "value", "message"), BAD)
def test_bad_values_are_refused(name: str, argument: str, value: Any, message: str) -> None:
    names = [a.name for a in samples.overload(name)._schema.arguments]
    given = dict(zip(names, cuda_samples.builder(name)(), strict=True))
    given[argument].flatten()[1::2] = value
    with pytest.raises(RuntimeError, match=f"hashdl:?:? ?{message}"):
        run(name, tuple(given.values()))
