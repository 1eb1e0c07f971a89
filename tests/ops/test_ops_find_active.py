"""find_active: the same as look-up, scores, selection and outputs one after the other."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

from hashdl.config import SELECTIONS

SHAPES: list[dict[str, Any]] = [
    {},
    {"B": 0},
    {"B": 41, "N": 500, "d": 130, "bits": 6, "candidates": 90, "active": 30},
    {"d": 0},
    {"candidates": 0},
    {"M": 0, "T": 0, "random": 0},
    {"bias": False, "L": 1},
    {"active": 0, "random": 0},
]


@pytest.mark.parametrize("parameters", SHAPES, ids=str)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_kernel_is_reference(selection: str, parameters: dict[str, Any]) -> None:
    args = samples.find_active_args(selection=selection, **parameters)
    samples.assert_kernel_is_reference("find_active", args)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    samples.assert_kernel_is_reference("find_active", samples.find_active_args(dtype=dtype))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_inputs_need_not_be_contiguous(selection: str) -> None:
    args = samples.find_active_args(B=9, candidates=33, selection=selection)
    spread = tuple(
        samples.strided(a) if isinstance(a, torch.Tensor) and a.dim() else a for a in args
    )
    assert not spread[0].is_contiguous()
    call = torch.ops.hashdl.find_active
    samples.assert_same_bits(list(call(*spread)), list(call(*args)))  # run would copy


def test_results_do_not_depend_on_threads() -> None:
    args = samples.find_active_args(B=70, N=500, d=33, bits=6, candidates=90)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(samples.run(torch.ops.hashdl.find_active, args))
    finally:
        torch.set_num_threads(threads)
    samples.assert_same_bits(*results)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_opcheck(selection: str) -> None:
    args = samples.find_active_args(selection=selection)
    torch.library.opcheck(torch.ops.hashdl.find_active.default, args)


@pytest.mark.parametrize(
    ("place", "bad", "match"),
    [
        (0, torch.full((4, 12), torch.nan), "find_active: projections: got NaN"),
        (2, torch.full((3, 60), 60, dtype=torch.int32), "find_active: table_rows: got"),
        (3, torch.zeros(60, 2, dtype=torch.int32), "find_active: codes: got shape"),
        (5, torch.zeros(4, 6), "find_active: x: got shape"),
        (8, torch.full((4, 1), 60, dtype=torch.int32), "labels: got ids"),
        (14, "best", "find_active: selection: got 'best'"),
    ],
)
def test_bad_input_is_refused(place: int, bad: Any, match: str) -> None:
    args = list(samples.find_active_args())
    args[place] = bad
    with pytest.raises(RuntimeError, match=match):
        torch.ops.hashdl.find_active(*args)
