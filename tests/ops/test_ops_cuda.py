"""The CUDA kernels against their oracles: on the host (tests/cuda/simt), and on a GPU if any."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from typing import Any

import ops_cases
import ops_samples as samples
import pytest
import simt_library
import torch
from torch import Tensor

import hashdl
from hashdl import reference

pytestmark = pytest.mark.slow  # once is enough: the fallback has no part in this
HAS_GPU = torch.cuda.is_available() and hashdl.ops.has_cuda_kernel("gather_linear")
needs_host = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no GPU, or built without CUDA kernels")
DEVICES = [pytest.param("host", marks=needs_host), pytest.param("cuda", marks=needs_gpu)]
Run = Callable[..., list[Tensor]]


@pytest.fixture(params=DEVICES)
def run(request: pytest.FixtureRequest) -> Run:
    """run(name, args, order=0): an op's results, and its arguments after."""
    return run_on_host if request.param == "host" else run_on_gpu


def run_on_host(name: str, args: samples.Args, order: int = 0) -> list[Tensor]:
    """By the shim; in another order than 0 its memory is watched, and filled before by torch."""
    simt_library.define_ops()
    ctypes.CDLL(str(simt_library.build())).simt_set_order(order)
    torch.use_deterministic_algorithms(order > 0)
    try:
        return samples.run(getattr(torch.ops.hashdl_simt, name), args)
    finally:
        torch.use_deterministic_algorithms(False)


def to_gpu(args: samples.Args) -> samples.Args:
    return tuple(a.cuda() if isinstance(a, Tensor) else a for a in args)


def run_on_gpu(name: str, args: samples.Args, order: int = 0) -> list[Tensor]:
    """By the GPU, whose threads have the order that they have."""
    return [result.cpu() for result in samples.run(samples.kernel(name), to_gpu(args))]


def dtypes_of(name: str) -> tuple[torch.dtype, ...]:
    return samples.DTYPES if name in ops_cases.FLOATING else (torch.float32,)


def arguments(name: str, parameters: dict[str, Any], dtype: torch.dtype) -> samples.Args:
    own = {"dtype": dtype} if name in ops_cases.FLOATING else {}
    return samples.sample(name, **parameters, **own)


def without_padding(name: str, results: list[Tensor]) -> list[Tensor]:
    """A backward pass has an output for all that could be touched: what is touched."""
    if name == "gather_sparse_linear_backward":
        return without_padded_entries(results)
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


def without_padded_entries(results: list[Tensor]) -> list[Tensor]:
    grad_values, rows, grad_bias, starts, columns, grad_weight, *args = results
    given_columns, given_rows = args[2], args[4]
    assert int(starts[-1]) == len(columns)
    entry_rows = rows.repeat_interleave(starts.diff(), output_size=len(columns))
    first_entry = torch.ones_like(columns, dtype=torch.bool)
    repeats = (entry_rows[1:] == entry_rows[:-1]) & (columns[1:] == columns[:-1])
    first_entry[1:] = ~repeats
    assert not grad_weight[~first_entry].any()
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    assert not grad_bias[~first].any()
    met = (given_rows >= 0).any(1) & (given_columns >= 0).any(1)
    if not bool(met.any()):
        first_entry[:] = False  # no entries: column 0 of the first row stands in
    if not bool((given_rows >= 0).any()):
        first[:] = False
    entry_rows, rows = entry_rows[first_entry], rows[first]
    starts = torch.searchsorted(entry_rows, rows)
    starts = torch.cat([starts, starts.new_tensor([len(entry_rows)])])
    touched = [rows, grad_bias[first], starts]
    return [grad_values, *touched, columns[first_entry], grad_weight[first_entry], *args]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    for got, wanted in zip(actual, expected, strict=True):
        bound = samples.TOLERANCE.get(wanted.dtype, 0)
        torch.testing.assert_close(got, wanted, rtol=bound, atol=bound, equal_nan=True)


def test_every_op_has_a_kernel() -> None:
    # A product by torch, and the kernel of best_columns, or of pack_signs.
    composed = {"nearest_columns", "sign_codes"}
    assert set(samples.OPS) - set(ops_cases.CUDA) == composed


@pytest.mark.parametrize(("name", "parameters"), ops_cases.parameters(ops_cases.CUDA))
def test_kernels_equal_the_reference(run: Run, name: str, parameters: dict[str, Any]) -> None:
    for dtype in dtypes_of(name):
        args = arguments(name, parameters, dtype)
        expected = samples.run(getattr(reference, name), args)
        assert_close(without_padding(name, run(name, args)), expected)


