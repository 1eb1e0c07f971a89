"""find_active: the same as look-up, scores, selection and outputs one after the other."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

from hashdl.ops import SELECTIONS

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


@pytest.mark.parametrize("parameters", SHAPES, ids=str)
@pytest.mark.parametrize("coordinates", [1, 16])
def test_kernel_is_reference_for_sketches_of_coordinates(
    coordinates: int, parameters: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"selection": "sketch", "coordinates": coordinates, **parameters}
    samples.assert_kernel_is_reference("find_active", samples.find_active_args(**given))


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


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize(
    ("argument", "bad", "match"),
    [
        ("buckets", torch.full((4, 3, 3), 16).int(), "buckets: got a bucket outside -1 to 15"),
        ("buckets", torch.zeros(4, 2, 3).int(), "buckets: got shape"),
        ("table_rows", torch.full((3, 60), 60).int(), "table_rows: got"),
        ("table_rows", torch.full((3, 60), -5).int(), "table_rows: got"),
        *((name, None, "sketches: got None") for name in ("sketch_queries", "sketches")),
        ("norms", None, "sketches: got dtype"),  # without lengths they are coordinates
        ("sketch_queries", torch.zeros(4, 32), "sketch_queries: got shape"),
        ("sketches", torch.zeros(59, 2).int(), "sketches: got 59 rows, wanted 60|norms: got shape"),
        ("norms", torch.zeros(59), "norms: got shape"),
        ("x", torch.zeros(4, 6), "x: got shape"),
        ("labels", torch.full((4, 1), 60).int(), "labels: got ids"),
        ("selection", "best", "selection: got 'best'"),
    ],
)
def test_bad_input_is_refused(argument: str, bad: Any, match: str, call: samples.Path) -> None:
    given = samples.sample_dict("find_active", selection="sketch") | {argument: bad}
    with pytest.raises(RuntimeError, match=f"hashdl::find_active: ({match})"):
        call("find_active")(*given.values())


def test_sketches_of_another_layer_are_refused() -> None:
    """They would fit each other, and be read beyond their end."""
    given = samples.sample_dict("find_active", selection="sketch")
    given |= {"sketches": given["sketches"][:59], "norms": given["norms"][:59]}
    with pytest.raises(RuntimeError, match="find_active: sketches: got 59 rows, wanted 60"):
        samples.kernel("find_active")(*given.values())


@pytest.mark.parametrize("selection", [name for name in SELECTIONS if name != "sketch"])
def test_without_sketch_selection_no_sketch_is_looked_at(selection: str) -> None:
    given = samples.sample_dict("find_active", selection=selection)
    nothing = torch.zeros(0, 0)
    other = given | {
        "sketch_queries": nothing,
        "sketches": nothing.int(),
        "norms": nothing[0:0, 0:0],
    }
    call = samples.kernel("find_active")
    samples.assert_same_bits(
        samples.run(call, tuple(given.values()))[:2], list(call(*other.values()))
    )
