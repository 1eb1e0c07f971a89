"""torch's own checks of custom ops: schema, autograd, fake kernel, AOT dispatch (torch.compile)."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

CASES: list[tuple[str, dict[str, Any]]] = [
    ("pack_signs", {}),
    ("pack_signs", {"M": 0}),
    *(("sign_codes", case) for case in ({}, {"M": 0}, {"bias": False})),
    ("pack_digits", {}),
    ("pack_digits", {"M": 0, "bits": 1}),
    ("probe_digits", {}),
    ("probe_digits", {"B": 1, "probes": 500}),
    ("densified_projections", {}),
    ("densified_projections", {"M": 0, "T": 1}),
    ("hadamard_projections", {}),
    ("hadamard_projections", {"D": 1, "C": 0}),
    ("build_tables", {}),
    ("build_tables", {"N": 1, "bits": 1}),
    ("limit_buckets", {}),
    ("limit_buckets", {"capacity": 100, "replacement": "fifo"}),
    ("mark_rows_", {}),
    ("probe_signs", {}),
    ("probe_signs", {"B": 0, "probes": 100}),
    ("best_columns", {}),
    ("best_columns", {"M": 0, "count": 100}),
    ("nearest_columns", {}),
    ("nearest_columns", {"M": 0, "bias": False, "offset": False}),
    ("lookup", {}),
    ("lookup", {"B": 1, "candidates": 0}),
    ("lookup", {"probes": 16, "cap": 1}),
    ("sketch_scores", {}),
    ("sketch_scores", {"B": 0, "W": 1}),
    ("sketch_scores", {"coordinates": 5}),
    ("sketch_scores", {"levels": 16}),
    ("select", {}),
    ("select", {"scores": "none", "M": 0, "T": 0}),
    ("shared_rows", {}),
    ("shared_rows", {"count": 0}),
    ("gather_linear", {}),
    ("gather_linear", {"dtype": torch.bfloat16, "bias": False}),
    ("gather_linear_backward", {}),
    ("gather_linear_backward", {"dtype": torch.float16, "extra_bias": False}),
    ("gather_linear_backward", {"extras": None, "padding": 1.0}),
    ("combine_rows", {}),
    ("combine_rows", {"B": 0, "dtype": torch.float64}),
    ("gather_sparse_linear", {}),
    ("gather_sparse_linear", {"dtype": torch.bfloat16, "bias": False}),
    ("gather_sparse_linear_backward", {}),
    ("gather_sparse_linear_backward", {"dtype": torch.float16, "padding": 1.0}),
    ("scatter_rows", {}),
    ("scatter_rows", {"dtype": torch.float64, "fill": 1.0}),
    *(("distinct_labels", case) for case in ({}, {"M": 0})),
    ("find_shared", {}),
    ("find_shared", {"B": 0, "T": 0}),
    ("active_log_prob", {}),
    ("active_log_prob", {"T": None, "dtype": torch.float16}),
    ("active_log_prob", {"B": 0, "dtype": torch.float64}),
    ("active_log_prob_backward", {}),
    ("active_log_prob_backward", {"B": 1}),
    ("active_log_prob_backward", {"T": None, "dtype": torch.bfloat16}),
    ("row_ids", {}),
    ("sgd_rows_", {}),
    ("sgd_rows_", {"buffer": False, "dtype": torch.bfloat16}),
    ("adagrad_rows_", {}),
    ("adagrad_rows_", {"row_wise": True}),
    ("adam_rows_", {}),
    ("adam_rows_", {"row_wise": True, "dtype": torch.float16}),
    ("adam_rows_", {"d": None}),
    ("adam_rows_", {"narrow": True}),
    ("adam_rows_", {"narrow": True, "row_wise": True, "dtype": torch.bfloat16}),
    ("refresh_tables_", {}),
    ("refresh_tables_", {"training": False, "bias": False}),
    ("refresh_tables_", {"queries": 20}),
    ("refresh_tables_", {"balance": False}),
    ("refresh_tables_", {"sketch": False, "L": 9}),
    ("refresh_tables_", {"family": "kmeans", "queries": 20}),
    ("refresh_tables_", {"rank": 3, "queries": 40}),
    ("observe_queries_", {}),
    ("observe_queries_", {"B": 0, "training": False}),
    ("observe_queries_", {"rank": 3}),
]
LINEAR: list[dict[str, Any]] = [
    {},
    {"T": None, "bias": False},
    {"dtype": torch.float64},
    {"known": True},
]


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_opcheck(name: str, parameters: dict[str, Any]) -> None:
    torch.library.opcheck(samples.overload(name), samples.sample(name, **parameters))


def test_opcheck_of_scatter_rows_with_gradient() -> None:
    values, *rest = samples.scatter_rows_args()
    torch.library.opcheck(samples.overload("scatter_rows"), (values.requires_grad_(), *rest))


@pytest.mark.parametrize("T", [None, 0, 5])
def test_opcheck_of_active_log_prob_with_gradient(T: int | None) -> None:
    args = samples.active_log_prob_args(T=T)
    for logits in samples.tensors(args[:2]):
        logits.requires_grad_()
    torch.library.opcheck(samples.overload("active_log_prob"), args)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("parameters", LINEAR)
def test_opcheck_of_active_linear(parameters: dict[str, Any], requires_grad: bool) -> None:
    args = samples.active_linear_args(requires_grad=requires_grad, **parameters)
    torch.library.opcheck(samples.overload("active_linear"), args)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("parameters", LINEAR)
def test_opcheck_of_active_linear_log_prob(
    parameters: dict[str, Any], log_q: bool, requires_grad: bool
) -> None:
    args = samples.active_linear_log_prob_args(
        log_q=log_q, requires_grad=requires_grad, **parameters
    )
    torch.library.opcheck(samples.overload("active_linear_log_prob"), args)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("parameters", [{}, {"bias": False}, {"dtype": torch.float64}])
def test_opcheck_of_active_sparse_linear(parameters: dict[str, Any], requires_grad: bool) -> None:
    args = samples.active_sparse_linear_args(requires_grad=requires_grad, **parameters)
    torch.library.opcheck(samples.overload("active_sparse_linear"), args)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_opcheck_of_active_columns(requires_grad: bool) -> None:
    args = samples.active_columns_args(requires_grad=requires_grad)
    torch.library.opcheck(samples.overload("active_columns"), args)
