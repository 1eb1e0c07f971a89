"""Hash tables over the rows of a layer's weight, as integer buffers that follow from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES, balancing, centering
from hashdl.precision import own_dtype
from hashdl.profiling import part
from hashdl.schedule import next_rehash

# Projections made at once, rows x (L K) of float32: they stay in cache until they are codes.
_PROJECTIONS = 1 << 18
# Features up to which layers are balanced by default: eigenvectors take time of order d^3.
_MOST_BALANCED = 1024
# Training steps from one look at the queries to the next.
_OBSERVED_EVERY = 4


class Found(NamedTuple):
    """What a look-up found.

    Attributes:
        candidates: int32 (B, C), distinct within a sample, -1 = none.
        projections: float32 (B, L K) of the queries.
    """

    candidates: Tensor
    projections: Tensor


class _State:
    """Places in the ``state`` buffer."""

    BUILT = 0  # 1 once the tables are those of VERSION and POINTER
    DUE = 1  # training step of the next rehash
    REHASHES = 2  # scheduled rehashes so far
    VERSION = 3  # _key of weight and bias at the last rehash
    POINTER = 4
    SEEN = 5  # queries that their moment is estimated from
    BALANCED = 6  # 1 once the planes are balanced
    SIZE = 7


class HashTables(nn.Module):
    """L tables over N rows: built from a weight, refreshed on a schedule, looked up by queries.

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
    """

    planes: Tensor
    query_planes: Tensor
    moment: Tensor
    center: Tensor
    codes: Tensor
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
        K, L = self.sizes.K, self.sizes.L

        def buffer(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int32) -> None:
            zeros = torch.zeros(shape, dtype=dtype, device=device)
            self.register_buffer(name, zeros, persistent=False)

        D = features + 1 if self._balances(features) else 0
        buffer("planes", (features + 1, L * K))  # bits of float32
        buffer("query_planes", (features + 1, L * K))  # bits of float32
        buffer("moment", (D, D))  # of the queries (x, 1), bits of float32
        buffer("center", (features + 1,))  # bits of float32
        buffer("codes", (n_rows, L))
        buffer("norms", (n_rows,))  # lengths of the rows as hashed, bits of float32
        buffer("offsets", (L, 2**K + 1))
        buffer("rows", (L, n_rows))
        buffer("dirty", (n_rows,), torch.uint8)  # 1: active since the row was hashed
        buffer("step", (1,), torch.int64)  # training steps so far
        buffer("state", (_State.SIZE,), torch.int64)

    def _balances(self, features: int) -> bool:
        if self.config.balance is None:
            return features <= _MOST_BALANCED
        return self.config.balance

    @property
    def built(self) -> bool:
        """Whether there are tables, of whatever age."""
        return not self.state.is_meta and bool(self.state[_State.BUILT])

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
        """Rehash what is due.

        Args:
            weight: (N, d), the rows.
            bias: (N,), or None.
            training: count a training step and follow the schedule; else rehash all rows if the
                weight or bias has changed since the last time.
            queries: (B, d), to be observed first: they may make balancing due.
        """
        if queries is not None:
            self.observe(queries, training=training)
        self._follow(weight.device)
        with part("rehash"):
            torch.ops.hashdl.refresh_tables_(
                weight.detach(),
                None if bias is None else bias.detach(),
                self.planes,
                self.query_planes,
                self.moment,
                self.center,
                self.codes,
                self.norms,
                self.offsets,
                self.rows,
                self.dirty,
                self.step,
                self.state,
                self.config.family,
                self.sizes.K,
                self.config.seed,
                self.config.center,
                self.config.rehash_every,
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
            self.state[_State.BUILT] = 0

    def history(self) -> dict[str, Tensor]:
        """What tables cannot be rebuilt from the weight without: for a checkpoint.

        Returns:
            ``schedule``: training step, step of the next rehash, rehashes so far, queries seen;
            ``moment``: second moment of the queries.
        """
        kept = self.state[[_State.DUE, _State.REHASHES, _State.SEEN]]
        return {"schedule": torch.cat([self.step, kept]), "moment": self.moment.clone()}

    def set_history(self, history: dict[str, Tensor]) -> None:
        """Go on from a :meth:`history`, with tables that are rebuilt at their next use."""
        schedule = history["schedule"].to(self.step)
        self.step.copy_(schedule[:1])
        self.state.zero_()
        self.state[[_State.DUE, _State.REHASHES, _State.SEEN]] = schedule[1:]
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
                *(projections, self.offsets, self.rows, self.codes, self.norms.view(torch.float32)),
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
        norms = self.norms.view(torch.float32)
        return ops.sketch_scores(queries, self.codes, norms, found.candidates, bits=self.sizes.K)

    def mark(self, rows: Tensor) -> None:
        """Note that these rows are about to change; -1 is harmless (row 0 is hashed in vain)."""
        self.dirty[rows.flatten().clamp_min(0).long()] = 1

    def stats(self) -> dict[str, Any]:
        """Load of the buckets and progress of the schedule.

        Returns:
            ``buckets`` a table, ``mean_load`` of the buckets that are not empty, ``max_load``,
            ``empty`` (share of empty buckets), ``gini`` of the loads (0: all equal),
            scheduled ``rehashes`` and training ``step``.
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
            "rehashes": int(self.state[_State.REHASHES]),
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


