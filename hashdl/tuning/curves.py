"""What one structure of tables finds at what cost, for every number of probes and every sketch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.hashing import sketching
from hashdl.hashing.functions import project_queries, project_rows
from hashdl.nn import HashLinear
from hashdl.tables import HashTables
from hashdl.tuning.result import Trial

# Inputs that everything is tried on, those that the last few are judged by, and a chunk of them.
_TRIED_ON, _HELD_OUT, _CHUNK = 192, 512, 64
# Share of the rows that a look-up may find without a sketch: beyond it, every row costs no more.
_MOST_FOUND = 0.5
# Probes in a table: steps of a quarter at most.
_PROBES = (*range(1, 9), *(step << power for power in range(1, 6) for step in (5, 6, 7, 8)))
# Bits of a row's sketch, by its levels; and rows that it leaves for the exact outputs, in multiples
# of k.
_SKETCH_BITS = {2: (128, 256, 384, 512), 16: (128, 256, 384, 512, 768, 1024)}
_RANKED = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)
# Nanoseconds, for the estimate alone: a row found and selected from, in one table or in several, a
# word of its sketch by its levels, a row read at a random place, a float of it, one of the hash
# functions, and what a call costs beside that where several ops answer it. The clock chooses.
_FOUND_NS, _MERGED_NS, _WORD_NS = 3.0, 20.0, {2: 0.6, 16: 0.1}
_ROW_NS, _ROW_FLOAT_NS, _FLOAT_NS, _OPS_NS = 80.0, 0.35, 0.08, 50_000.0


class Preparation(NamedTuple):
    """What is done to rows and queries before they are hashed: see :class:`hashdl.HashConfig`."""

    center: bool
    balance: bool
    rank: int | None = None
    transform: str | None = None


class Structure(NamedTuple):
    """Tables that are built once, for all numbers of probes and all sketches.

    Attributes:
        family: of the hash functions.
        prepared: what comes before them.
        K: bits a table.
        L: tables.
        cap: most rows read from a bucket; None: all of them.
    """

    family: str
    prepared: Preparation
    K: int
    L: int
    cap: int | None = None

    def config(self, base: HashConfig, **changes: object) -> HashConfig:
        """The configuration of these tables."""
        prepared = self.prepared
        return base.replace(
            family=self.family,
            center=prepared.center,
            balance=None if prepared.rank is not None else prepared.balance,
            rank=prepared.rank,
            transform=prepared.transform,
            bits=self.K,
            tables=self.L,
            **changes,
        )


class Point(NamedTuple):
    """What a number of probes and a ranking reach; the first fields are those of a Trial."""

    recall: float
    touched: float
    found: float
    estimate_ms: float
    probes: int
    sketch: Sketch | None
    active: int

    @property
    def ms(self) -> None:
        """It is not timed."""
        return None


# ---- sketches ----------------------------------------------------------------------------------


class Sketch(NamedTuple):
    """Sketches of all rows.

    Attributes:
        fields: of the configuration that makes it.
        words: int32 (N, W); or float32 (N, S), of coordinates.
        norms: float32 (N,); None: of coordinates.
        query_planes: float32 (d + 1, S), that queries meet.
        row_ns: estimate of what ranking a row by it costs.
    """

    fields: Mapping[str, object]
    words: Tensor
    norms: Tensor | None
    query_planes: Tensor
    row_ns: float

    def scores(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of rows (B, C), for queries x (B, d)."""
        queries = project_queries(x, self.query_planes)
        scores = ops.sketch_scores(queries, self.words, self.norms, rows)
        return scores.masked_fill(rows < 0, -torch.inf)


