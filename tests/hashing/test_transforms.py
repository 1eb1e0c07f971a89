"""Transforms: inner products become angles or distances, as the papers say."""

from __future__ import annotations

import hashing_helpers as helpers
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from hashdl.hashing.transforms import L2ALSH, TRANSFORMS, SignALSH, SimpleLSH, Transform

every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def cloud() -> tuple[Tensor, Tensor]:
    """500 rows of very different lengths and 20 queries, in 12 coordinates."""
    lengths = torch.logspace(-1, 1, 500)[:, None]
    return helpers.randn(500, 12) * lengths, helpers.randn(20, 12, seed=1)


def transformed(transform: Transform, rows: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    return transform.rows(rows, transform.scale(rows)), transform.queries(queries)


def cosines(queries: Tensor, rows: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(queries[:, None], rows[None], dim=2)


@every_transform
def test_rows_and_queries_gain_the_same_coordinates(transform: Transform) -> None:
    rows, queries = cloud()
    for vectors, out in zip((rows, queries), transformed(transform, rows, queries), strict=True):
        assert out.shape == (len(vectors), 12 + transform.extra)
        assert out.dtype == torch.float32
        ratio = out[:, :12] / vectors
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_simple_lsh_gives_all_vectors_one_length_and_the_cosine_of_the_product() -> None:
    rows, queries = cloud()
    of_rows, of_queries = transformed(SimpleLSH(), rows, queries)
    for out in (of_rows, of_queries):
        torch.testing.assert_close(out.norm(dim=1), torch.ones(len(out)))
    products = queries @ rows.t() / queries.norm(dim=1, keepdim=True) / rows.norm(dim=1).max()
    torch.testing.assert_close(cosines(of_queries, of_rows), products, rtol=1e-5, atol=1e-6)


def test_sign_alsh_gives_rows_nearly_one_length() -> None:
    rows, queries = cloud()
    of_rows, of_queries = transformed(SignALSH(), rows, queries)
    lengths = 0.75 * rows.norm(dim=1) / rows.norm(dim=1).max()
    torch.testing.assert_close(of_rows.square().sum(1), 0.5 + lengths**8)
    products = queries @ rows.t() / queries.norm(dim=1, keepdim=True)
    products *= 0.75 / rows.norm(dim=1).max()
    wanted = products / (0.5 + lengths**8).sqrt()
    torch.testing.assert_close(cosines(of_queries, of_rows), wanted, rtol=1e-5, atol=1e-6)


def test_l2_alsh_makes_distances_of_products() -> None:
    rows, queries = cloud()
    of_rows, of_queries = transformed(L2ALSH(), rows, queries)
    products = queries @ rows.t() / queries.norm(dim=1, keepdim=True)
    products *= 0.83 / rows.norm(dim=1).max()
    error = torch.cdist(of_queries.double(), of_rows.double()) ** 2 - (1.75 - 2 * products)
    assert error.min() > -1e-6
    assert error.max() < 0.83**16 + 1e-6


@every_transform
def test_the_order_is_that_of_the_inner_products(transform: Transform) -> None:
    """Which angles of the vectors as they are have not."""
    rows, queries = cloud()
    of_rows, of_queries = transformed(transform, rows, queries)
    if isinstance(transform, L2ALSH):
        near = -torch.cdist(of_queries, of_rows)
    else:
        near = cosines(of_queries, of_rows)
    products, plain = queries @ rows.t(), cosines(queries, rows)
    for b in range(len(queries)):
        assert kendalltau(products[b], near[b]).statistic > 0.99
        assert kendalltau(products[b], plain[b]).statistic < 0.9


def test_transformed_rows_are_found_by_hyperplanes() -> None:
    """Most bits agree in the long rows, where plain ones prefer short rows that point right."""
    rows, queries = cloud()
    best = (queries @ rows.t()).topk(10).indices
    found = {}
    for name, (of_rows, of_queries) in {
        "plain": (rows, queries),
        "simple": transformed(SimpleLSH(), rows, queries),
        "sign_alsh": transformed(SignALSH(), rows, queries),
    }.items():
        codes = [
            helpers.codes_of("simhash", vectors, tables=2000, bits=1)
            for vectors in (of_queries, of_rows)
        ]
        agree = (codes[0][:, None] == codes[1][None]).double().mean(2)
        top = agree.topk(10).indices
        found[name] = float((best[:, :, None] == top[:, None]).double().sum((1, 2)).mean()) / 10
    assert found["simple"] > 2 * found["plain"]
    assert found["sign_alsh"] > 2 * found["plain"]


@every_transform
@pytest.mark.parametrize("factor", [1e-20, 1.0, 1e18])
def test_scales_do_not_count(transform: Transform, factor: float) -> None:
    rows, queries = cloud()
    wanted = transformed(transform, rows, queries)
    for got, other in zip(transformed(transform, factor * rows, 3 * queries), wanted, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-4, atol=1e-3)


@every_transform
def test_what_has_no_length_stays_finite(transform: Transform) -> None:
    """Zero rows and queries, no rows at all, rows longer than any of the sample."""
    zeros = torch.zeros(3, 4)
    assert transform.scale(zeros) == transform.scale(zeros[:0]) == 1.0
    for out in (*transformed(transform, zeros, zeros), transform.rows(zeros + 5, torch.ones(1))):
        assert out.isfinite().all()
    assert transform.rows(zeros[:0], torch.ones(1)).shape == (0, 4 + transform.extra)
