"""Hash tables over the rows of a layer's weight, as integer buffers that follow from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES, balancing
from hashdl.precision import own_dtype
from hashdl.profiling import part
from hashdl.rehash import Buffers, State, dirty_bits, enough, groups_of

# Features up to which layers are balanced by default: eigenvectors take time of order d^3.
_MOST_BALANCED = 1024
# Training steps from one look at the queries to the next.
_OBSERVED_EVERY = 4
# Places in the buffer "state": what a history keeps, and more.
_KEPT = State.places("due", "rehashes", "seen")
_BUILT, _REHASHES, _SEEN = State.places("built", "rehashes", "seen")


class Found(NamedTuple):
    """What a look-up found.

    Attributes:
        candidates: int32 (B, C), distinct within a sample, -1 = none.
        projections: float32 (B, L K) of the queries.
    """

    candidates: Tensor
    projections: Tensor


class HashTables(nn.Module):
    """L tables over N rows: built from a weight, refreshed on a schedule, looked up by queries.

    :mod:`hashdl.rehash` keeps them in step with the weight.

    Everything is held in integer buffers that are not part of the state dict: they follow from
    ``config.seed``, the weight and, with ``config.balance``, the queries seen. Float values
    (hyperplanes, centre, moment) are kept as the int32 of their bits, so that ``.half()`` and
    ``.to(dtype)`` leave them alone. After any move, cast, ``to_empty`` or load the tables are
    rebuilt at their next use.

    Args:
        n_rows: N.
        features: d.
        config: how to hash.
        device: of the buffers.

    Attributes:
        sizes: K, L and the like, for N rows.
        rehash_every: training steps from the first rehash to the second.
    """

    planes: Tensor
    query_planes: Tensor
    next_query_planes: Tensor
    moment: Tensor
    center: Tensor
    codes: Tensor
    sketches: Tensor
    squares: Tensor
    norms: Tensor
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

        def buffer(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int32) -> None:
            zeros = torch.zeros(shape, dtype=dtype, device=device)
            self.register_buffer(name, zeros, persistent=False)

        D = features + 1 if self._balances(features) else 0
        sketch = config.selection == "sketch"
        # Of the cycle of rehashing in progress, bits of float32: what rows are hashed with, and
        # the planes that queries will meet once the tables are built.
        buffer("planes", (features + 1, L * K))
        buffer("next_query_planes", (features + 1, L * K))
        buffer("center", (features + 1,))
        buffer("codes", (L, n_rows))  # of the rows as hashed last
        buffer("squares", (len(groups_of(L)), n_rows * sketch))  # of their projections, likewise
        buffer("dirty", (n_rows,), torch.uint8)  # bit g: active since group g hashed the row
        # In force, that is, what look-ups meet.
        buffer("query_planes", (features + 1, L * K))  # bits of float32
        buffer("offsets", (L, 2**K + 1))
        buffer("rows", (L, n_rows))
        buffer("sketches", (n_rows * sketch, L))  # codes that the tables were built from
        buffer("norms", (n_rows,))  # lengths of the rows, bits of float32; for sketches
        buffer("moment", (D, D))  # of the queries (x, 1), bits of float32
        buffer("step", (1,), torch.int64)  # training steps so far
        buffer("state", (len(State().values()),), torch.int64)

    def _balances(self, features: int) -> bool:
        if self.config.balance is None:
            return features <= _MOST_BALANCED
        return self.config.balance

    @property
    def built(self) -> bool:
        """Whether there are tables, of whatever age."""
        return not self.state.is_meta and bool(self.state[_BUILT])

    def observe(self, x: Tensor, *, training: bool) -> None:
        """Let queries x (B, d) tell how to balance: in training, and until there were enough."""
        self._follow(x.device)
        if self.moment.numel() > 0:
            torch.ops.hashdl.observe_queries_(
                x.detach(), self.moment, self.state, self.step, training
            )

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
                if the weight or bias has changed since they were.
            queries: (B, d), to be observed first: they may make balancing due.
        """
        if queries is not None:
            self.observe(queries, training=training)
        self._follow(weight.device)
        with part("rehash"):
            torch.ops.hashdl.refresh_tables_(
                weight.detach(),
                None if bias is None else bias.detach(),
                *(getattr(self, name) for name in Buffers._fields),
                self.config.family,
                self.sizes.K,
                self.config.seed,
                self.config.center,
                self.rehash_every,
                self.config.rehash_growth,
                training,
            )

    def _follow(self, device: torch.device) -> None:
        """Go where the weight is, which may have been assigned to the layer."""
        if self.state.device != device:
            self.to_empty(device=device)

    def invalidate(self) -> None:
        """Forget the tables, not the schedule: they are rebuilt at their next use."""
        if not self.state.is_meta:
            self.state[_BUILT] = 0

    def history(self) -> dict[str, Tensor]:
        """What tables cannot be rebuilt from the weight without: for a checkpoint.

        Returns:
            ``schedule``: training step, step of the next rehash, rehashes so far, queries seen;
            ``moment``: second moment of the queries.
        """
        schedule = torch.cat([self.step, self.state[_KEPT]])
        return {"schedule": schedule, "moment": self.moment.clone()}

    def set_history(self, history: dict[str, Tensor]) -> None:
        """Go on from a :meth:`history`, with tables that are rebuilt at their next use."""
        schedule = history["schedule"].to(self.step)
        self.step.copy_(schedule[:1])
        self.state.zero_()
        self.state[_KEPT] = schedule[1:]
        self.moment.copy_(history["moment"])

    def project(self, x: Tensor) -> Tensor:
        """Projections float32 (B, L K) of the queries x (B, d)."""
        with part("hash"), own_dtype(x):
            planes = self.query_planes.view(torch.float32)
            family = FAMILIES[self.config.family]
            projections: Tensor = family.project_queries(x.detach(), planes)
        return projections

    def lookup(self, x: Tensor) -> Found:
        """Candidates of the queries x (B, d)."""
        projections = self.project(x)
        with part("look-up"):
            candidates, _ = ops.lookup(
                projections, self.offsets, self.rows, step=self.step, **self.lookup_sizes()
            )
        return Found(candidates, projections)

    def find_active(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor | None,
        shared: Tensor | None,
        *,
        random: int,
    ) -> tuple[Tensor, Tensor]:
        """Active rows of the queries x (B, d) and their outputs: :func:`hashdl.ops.find_active`."""
        projections = self.project(x)
        with part("look-up"):
            return ops.find_active(
                *(projections, self.offsets, self.rows, *self.sketch()),
                *(x, weight, bias, labels, shared),
                selection=self.config.selection,
                threshold=self.config.threshold,
                active=self.sizes.A,
                random=random,
                step=self.step,
                **self.lookup_sizes(),
            )

    def lookup_sizes(self) -> dict[str, Any]:
        """What every look-up in these tables is asked with, as keyword arguments of its op."""
        sizes = self.sizes
        return {
            "bits": sizes.K,
            "probes": sizes.P,
            "cap": self.config.cap,
            "candidates": sizes.C,
            "seed": self.config.seed,
        }

    def sketch_scores(self, found: Found) -> Tensor:
        """Scores (B, C) of candidates by their codes: see :func:`hashdl.ops.sketch_scores`."""
        queries = ops.pack_signs(found.projections, self.sizes.K)
        return ops.sketch_scores(queries, *self.sketch(), found.candidates, bits=self.sizes.K)

    def sketch(self) -> tuple[Tensor, Tensor]:
        """Codes int32 (N, L) and lengths float32 (N,) of the rows, for ``selection="sketch"``.

        Other selections read neither: what stands there has their shapes alone.
        """
        L, n_rows = self.codes.shape
        codes = self.sketches if self.sketches.numel() > 0 else self.codes.view(n_rows, L)
        return codes, self.norms.view(torch.float32)

    def mark(self, rows: Tensor) -> None:
        """Note that these rows are about to change; -1 is no row."""
        ops.mark_rows_(self.dirty, rows, dirty_bits(self.sizes.L))

    def stats(self) -> dict[str, Any]:
        """Load of the buckets and progress of the schedule.

        Returns:
            ``buckets`` a table, ``mean_load`` of the buckets that are not empty, ``max_load``,
            ``empty`` (share of empty buckets), ``gini`` of the loads (0: all equal),
            ``rehashes`` so far, the first one included, and training ``step``.
        """
        loads = self.offsets.diff(dim=1).double().flatten().sort().values
        ranks = torch.arange(1, loads.numel() + 1, dtype=loads.dtype, device=loads.device)
        total = loads.sum().clamp_min(1)
        gini = (2 * (ranks * loads).sum() / (loads.numel() * total)) - 1 - 1 / loads.numel()
        filled = loads[loads > 0]
        return {
            "buckets": 2**self.sizes.K,
            "mean_load": float(filled.mean()) if filled.numel() else 0.0,
            "max_load": int(loads.max()),
            "empty": float((loads == 0).double().mean()),
            "gini": float(gini) if filled.numel() else 0.0,
            "rehashes": int(self.state[_REHASHES]),
            "step": int(self.step),
        }

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        # to_empty leaves garbage in the buffers; what cannot be rebuilt is carried over.
        history = self._no_history() if self.state.is_meta else self.history()
        result = super()._apply(fn, recurse)
        if not self.state.is_meta:
            self.set_history(history)
        return result

    def _no_history(self) -> dict[str, Tensor]:
        return {
            "schedule": torch.zeros(4, dtype=torch.int64),
            "moment": torch.zeros(self.moment.shape, dtype=torch.int32),
        }


# ---- observe_queries_: what balancing needs to know of the queries -------------------------------


def _observe_queries_(
    x: Tensor, moment: Tensor, state: Tensor, step: Tensor, training: bool
) -> None:
    """Renew the queries' moment; once there were enough, in training alone, now and then."""
    seen = int(state[_SEEN])
    if not enough(seen, moment) or (training and int(step) % _OBSERVED_EVERY == 0):
        with own_dtype(x):
            state[_SEEN] = balancing.renew(moment.view(torch.float32), x, seen)


ops.define_stateful(
    "observe_queries_(Tensor x, Tensor(a!) moment, Tensor(b!) state, Tensor step, "
    "bool training) -> ()",
    _observe_queries_,
)