@pytest.mark.parametrize(("name", "parameters"), ops_cases.parameters(ops_cases.CUDA))
def test_results_do_not_depend_on_the_order_of_threads(
    run: Run, name: str, parameters: dict[str, Any]
) -> None:
    args = arguments(name, parameters, torch.float32)
    samples.assert_same_bits(run(name, args), run(name, args, order=7))


@pytest.mark.parametrize("name", ["sgd_rows_", "adagrad_rows_", "adam_rows_"])
def test_padding_of_rows_is_skipped(run: Run, name: str) -> None:
    given = samples.sample_dict(name)
    rows = torch.cat([given["rows"], given["rows"][-1:].expand(70)])
    grad = torch.cat([given["grad"], samples.randn(70, *given["grad"].shape[1:])])
    args = tuple((given | {"rows": rows, "grad": grad}).values())
    assert_close(run(name, args), samples.run(getattr(reference, name), args))


# ---- bad values ----------------------------------------------------------------------------------

BAD: list[tuple[str, str, Any, str]] = [
    ("pack_signs", "projections", torch.nan, "pack_signs: projections: got NaN or infinity"),
    ("pack_digits", "projections", torch.nan, "pack_digits: projections: got NaN or infinity"),
    ("probe_digits", "projections", torch.inf, "probe_digits: projections: got NaN or infinity"),
    ("densified_projections", "vectors", torch.nan, "densified_projections: vectors: got NaN"),
    ("densified_projections", "functions", 13, "densified_projections: functions: wanted 1"),
    ("hadamard_projections", "functions", 16, "hadamard_projections: functions: got a coord"),
    ("build_tables", "codes", 8, "build_tables: codes: got a code outside"),
    ("limit_buckets", "offsets", 31, "limit_buckets: offsets: got a bucket that ends before"),
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
    ("gather_linear_backward", "rows", -2, "gather_linear: rows: got an id outside"),
    ("gather_linear_backward", "extra_rows", 20, "gather_linear: rows: got an id"),
    ("gather_sparse_linear", "rows", 20, "gather_sparse_linear: rows: got an id outside"),
    ("gather_sparse_linear", "columns", 19, "gather_sparse_linear: columns: got an id outside"),
    ("gather_sparse_linear_backward", "rows", 20, "gather_sparse_linear: rows: got an id"),
    ("gather_sparse_linear_backward", "columns", -2, "gather_sparse_linear: columns: got an"),
    ("scatter_rows", "rows", 20, "scatter_rows: rows: got an id outside"),
    ("active_log_prob_backward", "places", 13, "active_log_prob_backward: places: got a column"),
    ("row_ids", "ids", -1, "row_ids: ids: got one outside"),
    ("row_ids", "ids", 2**31, "row_ids: ids: got one outside"),
    ("sgd_rows_", "rows", 20, "row optimizer: rows: got an id outside"),
    ("adagrad_rows_", "rows", -1, "row optimizer: rows: got an id outside"),
    ("adam_rows_", "rows", 20, "row optimizer: rows: got an id outside"),
    ("adam_rows_", "step", 0.0, "adam_rows_: step: got a number below 1"),
]


@needs_host
@pytest.mark.parametrize(("name", "argument", "value", "message"), BAD)
def test_bad_values_are_refused(name: str, argument: str, value: Any, message: str) -> None:
    names = [a.name for a in samples.overload(name)._schema.arguments]
    given = dict(zip(names, samples.sample(name), strict=True))
    numbers = given[argument].view(-1)
    numbers[min(1, numbers.numel() - 1) :: 2] = value
    with pytest.raises(RuntimeError, match=f"hashdl:?:? ?{message}"):
        run_on_host(name, tuple(given.values()))


# ---- on a GPU alone ------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("name", list(ops_cases.CUDA))
def test_nothing_waits_for_the_gpu(name: str) -> None:
    """And a graph can be captured, whose replay has the same results."""
    args = to_gpu(samples.sample(name))
    expected = samples.run(samples.kernel(name), args)  # also warms up
    torch.cuda.set_sync_debug_mode("error")
    try:
        samples.run(samples.kernel(name), args)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = samples.run(samples.kernel(name), args)
    graph.replay()
    samples.assert_same_bits(results, expected)


@needs_gpu
def test_kernels_run_on_the_current_stream() -> None:
    args = to_gpu(samples.sample("gather_linear", B=64, A=64, N=4000, d=256))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**7)
        args[1].mul_(2)  # after the sleep: a kernel on another stream would not see it
        doubled = samples.kernel("gather_linear")(args[0], args[1], None, args[3])
        plain = samples.kernel("gather_linear")(args[0], args[1] / 2, None, args[3])
    stream.synchronize()
    torch.testing.assert_close(doubled, 2 * plain)
