r"""The hash functions of one layer: those of a family, and what comes before them.

.. math::
    (w, b) \to S\,((w, b) - c) \to T_r(\cdot) \to \text{codes}, \qquad
    (x, 1) \to S^{-T} (x, 1) \to T_q(\cdot) \to \text{buckets to probe}

with the centre c (:mod:`hashdl.hashing.centering`), the balancing S
(:mod:`hashdl.hashing.balancing`; or of a low rank, :mod:`hashdl.hashing.lowrank`) and the two sides
of a transform T (:mod:`hashdl.hashing.transforms`), each of which may be left out. A linear family
without a transform meets rows and queries as they are: its functions are multiplied by S or its
inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hashdl import ops
from hashdl.hashing import balancing, centering, kmeans, lowrank
from hashdl.hashing.families import FAMILIES
from hashdl.hashing.family import Family
from hashdl.hashing.kmeans import KMeans
from hashdl.hashing.learned import LearnedSimHash
from hashdl.hashing.transforms import TRANSFORMS
from hashdl.readback import send

# Rows that centre, moments and learned functions follow from: so many tell them well enough.
_SAMPLE = 1 << 14
# Queries that functions are trained on.
_QUERIES = 1 << 10

#: Values and columns (B, I) of the inputs that are not zero; column -1 = none.
Nonzero = tuple[Tensor, Tensor]


class Functions(NamedTuple):
    """What codes follow from; D = d + 1.

    Attributes:
        rows: (F, L width), that rows meet, of the family's dtype.
        queries: (F, L width), that queries meet.
        center: float32 (D,), subtracted from rows.
        maps: float32 (2, D, D), for rows and queries: coordinates in which their second moments
            are equal; (2, D, rank) of low rank; (2, 0, 0) where nothing is balanced.
        scale: float32 (1,), the largest length of a row, for a transform.
    """

    rows: Tensor
    queries: Tensor
    center: Tensor
    maps: Tensor
    scale: Tensor


class Sample(NamedTuple):
    """What centre and balancing follow from, gathered where the layer is.

    Attributes:
        center: of the rows, float32 (D,).
        rows: their second moment (D, D) about it, up to a factor; for a low rank some of them
            (M, D), less the centre; empty, where there are no queries to balance them with.
        queries: what to balance by: their second moment (D, D), or some of them (Q, D) for a low
            rank; empty: keep ``maps``.
        maps: what balances now.
    """

    center: Tensor
    rows: Tensor
    queries: Tensor
    maps: Tensor


@dataclass(frozen=True)
class Scheme:
    """How a layer's functions are made and met.

    Args:
        family: name of the hash family.
        transform: name of a transform, or an empty string.
        bits: K.
        tables: L.
        center_rows: subtract the mean of the rows.
        seed: of the functions.
        rank: coordinates that balancing keeps; 0: all.
    """

    family: str
    transform: str
    bits: int
    tables: int
    center_rows: bool
    seed: int
    rank: int = 0

    @property
    def kind(self) -> Family:
        """The family itself."""
        return FAMILIES[self.family]

    @property
    def folds(self) -> bool:
        """Whether functions meet rows and queries as they are."""
        return self.kind.linear and not self.transform and not self.rank

    @property
    def assigns(self) -> bool:
        """Whether rows are assigned to centroids as they are: nothing is mapped or projected."""
        return self.folds and isinstance(self.kind, KMeans)

    def shape(self, features: int) -> tuple[int, int]:
        """Of the functions of a layer with so many inputs."""
        coordinates = features + 1 if self.folds else self._coordinates(features)
        return self.kind.shape(coordinates, self.tables, self.bits)

    def _coordinates(self, features: int) -> int:
        extra = TRANSFORMS[self.transform].extra if self.transform else 0
        return (self.rank or features + 1) + extra

    def new(
        self,
        weight: Tensor,
        bias: Tensor | None,
        queries: Tensor | None,
        maps: Tensor,
        codes: Tensor | None,
        recent: Tensor | None = None,
        before: Tensor | None = None,
    ) -> Functions:
        """Functions for the rows as they are now, from a sample: no more work for more rows.

        Args:
            weight: (N, d).
            bias: (N,), or None.
            queries: what to balance by: their second moment (D, D), or some of them (Q, D) for a
                low rank; None: keep ``maps``.
            maps: what balances now.
            codes: int32 (L, N), of the rows as hashed last, or None.
            recent: queries (x, 1) of late (Q, D), for a family that watches them; None: too few.
            before: what rows meet now, where there are codes, for such a family.

        Raises:
            ValueError: rows, centre or moment are not finite.
        """
        sample = self.sample(weight, bias, queries, maps)
        return self.of_sample(sample, weight, bias, codes, recent, before)

    def sample(
        self, weight: Tensor, bias: Tensor | None, queries: Tensor | None, maps: Tensor
    ) -> Sample:
        """Of the rows as they are now, for :meth:`of_sample`; the arguments are :meth:`new`'s."""
        some = self._some(weight)
        rows, some_bias = weight[some], None if bias is None else bias[some]
        center = weight.new_zeros(weight.shape[1] + 1, dtype=torch.float32)
        if self.center_rows:
            center = centering.row_mean(rows, some_bias)
        nothing = center.new_empty(0)
        if queries is None:
            return Sample(center, nothing, nothing, maps)
        if not self.rank:
            return Sample(center, balancing.row_moment(rows, some_bias, center), queries, maps)
        fewer = slice(None, None, max(1, -(-rows.shape[0] // lowrank.ROWS)))
        fewer_bias = None if some_bias is None else some_bias[fewer]
        vectors = _vectors(rows[fewer], fewer_bias, center)
        return Sample(center, vectors, queries, maps)

    def _some(self, weight: Tensor) -> slice:
        """Which rows functions follow from."""
        return slice(
            None, None, max(1, weight.shape[0] // max(_SAMPLE, self.kind.sample(self.bits)))
        )

    def of_sample(
        self,
        sample: Sample,
        weight: Tensor,
        bias: Tensor | None,
        codes: Tensor | None,
        recent: Tensor | None = None,
        before: Tensor | None = None,
        *,
        looks: bool = True,
    ) -> Functions:
        """:meth:`new` functions, where the weight is.

        Args:
            sample: of a :meth:`sample`; it may have been copied to the host's memory.
            weight: (N, d).
            bias: (N,), or None.
            codes: as for :meth:`new`, as are the others.
            recent: likewise.
            before: likewise.
            looks: see whether mapped rows are finite; else the ops that hash them do. On a GPU the
                host would wait.
        """
        if not all(bool(part.isfinite().all()) for part in (sample.rows, sample.center)):
            raise ValueError("rows are not finite")
        maps = self._maps(sample, has_bias=bias is not None)
        coordinates = self._coordinates(weight.shape[1])
        made = self._drawn(coordinates, maps, has_bias=bias is not None)
        scale = weight.new_ones(1, dtype=torch.float32)
        if not (self.kind.learns or self.transform):
            parts = (*self._folded(made, maps), sample.center, maps, scale)
            return Functions(*(send(part, weight) for part in parts))
        center, made, maps = (send(part, weight) for part in (sample.center, made, maps))
        some = self._some(weight)
        of_rows = (weight[some], None if bias is None else bias[some], center, maps)
        some_codes = None if codes is None else codes[:, some].t()
        if self.assigns:
            made = self._fit_unmapped(made, *of_rows, some_codes, looks=looks)
            return Functions(*self._folded(made, maps), center, maps, scale)
        vectors = _map_rows(*of_rows)
        if looks and not _are_finite(vectors):
            raise ValueError("rows are not finite")
        if self.transform:
            scale = TRANSFORMS[self.transform].scale(vectors)
            vectors = TRANSFORMS[self.transform].rows(vectors, scale)
        if self.kind.learns:
            if not self.kind.watches:
                made = self.kind.fit(made, vectors, some_codes, self.bits)
            else:
                if before is None or not (self.folds or sample.queries.numel() == 0):
                    some_codes = None  # functions of other coordinates tell nothing
                elif some_codes is not None:
                    made = self._unfolded(before, maps)
                made = self._fit(made, vectors, some_codes, recent, maps, has_bias=bias is not None)
        return Functions(*self._folded(made, maps), center, maps, scale)

    def _fit_unmapped(
        self,
        made: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        center: Tensor,
        maps: Tensor,
        codes: Tensor | None,
        *,
        looks: bool,
    ) -> Tensor:
        """What k-means makes of functions and rows, of which none is mapped."""
        assert isinstance(self.kind, KMeans)
        rows = kmeans.Rows(*_floats(weight, bias), center, maps[0] if maps.shape[1] else None)
        try:
            made = self.kind.fit_rows(made, rows, codes, self.bits)
        except RuntimeError as error:  # the op that assigns looks at every row
            raise ValueError("rows are not finite") from error
        if looks and not made.isfinite().all():
            raise ValueError("rows are not finite")
        return made

    def _maps(self, sample: Sample, *, has_bias: bool) -> Tensor:
        """Coordinates of rows and queries: see :class:`Functions`."""
        now, balances = sample.maps, sample.queries.numel() > 0
        D, known = now.shape[1], bool(now.any())
        if not balances and known:
            return now
        if not self.rank:
            if not balances:
                return balancing.unit_maps(D, now.device)
            return balancing.maps(sample.queries, sample.rows)
        maps = now if known else lowrank.drawn(D, self.rank, self.seed).to(now.device)
        if balances:
            maps = lowrank.maps(sample.rows, sample.queries, maps[0], warm=known)
        if not has_bias:
            maps[:, -1] = 0  # (x, 1) against (w, 0): the 1 would turn queries off their rows
        return maps

    def _drawn(self, coordinates: int, beside: Tensor, *, has_bias: bool) -> Tensor:
        """The family's functions as drawn, where another tensor is."""
        made = send(self.kind.make(coordinates, self.tables, self.bits, self.seed), beside)
        if self.folds and not has_bias:
            made[-1] = 0  # (x, 1) against (w, 0): the 1 would turn queries off their rows
        return made

    def _fit(
        self,
        made: Tensor,
        rows: Tensor,
        codes: Tensor | None,
        recent: Tensor | None,
        maps: Tensor,
        *,
        has_bias: bool,
    ) -> Tensor:
        """What a family that watches queries makes of functions, rows and recent queries."""
        queries = None
        if recent is not None:
            queries = self.query_vectors(recent[:, :-1], maps, has_bias=has_bias)
        if not has_bias:
            rows = self._without_last(rows)
        with balancing.one_thread():
            return self.kind.fit(made, rows, codes, self.bits, queries)

    def _unfolded(self, functions: Tensor, maps: Tensor) -> Tensor:
        """The functions that :meth:`_folded` makes those of rows from."""
        if not self.folds or maps.shape[1] == 0:
            return functions
        with balancing.one_thread():
            return maps[1].t() @ functions

    def _folded(self, made: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What rows and what queries meet."""
        if not self.folds or maps.shape[1] == 0:
            return made, made
        with balancing.one_thread():
            return maps[0] @ made, maps[1] @ made

    def fit(
        self, weight: Tensor, bias: Tensor | None, functions: Functions, x: Tensor, labels: Tensor
    ) -> Functions:
        """Functions by which queries meet their labels: :meth:`LearnedSimHash.fit`.

        Args:
            weight: (N, d).
            bias: (N,), or None.
            functions: whose centre, maps and scale stay.
            x: queries (Q, d), of which some are looked at where there are many.
            labels: int64 (Q, M), rows that they are to find; -1 = none.
        """
        kind = self.kind
        assert isinstance(kind, LearnedSimHash)
        some = slice(None, None, max(1, -(-x.shape[0] // _QUERIES)))
        x, labels = x[some], labels[some]
        every = torch.arange(0, weight.shape[0], max(1, weight.shape[0] // _SAMPLE))
        picked = torch.cat([every.to(labels.device), labels[labels >= 0]]).unique()
        where = (functions.center, functions.maps, functions.scale)
        picked_bias = None if bias is None else bias[picked]
        rows = self.row_vectors(weight[picked], picked_bias, *where)
        queries = self.query_vectors(x, functions.maps, has_bias=bias is not None)
        places = torch.where(labels < 0, -1, torch.searchsorted(picked, labels.clamp_min(0)))
        made = self._drawn(queries.shape[1], x, has_bias=bias is not None)
        with balancing.one_thread():
            made = kind.fit(made, rows, None, self.bits, queries, places)
        of_rows, of_queries = self._folded(made, functions.maps)
        return functions._replace(rows=of_rows, queries=of_queries)

    def columns(self, functions: Tensor, tables: range) -> Tensor:
        """The functions of some tables."""
        width = functions.shape[1] // self.tables
        return functions[:, tables.start * width : tables.stop * width]

    def project_rows(
        self, weight: Tensor, bias: Tensor | None, functions: Functions, tables: range
    ) -> Tensor:
        """Projections (M, columns) of rows in some tables."""
        if self.folds:
            some = self.columns(functions.rows, tables)
            return project_rows(weight, bias, functions.center, some)
        mapped = _map_rows(weight, bias, functions.center, functions.maps)
        return self.project_mapped_rows(mapped, functions, tables)

    @property
    def packs(self) -> bool:
        """Whether :func:`hashdl.ops.sign_codes` hashes rows."""
        return self.folds and self.kind.probing == "signs"

    def fuses(self, weight: Tensor) -> bool:
        """Whether rows are hashed without their projections being held anywhere."""
        return (self.packs or self.assigns) and not weight.is_cuda

    def row_codes(
        self, weight: Tensor, bias: Tensor | None, functions: Functions, tables: range
    ) -> Tensor:
        """Codes int32 (tables, M) of rows (M, d) in some tables."""
        if self.assigns:
            rows = kmeans.Rows(*_floats(weight, bias), functions.center)
            return rows.codes(self.columns(functions.rows, tables).t(), len(tables)).t()
        if self.packs and self.fuses(weight):
            some = self.columns(functions.rows, tables)
            return ops.sign_codes(weight, bias, functions.center, some, bits=self.bits)
        projections = self.project_rows(weight, bias, functions, tables)
        return self.kind.codes(projections, self.bits).t()

    def project_mapped_rows(self, mapped: Tensor, functions: Functions, tables: range) -> Tensor:
        """Projections (M, columns) of rows in balanced coordinates, in some tables."""
        if self.transform:
            mapped = TRANSFORMS[self.transform].rows(mapped, functions.scale)
        return self.kind.project(mapped, self.columns(functions.rows, tables))

    def project_queries(
        self, x: Tensor, queries: Tensor, maps: Tensor, *, has_bias: bool
    ) -> Tensor:
        """Projections (B, L width) of queries, with their functions."""
        if self.folds:
            return project_queries(x, queries)
        return self.kind.project(self.query_vectors(x, maps, has_bias=has_bias), queries)

    def project_mapped_queries(self, mapped: Tensor, queries: Tensor) -> Tensor:
        """Projections (B, L width) of queries in balanced coordinates, with their functions."""
        if self.transform:
            mapped = TRANSFORMS[self.transform].queries(mapped)
        return self.kind.project(mapped, queries)

    def row_vectors(
        self, weight: Tensor, bias: Tensor | None, center: Tensor, maps: Tensor, scale: Tensor
    ) -> Tensor:
        """Rows as the family meets them, float32 (M, coordinates); see :class:`Functions`."""
        vectors = _map_rows(weight, bias, center, maps)
        if self.transform:
            vectors = TRANSFORMS[self.transform].rows(vectors, scale)
        return vectors if bias is not None else self._without_last(vectors)

    def query_vectors(self, x: Tensor, maps: Tensor, *, has_bias: bool) -> Tensor:
        """Queries (B, d) as the family meets them, float32 (B, coordinates)."""
        last = x.new_full((x.shape[0], 1), 1.0 if self.folds else float(has_bias))
        vectors = _mapped(torch.cat([x, last], 1).float(), maps[1])
        if self.transform:
            vectors = TRANSFORMS[self.transform].queries(vectors)
        return vectors if has_bias else self._without_last(vectors)

    def _without_last(self, vectors: Tensor) -> Tensor:
        """Functions that fold leave out the last coordinate of rows without bias: :meth:`new`."""
        if not self.folds:
            return vectors
        return F.pad(vectors[:, :-1], (0, 1))


def _are_finite(vectors: Tensor) -> bool:
    """In one pass: NaN is the least and the largest of all."""
    return vectors.numel() == 0 or bool(torch.stack(vectors.aminmax()).isfinite().all())


def project_queries(x: Tensor, planes: Tensor, nonzero: Nonzero | None = None) -> Tensor:
    """Projections (B, count) of (x, 1) on planes (d + 1, count).

    Args:
        x: (B, d).
        planes: float32.
        nonzero: the inputs that are not zero, where they are few.
    """
    if nonzero is not None:
        values, columns = nonzero
        values = torch.where(columns < 0, 0, values).to(planes.dtype)
        bags = (columns.clamp_min(0), planes)
        return F.embedding_bag(*bags, per_sample_weights=values, mode="sum") + planes[-1]
    return torch.addmm(planes[-1], x.to(planes.dtype), planes[:-1])


def project_rows(weight: Tensor, bias: Tensor | None, center: Tensor, planes: Tensor) -> Tensor:
    """Projections (M, count) of (w, b) - center; ``center`` is (d + 1,)."""
    projections = torch.addmm(-(center @ planes), weight.to(planes.dtype), planes[:-1])
    if bias is not None:
        projections.addcmul_(bias.to(planes.dtype)[:, None], planes[-1])
    return projections


def _floats(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.float(), None if bias is None else bias.float()


def _vectors(weight: Tensor, bias: Tensor | None, center: Tensor) -> Tensor:
    """Rows (w, b) - center, float32 (M, d + 1)."""
    last = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return torch.cat([weight, last[:, None]], 1).float() - center


def _map_rows(weight: Tensor, bias: Tensor | None, center: Tensor, maps: Tensor) -> Tensor:
    """Rows in balanced coordinates, float32 (M, D) or (M, rank)."""
    if maps.shape[1] == 0:
        return _vectors(weight, bias, center)
    return project_rows(weight, bias, center, maps[0])


def _mapped(vectors: Tensor, map: Tensor) -> Tensor:
    return vectors if map.shape[0] == 0 else vectors @ map
