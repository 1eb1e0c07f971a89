"""k-means codes: centroids that fit the rows, even buckets, and probes in order of the scores."""

from __future__ import annotations

import hashing_helpers as helpers
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hashdl.hashing import balancing, kmeans
from hashdl.hashing.functions import Scheme

FAMILY = kmeans.KMeans()
D, L, K = 12, 3, 4


def clusters(count: int, size: int, *, spread: float = 0.3) -> Tensor:
    """Rows (count * size, D): row r is of cluster r % count."""
    centers = helpers.randn(count, D)
    return centers.repeat(size, 1) + spread * helpers.randn(count * size, D, seed=1)


def made() -> Tensor:
    return FAMILY.make(D, L, K, seed=0)


def codes_of(rows: Tensor, functions: Tensor) -> Tensor:
    return FAMILY.codes(FAMILY.project(rows, functions), K)


def loads_of(codes: Tensor) -> Tensor:
    """Rows (L, 2^K) of each bucket."""
    return torch.stack([table.bincount(minlength=2**K) for table in codes.t()])


def cosines(rows: Tensor, functions: Tensor) -> Tensor:
    """Of each row (M, L) and the centroid that it has in a table."""
    columns = codes_of(rows, functions) + torch.arange(functions.shape[1] >> K) * 2**K
    return F.cosine_similarity(rows[:, None], functions.t()[columns], dim=2)


def error(rows: Tensor, functions: Tensor) -> float:
    """Of quantization: what rows and their centroids are apart."""
    return float((1 - cosines(rows, functions)).mean())


# ---- fit -----------------------------------------------------------------------------------------


def test_fitted_centroids_are_near_the_rows() -> None:
    rows = clusters(16, 40)
    some = torch.randperm(640, generator=torch.Generator().manual_seed(0))[: L << K]
    fitted = FAMILY.fit(made(), rows, None, K)
    assert fitted.shape == made().shape
    assert error(rows, fitted) < 0.5 * error(rows, F.normalize(rows[some], dim=1).t())
    assert error(rows, fitted) < 0.2 * error(rows, made())
    torch.testing.assert_close(fitted.norm(dim=0), torch.ones(L << K))


def test_each_rehash_brings_centroids_nearer_to_the_rows() -> None:
    rows = helpers.randn(3000, D)
    errors, functions = [], FAMILY.fit(made(), rows, codes_of(rows, made()), K)
    for _ in range(6):
        errors.append(error(rows, functions))
        functions = FAMILY.fit(made(), rows, codes_of(rows, functions), K)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.97 * errors[0]


def test_a_rehash_moves_centroids_to_the_mean_of_the_rows_that_they_had() -> None:
    """Not to where drawn functions begin: rows keep their buckets as a layer learns."""
    rows = clusters(16, 40, spread=0.1)
    codes = torch.stack(
        [(torch.arange(640) * odd + table) % 16 for table, odd in enumerate((1, 3, 5))], 1
    ).int()
    fitted = FAMILY.fit(made(), rows, codes, K)
    assert torch.equal(codes_of(rows, fitted), codes)
    for table in range(L):
        for bucket in range(2**K):
            mean = rows[codes[:, table] == bucket].mean(0)
            torch.testing.assert_close(fitted[:, table * 2**K + bucket], F.normalize(mean, dim=0))


