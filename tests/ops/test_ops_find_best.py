"""find_best: the best of find_active's outputs, in order."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

from hashdl import reference

SHAPES: list[dict[str, Any]] = [
    {},
    *({"B": 0}, {"d": 0}, {"k": 0}, {"k": 1}, {"candidates": 0}),
    {"B": 41, "N": 500, "d": 130, "bits": 6, "candidates": 90, "active": 30, "k": 12},
    {"B": 2, "N": 900, "bits": 2, "candidates": 700, "active": 600, "k": 300},
    {"k": 30},  # more than are found
    {"k": 9, "active": 0},  # more than are to be computed
    {"bias": False, "L": 1},
    {"special": True, "k": 20},
    {"coordinates": 6},
]


@pytest.mark.parametrize("parameters", SHAPES, ids=str)
@pytest.mark.parametrize("sketch", [True, False])
@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_kernel_is_reference(dtype: torch.dtype, sketch: bool, parameters: dict[str, Any]) -> None:
    args = samples.find_best_args(sketch=sketch, dtype=dtype, **parameters)
    samples.assert_kernel_is_reference("find_best", args)


def test_values_descend_and_belong_to_their_rows() -> None:
    given = samples.sample_dict("find_best", B=9, k=5)
    values, rows = samples.kernel("find_best")(*given.values())
    assert (values.diff(dim=1) <= 0).all()
    layer = (given["x"], given["weight"], given["bias"], rows.int())
    expected = reference.gather_linear(*layer).masked_fill(rows < 0, -torch.inf)
    torch.testing.assert_close(values, expected)


def test_inputs_need_not_be_contiguous() -> None:
    args = samples.find_best_args(B=9, candidates=33)
    spread = tuple(
        samples.strided(a) if isinstance(a, torch.Tensor) and a.dim() else a for a in args
    )
    assert not spread[0].is_contiguous()
    call = torch.ops.hashdl.find_best
    samples.assert_same_bits(list(call(*spread)), list(call(*args)))  # run would copy


def test_results_do_not_depend_on_threads() -> None:
    args = samples.find_best_args(B=150, N=500, d=33, bits=6, candidates=90)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(samples.run(torch.ops.hashdl.find_best, args))
    finally:
        torch.set_num_threads(threads)
    samples.assert_same_bits(*results)


@pytest.mark.parametrize("sketch", [True, False])
def test_opcheck(sketch: bool) -> None:
    args = samples.find_best_args(sketch=sketch)
    torch.library.opcheck(torch.ops.hashdl.find_best.default, args)


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize(
    ("argument", "bad", "match"),
    [
        ("buckets", torch.full((4, 3, 3), 16).int(), "buckets: got a bucket outside -1 to 15"),
        ("table_rows", torch.full((3, 60), 60).int(), "table_rows: got"),
        *((name, None, "sketches: got None") for name in ("sketch_queries", "sketches")),
        ("norms", None, "sketches: got dtype int32, wanted float32"),
        ("sketches", torch.zeros(59, 2).int(), "sketches: got 59 rows, wanted 60|norms: got shape"),
        ("norms", torch.zeros(59), "norms: got shape"),
        ("x", torch.zeros(4, 6), "x: got shape"),
        ("x", torch.zeros(4, 5).double(), "x: got dtype"),
        ("bias", torch.zeros(59), "bias: got shape"),
        ("cap", 0, "cap: got 0"),
        ("candidates", -1, "candidates: got -1"),
        ("active", -1, "active: got -1"),
        ("k", -1, "k: got -1"),
        ("step", torch.zeros(1), "step: got dtype"),
    ],
)
def test_bad_input_is_refused(argument: str, bad: Any, match: str, call: samples.Path) -> None:
    given = samples.sample_dict("find_best") | {argument: bad}
    with pytest.raises(RuntimeError, match=f"hashdl::find_best: ({match})"):
        call("find_best")(*given.values())
