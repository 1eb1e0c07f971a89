r"""k-means codes: a bucket is the region of a centroid, learned from the rows.

Spherical k-means (Dhillon and Modha, *Concept decompositions*, Machine Learning 2001): a row v goes
to the centroid with the largest :math:`\langle c_j, v \rangle, |c_j| = 1`. A query probes the
centroids with the largest inner products, best first, as an inverted file does (Jégou, Douze and
Schmid, TPAMI 2011, section 4). At each rehash centroids move once more to the mean of the rows that
they have, so that they follow a layer that learns; a centroid with few rows takes half of those of
one with many, so that buckets stay even.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.family import Family

# Rows a centroid that centroids are learned from.
_ROWS_A_CENTROID = 64
# Rounds of Lloyd's iteration: from drawn centroids, by a part of these rows and then by all of
# them; and from the centroids that rows had before.
_FEW_ROUNDS, _FIRST_ROUNDS, _ROUNDS = 4, 2, 1
_FEW = 4
# Of the mean load: a bucket with less gives its centroid up, one with more is split.
_LIGHT, _HEAVY = 0.2, 2.0
# Half of a split bucket goes to each side: how far the two centroids are turned apart.
_APART = 0.05
# Scores of rows and centroids that are held at once.
_SCORES = 1 << 22


class KMeans(Family):
    """The nearest of 2^K centroids a table, of each table's own start."""

    name = "kmeans"
    learns = True
    probing = "columns"

    def default_bits(self, n_rows: int) -> int:
        """As many centroids as rows in a bucket: finding one costs as much as reading one."""
        return min(max(round(math.log2(max(n_rows, 2)) / 2), 1), 14)

    def shape(self, D: int, L: int, K: int) -> tuple[int, int]:
        """(D, L 2^K): a column a centroid."""
        return D, L << K

    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """Random directions, which :meth:`fit` replaces."""
        drawn = torch.randn(
            D, L << K, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
        )
        return torch.nn.functional.normalize(drawn, dim=0)

    def sample(self, K: int) -> int:
        """Rows that determine so many centroids."""
        return _ROWS_A_CENTROID << K

    def fit(
        self,
        functions: Tensor,
        rows: Tensor,
        codes: Tensor | None,
        K: int,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Lloyd's iteration on the sample, from where the rows were or from drawn rows."""
        D, tables = functions.shape[0], functions.shape[1] >> K
        centroids = functions.t().reshape(tables, 1 << K, D)
        fitted = [
            _fit_table(centroids[t], rows, None if codes is None else codes[:, t])
            for t in range(tables)
        ]
        return torch.cat(fitted).t().contiguous()

    def codes(self, projections: Tensor, K: int) -> Tensor:
        """The nearest centroid: :func:`hashdl.ops.best_columns`."""
        groups = projections.shape[1] >> K
        return ops.best_columns(projections, groups=groups, count=1).squeeze(2)

    def probe(self, projections: Tensor, K: int, P: int) -> Tensor:
        """Best centroids first: :func:`hashdl.ops.best_columns`."""
        return ops.best_columns(projections, groups=projections.shape[1] >> K, count=P)


def _fit_table(drawn: Tensor, rows: Tensor, codes: Tensor | None) -> Tensor:
    """Centroids (2^K, D) of one table; ``drawn`` ones where nothing is known."""
    if rows.shape[0] == 0:
        return drawn
    if codes is not None:
        return _iterate(rows, codes, drawn, _ROUNDS)
    # A part of the rows finds about where centroids belong, at a part of the cost.
    few = rows[::_FEW]
    # The rows that random directions point to are as random as rows drawn by number.
    centroids = _normalized(few[_nearest(few, drawn.t()).unique()])
    centroids = torch.cat([centroids, drawn[centroids.shape[0] :]])
    for some, rounds in ((few, _FEW_ROUNDS), (rows, _FIRST_ROUNDS)):
        centroids = _iterate(some, _assign(some, centroids), centroids, rounds)
    return centroids


def _iterate(rows: Tensor, codes: Tensor, centroids: Tensor, rounds: int) -> Tensor:
    """Centroids after some rounds, from those that the codes are of."""
    for left in reversed(range(rounds)):
        centroids = _means(rows, codes.long(), centroids)
        if left > 0:
            codes = _assign(rows, centroids)
    return centroids


def _normalized(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def _nearest(rows: Tensor, directions: Tensor) -> Tensor:
    """For each direction (a column) the row that lies nearest to it."""
    rows = _normalized(rows)
    some = directions.split(_at_once(rows.shape[0]), dim=1)
    return torch.cat([(rows @ chunk).argmax(0) for chunk in some])


def _assign(rows: Tensor, centroids: Tensor) -> Tensor:
    scores = (chunk @ centroids.t() for chunk in rows.split(_at_once(centroids.shape[0])))
    return torch.cat([ops.best_columns(s, groups=1, count=1) for s in scores]).flatten()


def _at_once(others: int) -> int:
    return max(_SCORES // others, 1)


def _means(rows: Tensor, codes: Tensor, before: Tensor) -> Tensor:
    """Mean directions of the rows of each centroid; light centroids split heavy ones."""
    sums = torch.zeros_like(before).index_add_(0, codes, _normalized(rows))
    # Not by bincount, for which the host waits for the largest code.
    loads = codes.new_zeros(before.shape[0]).scatter_add_(0, codes, torch.ones_like(codes))
    means = torch.where(loads[:, None] > 0, _normalized(sums), before)
    mean_load = rows.shape[0] / before.shape[0]
    most = max(_HEAVY * mean_load, 1)  # one row is no load to split
    is_light, is_heavy = loads < _LIGHT * mean_load, loads > most
    # The first light one is paired with the heaviest one, and so on: as many pairs as there can be
    # are made, so that on a GPU nobody waits for the number of those that count.
    some = before.shape[0] // 2
    light = is_light.to(torch.uint8).argsort(descending=True, stable=True)[:some]
    heavy = loads.argsort(descending=True, stable=True)[:some]
    paired = (is_light[light] & is_heavy[heavy])[:, None]
    # Apart along the coordinates of the given-up centroid: any direction that is there to hand.
    aside, split = _APART * before[light], means[heavy]
    means = means.index_copy(
        0, light, torch.where(paired, _normalized(split + aside), means[light])
    )
    return means.index_copy(0, heavy, torch.where(paired, _normalized(split - aside), means[heavy]))
