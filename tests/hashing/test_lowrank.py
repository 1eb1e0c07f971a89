"""Low-rank balancing: the best coordinates of a rank, even moments, and queries remembered."""

from __future__ import annotations

import hashing_helpers as helpers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hashdl.hashing import lowrank


def converged(rows: Tensor, queries: Tensor, rank: int) -> Tensor:
    """Coordinates after more rounds than directions may take to settle."""
    maps = lowrank.maps(rows, queries, lowrank.drawn(rows.shape[1], rank, seed=0)[0], warm=False)
    for _ in range(20):
        maps = lowrank.maps(rows, queries, maps[0], warm=True)
    return maps


def error(rows: Tensor, queries: Tensor, maps: Tensor) -> float:
    """Of the outputs that the coordinates give, relative."""
    wanted = rows @ queries.t()
    found = (rows @ maps[0]) @ (queries @ maps[1]).t()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_no_coordinates_of_a_rank_give_outputs_better(rank: int) -> None:
    rows, queries = helpers.uneven(80, 12), helpers.uneven(50, 12, seed=1)
    values = torch.linalg.svdvals(rows @ queries.t())
    best = float(values[rank:].norm() / values.norm())
    assert error(rows, queries, converged(rows, queries, rank)) == pytest.approx(best, rel=1e-3)


def test_few_rounds_come_near() -> None:
    rows, queries = helpers.uneven(80, 12), helpers.uneven(50, 12, seed=1)
    cold = lowrank.maps(rows, queries, lowrank.drawn(12, 4, seed=0)[0], warm=False)
    settled = error(rows, queries, converged(rows, queries, 4))
    assert settled <= error(rows, queries, cold) <= 1.1 * settled


@settings(deadline=None)
@given(
    D=st.integers(1, 9),
    rank=st.integers(1, 12),
    rows=st.integers(1, 20),
    queries=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_moments_are_equal_and_outputs_exact_where_the_rank_suffices(
    D: int, rank: int, rows: int, queries: int, seed: int
) -> None:
    V, X = helpers.randn(rows, D, seed=seed), helpers.randn(queries, D, seed=seed + 10)
    maps = converged(V, X, rank)
    assert maps.shape == (2, D, rank)
    assert maps.isfinite().all()
    v, x = V @ maps[0], X @ maps[1]
    moments = [v.t() @ v, x.t() @ x]
    factor = moments[0][0, 0] / moments[1][0, 0]
    scale = float(moments[0][0, 0])
    torch.testing.assert_close(moments[1] * factor, moments[0], rtol=1e-2, atol=1e-3 * scale)
    spread = moments[0].diagonal()
    torch.testing.assert_close(moments[0], spread.diag(), rtol=0, atol=1e-3 * scale)
    assert bool((spread.diff() <= 1e-3 * scale).all())
    if rank >= min(D, rows, queries):
        assert error(V, X, maps) < 1e-2


def test_directions_that_were_lost_are_found_again() -> None:
    """Of queries along a line one direction is left; later ones go everywhere."""
    rows, queries = helpers.randn(40, 8), helpers.randn(40, 8, seed=1)
    line = queries[:, :1] * queries[:1]
    maps = converged(rows, line, 5)
    assert int((maps[0].norm(dim=0) > 0).sum()) == 1
    for _ in range(30):
        maps = lowrank.maps(rows, queries, maps[0], warm=True)
    assert error(rows, queries, maps) == pytest.approx(
        error(rows, queries, converged(rows, queries, 5)), rel=0.01
    )


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_rows_and_queries_of_any_length(scale: float) -> None:
    rows, queries = helpers.uneven(30, 6), helpers.uneven(30, 6, seed=1)
    maps = converged(scale * rows, queries, 3)
    assert maps.isfinite().all()
    wanted = error(rows, queries, converged(rows, queries, 3))
    units = maps * torch.tensor([1.0, 1 / scale]).reshape(2, 1, 1)
    assert error(rows, queries, units * torch.tensor([scale, 1.0]).reshape(2, 1, 1)) == (
        pytest.approx(wanted, rel=1e-2)
    )


@pytest.mark.parametrize("nothing", ["rows", "queries"])
def test_zeros_leave_the_coordinates(nothing: str) -> None:
    given = {"rows": helpers.randn(9, 4), "queries": helpers.randn(9, 4, seed=1)}
    given[nothing] = torch.zeros(9, 4)
    start = lowrank.drawn(4, 2, seed=0)[0]
    maps = lowrank.maps(**given, start=start, warm=False)
    assert torch.equal(maps, torch.stack([start, start]))


@pytest.mark.parametrize(("D", "rank"), [(5, 3), (3, 5), (1, 1)])
def test_drawn_coordinates_are_orthonormal(D: int, rank: int) -> None:
    rows, queries = lowrank.drawn(D, rank, seed=3)
    assert torch.equal(rows, queries)
    kept = min(D, rank)
    torch.testing.assert_close(rows.t() @ rows, torch.eye(rank) * (torch.arange(rank) < kept))


def test_drawn_coordinates_follow_the_seed() -> None:
    one, same, other = (lowrank.drawn(5, 3, seed)[0] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.usefixtures("threads")
def test_coordinates_do_not_depend_on_threads() -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        start = lowrank.drawn(300, 32, seed=0)[0]
        maps = lowrank.maps(
            helpers.randn(900, 300), helpers.randn(256, 300, seed=1), start, warm=False
        )
        results.append([maps])
    helpers.assert_same_bits(*results)


def test_the_oldest_queries_make_room() -> None:
    recent = torch.zeros(6, 3)
    seen = 0
    for first in range(0, 10, 2):
        x = torch.arange(2 * first, 2 * first + 4).reshape(2, 2).float()
        seen = lowrank.remember(recent, x, seen)
    assert seen == 10
    assert recent[:, 0].tolist() == [12, 14, 16, 18, 8, 10]
    assert bool((recent[:, 2] == 1).all())


def test_of_a_large_batch_some_are_remembered() -> None:
    recent = torch.zeros(256, 2)
    assert lowrank.remember(recent, torch.arange(640.0)[:, None], 0) == 64
    assert recent[:64, 0].tolist() == list(range(0, 640, 10))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_queries_that_are_not_finite_are_not_remembered(bad: float) -> None:
    recent = torch.zeros(8, 3)
    assert lowrank.remember(recent, torch.tensor([[1.0, bad]]), 5) == 5
    assert not recent.any()


def test_no_queries_are_remembered_of_an_empty_batch() -> None:
    recent = torch.zeros(8, 3)
    assert lowrank.remember(recent, torch.zeros(0, 2), 5) == 5
    assert not recent.any()
