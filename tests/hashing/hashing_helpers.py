"""Vectors and exact probabilities for the tests of hash families."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from hashdl.hashing import FAMILIES

# A digit has so many slots, and borrowed ones agree by chance once in so many times.
SLOTS = 8

Agree = Callable[[tuple[int, ...]], Fraction | None]
"""How probably two vectors agree in a digit that sees these coordinates; None: one sees nothing."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uneven(B: int, d: int, *, seed: int = 11) -> Tensor:
    """Queries (B, d) that vary ten times as much in their first coordinate as in their last."""
    return randn(B, d, seed=seed) * torch.logspace(0, -1, d)


def assert_same_bits(left: list[Tensor], right: list[Tensor]) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def codes_of(name: str, vectors: Tensor, *, tables: int, bits: int, seed: int = 0) -> Tensor:
    """Codes (M, L) that a family gives."""
    family = FAMILIES[name]
    functions = family.make(vectors.shape[1], tables, bits, seed)
    return family.codes(family.project(vectors, functions), bits)


def with_angle(theta: float, D: int, *, seed: int = 0) -> Tensor:
    """Two vectors (2, D) at an angle."""
    u, v = torch.linalg.qr(randn(D, 2, seed=seed)).Q.t()
    return torch.stack([u, math.cos(theta) * u + math.sin(theta) * v])


def sparse_pair(D: int, places: tuple[list[int], list[int]], *, seed: int = 0) -> Tensor:
    """Two vectors (2, D) of positive coordinates at these places, zeros elsewhere."""
    pair = torch.zeros(2, D)
    for vector, at in zip(pair, places, strict=True):
        vector[at] = 1 + randn(len(at), seed=seed).abs()
        seed += 1
    return pair


def agreement(D: int, support: list[int], agree: Agree) -> Fraction:
    """The exact probability that two vectors agree in a densified digit.

    ``support`` are the places where one of them is not zero. A digit sees 8 of D
    coordinates: of the support, any set of k with the weight C(D - |support|, 8 - k). Where
    neither sees anything, all begins anew with other coordinates.
    """
    rest = D - len(support)
    equal = apart = empty = Fraction(0)
    for k in range(min(SLOTS, len(support)) + 1):
        weight = Fraction(math.comb(rest, SLOTS - k), math.comb(D, SLOTS))
        for seen in itertools.combinations(support, k):
            probability = agree(seen)
            if k == 0:
                empty += weight
            elif probability is None:
                apart += weight
            else:
                equal += weight * probability
    return (equal + apart / SLOTS) / (1 - empty)


def same_winner(pair: Tensor) -> Agree:
    """Of WTA: whether the largest coordinate that is not zero is the same."""
    first, second = pair.tolist()

    def agree(seen: tuple[int, ...]) -> Fraction | None:
        winners = []
        for vector in (first, second):
            met = [i for i in seen if vector[i] != 0]
            if not met:
                return None
            winners.append(max(met, key=vector.__getitem__))
        return Fraction(winners[0] == winners[1])

    return agree


def same_first_member(sets: tuple[set[int], set[int]]) -> Agree:
    """Of MinHash: the first of the coordinates seen, in random order, that a set has."""
    a, b = sets

    def agree(seen: tuple[int, ...]) -> Fraction | None:
        met = set(seen)
        if not met & a or not met & b:
            return None
        return Fraction(len(met & a & b), len(met & (a | b)))

    return agree
