r"""k-means codes: a bucket is the region of a centroid, learned from the rows.

As in spherical k-means (Dhillon and Modha, *Concept decompositions*, Machine Learning 2001) a row v
goes to the centroid with the largest :math:`\langle c_j, v \rangle, |c_j| = 1`; but not all rows
count alike: long ones, which have the large outputs, count for more. A query probes the centroids
with the largest inner products, best first, as an inverted file does (Jégou, Douze and Schmid,
TPAMI 2011, section 4). At each rehash centroids move once more to the mean of the rows that they
have, so that they follow a layer that learns; a centroid with few rows takes half of those of one
with many, so that buckets stay even.

Rows are neither mapped nor projected for any of this: it is the centroids that are brought to where
the rows are, and sums of rows to where the centroids are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hashdl import ops
from hashdl.hashing.balancing import one_thread
from hashdl.hashing.family import Family

# Rows a centroid that centroids are learned from.
_ROWS_A_CENTROID = 64
# Rounds of Lloyd's iteration from drawn rows: by a part of these rows, and then by all of them.
_FEW_ROUNDS, _ROUNDS = 4, 2
_FEW = 4
# Of the mean load: a bucket with less gives its centroid up, one with more is split.
_LIGHT, _HEAVY = 0.2, 2.0
# Half of a split bucket goes to each side: how far the two centroids are turned apart.
_APART = 0.05
# Scores of rows and centroids that are asked for at once: a GPU writes them.
_SCORES = 1 << 24


class Rows(NamedTuple):
    """Rows ((w, b) - center) @ map that centroids are learned from.

    Attributes:
        weight: float32 (M, d).
        bias: float32 (M,), or None.
        center: float32 (d + 1,), or None: rows are the weight as it is, as for ``map``.
        map: float32 (d + 1, D), or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    center: Tensor | None = None
    map: Tensor | None = None

    def part(self, every: int) -> Rows:
        """Each so many-th of the rows."""
        bias = None if self.bias is None else self.bias[::every].contiguous()
        return self._replace(weight=self.weight[::every].contiguous(), bias=bias)

    def codes(self, centroids: Tensor, tables: int = 1) -> Tensor:
        """int32 (M, tables), for each row which of each table's centroids (k, D) is nearest."""
        functions = self._functions(centroids)
        with one_thread():
            offset = None if self.center is None else -(self.center @ functions)
        functions = functions[: self.weight.shape[1] + (self.bias is not None)]
        return _nearest(self.weight, self.bias, functions, offset, tables)

    def best_rows(self, directions: Tensor) -> Tensor:
        """int32 (k,), for each of the directions (k, D) the row that reaches farthest."""
        d = self.weight.shape[1]
        # The centre shifts all rows alike.
        functions, rows = self._functions(directions).t(), self.weight.t()
        if self.bias is not None:
            rows = torch.cat([rows, self.bias[None]])
        last = None if self.bias is None else functions[:, d]
        return _nearest(functions[:, :d], last, rows.contiguous(), None, 1).squeeze(1)

    def vectors(self, rows: Tensor) -> Tensor:
        """float32 (R, D), some of the rows."""
        bias = None if self.bias is None else self.bias[rows]
        return self._mapped(self.weight[rows], bias, 1)

    def sums(self, rows: Tensor, offsets: Tensor, loads: Tensor) -> Tensor:
        """float32 (k, D), sums of rows: those of a centroid stand from one offset to the next."""

        def of(values: Tensor) -> Tensor:
            bags: Tensor = F.embedding_bag(
                rows, values, offsets, mode="sum", include_last_offset=True
            )
            return bags

        bias = None if self.bias is None else of(self.bias[:, None])[:, 0]
        return self._mapped(of(self.weight), bias, loads[:, None])

    def _functions(self, centroids: Tensor) -> Tensor:
        with one_thread():
            functions = centroids.t() if self.map is None else self.map @ centroids.t()
        return functions.contiguous()

    def _mapped(self, weight: Tensor, bias: Tensor | None, count: Tensor | int) -> Tensor:
        """Of sums of so many rows."""
        if self.center is None:
            return weight
        last = weight.new_zeros(weight.shape[0]) if bias is None else bias
        vectors = torch.cat([weight, last[:, None]], 1) - count * self.center
        with one_thread():
            return vectors if self.map is None else vectors @ self.map


class KMeans(Family):
    """The nearest of 2^K centroids a table, of each table's own start.

    How probably two vectors have equal codes has no closed form: it depends on where the centroids
    are, which follows from the rows, and not on the angle alone.
    """

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
        return F.normalize(drawn, dim=0)

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
        return self.fit_rows(functions, Rows(rows), codes, K)

    def fit_rows(self, functions: Tensor, rows: Rows, codes: Tensor | None, K: int) -> Tensor:
        """:meth:`fit` to rows that need not be mapped for it."""
        if rows.weight.shape[0] == 0:
            return functions
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


def _fit_table(drawn: Tensor, rows: Rows, codes: Tensor | None) -> Tensor:
    """Centroids (2^K, D) of one table, from rows and drawn directions."""
    if codes is not None:
        return _means(rows, codes, drawn)
    # A part of the rows finds about where centroids belong, at a part of the cost.
    few = rows.part(_FEW)
    # The rows that random directions point to are as random as rows drawn by number.
    centroids = _normalized(few.vectors(few.best_rows(drawn).unique()))
    centroids = torch.cat([centroids, drawn[centroids.shape[0] :]])
    for some, rounds in ((few, _FEW_ROUNDS), (rows, _ROUNDS)):
        for _ in range(rounds):
            centroids = _means(some, some.codes(centroids).squeeze(1), centroids)
    return centroids


def _nearest(
    rows: Tensor, bias: Tensor | None, functions: Tensor, offset: Tensor | None, tables: int
) -> Tensor:
    """:func:`hashdl.ops.nearest_columns`, so many rows at once."""
    chunks = rows.split(max(_SCORES // functions.shape[1], 1))
    biases = [None] * len(chunks) if bias is None else bias.split(len(chunks[0]))
    return torch.cat(
        [
            ops.nearest_columns(some, some_bias, functions, offset, groups=tables)
            for some, some_bias in zip(chunks, biases, strict=True)
        ]
    )


def _normalized(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=1)


def _means(rows: Rows, codes: Tensor, before: Tensor) -> Tensor:
    """Mean directions of the rows of each centroid; light centroids split heavy ones."""
    offsets, order = ops.build_tables(codes[None], before.shape[0].bit_length() - 1)
    loads = offsets[0].diff()
    sums = rows.sums(order[0], offsets[0], loads)
    means = torch.where(loads[:, None] > 0, _normalized(sums), before)
    mean_load = rows.weight.shape[0] / before.shape[0]
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
