"""Every compiled kernel against its oracle, and against itself on another number of threads."""

from __future__ import annotations

from typing import Any

import ops_cases
import ops_samples as samples
import pytest
import torch

# Large enough that every parallel loop is split, whatever its grain.
LARGE: dict[str, dict[str, Any]] = {
    "pack_signs": {"M": 1000},
    "sign_codes": {"M": 1000},
    "pack_digits": {"M": 300},
    "probe_digits": {"B": 60},
    "densified_projections": {"M": 100},
    "hadamard_projections": {"M": 100},
    "build_tables": {"N": 50_000, "L": 2},
    "limit_buckets": {"N": 50_000, "L": 2, "bits": 13, "capacity": 3},
    "mark_rows_": {"B": 50, "A": 30},
    "probe_signs": {"B": 100, "probes": 8},
    "best_columns": {"M": 100, "width": 70},
    "nearest_columns": {"M": 500, "d": 33, "width": 70},
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
    "distinct_labels": {"B": 300},
    "find_shared": {"B": 300, "A": 40, "T": 500, "N": 3000},
    "active_log_prob": {"B": 30, "A": 60, "T": 90, "N": 500},
    "active_log_prob_backward": {"B": 30, "A": 60, "T": 90, "N": 500},
    "row_ids": {"U": 100_000},
    "sgd_rows_": {"N": 300, "U": 100},
    "adagrad_rows_": {"N": 300, "U": 100},
    "adam_rows_": {"N": 300, "U": 100},
}


def _cases(floating: bool) -> list[Any]:
    chosen = {
        name: every
        for name, every in ops_cases.CPU.items()
        if (name in ops_cases.FLOATING) == floating
    }
    return ops_cases.parameters(chosen)


@pytest.mark.parametrize(("name", "parameters"), _cases(floating=False))
def test_ids_equal_the_reference(name: str, parameters: dict[str, Any]) -> None:
    samples.assert_kernel_is_reference(name, samples.sample(name, **parameters))


@pytest.mark.parametrize("dtype", samples.DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize(("name", "parameters"), _cases(floating=True))
def test_numbers_equal_the_reference(
    name: str, parameters: dict[str, Any], dtype: torch.dtype
) -> None:
    samples.assert_kernel_is_reference(name, samples.sample(name, dtype=dtype, **parameters))


@pytest.mark.parametrize("name", [name for name in samples.OPS if not name.endswith("_")])
def test_inputs_need_not_be_contiguous(name: str) -> None:
    args = samples.sample(name)
    apart = tuple(samples.strided(a) if isinstance(a, torch.Tensor) else a for a in args)
    samples.assert_same_bits(samples.run(samples.kernel(name), args), _run_as_is(name, apart))


@pytest.mark.parametrize("name", ops_cases.OPTIMIZERS)
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
