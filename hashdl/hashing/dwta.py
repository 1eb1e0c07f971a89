r"""Densified winner-take-all hashing (Chen and Shrivastava, *Densified winner take all (DWTA)
hashing for sparse datasets*, UAI 2018).

Like :mod:`hashdl.hashing.wta`, for vectors with many zeros, of which the digits of WTA would see
nothing else. Permutations are shared: each is cut into bins of 8 coordinates, a bin a digit, so
that all coordinates are met about equally often. A digit whose bin holds nothing but zeros takes
the bin of another digit instead, then that of a third, as a random function of digit and attempt
says, with the slots turned by a random number, so that two vectors that borrow from different
bins agree by chance alone. Zeros never win. See :func:`hashdl.ops.densified_projections`.

Differences from the paper: a vector that no attempt meets gets its digit from its largest
coordinate, so that every digit has a value; the coordinates that a permutation has beyond its
last whole bin are left out of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.wta import DigitFamily
from hashdl.reference import DIGIT_BITS, slots_of

# Bins that a digit may take: its own, and then those of others.
_ATTEMPTS = 16
_BIN = 2**DIGIT_BITS


class DWTA(DigitFamily):
    """Places of the largest of some random coordinates that are not zero."""

    name = "dwta"

    def shape(self, D: int, L: int, K: int) -> tuple[int, int]:
        """(1 + attempts, L slots): see :func:`hashdl.ops.densified_projections`."""
        return 1 + _ATTEMPTS, L * sum(slots_of(K))

    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """Bins of shared permutations, and for each attempt whose bin is taken."""
        generator = torch.Generator().manual_seed(seed)
        sizes = slots_of(K) * L
        bins = _bins(D, len(sizes), generator)
        donors = torch.randint(len(bins), (_ATTEMPTS, len(sizes)), generator=generator)
        turns = torch.randint(_BIN, (_ATTEMPTS, len(sizes)), generator=generator)
        donors[0], turns[0] = torch.arange(len(sizes)), 0
        columns = []
        for digit, slots in enumerate(sizes):
            places = (torch.arange(slots) + turns[:, digit, None]) % _BIN
            begins = (torch.arange(slots) == 0)[None]
            columns.append(torch.cat([begins, bins[donors[:, digit, None], places]]))
        return torch.cat(columns, 1).int()

    def project(self, vectors: Tensor, functions: Tensor) -> Tensor:
        """Coordinates (M, slots): :func:`hashdl.ops.densified_projections`."""
        return ops.densified_projections(vectors, functions)


def _bins(D: int, count: int, generator: torch.Generator) -> Tensor:
    """At least so many bins (*, 8) of distinct coordinates, cut from whole permutations.

    Fewer coordinates than a bin has are repeated.
    """
    whole = max(D // _BIN, 1)
    places = torch.arange(whole * _BIN) % D
    permutations = [
        torch.randperm(D, generator=generator)[places] for _ in range(-(-count // whole))
    ]
    return torch.cat(permutations).reshape(-1, _BIN)
