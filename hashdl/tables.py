"""Hash tables over the rows of a layer's weight, as integer buffers that follow from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdRef

from hashdl import ops
from hashdl.background import Background
from hashdl.config import HashConfig
from hashdl.hashing import balancing, lowrank
from hashdl.hashing.functions import Nonzero, Scheme, project_queries
from hashdl.locking import Lock
from hashdl.precision import own_dtype
from hashdl.profiling import part
from hashdl.reference import limited_width
from hashdl.rehash import (
    Buffers,
    Settings,
    State,
    dirty_bits,
    enough,
    fit_functions,
    is_captured,
    is_recomputed,
    refresh_tables_,
    steps_so_far,
    weight_key,
)
from hashdl.schedule import OBSERVED_EVERY

# Queries at a time that a moment is renewed by: as many as are looked at of a larger batch.
_OBSERVED = 64
# Numbers of rows that are gathered at once.
_GATHERED = 1 << 22
# Places in the buffer "state": what a history keeps, and more.
_KEPT = State.places("step", "due", "rehashes", "seen")
_BUILT, _REHASHES, _SEEN = State.places("built", "rehashes", "seen")
_CAPTURED, _FITTED = State.places("captured", "fitted")
# What functions that were trained on labels consist of.
_FUNCTIONS = ("functions", "next_query_functions", "center", "maps", "scale")

# Buckets, offsets and rows of the tables; queries, sketches and lengths, or None.
_Met = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


class HashTables(nn.Module):
    """L tables over N rows: built from a weight, refreshed on a schedule, looked up by queries.

    :mod:`hashdl.rehash` keeps them in step with the weight.

    Everything is held in integer buffers that are not part of the state dict: they follow from
    ``config.seed``, the weight and, with ``config.balance``, the queries seen. Float values
    (hyperplanes, centre, moment) are kept as the int32 of their bits, so that ``.half()`` and
    ``.to(dtype)`` leave them alone. After any move, cast, ``to_empty`` or load the tables are
    rebuilt at their next use. ``state``, which every step reads, stays in the host's memory.

    Args:
        n_rows: N.
        features: d.
        config: how to hash.
        device: of the buffers.

    Attributes:
        sizes: K, L and the like, for N rows.
        rehash_every: training steps from the first rehash to the second.
    """

    functions: Tensor
    query_functions: Tensor
    next_query_functions: Tensor
    sketch_planes: Tensor
    query_sketch_planes: Tensor
    next_query_sketch_planes: Tensor
    moment: Tensor
    recent: Tensor
    maps: Tensor
    center: Tensor
    scale: Tensor
    codes: Tensor
    sketches: Tensor
    next_sketches: Tensor
    norms: Tensor
    next_norms: Tensor
    offsets: Tensor
    rows: Tensor
    dirty: Tensor
    step: Tensor
    state: Tensor

    def __init__(
        self,
        n_rows: int,
        features: int,
        config: HashConfig,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.sizes = config.sizes(n_rows)
        self.rehash_every = config.rehash_interval(n_rows)
        K, L = self.sizes.K, self.sizes.L
        self._known_fresh: tuple[object, ...] = ()
        self._ordered: tuple[Tensor, Tensor] | None = None
        self.background = Background()
        self._lock = Lock()

        def buffer(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int32) -> None:
            with torch.inference_mode(False):  # they are written outside of it, too
                zeros = torch.zeros(shape, dtype=dtype, device=device)
            self.register_buffer(name, zeros, persistent=False)

        how = (config.family, config.transform or "")
        self.scheme = Scheme(*how, K, L, config.center, config.seed, config.rank or 0)
        self._probing = self.scheme.kind.probing if self.scheme.folds else None
        functions = self.scheme.shape(features)
        D = features + 1
        E = D if config.balances(features) else 0
        # A row's sketch: words of bits, and a length; or coordinates.
        M = n_rows if config.selection == "sketch" else 0
        S = config.sketch_coordinates if M and not config.rank else 0
        words = config.rank or (config.sketch_bits // 32 if M else 0)
        lengths = 0 if config.rank else M
        # Of the cycle of rehashing in progress, mostly bits of float32: what rows are hashed with,
        # and what queries will meet once the tables are built.
        buffer("functions", functions)
        buffer("next_query_functions", functions)
        buffer("center", (D,))
        buffer("scale", (1,))  # largest length of a row
        buffer("codes", (L, n_rows))  # of the rows as hashed last
        buffer("sketch_planes", (D, S))
        buffer("next_query_sketch_planes", (D, S))
        buffer("next_sketches", (M, words))
        buffer("next_norms", (lengths,))
        buffer("dirty", (n_rows,), torch.uint8)  # bit g: active since group g hashed the row
        # In force, that is, what look-ups meet.
        buffer("query_functions", functions)
        buffer("offsets", (L, 2**K + 1))
        most = config.bucket_capacity
        buffer("rows", (L, n_rows if most is None else limited_width(n_rows, 2**K, most)))
        buffer("query_sketch_planes", (D, S))
        buffer("sketches", (M, words))
        buffer("norms", (lengths,))  # lengths of the rows
        buffer("moment", (E, E))  # of the queries (x, 1)
        remembers = config.rank or self.scheme.kind.watches
        buffer("recent", (lowrank.QUERIES if remembers else 0, D))  # queries, the last ones
        buffer("maps", (2, D, config.rank) if config.rank else (2, E, E))  # balance rows, queries
        buffer("step", (1,), torch.int64)  # training steps so far
        buffer("state", (len(State().values()),), torch.int64)
        self.state = _on_host(self.state)

    @property
    def built(self) -> bool:
        """Whether there are tables, of whatever age."""
        return not self.state.is_meta and bool(self.state[_BUILT])

    @property
    def watches_queries(self) -> bool:
        """Whether functions follow from the queries too."""
        return self.moment.numel() + self.recent.numel() > 0

    @property
    def settled(self) -> bool:
        """Whether no query that is yet to come, but in training, changes the functions."""
        seen = int(self.state[_SEEN])
        return not self.watches_queries or enough(seen, self.moment, self.recent)

    def observe(self, x: Tensor, *, training: bool, always: bool = False) -> None:
        """Let queries x (B, d) tell how to balance: in training, and until there were enough.

        In training those of every few steps are looked at, unless ``always``.
        """
        self._follow(x.device)
        if not self.watches_queries:
            return
        # Asked here too: the op takes longer to call than to see that there is nothing to do.
        if torch.compiler.is_compiling() or is_captured(x) or self._observes(training, always):
            known = (self.moment, self.recent, self.state, self.step)
            observe_queries_(x.detach(), *known, training, always)

    def calibrate(self, x: Tensor) -> None:
        """Let queries x (B, d) alone tell how to balance, or with earlier ones if they are few."""
        self._follow(x.device)
        if enough(x.shape[0], self.moment, self.recent):
            self.state[_SEEN] = 0
        for chunk in x.split(_OBSERVED):
            self.observe(chunk, training=False, always=True)

    def _observes(self, training: bool, always: bool) -> bool:
        if self.state.is_meta:
            return True
        known = State.of(self.state)
        return _observes(self.moment, self.recent, known, self.step, training, always)

    def refresh(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        training: bool,
        queries: Tensor | None = None,
    ) -> None:
        """Rehash what is due in this step.

        Args:
            weight: (N, d), the rows.
            bias: (N,), or None.
            training: count a training step and do its share of the rehash; else rehash all rows
                if the weight or bias has changed since they were, or is another tensor.
            queries: (B, d), to be observed first: they may make balancing due.
        """
        if not training and self._known_fresh == self._freshness(weight, bias) != ():
            return
        if queries is not None:
            self.observe(queries, training=training)
        self._follow(weight.device)
        self._forget()
        with part("rehash"):
            refresh_tables_(
                weight.detach(),
                None if bias is None else bias.detach(),
                *self._buffers_of_op(),
                *self._settings(training, computed=_is_computed(weight, bias)),
            )
        if not training:
            self._known_fresh = self._freshness(weight, bias)

    def _forget(self) -> None:
        """What evaluations have kept, if there is anything: nn.Module.__setattr__ takes long."""
        if self._known_fresh or self._ordered:
            self._known_fresh, self._ordered = (), None

    def up_to_date(
        self, weight: Tensor, bias: Tensor | None, *, training: bool, queries: Tensor
    ) -> AbstractContextManager[None]:
        """A block that looks up in tables that were refreshed: see :meth:`refresh`.

        Threads may share a layer that evaluates: whichever comes first builds the tables, and until
        no query that is yet to come renews them, each has the block to itself.

        Raises:
            RuntimeError: ``torch.jit`` traces the call.
        """
        if torch.compiler.is_compiling():
            self.refresh(weight, bias, training=training, queries=queries)
            return nullcontext()
        if torch._C._is_tracing():
            raise RuntimeError(
                "hashdl: got a trace by torch.jit (torch.jit.trace, or torch.onnx.export with "
                "dynamo=False), wanted torch.export, torch.compile, or hashdl.revert(model) first"
            )
        if training:
            self.refresh(weight, bias, training=True, queries=queries)
        elif self._known_fresh == () or self._known_fresh != self._freshness(weight, bias):
            return self._alone(weight, bias, queries)
        return nullcontext()

    @contextmanager
    def _alone(self, weight: Tensor, bias: Tensor | None, queries: Tensor) -> Iterator[None]:
        with self._lock:
            self.refresh(weight, bias, training=False, queries=queries)
            yield

    def _buffers_of_op(self) -> Buffers:
        buffers: dict[str, Any] = self._buffers  # nn.Module.__getattr__ takes far longer
        return Buffers(*(buffers[name] for name in Buffers._fields))

    def _settings(self, training: bool, *, computed: bool) -> Settings:
        config = self.config
        return Settings(
            family=config.family,
            transform=self.scheme.transform,
            bits=self.sizes.K,
            buckets=config.buckets,
            capacity=config.bucket_capacity or 0,
            center_rows=config.center,
            seed=config.seed,
            rank=config.rank or 0,
            every=self.rehash_every,
            growth=config.rehash_growth,
            drift=config.rehash_drift,
            background=self.background.number if config.background else 0,
            computed=computed,
            training=training,
        )

    @torch.no_grad()
    def fit(self, weight: Tensor, bias: Tensor | None, x: Tensor, labels: Tensor) -> None:
        """Train the functions so that queries find their labels; they stay until the next call.

        Args:
            weight: (N, d).
            bias: (N,), or None.
            x: queries (Q, d).
            labels: int64 (Q, M), rows; -1 = none.
        """
        self.state[_FITTED] = 0
        self.invalidate()
        self.refresh(weight, bias, training=False, queries=x)
        layer = (weight.detach(), None if bias is None else bias.detach())
        given = self._settings(False, computed=_is_computed(weight, bias))
        fit_functions(*layer, self._buffers_of_op(), given, x.detach(), labels)
        self._known_fresh = ()

    def _freshness(self, weight: Tensor, bias: Tensor | None) -> tuple[object, ...]:
        """What stays as it is while an evaluation finds nothing to do; () where it cannot tell.

        A look at it costs far less than the op, which matters to a single query.
        """
        buffers: dict[str, Any] = self._buffers  # nn.Module.__getattr__ takes far longer
        state = buffers["state"]
        if torch.compiler.is_compiling() or state.is_inference() or state.is_meta:
            return ()
        if is_captured(weight) or (self._known_fresh == () and not self._may_stay()):
            return ()
        key = (*weight_key(weight, bias), state.data_ptr(), state._version)
        if _is_computed(weight, bias):
            return (*key, WeakIdRef(weight), None if bias is None else WeakIdRef(bias))
        return key

    def _may_stay(self) -> bool:
        """Whether neither queries to come nor replays of a graph make tables stale."""
        return self.settled and not self.state[_CAPTURED]

    def _follow(self, device: torch.device) -> None:
        """Go where the weight is, which may have been assigned to the layer."""
        if self.step.device != device:
            self.to_empty(device=device)

    def invalidate(self) -> None:
        """Forget the tables, not the schedule: they are rebuilt at their next use."""
        if not self.state.is_meta:
            self.state[_BUILT] = 0

    def history(self) -> dict[str, Tensor]:
        """What tables cannot be rebuilt from the weight without: for a checkpoint.

        Returns:
            ``schedule``: training step, step of the next rehash, rehashes so far, queries seen;
            ``moment``: second moment of the queries; ``recent``: the last of them. Functions that
            :meth:`fit` has trained too.
        """
        schedule = self.state[_KEPT]
        if self.state[_CAPTURED]:
            schedule[:1] = self.step
        names = ("moment", "recent", *(_FUNCTIONS if self.state[_FITTED] else ()))
        return {"schedule": schedule} | {name: getattr(self, name).clone() for name in names}

    def set_history(self, history: dict[str, Tensor]) -> None:
        """Go on from a :meth:`history`, with tables that are rebuilt at their next use."""
        captured = self.state[_CAPTURED].clone()
        self.state.zero_()
        self.state[_KEPT] = history["schedule"].to(self.state)
        self.state[_CAPTURED] = captured
        self.state[_FITTED] = int("functions" in history)
        self.step.copy_(history["schedule"][:1])
        for name in history.keys() - {"schedule"}:
            getattr(self, name).copy_(history[name])

    def take(self, buffers: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None) -> None:
        """Go on with the buffers of other tables, which are of this weight and up to date.

        Raises:
            ValueError: they are not those of such tables; nothing has changed then.
        """
        self._follow(weight.device)
        own = dict(self.named_buffers())
        for name, buffer in own.items():
            given = buffers.get(name)
            if given is None or (given.shape, given.dtype) != (buffer.shape, buffer.dtype):
                raise ValueError(f"hashdl.HashTables: buffer {name}: got none of its shape")
        captured = int(self.state[_CAPTURED])
        for name, buffer in own.items():
            buffer.copy_(buffers[name])
        state = State.of(self.state)
        state.captured = captured
        if not _is_computed(weight, bias):
            state.version, state.pointer = weight_key(weight, bias)
        state.write(self.state)

    def map_queries(self, x: Tensor, nonzero: Nonzero | None = None) -> Tensor | None:
        """The queries x (B, d) in the coordinates of a low rank, (B, rank); None without.

        ``nonzero``: the inputs that are not zero, where they are known to be few.
        """
        if self.config.rank is None:
            return None
        with part("hash"), own_dtype(x):
            return project_queries(x.detach(), self.maps.view(torch.float32)[1], nonzero)

    def probe(self, x: Tensor, *, has_bias: bool = True, mapped: Tensor | None = None) -> Tensor:
        """Buckets int32 (B, L, P) that the queries x (B, d) probe, most likely first; -1 = none.

        ``mapped``: of :meth:`map_queries`, where it is known.
        """
        with part("hash"), own_dtype(x):
            queries = self.query_functions.view(self.scheme.kind.dtype)
            maps = self.maps.view(torch.float32)
            if mapped is None:
                some = (x.detach(), queries, maps)
                projections = self.scheme.project_queries(*some, has_bias=has_bias)
            else:
                projections = self.scheme.project_mapped_queries(mapped, queries)
            return self.scheme.kind.probe(projections, self.sizes.K, self.sizes.P)

    def lookup(self, x: Tensor, *, has_bias: bool = True, mapped: Tensor | None = None) -> Tensor:
        """Candidates int32 (B, C) of the queries x (B, d), distinct within a sample, -1 = none.

        ``mapped``: as for :meth:`probe`.
        """
        buckets = self.probe(x, has_bias=has_bias, mapped=mapped)
        with part("look-up"):
            candidates, _ = ops.lookup(
                buckets, self.offsets, self.rows, step=self.step, **self.lookup_sizes()
            )
        return candidates

    def find_active(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None = None,
        shared: Tensor | None = None,
        *,
        active: int,
        random: int = 0,
        selection: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Active rows of the queries x (B, d) and their outputs: :func:`hashdl.ops.find_active`."""
        selection = self.config.selection if selection is None else selection
        met = self._meet(x, selection, has_bias=bias is not None)
        with part("look-up"):
            return ops.find_active(
                *met,
                *(x, weight, bias, labels, shared),
                selection=selection,
                threshold=self.config.threshold,
                active=active,
                random=random,
                step=self.step,
                **self.lookup_sizes(),
            )

    def _meet(self, x: Tensor, selection: str, *, has_bias: bool) -> _Met:
        """What the ops that look up are given of the queries, the tables and the sketches."""
        mapped = self.map_queries(x)
        buckets = self.probe(x, has_bias=has_bias, mapped=mapped)
        if selection != "sketch":
            return buckets, self.offsets, self.rows, None, None, None
        return buckets, self.offsets, self.rows, *self._sketch(x, mapped)

    def find_best(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, active: int, k: int
    ) -> tuple[Tensor, Tensor]:
        """The k largest outputs of the queries x (B, d), and their rows.

        See :func:`hashdl.ops.find_best`; from query to answer in one op where it can be.
        """
        if self._probing is not None:
            return self._search(self._probing, x, weight, bias, active, k)
        met = self._meet(x, self.config.selection, has_bias=bias is not None)
        with part("look-up"):
            return ops.find_best(
                *(*met, x, weight, bias),
                active=active,
                k=k,
                step=self.step,
                **self.lookup_sizes(),
            )

    def _search(
        self, probing: str, x: Tensor, weight: Tensor, bias: Tensor | None, active: int, k: int
    ) -> tuple[Tensor, Tensor]:
        """:func:`hashdl.ops.search`: little else, for the sake of a single query."""
        config, sizes = self.config, self.sizes
        buffers: dict[str, Any] = self._buffers  # nn.Module.__getattr__ takes far longer
        sketch: tuple[Tensor | None, ...] = (None, None, None)
        ordered = None
        if config.selection == "sketch":
            ordered = self._in_order() if self._ordered is None else self._ordered
            of_rows = ordered or (buffers["sketches"], buffers["norms"])
            sketch = (buffers["query_sketch_planes"], *of_rows)
        tables = (buffers["query_functions"], buffers["offsets"], buffers["rows"])
        with part("look-up"), own_dtype(x):
            return ops.search(
                *(x, weight, bias, *tables, *sketch),
                ordered=ordered is not None,
                probing=probing,
                bits=sizes.K,
                probes=sizes.P,
                cap=config.cap,
                candidates=sizes.C,
                active=active,
                k=k,
                seed=config.seed,
                step=buffers["step"],
            )

    @property
    def nbytes(self) -> int:
        """Memory of the tables, with what evaluations keep beside the buffers."""
        return sum(tensor.nbytes for tensor in (*self.buffers(), *(self._ordered or ())))

    def _in_order(self) -> tuple[Tensor, Tensor] | None:
        """Sketches and lengths as the rows of the one table stand, for as long as nothing changes.

        None where :func:`hashdl.ops.search` takes none such, and where changes are not seen.
        """
        whole = self.sizes.L == 1 and self.config.bucket_capacity is None
        if self._known_fresh == () or not whole or self.rows.is_cuda:
            return None
        order = self.rows[0]
        self._ordered = (self.sketches[order], self.norms[order])
        return self._ordered

    @torch.no_grad()
    def inclusion(self, x: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        r"""Probability, over the seeds, that a query finds a row; where it is known.

        .. math:: q = 1 - (1 - c)^L

        with c the probability of equal codes in one table (:meth:`hashdl.hashing.Family.collision`)
        in the coordinates in which rows and queries are hashed. It is that of the rows as they
        are: where they have changed since they were hashed, look-ups know them as they were.

        Args:
            x: queries (B, d).
            rows: integers (B, A), or (A,) for all queries; -1 = none.
            weight: (N, d).
            bias: (N,), or None.

        Returns:
            float32 (B, A), 1 where there is no row.
        """
        floats = (tensor.view(torch.float32) for tensor in (self.center, self.maps, self.scale))
        center, maps, scale = floats
        units = F.normalize(self.scheme.query_vectors(x, maps, has_bias=bias is not None), dim=1)

        def unit_rows(ids: Tensor) -> Tensor:
            some = None if bias is None else bias[ids]
            return F.normalize(
                self.scheme.row_vectors(weight[ids], some, center, maps, scale), dim=1
            )

        ids = rows.clamp_min(0).long()
        if ids.dim() == 1:
            cosines = units @ unit_rows(ids).t()
        else:
            A, D = ids.shape[1], units.shape[1]
            step = max(_GATHERED // max(A * D, 1), 1)
            pieces = [
                (unit_rows(some.flatten()).reshape(-1, A, D) @ unit[:, :, None]).squeeze(2)
                for some, unit in zip(ids.split(step), units.split(step), strict=True)
            ]
            cosines = torch.cat(pieces)
        same = self.scheme.kind.collision(cosines, self.sizes.K)
        found = -torch.expm1(self.sizes.L * torch.log1p(-same))
        return found.masked_fill(rows < 0, 1)

    def lookup_sizes(self) -> dict[str, Any]:
        """What every look-up in these tables is asked with, as keyword arguments of its op."""
        return {"cap": self.config.cap, "candidates": self.sizes.C, "seed": self.config.seed}

    def _sketch(self, x: Tensor, mapped: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Projections of the queries (B, S), sketches and lengths of the rows.

        See :func:`hashdl.ops.sketch_scores`.
        """
        if mapped is not None:
            return mapped, self.sketches.view(torch.float32), None
        with part("hash"), own_dtype(x):
            planes = self.query_sketch_planes.view(torch.float32)
            queries = project_queries(x.detach(), planes)
        return queries, self.sketches, self.norms.view(torch.float32)

    def sketch_scores(self, x: Tensor, candidates: Tensor, mapped: Tensor | None) -> Tensor:
        """Scores (B, C) of candidates by sketch: :func:`hashdl.ops.sketch_scores`.

        ``mapped``: as for :meth:`probe`.
        """
        return ops.sketch_scores(*self._sketch(x, mapped), candidates)

    def mark(self, rows: Tensor) -> None:
        """Note that these rows are about to change; -1 is no row."""
        ops.mark_rows_(self.dirty, rows, dirty_bits(self.sizes.L))

    def stats(self) -> dict[str, Any]:
        """Load of the buckets and progress of the schedule.

        Returns:
            ``buckets`` a table, ``kept`` (share of the rows that buckets hold), ``mean_load`` of
            the buckets that are not empty, ``max_load``, ``empty`` (share of empty buckets),
            ``gini`` of the loads (0: all equal), ``rehashes`` so far, the first one included, and
            training ``step``.
        """
        loads = self.offsets.diff(dim=1).double().flatten().sort().values
        ranks = torch.arange(1, loads.numel() + 1, dtype=loads.dtype, device=loads.device)
        total = loads.sum().clamp_min(1)
        gini = (2 * (ranks * loads).sum() / (loads.numel() * total)) - 1 - 1 / loads.numel()
        filled = loads[loads > 0]
        return {
            "buckets": 2**self.sizes.K,
            "kept": float(loads.sum()) / max(self.codes.numel(), 1),
            "mean_load": float(filled.mean()) if filled.numel() else 0.0,
            "max_load": int(loads.max()),
            "empty": float((loads == 0).double().mean()),
            "gini": float(gini) if filled.numel() else 0.0,
            "rehashes": int(self.state[_REHASHES]),
            "step": int(self.step),
        }

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        # to_empty leaves garbage in the buffers; what cannot be rebuilt is carried over.
        history = self._no_history() if self.state.is_meta else self.history() | self._warm_maps()
        with torch.inference_mode(False):
            result = super()._apply(fn, recurse)
        if not self.state.is_meta:
            self.state = _on_host(self.state).zero_()
            self.set_history(history)
        return result

    def _no_history(self) -> dict[str, Tensor]:
        return {
            "schedule": torch.zeros(4, dtype=torch.int64),
            "moment": torch.zeros(self.moment.shape, dtype=torch.int32),
            "recent": torch.zeros(self.recent.shape, dtype=torch.int32),
            "maps": torch.zeros(self.maps.shape, dtype=torch.int32),
        }

    def _warm_maps(self) -> dict[str, Tensor]:
        """What the next maps begin with, unless it is nothing: zeros."""
        return {"maps": self.maps.clone()}


def _is_computed(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether one of them is no Parameter, as a parametrization or functional_call gives it.

    Then nothing tells it from the next one but the object: what is freed makes room for that.
    """
    return not (_is_parameter(weight) and (bias is None or _is_parameter(bias)))


def _is_parameter(tensor: Tensor) -> bool:
    # Asked for each query: nn.Parameter answers isinstance by a function of its own.
    return type(tensor) is nn.Parameter or isinstance(tensor, nn.Parameter)


def _on_host(tensor: Tensor) -> Tensor:
    """In the host's memory, unless it is nowhere, to be written in any mode."""
    with torch.inference_mode(False):
        return tensor if tensor.is_meta else tensor.cpu()


# ---- observe_queries_: what balancing needs to know of the queries -------------------------------


def _observes(
    moment: Tensor, recent: Tensor, known: State, step: Tensor, training: bool, always: bool
) -> bool:
    """Whether queries are observed now: until there were enough, then every few training steps."""
    due = training and steps_so_far(known, step) % OBSERVED_EVERY == 0
    return always or due or not enough(known.seen, moment, recent)


def _observe_queries_(
    x: Tensor,
    moment: Tensor,
    recent: Tensor,
    state: Tensor,
    step: Tensor,
    training: bool,
    always: bool = False,
) -> None:
    """Renew what is known of queries; once there were enough, in training alone, now and then."""
    if is_captured(x) or is_recomputed():
        return
    known = State.of(state)
    if _observes(moment, recent, known, step, training, always):
        with own_dtype(x):
            for renew, what in ((lowrank.remember, recent), (balancing.renew, moment)):
                if len(what):
                    state[_SEEN] = renew(what.view(torch.float32), x, known.seen)


observe_queries_ = ops.define_stateful(
    "observe_queries_(Tensor x, Tensor(a!) moment, Tensor(b!) recent, Tensor(c!) state, "
    "Tensor step, bool training, bool always=False) -> ()",
    _observe_queries_,
)
