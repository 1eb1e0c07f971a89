"""Every compiled kernel against its oracle, and against itself on another number of threads."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

PLAIN: dict[str, list[dict[str, Any]]] = {
    "pack_signs": [
        {},
        {"M": 0},
        {"M": 1, "L": 0},
        {"L": 1, "bits": 1},
        {"M": 3, "L": 2, "bits": 24},
        {"M": 700, "L": 7, "bits": 5},
        {"M": 9, "L": 5, "bits": 17},
        {"M": 9, "L": 3, "bits": 32},
    ],
    "pack_digits": [
        {},
        {"M": 0},
        {"L": 0},
        *({"bits": bits} for bits in (1, 2, 3, 4, 24)),
        {"M": 300, "L": 7, "coarse": True},
    ],
    "probe_digits": [
        {},
        {"B": 0},
        {"L": 0},
        {"probes": 1},
        {"bits": 1, "probes": 2},
        {"bits": 2, "probes": 100},  # more than there are buckets
        {"bits": 3, "probes": 8},
        {"bits": 7, "probes": 128},
        {"bits": 7, "probes": 128, "coarse": True},
        {"bits": 8, "probes": 40, "lowest": True},
        {"bits": 24, "probes": 5},
        {"B": 90, "bits": 11, "probes": 16, "coarse": True},
    ],
    "densified_projections": [
        {},
        {"M": 0},
        {"D": 0},
        {"D": 1},
        {"C": 0},
        {"C": 1},
        {"T": 1},
        *({"share": share} for share in (0.0, 0.05, 1.0)),
        {"M": 200, "D": 300, "share": 0.02, "T": 8, "C": 100},
    ],
    "hadamard_projections": [
        {},
        {"M": 0},
        {"C": 0},
        *({"D": D} for D in (0, 1, 2, 3, 8, 64, 65, 200)),
        {"C": 7, "block": 1},
        {"M": 90, "D": 130, "C": 300, "block": 100},
    ],
    "build_tables": [
        {},
        {"N": 0},
        {"N": 1},
        {"L": 0},
        {"bits": 1},
        {"N": 3, "L": 1, "bits": 12},
        {"N": 500, "L": 9, "bits": 4},
        {"N": 70, "bits": 24, "L": 1},
        {"N": 50_000, "L": 2, "bits": 9},  # in parts
    ],
    "limit_buckets": [
        {},
        {"replacement": "fifo"},
        *({"N": N, "replacement": "fifo"} for N in (0, 1)),
        *({"N": N} for N in (0, 1)),
        {"L": 0},
        {"capacity": 1},
        {"capacity": 2**62},
        {"N": 500, "L": 9, "bits": 4, "capacity": 7},
        {"N": 500, "bits": 12, "capacity": 1},
        {"N": 5000, "bits": 1, "capacity": 100},
        {"N": 5000, "bits": 1, "capacity": 100, "replacement": "fifo"},
    ],
    "mark_rows_": [{}, {"B": 0}, {"N": 1}, {"bits": 255}, {"B": 50, "A": 30}],  # repeats
    "probe_signs": [
        {},
        {"B": 0},
        {"L": 0},
        {"L": 1, "bits": 1},
        {"probes": 1},
        {"bits": 1, "probes": 2},
        {"probes": 16},
        {"probes": 16, "coarse": True},
        {"bits": 3, "probes": 100},  # more than there are buckets
        {"bits": 9, "probes": 12, "coarse": True},
        {"bits": 24, "probes": 9},
        {"B": 70, "L": 9, "bits": 7, "probes": 20, "coarse": True},
    ],
    "best_columns": [
        {},
        {"M": 0},
        {"groups": 1},
        {"width": 1},
        {"count": 1},
        {"count": 9},
        {"count": 100},  # more than there are columns
        *({"width": width, "count": 5} for width in (15, 16, 17, 64, 65, 200)),
        *({"width": width, "count": 1} for width in (16, 64, 129)),
        *({"width": width, "count": 20, "coarse": True} for width in (16, 64, 129)),
        {"M": 70, "groups": 9, "width": 128, "count": 3, "coarse": True},
    ],
    "lookup": [
        {},
        {"B": 0},
        {"N": 0},
        {"N": 1},
        {"L": 0},
        {"candidates": 0},
        {"candidates": 5, "probes": 8},  # overflow
        {"candidates": 200, "probes": 8},  # more than can be found
        {"bits": 1, "probes": 2},
        {"bits": 4, "probes": 16},
        {"missing": 0.5, "probes": 8},
        {"missing": 1.0},
        {"N": 300, "bits": 2, "cap": 1},
        {"N": 300, "bits": 2, "cap": 7, "probes": 4, "candidates": 40},
        {"N": 300, "bits": 2, "cap": 7, "probes": 4, "seed": -(2**63), "step": 2**62},
        {"B": 50, "N": 2000, "L": 8, "bits": 6, "cap": 20, "candidates": 300, "probes": 5},
    ],
    "sketch_scores": [
        {},
        {"B": 0},
        {"C": 0},
        {"C": 1},
        {"N": 0},  # all padding
        {"N": 1},
        *({"W": W} for W in (0, 1, 2, 8, 17)),
        *({"coordinates": S} for S in (0, 1, 8, 16, 33)),
        {"padding": 0.0},
        {"padding": 1.0},
        {"B": 30, "C": 90, "W": 9, "N": 500},  # candidates beyond what is fetched ahead
    ],
    "select": [
        {},
        {"B": 0},
        {"C": 0},
        {"M": 0, "T": 0},
        {"active": 0, "random": 0},
        {"active": 5, "random": 5},
        {"active": 5, "random": 0},
        {"active": 30, "random": 4},  # more than there are candidates
        {"N": 1, "C": 3, "random": 8},
        {"N": 9, "C": 9, "M": 3, "T": 4, "active": 9, "random": 6},  # draws collide
        {"M": 4, "repeats": True},
        {"T": 40},  # everything is shared
        {"seed": -5, "step": 2**40},
        *({"scores": kind, "C": 30} for kind in ("none", "ties", "special")),
        {"scores": "special", "C": 30, "active": 28},
        {"B": 60, "C": 200, "N": 500, "active": 50, "random": 10, "scores": "ties"},
    ],
    "shared_rows": [
        {},
        {"B": 0},
        {"count": 0},
        {"count": 3},  # fewer than there are labels
        {"max_labels": 3},
        {"max_labels": 0},
        {"N": 1},
        {"N": 12, "count": 12},  # near N, draws give out
        {"N": 12, "count": 30},
        {"B": 300, "count": 100, "N": 10_000, "seed": -1, "step": 7},
    ],
}

LOG_PROBS: list[dict[str, Any]] = [
    {},
    {"B": 0},
    {"M": 0},
    {"M": 9, "A": 0},
    {"M": 0, "A": 0, "T": None},  # no logits
    {"T": None},
    {"T": 0},
    *({"A": A, "T": T} for A, T in ((1, 1), (14, 16), (15, 31), (33, 17))),
    {"N": 1},
    {"T": 40},  # everything is shared
    {"absent": True},
    {"absent": True, "T": None},
    {"special": True},
    {"special": True, "A": 40, "T": None},
    {"B": 30, "M": 6, "A": 60, "T": 150, "N": 2000},
]
SPARSE: list[dict[str, Any]] = [
    *({"B": 0}, {"A": 0}, {"A": 1}, {"inputs": 0}, {"inputs": 1}, {"A": 0, "inputs": 0}),
    *({"N": 0}, {"N": 1}, {"d": 0}, {"d": 1}, {"N": 0, "d": 0}),
    {"padding": 1.0},
    {"padding": 0.0, "A": 7, "inputs": 16, "d": 16},
    {"B": 2, "A": 300, "inputs": 40, "N": 500, "d": 70},  # in blocks
    {"B": 40, "A": 30, "inputs": 33, "N": 90, "d": 130},
    {"B": 3, "inputs": 20, "d": 9000},  # columns far apart
]
LAYERS: dict[str, list[dict[str, Any]]] = {
    "gather_linear": [
        {},
        {"bias": False},
        {"B": 0},
        {"A": 0},
        {"A": 1},
        {"N": 1},
        {"N": 0, "A": 3},  # all padding
        {"d": 0},
        {"d": 1},
        {"d": 16},
        {"d": 33},
        {"padding": 1.0},
        {"padding": 0.0, "A": 7},
        {"B": 40, "A": 50, "N": 200, "d": 130},
    ],
    "gather_linear_backward": [
        {},
        {"extra_bias": False},
        {"extras": 0},
        {"extras": None},
        {"extras": 20},  # every row
        {"B": 0},
        {"B": 0, "extras": None},
        {"A": 0},
        {"A": 1},
        {"N": 1},
        {"N": 0},
        {"d": 0},
        {"d": 1},
        {"d": 16},
        {"padding": 1.0, "extras": None},
        {"padding": 1.0},
        {"B": 40, "A": 30, "N": 200, "d": 130},
        {"N": 5000, "A": 30},  # ids of more than one digit of the radix sort
    ],
    "combine_rows": [
        {},
        *({"B": 0}, {"A": 0}, {"A": 1}, {"N": 1}, {"N": 0}, {"d": 0}, {"d": 1}, {"d": 16}),
        {"padding": 1.0},
        {"B": 1, "A": 30, "N": 50, "d": 1100},  # in blocks
        {"B": 40, "A": 30, "N": 200, "d": 130},
    ],
    "gather_sparse_linear": [{}, {"bias": False}, *SPARSE],
    "gather_sparse_linear_backward": [{}, *SPARSE],
    "scatter_rows": [
        {},
        {"B": 0},
        {"A": 0},
        {"N": 0},
        {"N": 1},
        {"fill": -3.5},
        {"fill": float("-inf")},
        {"padding": 1.0, "fill": 1.0},
    ],
    "active_log_prob": LOG_PROBS,
    "active_log_prob_backward": LOG_PROBS,
    "sgd_rows_": [
        {},
        {"buffer": False},
        {"nesterov": True},
        {"momentum": 0.0, "weight_decay": 0.0},
    ],
    "adagrad_rows_": [{}, {"weight_decay": 0.0}, {"row_wise": True}],
    "adam_rows_": [
        {},
        {"step": 1},
        {"step": 100_000, "weight_decay": 0.0},
        {"decoupled": True},
        {"row_wise": True},
        {"row_wise": True, "decoupled": True},
    ],
}
OPTIMIZERS = [name for name in LAYERS if name.endswith("_")]
UPDATES: list[dict[str, Any]] = [
    *({"U": 0}, {"N": 0, "U": 0}, {"N": 1, "U": 1}, {"U": 20}),
    *({"d": None}, {"d": 1}, {"d": 16}, {"d": 33}, {"N": 300, "U": 100, "d": 67}),
]

# Large enough that every parallel loop is split, whatever its grain.
LARGE: dict[str, dict[str, Any]] = {
    "pack_signs": {"M": 1000},
    "pack_digits": {"M": 300},
    "probe_digits": {"B": 60},
    "densified_projections": {"M": 100},
    "hadamard_projections": {"M": 100},
    "build_tables": {"N": 50_000, "L": 2},
    "limit_buckets": {"N": 50_000, "L": 2, "bits": 13, "capacity": 3},
    "mark_rows_": {"B": 50, "A": 30},
    "probe_signs": {"B": 100, "probes": 8},
    "best_columns": {"M": 100, "width": 70},
    "lookup": {"B": 30, "N": 400, "bits": 3, "cap": 9, "probes": 4},
    "sketch_scores": {"B": 30, "C": 90, "W": 9, "N": 500},
    "select": {"B": 50, "random": 5},
    "shared_rows": {"B": 100, "count": 30},
    "gather_linear": {"B": 30, "A": 20, "N": 100, "d": 67},
    "gather_linear_backward": {"B": 30, "A": 20, "N": 200, "d": 67, "extras": 30},
    "combine_rows": {"B": 30, "A": 20, "N": 100, "d": 1100},
    "gather_sparse_linear": {"B": 30, "A": 300, "inputs": 20, "N": 400, "d": 67},
    "gather_sparse_linear_backward": {"B": 30, "A": 40, "inputs": 20, "N": 200, "d": 67},
    "scatter_rows": {"B": 30, "A": 20, "N": 100},
    "active_log_prob": {"B": 30, "A": 60, "T": 90, "N": 500},
    "active_log_prob_backward": {"B": 30, "A": 60, "T": 90, "N": 500},
    "sgd_rows_": {"N": 300, "U": 100},
    "adagrad_rows_": {"N": 300, "U": 100},
    "adam_rows_": {"N": 300, "U": 100},
}


def _cases(table: dict[str, list[dict[str, Any]]]) -> list[Any]:
    def text(parameters: dict[str, Any]) -> str:
        return ",".join(f"{key}={value}" for key, value in parameters.items()) or "default"

    return [
        pytest.param(name, parameters, id=f"{name}-{text(parameters)}")
        for name, every in table.items()
        for parameters in every
    ]


def _update_cases() -> list[Any]:
    return _cases(dict.fromkeys(OPTIMIZERS, UPDATES))


@pytest.mark.parametrize(("name", "parameters"), _cases(PLAIN))
def test_ids_equal_the_reference(name: str, parameters: dict[str, Any]) -> None:
    samples.assert_kernel_is_reference(name, samples.sample(name, **parameters))


@pytest.mark.parametrize("dtype", samples.DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("name", "parameters"), [*_cases(LAYERS), *_update_cases()])
def test_numbers_equal_the_reference(
    name: str, parameters: dict[str, Any], dtype: torch.dtype
) -> None:
    samples.assert_kernel_is_reference(name, samples.sample(name, dtype=dtype, **parameters))


@pytest.mark.parametrize("name", [name for name in samples.OPS if not name.endswith("_")])
def test_inputs_need_not_be_contiguous(name: str) -> None:
    args = samples.sample(name)
    apart = tuple(samples.strided(a) if isinstance(a, torch.Tensor) else a for a in args)
    samples.assert_same_bits(samples.run(samples.kernel(name), args), _run_as_is(name, apart))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_need_not_be_contiguous(name: str) -> None:
    given = samples.sample_dict(name)
    apart = {key: samples.strided(given[key]) for key in ("rows", "grad")}
    expected = samples.run(samples.kernel(name), tuple(given.values()))
    samples.assert_same_bits(expected, _run_as_is(name, tuple((given | apart).values())))


def _run_as_is(name: str, args: samples.Args) -> list[torch.Tensor]:
    """Like samples.run, without the copy, which would be contiguous."""
    return samples.tensors(samples.kernel(name)(*args)) + samples.tensors(args)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", samples.OPS)
def test_results_do_not_depend_on_threads(name: str) -> None:
    args = samples.sample(name, **LARGE[name])
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(samples.run(samples.kernel(name), args))
    samples.assert_same_bits(*results)


@pytest.mark.parametrize("name", samples.OPS)
def test_fallback_is_the_reference(name: str) -> None:
    """What runs where no kernel was built, or on a device without kernels."""
    args = samples.sample(name)
    oracle = getattr(samples.reference, name)
    samples.assert_same_bits(samples.run(samples.fallback(name), args), samples.run(oracle, args))


@pytest.mark.parametrize("name", samples.OPS)
def test_only_in_place_ops_count_versions(name: str) -> None:
    """Autograd and HashTables tell by the version that a tensor has changed."""
    given = samples.sample_dict(name)
    before = {key: value._version for key, value in given.items() if hasattr(value, "_version")}
    samples.kernel(name)(*given.values())
    schema = samples.overload(name)._schema
    writes = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    changed = {key for key, version in before.items() if given[key]._version != version}
    assert changed == writes
