r"""Structured SimHash: signs of projections that are made by fast transforms.

Hyperplanes are the rows of :math:`H D_3 H D_2 H D_1`, with H the Walsh-Hadamard transform of n
coordinates and D random signs (Andoni et al., *Practical and optimal LSH for angular distance*,
NeurIPS 2015, section 5): n of them cost :math:`O(n \log n)` instead of n^2. They are at right
angles to each other, and meet vectors nearly as Gaussian ones do. See
:func:`hashdl.ops.hadamard_projections`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.simhash import SimHash


class HadamardSimHash(SimHash):
    """Signs of structured random projections."""

    name = "simhash_hadamard"
    known_collisions = False  # those of SimHash, but nearly
    linear = False
    dtype = torch.int32

    def shape(self, D: int, L: int, K: int) -> tuple[int, int]:
        """(2, L K): key of the signs and coordinate of a bit."""
        return 2, L * K

    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """The coordinates of as many transforms as it takes."""
        n, columns = _padded(D), torch.arange(L * K)
        generator = torch.Generator().manual_seed(seed)
        keys = torch.randint(2**31 - 1, (-(-L * K // n),), generator=generator)
        return torch.stack([keys[columns // n], columns % n]).int()

    def multiplications(self, D: int, L: int, K: int) -> int:
        """Additions and flips count as multiplications: three transforms for each n bits."""
        n = _padded(D)
        return 3 * n * n.bit_length() * -(-L * K // n)

    def project(self, vectors: Tensor, functions: Tensor) -> Tensor:
        """Projections (M, columns): :func:`hashdl.ops.hadamard_projections`."""
        return ops.hadamard_projections(vectors, functions)


def _padded(D: int) -> int:
    """The power of two that D coordinates are padded to."""
    return 1 << (D - 1).bit_length()
