r"""SimHash, or signed random projections (Charikar, STOC 2002).

Bit k of a vector v is :math:`[\langle p_k, v \rangle > 0]` with Gaussian :math:`p_k`; two vectors
at the angle :math:`\theta` agree in a bit with probability :math:`1 - \theta / \pi`. Vectors have
d + 1 coordinates: a row (w, b) against a query (x, 1), so that the bias counts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def make_planes(features: int, count: int, seed: int) -> Tensor:
    """Gaussian hyperplanes through the origin of the d + 1 dimensional space.

    Drawn on the CPU whatever the layer's device: the same seed gives the same functions.

    Returns:
        float32 (d + 1, count).
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(features + 1, count, generator=generator)


def project_queries(x: Tensor, planes: Tensor) -> Tensor:
    """Projections (B, count) of (x, 1)."""
    return torch.addmm(planes[-1], x.to(planes.dtype), planes[:-1])


def project_rows(weight: Tensor, bias: Tensor | None, center: Tensor, planes: Tensor) -> Tensor:
    """Projections (M, count) of (w, b) - center; ``center`` is (d + 1,)."""
    projections = torch.addmm(-(center @ planes), weight.to(planes.dtype), planes[:-1])
    if bias is not None:
        projections.addcmul_(bias.to(planes.dtype)[:, None], planes[-1])
    return projections
