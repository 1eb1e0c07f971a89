"""search: projections, the buckets to probe, and find_best at once."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

from hashdl import ops, reference

SHAPES: list[dict[str, Any]] = [
    {},
    *({"B": B} for B in (0, 1, 5)),  # one by one, and by a product
    *({"B": B, "d": d} for B in (1, 9) for d in (0, 1, 33)),
    {"B": 41, "N": 500, "d": 130, "bits": 6, "candidates": 90, "active": 30, "k": 12},
    *({"B": 2, "probing": "columns", "bits": bits} for bits in (1, 5)),
    {"B": 30, "probing": "columns", "L": 1, "probes": 9},
    {"probing": "columns", "probes": 100},  # more than there are
    {"bias": False},
    *({"B": B, "levels": 16} for B in (1, 9)),
]


@pytest.mark.parametrize("parameters", SHAPES, ids=str)
@pytest.mark.parametrize("sketch", [True, False])
@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_kernel_is_reference(dtype: torch.dtype, sketch: bool, parameters: dict[str, Any]) -> None:
    args = samples.search_args(sketch=sketch, dtype=dtype, **parameters)
    samples.assert_kernel_is_reference("search", args)


@pytest.mark.parametrize("B", [0, 1, 70])
@pytest.mark.parametrize("probing", ops.PROBINGS)
@pytest.mark.parametrize("cap", [3, 500])
@pytest.mark.parametrize("candidates", [20, 400])
@pytest.mark.parametrize("levels", [2, 16])
def test_sketches_in_the_order_of_the_table_answer_the_same(
    B: int, probing: str, cap: int, candidates: int, levels: int
) -> None:
    sizes = {
        "levels": levels,
        "B": B,
        "N": 300,
        "L": 1,
        "probing": probing,
        "probes": 6,
        "active": 15,
        "k": 12,
    }
    of_rows, in_order = (
        samples.sample_dict("search", **sizes, candidates=candidates, ordered=ordered)
        | {"cap": cap}
        for ordered in (False, True)
    )
    assert in_order["ordered"]
    assert not torch.equal(of_rows["sketches"], in_order["sketches"])
    samples.assert_kernel_is_reference("search", tuple(in_order.values()))
    found = (samples.kernel("search")(*given.values()) for given in (of_rows, in_order))
    samples.assert_same_bits(*map(list, found))


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        ({"L": 3}, {}),
        ({"L": 1, "sketch": False}, {}),
        ({"L": 1}, {"table_rows": torch.zeros(1, 59).int()}),
    ],
    ids=str,
)
def test_order_is_of_one_table_that_has_all_rows(
    sizes: dict[str, Any], changes: dict[str, Any], call: samples.Path
) -> None:
    given = samples.sample_dict("search", **sizes) | changes | {"ordered": True}
    with pytest.raises(RuntimeError, match="hashdl::search: ordered: got True"):
        call("search")(*given.values())


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("d", [1, 6, 130])
def test_inputs_that_are_zero_are_left_out(d: int, dtype: torch.dtype) -> None:
    """Of numbers that no sum of integers has: what a query finds is what it found in two ops."""
    given = samples.sample_dict("search", B=1, d=d, sketch=False, dtype=dtype)
    x = samples.randn(1, d, dtype=dtype, seed=40)
    x[:, ::3] = 0
    projections = reference.project(x, given["functions"])
    buckets = ops.probe_signs(projections, bits=given["bits"], probes=given["probes"])
    tables = (buckets, given["offsets"], given["table_rows"], None, None, None)
    names = ("cap", "candidates", "active", "k", "seed", "step")
    layer, how = (x, given["weight"], given["bias"]), {name: given[name] for name in names}
    samples.assert_same_bits(
        list(samples.kernel("search")(*(given | {"x": x}).values())),
        list(ops.find_best(*tables, *layer, **how)),
    )


def test_inputs_need_not_be_contiguous() -> None:
    args = samples.search_args(B=3, candidates=33)
    spread = tuple(
        samples.strided(a) if isinstance(a, torch.Tensor) and a.dim() else a for a in args
    )
    assert not spread[0].is_contiguous()
    call = torch.ops.hashdl.search
    samples.assert_same_bits(list(call(*spread)), list(call(*args)))  # run would copy


@pytest.mark.parametrize("probing", ops.PROBINGS)
@pytest.mark.parametrize("B", [1, 9])
def test_opcheck(B: int, probing: str) -> None:
    args = samples.search_args(B=B, probing=probing)
    torch.library.opcheck(torch.ops.hashdl.search.default, args)
    args = samples.search_args(B=B, probing=probing, L=1, ordered=True)
    torch.library.opcheck(torch.ops.hashdl.search.default, args)


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize(
    ("argument", "bad", "match"),
    [
        ("x", torch.zeros(4, 6), "x: got shape"),
        ("x", torch.zeros(4, 5).double(), "x: got dtype"),
        ("x", torch.full((4, 5), torch.nan), "projections: got NaN or infinity"),
        ("weight", torch.zeros(60, 5).int(), "weight: got dtype"),
        ("bias", torch.zeros(59), "bias: got shape"),
        ("functions", torch.zeros(6, 12), "functions: got dtype float32, wanted int32"),
        ("functions", torch.zeros(5, 12).int(), "functions: got shape"),
        ("functions", torch.zeros(6, 13).int(), "functions: got shape"),
        ("functions", torch.zeros(6, 0).int(), "functions: got shape"),
        ("functions", torch.zeros(6, 8).int(), "buckets: got shape"),
        ("table_rows", torch.full((3, 60), 60).int(), "table_rows: got"),
        *((name, None, "sketches: got None") for name in ("sketch_functions", "sketches", "norms")),
        ("sketch_functions", torch.zeros(6, 32).int(), "sketch_queries: got shape"),
        ("sketch_functions", torch.zeros(6, 64), "sketch_functions: got dtype"),
        ("sketches", torch.zeros(60, 2), "sketches: got dtype"),
        ("norms", torch.zeros(60), "norms: got dtype"),
        ("norms", torch.zeros(59).int(), "norms: got shape"),
        ("ordered", True, "ordered: got True, wanted False"),
        ("probing", "digits", "probing: got 'digits'"),
        ("bits", 0, "bits: got 0"),
        ("probes", 0, "probes: got 0"),
        ("cap", 0, "cap: got 0"),
        ("candidates", -1, "candidates: got -1"),
        ("active", -1, "active: got -1"),
        ("k", -1, "k: got -1"),
        ("step", torch.zeros(1), "step: got dtype"),
    ],
)
def test_bad_input_is_refused(argument: str, bad: Any, match: str, call: samples.Path) -> None:
    given = samples.sample_dict("search") | {argument: bad}
    with pytest.raises(RuntimeError, match=f"hashdl::search: ({match})"):
        call("search")(*given.values())
