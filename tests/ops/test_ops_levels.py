"""sketch_scores of sketches of sixteen levels: integers, so that every result is exact."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import ops, reference

INF = float("inf")


def scores_of(queries: Tensor, sketches: Tensor, candidates: Tensor | None = None) -> Tensor:
    """By the kernel, which is the reference to the bit."""
    if candidates is None:
        candidates = torch.arange(len(sketches), dtype=torch.int32).expand(len(queries), -1)
    norms = samples.randn(len(sketches), seed=2).abs()
    args = queries, sketches, norms, candidates.contiguous()
    scores = ops.sketch_scores(*args)
    torch.testing.assert_close(
        scores, reference.sketch_scores(*args), rtol=0, atol=0, equal_nan=True
    )
    return scores


@pytest.mark.parametrize("W", [1, 7, 8, 9, 16, 24, 40, 131])
@pytest.mark.parametrize("N", [1, 8, 60])
def test_scores_are_exact(N: int, W: int) -> None:
    assert scores_of(samples.randn(3, 8 * W, seed=1), samples.sign_bits(N, W)).isfinite().all()


@pytest.mark.parametrize("first", range(9))
def test_rows_one_after_the_other_score_as_any(first: int) -> None:
    sketches, queries = samples.sign_bits(90, 5), samples.randn(1, 40, seed=1)
    ids = torch.arange(first, 90, dtype=torch.int32)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(first))
    together = scores_of(queries, sketches, ids[None])
    assert torch.equal(scores_of(queries, sketches, ids[None, order]), together[:, order])
    ids[::11] = -1
    assert torch.equal(
        scores_of(queries, sketches, ids[None]), together.masked_fill(ids[None] < 0, 0)
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("word", [0, -1])
@pytest.mark.parametrize("W", [8, 32, 100])
def test_no_sum_overflows(W: int, word: int, sign: float) -> None:
    queries = torch.full((1, 8 * W), sign)
    sketches = torch.full((20, W), word, dtype=torch.int32)
    score = ops.sketch_scores(
        queries, sketches, torch.ones(20), torch.arange(20, dtype=torch.int32)[None]
    )
    wanted = 15 * 8 * W * sign * (1 if word else -1)
    torch.testing.assert_close(score, torch.full((1, 20), wanted))


def test_levels_stand_from_the_lowest_bits_on() -> None:
    sketches = torch.tensor([[0x76543210]], dtype=torch.int32)
    queries = torch.eye(8)
    zeros = torch.zeros(8, 1, dtype=torch.int32)
    found = ops.sketch_scores(queries, sketches, torch.ones(1), zeros)[:, 0]
    torch.testing.assert_close(found, torch.arange(-15.0, 1, 2))


def test_a_query_that_is_not_finite_has_no_scores() -> None:
    queries = samples.randn(4, 24, seed=1)
    for row, value in enumerate((torch.nan, INF, -INF)):
        queries[row, 20] = value
    found = scores_of(queries, samples.sign_bits(30, 3))
    assert found[:3].isnan().all()
    assert found[3].isfinite().all()


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30, 3e38])
def test_queries_of_any_size(size: float) -> None:
    queries = samples.randn(2, 16, seed=1).clamp(-1, 1) * size
    scores_of(queries, samples.sign_bits(20, 2))
