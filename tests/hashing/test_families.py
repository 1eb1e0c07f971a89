"""What every family keeps to, whatever its codes mean."""

from __future__ import annotations

import hashing_helpers as helpers
import pytest
import torch
from torch import Tensor

from hashdl.hashing import FAMILIES, Family, register

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
SPARSE = ("dwta", "minhash")


def functions_of(family: Family, D: int, L: int, K: int, *, seed: int = 0) -> Tensor:
    return family.make(D, L, K, seed)


def test_there_are_all_of_them() -> None:
    wanted = {"simhash", "simhash_sparse", "simhash_hadamard", "wta", "dwta", "minhash"}
    wanted |= {"kmeans", "learned"}
    assert wanted <= set(FAMILIES)
    assert all(name == family.name for name, family in FAMILIES.items())


@pytest.mark.parametrize("D", [1, 2, 9, 33])
@pytest.mark.parametrize("K", [1, 3, 7])
@every_family
def test_functions_have_the_shape_and_dtype_that_the_family_says(
    family: Family, D: int, K: int
) -> None:
    functions = functions_of(family, D, 3, K)
    assert tuple(functions.shape) == family.shape(D, 3, K)
    assert functions.dtype == family.dtype
    assert functions.shape[1] % 3 == 0
    assert family.multiplications(D, 3, K) > 0
    codes = family.codes(family.project(helpers.randn(5, D), functions), K)
    assert codes.shape == (5, 3)
    assert codes.dtype == torch.int32


@every_family
def test_functions_follow_from_the_seed(family: Family) -> None:
    one, same, other = (functions_of(family, 20, 4, 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@every_family
def test_tables_can_be_hashed_by_themselves(family: Family) -> None:
    """Rows meet some tables at a time, queries all of them."""
    vectors, functions = helpers.randn(30, 20), functions_of(family, 20, 6, 5)
    width = functions.shape[1] // 6
    every = family.codes(family.project(vectors, functions), 5)
    some = family.codes(family.project(vectors, functions[:, 2 * width : 5 * width]), 5)
    assert torch.equal(some, every[:, 2:5])


@every_family
def test_linear_families_project_by_a_matrix_product(family: Family) -> None:
    if not family.linear:
        assert type(family).project is not Family.project
        return
    vectors, functions = helpers.randn(30, 20), functions_of(family, 20, 6, 5)
    torch.testing.assert_close(family.project(vectors, functions), vectors @ functions)


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
@every_family
def test_codes_use_their_whole_range(family: Family, bits: int) -> None:
    codes = helpers.codes_of(family.name, helpers.randn(20_000, 100), tables=3, bits=bits)
    for table in codes.t():
        assert torch.equal(table.unique(), torch.arange(2**bits).int())


@every_family
def test_all_bits_of_long_codes_are_used(family: Family) -> None:
    """Three at a time: digits do not overlap, and leave no gap."""
    codes = helpers.codes_of(family.name, helpers.randn(5000, 100), tables=3, bits=11)
    for first in range(0, 11, 3):
        for table in (codes >> first).t() & 7:
            assert torch.equal(table.unique(), torch.arange(min(8, 2 ** (11 - first))).int())


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_codes_of_sparse_vectors_use_their_whole_range(name: str, share: float) -> None:
    vectors = helpers.randn(20_000, 150).abs()
    generator = torch.Generator().manual_seed(3)
    vectors[torch.rand(vectors.shape, generator=generator) > share] = 0
    codes = helpers.codes_of(name, vectors, tables=3, bits=5)
    for table in codes.t():
        assert torch.equal(table.unique(), torch.arange(32).int())
        # No code is what most vectors get for want of another one.
        assert table.bincount().max() < 0.25 * len(table)


@every_family
def test_zeros_have_a_code(family: Family) -> None:
    codes = helpers.codes_of(family.name, torch.zeros(2, 20), tables=4, bits=7)
    assert ((codes >= 0) & (codes < 2**7)).all()
    assert torch.equal(codes[0], codes[1])


@pytest.mark.parametrize("probes", [1, 4, 64, 1000])
@every_family
def test_probes_are_distinct_and_begin_with_the_own_bucket(family: Family, probes: int) -> None:
    vectors, functions = helpers.randn(30, 20), functions_of(family, 20, 4, 6)
    projections = family.project(vectors, functions)
    buckets = family.probe(projections, 6, probes)
    assert buckets.shape == (30, 4, min(probes, 64))
    assert torch.equal(buckets[:, :, 0], family.codes(projections, 6))
    if probes >= 64:
        everything = torch.arange(64).int().expand_as(buckets)
        assert torch.equal(buckets.sort(2).values, everything)


@every_family
def test_later_probes_find_vectors_near_by(family: Family) -> None:
    """More often than the same number of other buckets would, chosen blindly."""
    rows = helpers.randn(2000, 30)
    queries = rows + 0.5 * helpers.randn(2000, 30, seed=1)
    functions = functions_of(family, 30, 2, 6)
    codes = family.codes(family.project(rows, functions), 6)
    buckets = family.probe(family.project(queries, functions), 6, 5)
    hits = (buckets == codes[:, :, None]).double().mean((0, 1))
    missed = 1 - float(hits[0])
    assert hits[1:].sum() > 2 * missed * 4 / 63


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "wta"])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    """WTA does not look at all coordinates."""
    vectors = helpers.randn(3, 20)
    vectors[1, 4] = value
    with pytest.raises(RuntimeError, match="got NaN or infinity, wanted finite values"):
        helpers.codes_of(name, vectors, tables=2, bits=6)


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="there is a family 'wta' already"):
        register(FAMILIES["wta"])
