"""balancing: coordinates that keep inner products and even out the two moments."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl.hashing import balancing


def moment(d: int, *, rank: int | None = None, spread: float = 1.0, seed: int = 0) -> Tensor:
    """Second moment (d, d) of turned vectors, whose axes' moments span ``spread`` decades."""
    axes = torch.linalg.qr(samples.randn(d, d, seed=seed).double()).Q
    values = torch.logspace(0, -spread, d, dtype=torch.float64)
    values[d if rank is None else rank :] = 0
    return (axes * values) @ axes.t()


def transforms(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """S^T and S^-1, float64."""
    for_rows, for_queries = balancing.maps(queries.float(), rows.float()).double()
    return for_rows, for_queries


moments = st.builds(
    lambda rank, spread, seed, scale: (rank, spread, seed, 10.0**scale),
    st.integers(1, 9),
    st.floats(0, 8),
    st.integers(0, 1000),
    st.integers(-12, 12),
)


@given(st.integers(1, 9), moments, moments)
@samples.few_examples
def test_inner_products_stay(
    d: int, first: tuple[int, float, int, float], second: tuple[int, float, int, float]
) -> None:
    """Whatever the moments: of any scale, of lower rank, with eigenvalues that are noise."""
    queries, rows = (
        scale * moment(d, rank=rank, spread=spread, seed=seed)
        for rank, spread, seed, scale in (first, second)
    )
    for_rows, for_queries = transforms(queries, rows)
    w, x = (samples.randn(20, d, seed=seed).double() for seed in (1, 2))
    got = ((w @ for_rows) * (x @ for_queries)).sum(1)
    torch.testing.assert_close(got, (w * x).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [1, 2, 7, 30])
def test_moments_of_transformed_rows_and_queries_are_equal(d: int) -> None:
    queries, rows = moment(d, spread=1.5, seed=1), 40 * moment(d, spread=1.0, seed=2)
    for_rows, for_queries = transforms(queries, rows)
    of_rows = for_rows.t() @ rows @ for_rows
    of_queries = for_queries.t() @ queries @ for_queries
    torch.testing.assert_close(of_rows, of_queries, rtol=1e-4, atol=1e-4)
    assert (torch.linalg.eigvalsh(of_rows) > 0).all()


def test_equal_moments_stay_as_they_are() -> None:
    """S is then the identity, whatever the scale."""
    both = moment(5, spread=1.0)
    for_rows, for_queries = transforms(both, both)
    torch.testing.assert_close(for_rows @ for_rows.t(), torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(for_rows, for_queries)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
@pytest.mark.parametrize("missing", ["queries", "rows"])
def test_without_a_moment_the_coordinates_stay(missing: str, value: float) -> None:
    given_moments = {"queries": moment(4).float(), "rows": moment(4).float()}
    given_moments[missing].fill_(value)
    assert torch.equal(balancing.maps(**given_moments), torch.eye(4).expand(2, 4, 4))


def test_moments_are_those_of_vectors_spread_over_all() -> None:
    """A batch sorted by anything is not judged by its beginning."""
    x = torch.arange(1000.0)[:, None]
    assert float(balancing.query_moment(x)[0][0, 1]) == pytest.approx(499.5, rel=0.05)
    weight = torch.arange(100_000.0)[:, None]
    mean = balancing.row_moment(weight, weight[:, 0], torch.zeros(2))
    share = weight / 100_000  # a moment of rows is that of rows whose longest coordinate is 1
    torch.testing.assert_close(mean, share.square().mean().expand(2, 2), rtol=0.01, atol=0)


def test_the_centre_is_taken_from_the_rows() -> None:
    weight, bias = samples.randn(30, 3) + 5, samples.randn(30, seed=1) - 2
    rows = torch.cat([weight, bias[:, None]], 1)
    got = balancing.row_moment(weight, bias, rows.mean(0))
    longest = (rows - rows.mean(0)).abs().max()
    torch.testing.assert_close(got, torch.cov(rows.t(), correction=0) / longest**2)


@pytest.mark.usefixtures("threads")
def test_maps_do_not_depend_on_threads() -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        weight, bias = samples.randn(3000, 200), samples.randn(3000, seed=1)
        rows = balancing.row_moment(weight, bias, torch.zeros(201))
        queries = balancing.query_moment(samples.uneven(64, 200))[0]
        results.append([balancing.maps(queries, rows)])
        assert torch.get_num_threads() == count
    samples.assert_same_bits(*results)
