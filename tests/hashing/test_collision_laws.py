"""How often two vectors agree, against theory: exact binomial bounds, at fixed seeds.

The pair is fixed, and the functions are many: a law holds over the functions.
"""

from __future__ import annotations

import math
from fractions import Fraction

import hashing_helpers as helpers
import pytest
import torch
from scipy.stats import binomtest, kendalltau
from torch import Tensor

TRIALS = 6000
ANGLES = [0.2, 0.7, math.pi / 2, 2.4]


def assert_law(equal: Tensor, theory: float | Fraction, *, slack: float = 0.0) -> None:
    """Theory lies within the bounds (Clopper and Pearson) that so many trials leave."""
    result = binomtest(int(equal.sum()), equal.numel())
    bounds = result.proportion_ci(confidence_level=0.9999, method="exact")
    assert bounds.low - slack <= theory <= bounds.high + slack, (result.statistic, theory)


def equal_codes(name: str, pair: Tensor, *, tables: int = TRIALS, bits: int = 1) -> Tensor:
    first, second = helpers.codes_of(name, pair, tables=tables, bits=bits)
    return first == second


# ---- hyperplanes: 1 - theta / pi ---------------------------------------------------------------


@pytest.mark.parametrize("theta", ANGLES)
@pytest.mark.parametrize(
    ("name", "slack"),
    [("simhash", 0.0), ("learned", 0.0), ("simhash_sparse", 0.01), ("simhash_hadamard", 0.01)],
)
def test_bits_agree_as_the_angle_says(name: str, slack: float, theta: float) -> None:
    """Sparse and structured hyperplanes do so nearly; learned ones until they have been trained."""
    pair = helpers.with_angle(theta, 100)
    assert_law(equal_codes(name, pair), 1 - theta / math.pi, slack=slack)


def test_codes_of_several_bits_agree_where_all_bits_do() -> None:
    pair = helpers.with_angle(0.3, 20)
    assert_law(equal_codes("simhash", pair, bits=5), (1 - 0.3 / math.pi) ** 5)


def test_lengths_do_not_count() -> None:
    pair = helpers.with_angle(0.7, 30)
    pair[1] *= 1e6
    assert_law(equal_codes("simhash", pair), 1 - 0.7 / math.pi)


# ---- winner take all: how often maxima agree -----------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 10.0])
def test_pairs_of_coordinates_agree_as_kendall_s_tau_says(noise: float) -> None:
    first = helpers.randn(25)
    pair = torch.stack([first, first + noise * helpers.randn(25, seed=1)])
    tau = kendalltau(*pair.numpy()).statistic
    assert_law(equal_codes("wta", pair), (1 + tau) / 2)


@pytest.mark.parametrize("name", ["wta", "dwta"])
@pytest.mark.parametrize("D", [9, 12, 16])  # 8 divides the last alone
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_maxima_of_eight_agree_as_counting_says(name: str, D: int, noise: float) -> None:
    first = helpers.randn(D)
    pair = torch.stack([first, first + noise * helpers.randn(D, seed=1)])
    theory = helpers.agreement(D, list(range(D)), helpers.same_winner(pair))
    assert_law(equal_codes(name, pair, bits=3), theory)


@pytest.mark.parametrize("name", ["wta", "dwta"])
def test_growing_functions_of_the_coordinates_change_no_code(name: str) -> None:
    vector = helpers.randn(40)
    assert equal_codes(name, torch.stack([vector, vector.exp()]), bits=7, tables=100).all()


PLACES = {
    "same": ([0, 1, 2, 3], [0, 1, 2, 3]),
    "overlapping": ([0, 1, 2, 3], [2, 3, 4]),
    "apart": ([0, 1], [2, 3]),
    "single": ([0], [0, 1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("D", [20, 45])
def test_empty_bins_borrow_as_densification_says(D: int, places: tuple[list[int], ...]) -> None:
    """Most bins are empty; bins that two vectors borrow apart agree once in 8 times."""
    first, second = places
    pair = helpers.sparse_pair(D, (first, second))
    support = sorted({*first, *second})
    theory = helpers.agreement(D, support, helpers.same_winner(pair))
    assert_law(equal_codes("dwta", pair, bits=3), theory)


def test_vectors_that_no_bin_meets_agree_by_chance_unless_they_are_equal() -> None:
    """One coordinate of 20,000, of which 16 bins a digit see 128."""
    pair = helpers.sparse_pair(20_000, ([17], [1234]))
    assert_law(equal_codes("dwta", pair, bits=3, tables=1000), 1 / 8, slack=0.01)
    pair[1] = 2 * pair[0]
    assert equal_codes("dwta", pair, bits=3, tables=1000).all()


# ---- MinHash: Jaccard's index --------------------------------------------------------------------


@pytest.mark.parametrize("common", [0, 3, 6, 8])
@pytest.mark.parametrize("D", [64, 67])
def test_sets_agree_as_much_as_they_have_in_common(D: int, common: int) -> None:
    """Sets of 8: the largest coordinates, of whatever sign, among smaller ones."""
    first, second = set(range(8)), set(range(8 - common, 16 - common))
    pair = 0.1 * helpers.randn(2, D).clamp(-2, 2)
    for vector, members in zip(pair, (first, second), strict=True):
        at = sorted(members)
        vector[at] = (1 + helpers.randn(8).abs()) * helpers.randn(8, seed=common).sign()
    jaccard = Fraction(common, 16 - common)
    agree = helpers.same_first_member((first, second))
    theory = helpers.agreement(D, sorted(first | second), agree)
    assert jaccard <= theory <= jaccard + (1 - jaccard) / 8
    assert_law(equal_codes("minhash", pair, bits=3), theory)


def test_sets_of_few_members_are_the_coordinates_that_are_not_zero() -> None:
    """Jaccard's index 1/3 of sets of 2, in 64 coordinates of which sets have at most 8."""
    pair = helpers.sparse_pair(64, ([0, 1], [1, 2]))
    agree = helpers.same_first_member(({0, 1}, {1, 2}))
    assert_law(equal_codes("minhash", pair, bits=3), helpers.agreement(64, [0, 1, 2], agree))
