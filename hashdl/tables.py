"""Hash tables over the rows of a layer's weight, as integer buffers that follow from a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES, centering
from hashdl.precision import own_dtype
from hashdl.profiling import part
from hashdl.schedule import next_rehash

# Rows projected at once: bounds the float32 projections, rows x (L K), to tens of megabytes.
_CHUNK = 1 << 15


class _State:
    """Places in the ``state`` buffer."""

    BUILT = 0  # 1 once the tables are those of VERSION and POINTER
    DUE = 1  # training step of the next rehash
    REHASHES = 2  # scheduled rehashes so far
    VERSION = 3  # _key of weight and bias at the last rehash
    POINTER = 4
    SIZE = 5


class HashTables(nn.Module):
    """L tables over N rows: built from a weight, refreshed on a schedule, looked up by queries.

    Everything is held in integer buffers that are not part of the state dict: they follow from
    ``config.seed`` and the weight. Float values (hyperplanes, centre) are kept as the int32 of
    their bits, so that ``.half()`` and ``.to(dtype)`` leave them alone. After any move, cast,
    ``to_empty`` or load the tables are rebuilt at their next use.

    Args:
        n_rows: N.
        features: d.
        config: how to hash.
        device: of the buffers.
    """

    planes: Tensor
    center: Tensor
    codes: Tensor
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

        buffer("planes", (features + 1, L * K))  # bits of float32
        buffer("center", (features + 1,))  # bits of float32
        buffer("codes", (n_rows, L))
        buffer("offsets", (L, 2**K + 1))
        buffer("rows", (L, n_rows))
        buffer("dirty", (n_rows,), torch.uint8)  # 1: active since the row was hashed
        buffer("step", (1,), torch.int64)  # training steps so far
        buffer("state", (_State.SIZE,), torch.int64)

    @property
    def built(self) -> bool:
        """Whether there are tables, of whatever age."""
        return not self.state.is_meta and bool(self.state[_State.BUILT])

    def refresh(self, weight: Tensor, bias: Tensor | None, *, training: bool) -> None:
        """Rehash what is due.

        Args:
            weight: (N, d), the rows.
            bias: (N,), or None.
            training: count a training step and follow the schedule; else rehash all rows if the
                weight or bias has changed since the last time.
        """
        if self.state.device != weight.device:  # a weight was assigned to the layer
            self.to_empty(device=weight.device)
        with part("rehash"):
            torch.ops.hashdl.refresh_tables_(
                weight.detach(),
                None if bias is None else bias.detach(),
                self.planes,
                self.center,
                self.codes,
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

    def invalidate(self) -> None:
        """Forget the tables, not the schedule: they are rebuilt at their next use."""
        if not self.state.is_meta:
            self.state[_State.BUILT] = 0

    def schedule(self) -> list[int]:
        """Training step, step of the next rehash, and rehashes so far: for a checkpoint."""
        state = self.state.tolist()
        return [int(self.step), state[_State.DUE], state[_State.REHASHES]]

    def set_schedule(self, schedule: list[int]) -> None:
        """Go on from a :meth:`schedule`, with tables that are rebuilt at their next use."""
        step, due, rehashes = schedule
        self.step.fill_(step)
        self.state.zero_()
        self.state[_State.DUE] = due
        self.state[_State.REHASHES] = rehashes

    def lookup(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates int32 (B, C) of the queries x (B, d), and their hits."""
        with part("hash"):
            planes = self.planes.view(torch.float32)
            with own_dtype(x):
                family = FAMILIES[self.config.family]
                projections = family.project_queries(x.detach(), planes)
        with part("look-up"):
            return ops.lookup(
                projections,
                self.offsets,
                self.rows,
                bits=self.sizes.K,
                probes=self.sizes.P,
                cap=self.config.cap,
                candidates=self.sizes.C,
                seed=self.config.seed,
                step=self.step,
            )

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
        # to_empty leaves garbage in the buffers; all but the schedule is rebuilt.
        schedule = [0, 0, 0] if self.state.is_meta else self.schedule()
        result = super()._apply(fn, recurse)
        if not self.state.is_meta:
            self.set_schedule(schedule)
        return result


# ---- refresh_tables_: the op that keeps the tables in step with the weight -----------------------
#
# One op, so that a compiled graph holds it as one opaque node: whether anything is due is known
# only as it runs.


def _hash_rows(
    weight: Tensor, bias: Tensor | None, planes: Tensor, center: Tensor, family: str, bits: int
) -> Tensor:
    """Codes (M, L) of all rows given, a chunk at a time."""
    hash_family = FAMILIES[family]
    pieces = []
    for first in range(0, weight.shape[0], _CHUNK):
        chunk = slice(first, first + _CHUNK)
        chunk_bias = None if bias is None else bias[chunk]
        projections = hash_family.project_rows(weight[chunk], chunk_bias, center, planes)
        try:
            pieces.append(ops.pack_signs(projections, bits))
        except RuntimeError as error:  # it looks at every projection: no second look here
            raise RuntimeError(
                "hashdl.HashTables: weight or bias: got NaN, infinity or values too large to be "
                "hashed in float32, wanted finite rows"
            ) from error
    return torch.cat(pieces)


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


def _refresh_tables_(
    weight: Tensor,
    bias: Tensor | None,
    planes: Tensor,
    center: Tensor,
    codes: Tensor,
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
    built, due, rehashes, version, pointer = state.tolist()
    key = _key(weight, bias)
    now = int(step)
    moved = pointer != key[1] or (not training and version != key[0])
    scheduled = training and now >= due
    if not built:
        features, count = planes.shape[0] - 1, planes.shape[1]
        fresh_planes = FAMILIES[family].make_planes(features, count, seed)
        if bias is None:
            fresh_planes[-1] = 0  # (x, 1) against (w, 0): the 1 would turn queries off their rows
        planes.copy_(fresh_planes.view(torch.int32))
    if not built or moved or scheduled:
        touched = dirty.nonzero().squeeze(1)
        as_float = planes.view(torch.float32)
        with own_dtype(weight):
            if not built or moved or 2 * touched.numel() > weight.shape[0]:
                mean = _center(weight, bias, center_rows)
                codes.copy_(_hash_rows(weight, bias, as_float, mean, family, bits))
                center.copy_(mean.view(torch.int32))  # only now: rows that fail change nothing
            elif touched.numel() > 0:
                # Between full rehashes the centre stays, so that untouched codes stay right.
                mean = center.view(torch.float32)
                some_bias = None if bias is None else bias[touched]
                some = _hash_rows(weight[touched], some_bias, as_float, mean, family, bits)
                codes[touched] = some
        fresh_offsets, fresh_rows = ops.build_tables(codes, bits)
        offsets.copy_(fresh_offsets)
        rows.copy_(fresh_rows)
        dirty.zero_()
        if scheduled:
            due = next_rehash(now, rehashes, every, growth)
            rehashes += 1
        state.copy_(torch.tensor([1, due, rehashes, *key]))
    step.fill_(now + 1 if training else now)


ops.define_stateful(
    "refresh_tables_(Tensor weight, Tensor? bias, Tensor(a!) planes, Tensor(b!) center, "
    "Tensor(c!) codes, Tensor(d!) offsets, Tensor(e!) rows, Tensor(f!) dirty, Tensor(g!) step, "
    "Tensor(h!) state, str family, int bits, int seed, bool center_rows, int every, "
    "float growth, bool training) -> ()",
    _refresh_tables_,
)