# ---- refresh_tables_: the op that keeps the tables in step with the weight -----------------------
#
# One op, so that a compiled graph holds it as one opaque node: whether anything is due is known
# only as it runs.


def _hash_rows(
    weight: Tensor, bias: Tensor | None, planes: Tensor, center: Tensor, family: str, bits: int
) -> tuple[Tensor, Tensor]:
    """Codes (M, L) of all rows given and their lengths (M,), a chunk at a time."""
    hash_family = FAMILIES[family]
    codes, norms = [], []
    size = max(_PROJECTIONS // planes.shape[1], 1)
    for first in range(0, weight.shape[0], size):
        chunk = slice(first, first + size)
        chunk_bias = None if bias is None else bias[chunk]
        projections = hash_family.project_rows(weight[chunk], chunk_bias, center, planes)
        try:
            codes.append(ops.pack_signs(projections, bits))
        except RuntimeError as error:  # it looks at every projection: no second look here
            raise RuntimeError(
                "hashdl.HashTables: weight or bias: got NaN, infinity or values too large to be "
                "hashed in float32, wanted finite rows"
            ) from error
        # The mean square of a vector's projections on Gaussian planes estimates its own square.
        norms.append(projections.square().mean(1).sqrt())
    return torch.cat(codes), torch.cat(norms)


def _key(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    """Sums that change when weight or bias is written in place, or replaced."""
    tensors = [weight] if bias is None else [weight, bias]
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return sum(versions), sum(tensor.data_ptr() for tensor in tensors)


def _center(weight: Tensor, bias: Tensor | None, center_rows: bool) -> Tensor:
    """What is subtracted from all rows before they are hashed, float32 (d + 1,)."""
    if center_rows:
        return centering.row_mean(weight, bias)
    return torch.zeros(weight.shape[1] + 1, device=weight.device)


def _planes(
    weight: Tensor,
    bias: Tensor | None,
    moment: Tensor,
    center: Tensor,
    count: int,
    family: str,
    seed: int,
    balanced: bool,
) -> tuple[Tensor, Tensor]:
    """Planes (d + 1, count) that rows meet, and those that queries meet."""
    planes = FAMILIES[family].make_planes(weight.shape[1], count, seed).to(weight.device)
    if bias is None:
        planes[-1] = 0  # (x, 1) against (w, 0): the 1 would turn queries off their rows
    if not balanced:
        return planes, planes
    rows = balancing.row_moment(weight, bias, center)
    return balancing.balanced_planes(planes, moment.view(torch.float32), rows)


def _enough(seen: int, moment: Tensor) -> bool:
    """Whether a moment comes from so many queries that it may have full rank."""
    return 0 < moment.shape[0] <= seen


def _refresh_tables_(
    weight: Tensor,
    bias: Tensor | None,
    planes: Tensor,
    query_planes: Tensor,
    moment: Tensor,
    center: Tensor,
    codes: Tensor,
    norms: Tensor,
    offsets: Tensor,
    rows: Tensor,
    dirty: Tensor,
    step: Tensor,
    state: Tensor,
    family: str,
    bits: int,
    seed: int,
    center_rows: bool,
    every: int,
    growth: float,
    training: bool,
) -> None:
    """Rebuild what is stale, rehash what is due, and count the training step."""
    built, due, rehashes, version, pointer, seen, balanced = state.tolist()
    key = _key(weight, bias)
    now = int(step)
    balance = _enough(seen, moment)
    stale = not built or pointer != key[1] or (not training and version != key[0])
    stale |= balance and not balanced
    scheduled = training and now >= due
    if stale or scheduled:
        touched = dirty.nonzero().squeeze(1)
        # Queries change as a model learns: balance again at rehash 1, 2, 4, 8, ...
        renewed = balance and rehashes & (rehashes - 1) == 0
        with own_dtype(weight):
            if stale or renewed or 2 * touched.numel() > weight.shape[0]:
                mean = _center(weight, bias, center_rows)
                count = planes.shape[1]
                for_rows, for_queries = _planes(
                    weight, bias, moment, mean, count, family, seed, balance
                )
                fresh_codes, lengths = _hash_rows(weight, bias, for_rows, mean, family, bits)
                # Only now: rows that fail change nothing.
                codes.copy_(fresh_codes)
                floats = (planes, query_planes, center, norms)
                for buffer, fresh in zip(
                    floats, (for_rows, for_queries, mean, lengths), strict=True
                ):
                    buffer.copy_(fresh.contiguous().view(torch.int32))
                balanced = int(balance)
            elif touched.numel() > 0:
                # Between full rehashes planes and centre stay: untouched codes stay right.
                mean, as_float = center.view(torch.float32), planes.view(torch.float32)
                some_bias = None if bias is None else bias[touched]
                some, lengths = _hash_rows(weight[touched], some_bias, as_float, mean, family, bits)
                codes[touched] = some
                norms[touched] = lengths.view(torch.int32)
        fresh_offsets, fresh_rows = ops.build_tables(codes.t(), bits)
        offsets.copy_(fresh_offsets)
        rows.copy_(fresh_rows)
        dirty.zero_()
        if scheduled:
            due = next_rehash(now, rehashes, every, growth)
            rehashes += 1
        state.copy_(torch.tensor([1, due, rehashes, *key, seen, balanced]))
    step.fill_(now + 1 if training else now)


ops.define_stateful(
    "refresh_tables_(Tensor weight, Tensor? bias, Tensor(a!) planes, Tensor(b!) query_planes, "
    "Tensor moment, Tensor(c!) center, Tensor(d!) codes, Tensor(e!) norms, Tensor(f!) offsets, "
    "Tensor(g!) rows, Tensor(h!) dirty, Tensor(i!) step, Tensor(j!) state, str family, int bits, "
    "int seed, bool center_rows, int every, float growth, bool training) -> ()",
    _refresh_tables_,
)


# ---- observe_queries_: what balancing needs to know of the queries -------------------------------


def _observe_queries_(
    x: Tensor, moment: Tensor, state: Tensor, step: Tensor, training: bool
) -> None:
    """Renew the queries' moment; once there were enough, in training alone, now and then."""
    seen = int(state[_State.SEEN])
    if not _enough(seen, moment) or (training and int(step) % _OBSERVED_EVERY == 0):
        with own_dtype(x):
            state[_State.SEEN] = balancing.renew(moment.view(torch.float32), x, seen)


ops.define_stateful(
    "observe_queries_(Tensor x, Tensor(a!) moment, Tensor(b!) state, Tensor step, "
    "bool training) -> ()",
    _observe_queries_,
)
