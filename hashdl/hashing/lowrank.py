r"""Low-rank balancing: the few coordinates in which outputs vary most.

With queries X (Q, D) and rows V (M, D), of all outputs :math:`V X^T` the best approximation of rank
r is :math:`V P (X R)^T`, where the columns of

.. math::
    P = X^T U_r, \qquad R = V^T V P\,(\ldots)

span the r leading singular directions of :math:`V X^T`. They are balanced as in
:mod:`hashdl.hashing.balancing`: the second moments of rows v P and queries x R are the same
diagonal, up to a factor, largest first; so the first coordinates alone are the best approximation
of a lower rank too (balanced truncation: Moore, *Principal component analysis in linear systems*,
IEEE TAC 1981, section III).

The subspace is found by subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011,
section 4.5) from where it was: nothing of size D x D is made, and a renewal takes about
:math:`(3 M + 2 Q) D r` multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl.hashing.balancing import one_thread, some_queries

#: Queries that are remembered, and rows that are looked at of more.
QUERIES, ROWS = 256, 1024
# Directions whose singular value is below this share of the largest carry nothing.
_FLOOR = 1e-5
# Rounds from drawn directions, and from those that were in use.
_FIRST_ROUNDS, _ROUNDS = 4, 1


def orthogonal(D: int, count: int, generator: torch.Generator) -> Tensor:
    """Random directions at right angles, as columns: float32 (D, count)."""
    q, r = torch.linalg.qr(torch.randn(D, count, generator=generator, dtype=torch.float64))
    directions: Tensor = (q * r.diagonal().sign()).float()
    return directions


def drawn(D: int, rank: int, seed: int) -> Tensor:
    """Random orthonormal coordinates, float32 (2, D, rank): for as long as no query was seen.

    Args:
        D: coordinates of rows and queries.
        rank: r; columns above D are 0.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed ^ 0x10A4)
    with one_thread():
        directions = orthogonal(D, min(D, rank), generator)
    return torch.nn.functional.pad(directions, (0, rank - directions.shape[1])).repeat(2, 1, 1)


def remember(recent: Tensor, x: Tensor, seen: int) -> int:
    """Let the queries x take the places of the oldest, in place.

    Args:
        recent: float32 (Q, d + 1), of which the first ``seen`` hold something.
        x: queries (B, d).
        seen: how many were taken so far.

    Returns:
        How many now. Queries with NaN or infinity are not taken; on a GPU, where the host does not
        ask, they change nothing but the number.
    """
    fresh = some_queries(x)
    finite = fresh.isfinite().all()
    if not (x.is_cuda or finite):
        return seen
    places = torch.arange(seen, seen + fresh.shape[0], device=x.device) % recent.shape[0]
    if x.is_cuda:
        fresh = torch.where(finite, fresh, recent[places])
    recent[places] = fresh
    return seen + fresh.shape[0]


def maps(rows: Tensor, queries: Tensor, start: Tensor, *, warm: bool) -> Tensor:
    """Coordinates float32 (2, D, r): rows v become v @ maps[0], queries x become x @ maps[1].

    Args:
        rows: (M, D), centred.
        queries: (Q, D).
        start: (D, r), directions of rows to begin with.
        warm: they come from here.

    Returns:
        The coordinates; columns that carry nothing are 0. ``start`` twice, where rows or queries
        are all 0.
    """
    V, X = rows.double(), queries.double()
    with one_thread():
        P = _all_alive(start.double(), X)
        for _ in range(_ROUNDS if warm else _FIRST_ROUNDS):
            R = V.t() @ (V @ P)
            U, values, turned = torch.linalg.svd(X @ R, full_matrices=False)
            P = X.t() @ U
        if not bool(values[:1] > 0):
            return torch.stack([start, start])
        kept = values > _FLOOR * values[0]
        R = R @ (turned.t() * torch.where(kept, 1 / values, 0))
        # Queries X R are orthonormal now: turned and stretched, the moments become equal.
        projected = V @ P * kept
        moments, axes = torch.linalg.eigh(projected.t() @ projected)
        moments, axes = moments.flip(0), axes.flip(1)
        carries = moments > _FLOOR**2 * moments[0]
        fourth = torch.where(carries, moments.clamp_min(torch.finfo(moments.dtype).tiny), 1) ** 0.25
        of_rows = P @ axes / fourth * carries
        of_queries = R @ axes * fourth * carries
        # The signs of eigenvectors are anyone's choice.
        signs = of_rows.sum(0).sign()
        found = torch.stack([of_rows * signs, of_queries * signs]).float()
    return torch.nn.functional.pad(found, (0, start.shape[1] - found.shape[2]))


def _all_alive(directions: Tensor, queries: Tensor) -> Tensor:
    """The directions (D, r); those that are 0 point to queries."""
    some = queries[: directions.shape[1]].t()
    some = torch.nn.functional.pad(some, (0, directions.shape[1] - some.shape[1]))
    return torch.where(directions.any(0), directions, some)


def work(rows: int, D: int, rank: int) -> float:
    """Multiplications of a renewal, with as many rows; without the small decompositions.

    Args:
        rows: N.
        D: coordinates.
        rank: r.
    """
    return (3.0 * min(rows, ROWS) + 2 * QUERIES) * D * rank
