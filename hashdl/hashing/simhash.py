r"""SimHash, or signed random projections (Charikar, STOC 2002, section 3).

Bit k of a vector v is :math:`[\langle p_k, v \rangle > 0]` with Gaussian :math:`p_k`; two vectors
at the angle :math:`\theta` agree in a bit with probability :math:`1 - \theta / \pi`. Queries probe
the buckets whose bits differ where they are nearest to the hyperplane.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.family import Family


class SimHash(Family):
    """Signs of Gaussian projections."""

    name = "simhash"
    probing = "signs"
    known_collisions = True

    def shape(self, D: int, L: int, K: int) -> tuple[int, int]:
        """(D, L K): a hyperplane a bit."""
        return D, L * K

    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """Gaussian hyperplanes through the origin."""
        return torch.randn(
            D, L * K, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
        )

    def codes(self, projections: Tensor, K: int) -> Tensor:
        """The signs: :func:`hashdl.ops.pack_signs`."""
        return ops.pack_signs(projections, K)

    def collision(self, cosines: Tensor, K: int) -> Tensor:
        r""":math:`(1 - \theta / \pi)^K`.

        Examples:
            >>> SimHash().collision(torch.tensor([1.0, 0.0, -1.0]), 2)
            tensor([1.0000, 0.2500, 0.0000])
        """
        return (1 - cosines.clamp(-1, 1).arccos() / torch.pi).pow(K)

    def probe(self, projections: Tensor, K: int, P: int) -> Tensor:
        """Cheapest flips first: :func:`hashdl.ops.probe_signs`."""
        return ops.probe_signs(projections, bits=K, probes=P)
