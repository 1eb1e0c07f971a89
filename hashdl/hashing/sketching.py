r"""Sketches of rows: one sign bit a direction, met by the projections of the queries.

Bits are made in the balanced coordinates, about the centre of the rows. The directions are
orthogonal, as many as there are coordinates: fewer bits then say the same (Ji et al.,
*Super-bit locality-sensitive hashing*, NIPS 2012). See :func:`hashdl.ops.sketch_scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl.hashing.balancing import one_thread


def planes(maps: Tensor, D: int, bits: int, seed: int) -> tuple[Tensor, Tensor]:
    """Directions float32 (D, bits) that rows meet, and those that queries meet.

    Args:
        maps: float32 (2, D, D), or (2, 0, 0): see :class:`hashdl.hashing.functions.Functions`.
        D: coordinates.
        bits: how many directions.
        seed: of the directions.
    """
    # Another stream than that of the hash functions, which may be drawn with the same seed.
    generator = torch.Generator().manual_seed(seed ^ 0x5CE7C4)
    with one_thread():
        blocks = [_orthogonal(D, min(D, bits - i), generator) for i in range(0, bits, D)]
    drawn = torch.cat(blocks, 1).to(maps.device)
    if maps.shape[1] == 0:
        return drawn, drawn
    return maps[0] @ drawn, maps[1] @ drawn


def _orthogonal(D: int, count: int, generator: torch.Generator) -> Tensor:
    """Random directions at right angles, as columns."""
    q, r = torch.linalg.qr(torch.randn(D, count, generator=generator, dtype=torch.float64))
    directions: Tensor = (q * r.diagonal().sign()).float()
    return directions


def lengths(projections: Tensor) -> Tensor:
    """Lengths (M,) of vectors in the balanced coordinates, from projections (M, bits)."""
    return projections.square().mean(1).sqrt()