def test_heavy_buckets_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all rows lie together: centroids that others leave go there."""
    rows = torch.cat([clusters(1, 600), helpers.randn(40, D, seed=4)])
    loads = loads_of(codes_of(rows, FAMILY.fit(made(), rows, None, K)))
    assert loads.max() < 100  # the mean is 40
    assert (loads > 0).all()
    monkeypatch.setattr(kmeans, "_HEAVY", torch.inf)
    assert loads_of(codes_of(rows, FAMILY.fit(made(), rows, None, K))).max() > 150


def test_centroids_without_rows_follow_the_seed_until_there_are_rows() -> None:
    assert torch.equal(FAMILY.fit(made(), torch.zeros(0, D), None, K), made())
    codes = torch.zeros(0, L, dtype=torch.int32)
    assert torch.equal(FAMILY.fit(made(), torch.zeros(0, D), codes, K), made())


@pytest.mark.parametrize("warm", [False, True])
def test_fewer_rows_than_centroids_have_a_bucket_each(warm: bool) -> None:
    rows = helpers.randn(5, D, seed=9)
    codes = torch.tensor([[3 * r] * L for r in range(5)]).int() if warm else None
    fitted = FAMILY.fit(made(), rows, codes, K)
    torch.testing.assert_close(cosines(rows, fitted), torch.ones(5, L))
    assert all(len(set(table.tolist())) == 5 for table in codes_of(rows, fitted).t())
    torch.testing.assert_close(fitted.norm(dim=0), torch.ones(L << K))


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize("warm", [False, True])
def test_equal_rows_have_one_bucket(warm: bool, scale: float) -> None:
    rows = (scale * helpers.randn(1, D)).expand(50, D)
    codes = torch.full((50, L), 7, dtype=torch.int32) if warm else None
    fitted = FAMILY.fit(made(), rows, codes, K)
    assert fitted.isfinite().all()
    assert (loads_of(codes_of(rows, fitted)).max(1).values == 50).all()
    if scale:
        assert cosines(rows, fitted).min() > 0.99


@pytest.mark.parametrize("at_once", [1, 100, 1000])
def test_the_fit_does_not_depend_on_how_much_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rows = clusters(20, 10)
    whole = FAMILY.fit(made(), rows, None, K)
    monkeypatch.setattr(kmeans, "_SCORES", at_once)
    torch.testing.assert_close(FAMILY.fit(made(), rows, None, K), whole)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("balance", [False, True])
def test_functions_do_not_depend_on_threads(balance: bool) -> None:
    weight, bias = helpers.randn(5000, 40), helpers.randn(5000, seed=1)
    scheme = Scheme("kmeans", transform="", bits=6, tables=2, center_rows=True, seed=3)
    queries = balancing.query_moment(helpers.randn(64, 40, seed=2))[0] if balance else None
    nothing = torch.zeros(2, 41, 41) if balance else torch.zeros(2, 0, 0)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        first = scheme.new(weight, bias, queries, nothing, None)
        codes = scheme.row_codes(weight, bias, first, range(2))
        results.append([*first, codes, *scheme.new(weight, bias, queries, nothing, codes.t())])
        assert torch.get_num_threads() == count
    helpers.assert_same_bits(*results)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("warm", [False, True])
def test_a_fit_to_unmapped_rows_is_that_to_mapped_ones(bias: bool, warm: bool) -> None:
    weight, biases = clusters(20, 30), helpers.randn(600, seed=5) if bias else None
    center = helpers.randn(D + 1, seed=6)
    if not bias:
        center[-1] = 0
    rows = kmeans.Rows(weight, biases, center, helpers.randn(D + 1, D, seed=7))
    mapped = rows.vectors(torch.arange(600))
    codes = codes_of(mapped, made()) if warm else None
    fitted = [
        FAMILY.fit_rows(made(), rows, codes, K),
        FAMILY.fit(made(), mapped, codes, K),
    ]
    torch.testing.assert_close(*fitted, rtol=1e-3, atol=1e-3)
    assert torch.equal(rows.codes(fitted[0].t(), L), codes_of(mapped, fitted[0]))


# ---- codes and probes ----------------------------------------------------------------------------


def test_a_row_has_the_code_of_the_centroid_with_the_largest_inner_product() -> None:
    rows, functions = helpers.randn(100, D), made()
    scores = (rows @ functions).reshape(100, L, 2**K)
    assert torch.equal(codes_of(rows, functions), scores.argmax(2).int())


@pytest.mark.parametrize("probes", [1, 5, 16, 40])
def test_a_query_probes_the_best_centroids_first(probes: int) -> None:
    queries, functions = helpers.randn(100, D), made()
    projections = FAMILY.project(queries, functions)
    buckets = FAMILY.probe(projections, K, probes)
    assert buckets.shape == (100, L, min(probes, 2**K))
    order = projections.reshape(100, L, 2**K).argsort(2, descending=True)
    assert torch.equal(buckets, order[..., :probes].int())
    assert torch.equal(buckets[..., 0], FAMILY.codes(projections, K))


@pytest.mark.parametrize(
    ("n_rows", "bits"), [(0, 1), (1, 1), (16, 2), (1000, 5), (1 << 20, 10), (1 << 30, 14)]
)
def test_there_are_as_many_centroids_as_rows_in_a_bucket(n_rows: int, bits: int) -> None:
    assert FAMILY.default_bits(n_rows) == bits


def test_a_seed_draws_its_own_directions() -> None:
    assert torch.equal(made(), FAMILY.make(D, L, K, seed=0))
    assert not torch.equal(made(), FAMILY.make(D, L, K, seed=1))
    tables = made().reshape(D, L, 2**K).unbind(1)
    assert not torch.equal(tables[0], tables[1])
