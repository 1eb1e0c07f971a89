r"""Winner-take-all hashing (Yagnik et al., *The power of comparative reasoning*, ICCV 2011).

A digit of 3 bits tells which of 8 random coordinates of a vector is the largest: the first 8 of a
random permutation. Codes depend on the order of the coordinates alone, not on their sizes, and
so not on the length of the vector or on what a monotonic function has done to it. Two vectors
agree in a digit as often as 8 random coordinates have their maximum in the same place in both.

For vectors with 8 coordinates or more; with fewer, digits have as many values as there are
coordinates. Queries probe the digits whose values come nearest to the largest ones:
:func:`hashdl.ops.probe_digits`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.family import Family
from hashdl.reference import slots_of


class DigitFamily(Family):
    """A family whose codes have digits: what :func:`hashdl.ops.pack_digits` makes of slots."""

    linear = False
    dtype = torch.int32

    def multiplications(self, D: int, L: int, K: int) -> int:
        """Comparisons count as multiplications: each slot is met once."""
        return L * sum(slots_of(K))

    def codes(self, projections: Tensor, K: int) -> Tensor:
        """The largest slots: :func:`hashdl.ops.pack_digits`."""
        return ops.pack_digits(projections, K)

    def probe(self, projections: Tensor, K: int, P: int) -> Tensor:
        """Nearly largest slots: :func:`hashdl.ops.probe_digits`."""
        return ops.probe_digits(projections, bits=K, probes=P)


class WTA(DigitFamily):
    """Places of the largest of some random coordinates."""

    name = "wta"

    def shape(self, D: int, L: int, K: int) -> tuple[int, int]:
        """(1, L slots): a coordinate a slot."""
        return 1, L * sum(slots_of(K))

    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """The beginning of a permutation for each digit; of a short one, over and over."""
        generator = torch.Generator().manual_seed(seed)
        digits = [
            torch.randperm(D, generator=generator)[torch.arange(slots) % D]
            for slots in slots_of(K) * L
        ]
        return torch.cat(digits).int()[None]

    def project(self, vectors: Tensor, functions: Tensor) -> Tensor:
        """The coordinates (M, slots) themselves."""
        return vectors.index_select(1, functions[0])
