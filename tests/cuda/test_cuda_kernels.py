"""The CUDA kernels against their oracles, on the host: see simt/cuda_runtime.h."""

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
