r"""Sparse SimHash: signs of sums of a third of the coordinates, with random signs.

A hyperplane has :math:`\lceil D/3 \rceil` coordinates of one size, plus or minus, and zeros
elsewhere (Achlioptas, *Database-friendly random projections*, JCSS 2003, theorem 1.1, with the
number of zeros fixed as SLIDE fixes it: Chen et al., MLSys 2020, section 3.1). Vectors that are
spread over their coordinates agree in a bit about as often as with Gaussian hyperplanes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl.hashing.simhash import SimHash


class SparseSimHash(SimHash):
    """Signs of sparse random projections."""

    name = "simhash_sparse"
    known_collisions = False  # those of SimHash, but nearly

    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """Hyperplanes of distinct coordinates; a projection's mean square is that of the vector."""
        generator = torch.Generator().manual_seed(seed)
        count, ones = L * K, -(-D // 3)
        chosen = (
            torch.rand(count, D, generator=generator, dtype=torch.float32).topk(ones, dim=1).indices
        )
        signs = 1 - 2 * torch.randint(2, (count, ones), generator=generator).float()
        planes = torch.zeros(count, D, dtype=torch.float32).scatter_(
            1, chosen, signs * (D / ones) ** 0.5
        )
        return planes.t().contiguous()
