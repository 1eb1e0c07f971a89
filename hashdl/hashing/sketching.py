r"""Sketches of rows: one sign bit a direction, or few coordinates, met by those of the queries.

Bits are made in the balanced coordinates, about the centre of the rows. The directions are
orthogonal, as many as there are coordinates: fewer bits then say the same (Ji et al.,
*Super-bit locality-sensitive hashing*, NIPS 2012). Where balancing is of a low rank
(:mod:`hashdl.hashing.lowrank`), its coordinates are the sketch, as they are. See
:func:`hashdl.ops.sketch_scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.balancing import one_thread
from hashdl.hashing.functions import project_rows
from hashdl.hashing.lowrank import orthogonal
from hashdl.readback import send


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
        blocks = [orthogonal(D, min(D, bits - i), generator) for i in range(0, bits, D)]
    drawn = send(torch.cat(blocks, 1), maps)
    if maps.shape[1] == 0:
        return drawn, drawn
    return maps[0] @ drawn, maps[1] @ drawn


def sketch(
    weight: Tensor, bias: Tensor | None, planes: Tensor, center: Tensor
) -> tuple[Tensor, Tensor]:
    """Sketches int32 (M, bits / 32) and lengths float32 (M,) of rows, in balanced coordinates.

    Args:
        weight: (M, d).
        bias: (M,), or None.
        planes: float32 (d + 1, bits), of :func:`planes`, for rows.
        center: float32 (d + 1,).
    """
    projections = project_rows(weight, bias, center, planes)
    sketches = ops.pack_signs(projections, 32)
    return sketches, projections.square_().mean(1).sqrt_()
