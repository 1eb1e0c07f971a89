r"""Sketches of rows: few bits a direction, or few coordinates, met by those of the queries.

They are made in the balanced coordinates, about the centre of the rows, by directions at right
angles: fewer bits then say the same (Ji et al., *Super-bit locality-sensitive hashing*, NIPS 2012).

*Two levels*: a sign bit each of as many random directions as there are bits.

*Sixteen levels*: four bits each of few directions, which span the coordinates in which outputs vary
most: the leading axes of the second moment that balanced rows and queries share (as balanced
truncation keeps: Moore, IEEE TAC 1981). Turned at random, their coordinates v are alike, and one
step serves all of a row: :math:`v_k \approx \gamma (2 l_k - 15)`. The factor that a row is met with
is not the step but :math:`\gamma = |v|^2 / \sum_k (2 l_k - 15) v_k`, which makes no estimate biased
(Gao and Long, *RaBitQ*, SIGMOD 2024, section 3.2).

Where balancing is of a low rank (:mod:`hashdl.hashing.lowrank`), its coordinates are the sketch, as
they are. See :func:`hashdl.ops.sketch_scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.balancing import one_thread
from hashdl.hashing.functions import project_rows
from hashdl.hashing.lowrank import orthogonal
from hashdl.readback import send

# The largest level stands for so many root mean squares of a row's coordinates.
_REACH = 2.4
# Steps are no smaller: of a row that is all zeros, whose levels say nothing.
_SMALLEST = torch.finfo(torch.float32).tiny


def planes(
    maps: Tensor, D: int, count: int, seed: int, moment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Directions float32 (D, count) that rows meet, and those that queries meet.

    Args:
        maps: float32 (2, D, D), or (2, 0, 0): see :class:`hashdl.hashing.functions.Functions`.
        D: coordinates.
        count: how many directions.
        seed: of the directions.
        moment: float32 (D, D), of the queries: where they are to span the coordinates in which
            outputs vary most. None: they are random.
    """
    # Another stream than that of the hash functions, which may be drawn with the same seed.
    generator = torch.Generator().manual_seed(seed ^ 0x5CE7C4)
    width = D if moment is None else min(count, D)
    with one_thread():
        sizes = (min(width, count - first) for first in range(0, count, width))
        blocks = [orthogonal(width, size, generator) for size in sizes]
        drawn = send(torch.cat(blocks, 1), maps)
        if moment is not None:
            drawn = _leading_axes(moment, maps[1], width) @ drawn
        if maps.shape[1] == 0:
            return drawn, drawn
        return maps[0] @ drawn, maps[1] @ drawn


def _leading_axes(moment: Tensor, of_queries: Tensor, count: int) -> Tensor:
    """Axes (D, count) of the second moment of balanced queries, the longest first."""
    balanced = of_queries.t() @ moment @ of_queries
    axes = torch.linalg.eigh((balanced + balanced.t()) / 2)[1].flip(1)[:, :count]
    negative = axes.sum(0) < 0  # signs of eigenvectors are anyone's choice
    return torch.where(negative, -axes, axes)


def sketch(
    weight: Tensor, bias: Tensor | None, planes: Tensor, center: Tensor, levels: int = 2
) -> tuple[Tensor, Tensor]:
    """Sketches int32 (M, W) and lengths float32 (M,) of rows, in balanced coordinates.

    Args:
        weight: (M, d).
        bias: (M,), or None.
        planes: float32 (d + 1, count), of :func:`planes`, for rows.
        center: float32 (d + 1,).
        levels: 2 or 16.
    """
    projections = project_rows(weight, bias, center, planes)
    if levels == 2:
        sketches = ops.pack_signs(projections, 32)
        return sketches, projections.square_().mean(1).sqrt_()
    squares = projections.square().sum(1)
    step = (squares / planes.shape[1]).sqrt_().mul_(_REACH / 15).clamp_min_(_SMALLEST)
    rounded = (projections * (0.5 / step)[:, None]).add_(7.5).round_().clamp_(0, 15)
    met = torch.einsum("mk,mk->m", projections, 2 * rounded - 15)
    pairs = torch.add(rounded[:, ::2], rounded[:, 1::2], alpha=16).to(torch.uint8)
    return pairs.view(torch.int32), squares / met.clamp_min_(_SMALLEST)
