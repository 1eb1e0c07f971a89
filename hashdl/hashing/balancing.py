r"""Balancing: hash S w and S^-T x instead of w and x.

Inner products, and so the order of the rows, stay; what changes is how evenly hyperplanes cut the
two clouds. With :math:`M_x` and :math:`M_w` the second moments of queries and rows, S is chosen
such that those of S w and S^-T x are equal: with :math:`M_x^{1/2} M_w M_x^{1/2} = V \Lambda V^T`,

.. math::
    S = V \Lambda^{-1/4} V^T M_x^{1/2}, \qquad S^{-T} = V \Lambda^{1/4} V^T M_x^{-1/2},

and both moments are :math:`V \Lambda^{1/2} V^T`. A plane p meets S w where :math:`S^T p` meets w:
nothing but the planes changes, and rows and queries have planes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

# Eigenvalues below this share of the largest are taken for noise, and raised to it.
_FLOOR = 1e-3
# Samples of a batch and rows of a weight that a moment is estimated from.
_QUERIES, _ROWS = 64, 1 << 13
# Parts of the rows that add to a moment side by side.
_PARTS = 8
# Multiplications of an eigenproblem, about, in D^3: to a tridiagonal matrix, and vectors back.
_EIGEN = 4
# Share of the estimate that a training step may renew.
_RENEWED = 0.02


@contextmanager
def _at_most_threads(count: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(min(count, threads))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def one_thread() -> AbstractContextManager[None]:
    """Sums and eigenvectors in one order, whatever the number of threads."""
    return _at_most_threads(1)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Products of as many pairs of matrices, with a thread each: sums in one order."""
    with _at_most_threads(a.shape[0]):
        return torch.bmm(a, b)


def _spread(vectors: Tensor, most: int) -> Tensor:
    """At most so many of the vectors, evenly spread over them, as float32."""
    every = max(1, -(-vectors.shape[0] // most))
    return vectors[::every].float()


def _moment(vectors: Tensor) -> Tensor:
    with one_thread():
        return vectors.t() @ vectors / max(vectors.shape[0], 1)


def _moment_of_many(vectors: Tensor) -> Tensor:
    """As :func:`_moment`, by parts of the vectors that have a thread each."""
    M, D = vectors.shape
    parts = vectors[: M - M % _PARTS].view(_PARTS, -1, D)
    rest = vectors[M - M % _PARTS :]
    return (_products(parts.mT, parts).sum(0) + rest.t() @ rest) / max(M, 1)


def some_queries(x: Tensor) -> Tensor:
    """Some of the queries, float32 (B', d + 1): (x, 1)."""
    some = _spread(x, _QUERIES)
    return torch.cat([some, some.new_ones(some.shape[0], 1)], 1)


def query_moment(x: Tensor) -> tuple[Tensor, int]:
    """Second moment (d + 1, d + 1) of some of the queries (x, 1), and how many these are."""
    some = some_queries(x)
    return _moment(some), some.shape[0]


def row_moment(weight: Tensor, bias: Tensor | None, center: Tensor) -> Tensor:
    """Second moment (d + 1, d + 1) of some of the rows (w, b) - center, up to a factor.

    The longest coordinate is 1, so that no square overflows: the factor changes no code.
    """
    some = _spread(weight, _ROWS)
    last = some.new_zeros(some.shape[0]) if bias is None else _spread(bias, _ROWS)
    vectors = torch.cat([some, last[:, None]], 1).sub_(center)
    ends = vectors.aminmax() if vectors.numel() else (vectors.new_zeros(()),) * 2
    longest = torch.maximum(-ends[0], ends[1]).clamp_min(torch.finfo(vectors.dtype).tiny)
    return _moment_of_many(vectors.div_(longest))


def renew(moment: Tensor, x: Tensor, seen: int) -> int:
    """Let the queries x renew a running estimate of their moment, in place.

    Args:
        moment: float32 (d + 1, d + 1).
        x: queries (B, d).
        seen: how many queries the estimate comes from.

    Returns:
        How many it comes from now. Queries with NaN or infinity do not count; on a GPU, where the
        host does not ask, they change nothing but the number.
    """
    fresh, count = query_moment(x)
    finite = fresh.isfinite().all()
    if count == 0 or not (x.is_cuda or finite):
        return seen
    if x.is_cuda:
        fresh = torch.where(finite, fresh, moment)
    moment.lerp_(fresh, max(count / (seen + count), _RENEWED))
    return seen + count


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Floored eigenvalues, and eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(float(values[-1]) * _FLOOR), vectors


def work(rows: int, D: int) -> float:
    """Multiplications of balancing anew: the moment of the rows, two eigenproblems, six products.

    Args:
        rows: N.
        D: coordinates.
    """
    return min(rows, _ROWS) * float(D) ** 2 + (2 * _EIGEN + 6) * float(D) ** 3


def unit_maps(D: int, device: torch.device) -> Tensor:
    """The coordinates as they are."""
    return torch.eye(D, device=device, dtype=torch.float32).repeat(2, 1, 1)


def maps(queries: Tensor, rows: Tensor) -> Tensor:
    """Coordinates in which second moments are equal: rows v become v @ maps[0], queries likewise.

    Args:
        queries: second moment of the queries, (d + 1, d + 1).
        rows: second moment of the rows, likewise.

    Returns:
        float32 (2, d + 1, d + 1): the transposes of S and of its inverse transpose. Where a moment
        is zero or not finite, two unit matrices.
    """
    if not all(bool(moment.any() & moment.isfinite().all()) for moment in (queries, rows)):
        return unit_maps(queries.shape[0], queries.device)
    with one_thread():
        spread, axes = _eigen(queries.double())
    # One for rows, and one for queries.
    roots = _products(
        axes * torch.stack([spread.sqrt(), spread.rsqrt()])[:, None], axes.t().expand(2, -1, -1)
    )
    with one_thread():
        common, turned = _eigen(roots[0] @ rows.double() @ roots[0])
    fourth = common.pow(0.25)
    # Turned back at the end: the signs of eigenvectors are anyone's choice.
    stretched = turned * torch.stack([1 / fourth, fourth])[:, None]
    return _products(_products(roots, stretched), turned.t().expand(2, -1, -1)).float()