def _sketches(layer: HashLinear, base: HashConfig) -> list[Sketch]:
    """All that are tried. Some sign bits are those of a longer sketch; levels are not."""
    tables = layer.tables
    assert tables is not None
    buffers = (tables.maps, tables.center, tables.moment)
    maps, center, moment = (buffer.view(torch.float32) for buffer in buffers)
    D = len(center)
    if tables.config.rank is not None:
        of_rows = project_rows(layer.weight, layer.bias, center, maps[0])
        fields = {"selection": "sketch"}
        return [Sketch(fields, of_rows, None, maps[1], maps.shape[2] * _FLOAT_NS)]

    def sketch(bits: int, levels: int, leading: Tensor | None) -> Sketch:
        fields = {"selection": "sketch", "sketch_levels": levels, "sketch_bits": bits}
        count = base.replace(**fields).sketch_coordinates
        planes, query_planes = sketching.planes(maps, D, count, base.seed, leading)
        of_rows = sketching.sketch(layer.weight, layer.bias, planes, center, levels)
        return Sketch(fields, *of_rows, query_planes, bits // 32 * _WORD_NS[levels])

    longest = sketch(_SKETCH_BITS[2][-1], 2, None)
    made = [_shorter(longest, bits) for bits in _SKETCH_BITS[2]]
    if len(moment) > 0:  # else nothing tells in which coordinates outputs vary most
        lengths = [bits for bits in _SKETCH_BITS[16] if bits // 4 <= D]
        made += [sketch(bits, 16, moment) for bits in lengths]
    return made


def _shorter(sketch: Sketch, bits: int) -> Sketch:
    """Some of the sign bits."""
    return Sketch(
        {**sketch.fields, "sketch_bits": bits},
        sketch.words[:, : bits // 32].contiguous(),
        sketch.norms,
        sketch.query_planes[:, :bits],
        bits // 32 * _WORD_NS[2],
    )


# ---- what is asked -----------------------------------------------------------------------------


class Study:
    """A layer, inputs that prepare its tables, others that measure, and the true answers.

    Args:
        linear: the layer.
        inputs: (*, d).
        k: how many of the largest outputs count.
        seed: of the split.
        batch: queries a call.
    """

    def __init__(
        self, linear: nn.Linear, inputs: Tensor, k: int, seed: int, batch: int = 1
    ) -> None:
        x = inputs.detach().reshape(-1, linear.in_features).to(linear.weight)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        self.linear, self.k, self.batch = linear, k, batch
        self.prepare = x[order[: len(x) // 2]]
        self.held_out = x[order[len(x) // 2 :]][:_HELD_OUT]
        with torch.no_grad():
            self.truth = torch.cat([self.exact(some) for some in self.held_out.split(_CHUNK)])
        self._made: dict[Preparation, list[Sketch]] = {}

    def exact(self, x: Tensor) -> Tensor:
        """The k rows with the largest outputs, of all."""
        return F.linear(x, self.linear.weight, self.linear.bias).topk(self.k).indices

    @property
    def n_rows(self) -> int:
        """N."""
        return self.linear.out_features

    def margin(self, recall: float) -> float:
        """Standard error of a mean recall, taking each input's answers for one draw."""
        return math.sqrt(max(recall * (1 - recall), 0.0) / len(self.held_out))

    def built(self, config: HashConfig) -> HashLinear:
        """The layer with tables that have met the first half of the inputs."""
        layer = HashLinear.from_linear(self.linear, config).eval()
        layer.calibrate(self.prepare)
        return layer

    def sketches(self, layer: HashLinear, prepared: Preparation, base: HashConfig) -> list[Sketch]:
        """Those of rows so prepared: made once, for they do not depend on the family."""
        if prepared.rank is not None:  # few are tried, and they are long
            return _sketches(layer, base)
        key = prepared._replace(transform=None)
        if key not in self._made:
            self._made[key] = _sketches(layer, base)
        return self._made[key]


# ---- curve -------------------------------------------------------------------------------------


class Curve:
    """Recall and cost of one structure.

    What look-ups find is measured at once, what sketches make of it by :meth:`ranked`.

    Args:
        study: what is asked.
        structure: what is built.
        base: the other fields of the configurations.
        enough: whether more probes than those of a point without any ranking are of no use.
    """

    def __init__(
        self,
        study: Study,
        structure: Structure,
        base: HashConfig,
        enough: Callable[[Point], bool],
    ) -> None:
        self.study, self.structure, self.base = study, structure, base
        most = min(1 << structure.K, _PROBES[-1])
        cap = structure.cap or base.cap
        config = structure.config(base, probes=most, cap=cap, candidates=1, active=1)
        self.layer = study.built(config)
        loads = self._tables.offsets.diff(dim=1).flatten()
        self.max_load, self.mean_load = int(loads.max()), float(loads[loads > 0].double().mean())
        self.cap = min(structure.cap or self.max_load, self.max_load) or 1
        self.x, self.truth = study.held_out[:_TRIED_ON], study.truth[:_TRIED_ON]
        has_bias = self.layer.bias is not None
        self.buckets = self._tables.probe(self.x, has_bias=has_bias)
        self.found = self._look(enough)

    @property
    def _tables(self) -> HashTables:
        assert self.layer.tables is not None
        return self.layer.tables

    def _look(self, enough: Callable[[Point], bool]) -> list[Point]:
        """What more and more probes find; all of it is computed.

        Sets ``probes``, how many were tried; ``counts``, the rows (Q,) that each of them finds;
        and ``level`` (Q, N + 1), the first of them that finds a row, beginning with row -1.
        """
        Q, N = len(self.x), self.study.n_rows
        self.level = torch.full((Q, N + 1), len(_PROBES), dtype=torch.int8, device=self.x.device)
        counts = torch.zeros(Q, dtype=torch.int64, device=self.x.device)
        self.probes, self.counts = list[int](), list[Tensor]()
        points: list[Point] = []
        most = self.buckets.shape[2]
        for i, P in enumerate(count for count in _PROBES if count <= most):
            counts = counts + self._find(self.probes[-1] if i else 0, P, i)
            self.probes.append(P)
            self.counts.append(counts)
            recall = float((self._level_of_truth() <= i).double().mean())
            mean = float(counts.double().mean())
            points.append(self._point(P, recall, mean, mean, None, self.study.k))
            if enough(points[-1]):
                break
        return points

    def _find(self, first: int, last: int, i: int) -> Tensor:
        """Note the rows that buckets ``first`` to ``last`` are the first to hold: how many (Q,)."""
        counts = []
        for buckets, level in zip(
            self.buckets[:, :, first:last].split(_CHUNK), self.level.split(_CHUNK), strict=True
        ):
            places = self._candidates(buckets) + 1
            known = level.gather(1, places)
            fresh = (known > i) & (places > 0)
            level.scatter_(1, places, known.clamp_max(i))
            counts.append(fresh.sum(1))
        self.level[:, 0] = len(_PROBES)
        return torch.cat(counts)

    def _candidates(self, buckets: Tensor) -> Tensor:
        """Distinct rows int64 (B, C) of buckets (B, L, P), padded with -1."""
        tables = self._tables
        found, _ = ops.lookup(
            *(buckets.contiguous(), tables.offsets, tables.rows),
            cap=self.cap,
            candidates=self.study.n_rows,
            seed=self.base.seed,
            step=tables.step,
        )
        used = int((found >= 0).sum(1).max()) if found.numel() else 0
        return found[:, :used].long()

    def _level_of_truth(self) -> Tensor:
        return self.level.gather(1, self.truth + 1)

    def unranked(self) -> list[Point]:
        """Points without any ranking, where that costs less than all rows."""
        return [point for point in self.found if point.found <= _MOST_FOUND]

    def ranked(self) -> list[Point]:
        """Points of all sketches."""
        sketches = self.study.sketches(self.layer, self.structure.prepared, self.base)
        active = [math.ceil(times * self.study.k) for times in _RANKED]
        points = []
        for sketch, ranks in zip(sketches, self._ranks(sketches), strict=True):
            for P, counts, of_true in zip(self.probes, self.counts, ranks, strict=True):
                found = float(counts.double().mean())
                limits = torch.tensor(active, device=counts.device)
                recalls = (of_true.flatten()[:, None] < limits).double().mean(0).tolist()
                read = counts[:, None].minimum(limits).double().mean(0).tolist()
                points += [
                    self._point(P, recall, found, rows, sketch, A)
                    for A, recall, rows in zip(active, recalls, read, strict=True)
                    if found > A
                ]
        return points

    def _ranks(self, sketches: list[Sketch]) -> list[Tensor]:
        """For each sketch and number of probes, how many rows found rank before each true answer.

        Returns:
            int64 (number of probes, Q, k) for each; of those that are not found, many.
        """
        parts: list[list[Tensor]] = [[] for _ in sketches]
        buckets = self.buckets[:, :, : self.probes[-1]]
        for x, some, level, truth in zip(
            *(part.split(_CHUNK) for part in (self.x, buckets, self.level, self.truth)), strict=True
        ):
            candidates = self._candidates(some)
            levels = level.gather(1, candidates + 1)
            of_truth = level.gather(1, truth + 1)
            rows = candidates.int()
            for sketch, ranks in zip(sketches, parts, strict=True):
                scores, of_true = sketch.scores(x, rows), sketch.scores(x, truth.int())
                ranks.append(_ranks(scores, levels, of_true, of_truth, len(self.probes)))
        return [torch.cat(ranks, 1) for ranks in parts]

    def _point(
        self, P: int, recall: float, found: float, read: float, sketch: Sketch | None, A: int
    ) -> Point:
        N = self.study.n_rows
        estimate = self._estimate(found, read, sketch)
        return Point(recall, read / N, found / N, estimate, P, sketch, A)

    def _estimate(self, found: float, read: float, sketch: Sketch | None) -> float:
        tables, d = self._tables, self.study.linear.in_features
        F_, columns = tables.functions.shape
        found_ns = _FOUND_NS if self.structure.L == 1 else _MERGED_NS
        nanoseconds = F_ * columns * _FLOAT_NS + found * found_ns
        if not tables.scheme.folds:
            nanoseconds += _OPS_NS / self.study.batch + tables.maps[1].numel() * _FLOAT_NS
        if sketch is not None:
            nanoseconds += found * sketch.row_ns
            if sketch.norms is not None:
                nanoseconds += sketch.query_planes.numel() * _FLOAT_NS
        return (nanoseconds + read * (_ROW_NS + d * _ROW_FLOAT_NS)) / 1e6

    def without_reading(self, point: Point) -> float:
        """Milliseconds, by estimate, of finding the rows and computing k of them alone."""
        return self._estimate(point.found * self.study.n_rows, self.study.k, None)

    def trial(self, point: Point) -> Trial:
        """A point with its configuration."""
        N = self.study.n_rows
        most = int(self.counts[self.probes.index(point.probes)].max())
        fields = {"selection": "exact"} if point.sketch is None else point.sketch.fields
        config = self.structure.config(
            self.base,
            probes=point.probes,
            cap=self.cap,
            # Other queries may find more than these: none of it is to be cut off.
            candidates=min(N, math.ceil(max(2 * point.found * N, 1.25 * most)) + 64),
            active=point.active,
            **fields,
        )
        capped = self.cap < self.max_load
        return Trial(config, *point[:4], capped=capped)


def _ranks(scores: Tensor, levels: Tensor, of_true: Tensor, of_truth: Tensor, count: int) -> Tensor:
    """How many candidates rank before each true answer, of those found at each level or before.

    Args:
        scores: float32 (B, C), of candidates.
        levels: (B, C), the first at which they are found; ``count`` or more: never.
        of_true: float32 (B, k), scores of the true answers.
        of_truth: (B, k), their levels.
        count: of levels.

    Returns:
        int64 (count, B, k); of true answers that are not found, many.
    """
    B, k = of_true.shape
    ordered, order = of_true.sort(dim=1)
    # A candidate ranks before the true answers whose scores are less: so many of the ordered ones.
    before = torch.searchsorted(ordered, scores)
    cells = torch.arange(B, device=scores.device)[:, None] * (count + 1) + levels.clamp_max(count)
    cells = (cells * (k + 1) + before).flatten()
    counts = torch.bincount(cells, minlength=B * (count + 1) * (k + 1))
    counts = counts.view(B, count + 1, k + 1)[:, :count].cumsum(1)
    more = counts.flip(2).cumsum(2).flip(2)[:, :, 1:]
    ranks = torch.empty_like(more).scatter_(2, order[:, None].expand_as(more), more)
    of_level = torch.arange(count, device=scores.device)[:, None]
    missing = of_truth[:, None] > of_level
    return ranks.masked_fill(missing, torch.iinfo(torch.int64).max).transpose(0, 1)
