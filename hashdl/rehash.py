"""Rehashing: keeps tables in step with the weight, a little in every training step.

A *cycle* hashes once what is due and builds every table anew, spread evenly over the steps from one
rehash of the schedule to the next. Tables are taken a group at a time: the group's hash functions
meet the rows, a slice in each step; after the last row the group's tables are built and put in
force, one after the other. Until then look-ups meet the old table and the functions that it was
built with, so that each table fits its own functions at every step. Sketches of the rows are made
with the last group, and come in force with its last table.

In most cycles the hash functions stay, and only rows that were touched since the group hashed them
last are hashed: ``dirty`` has a bit a group. Some cycles renew the functions, and hash all rows;
all at once where functions of two cycles could not stand side by side (:attr:`Scheme.folds`).

Tables may also be built in a thread, beside the training step (``background``). What a step begins
to build, of a copy of the codes, comes in force at the beginning of the next training step, however
long the thread takes. ``state`` says which tables these are; where the thread's work is lost, as in
a copy of the layer, they are built then, of the same codes: no step writes codes of tables that
have yet to come in force.

All at once and in full is hashed what has no tables or a changed weight: the first time, after a
move or a load, and in evaluation after training. That begins a new cycle.

What the schedule needs is in ``state``, in the host's memory, so that a step with nothing due reads
nothing from a GPU. Nor does any other, but where tables are stale as a whole: on a GPU all rows of
a slice are hashed, and what the host decides by, and makes new functions of, is asked for a step
before: see :class:`_Asked`.
``step`` is where the tables are: random numbers of look-ups depend on it. While a CUDA graph is
captured nothing is done but to count ``step``, as each replay then does.

N rows, d features, L tables, K bits a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hashdl import ops, reference
from hashdl.background import background
from hashdl.hashing import sketching
from hashdl.hashing.functions import Functions, Sample, Scheme, project_rows
from hashdl.ops import checks
from hashdl.precision import own_dtype
from hashdl.readback import Readback
from hashdl.schedule import earliest_rehash, looks_for_drift, next_rehash

# Tables hashed together: more of them read a row less often, and wait longer for one another.
_GROUP, _MOST_GROUPS = 8, 8  # a byte of `dirty` has 8 bits
# Rows that are worth a step's work: fewer wait until so many are due, or the cycle ends.
_SLICE = 1 << 13
# Building a table takes about as long as hashing this share of its rows.
_BUILD_SHARE = 32
# Projections made at once, of float32: they stay in cache until they are codes. On a GPU so many
# that what is launched for them has work to do.
_PROJECTIONS, _PROJECTIONS_ON_GPU = 1 << 18, 1 << 22
# Touched rows that are hashed again to see whether they have drifted.
_DRIFT_ROWS = 128
# Queries by which a low rank is balanced at first.
_FEW_QUERIES = 32


@lru_cache
def groups_of(tables: int) -> tuple[range, ...]:
    """Which tables are hashed together; at most 8 groups.

    Examples:
        >>> groups_of(20)
        (range(0, 8), range(8, 16), range(16, 20))
    """
    size = max(_GROUP, -(-tables // _MOST_GROUPS))
    return tuple(range(first, min(first + size, tables)) for first in range(0, tables, size))


def dirty_bits(tables: int) -> int:
    """In ``dirty``, of a row that no group has hashed since it changed."""
    return (1 << len(groups_of(tables))) - 1


@dataclass
class State:
    """What the ``state`` buffer holds, in this order.

    Attributes:
        built: 1 once there are tables, of the weight at ``pointer``.
        due: training step at which the cycle ends, and the next one begins.
        rehashes: cycles so far, the first building of the tables among them.
        version: with ``pointer``, :func:`weight_key` of weight and bias when all rows were hashed
            last.
        pointer: see ``version``.
        seen: queries that their moment is estimated from.
        balanced: 1 once the planes are balanced.
        start: training step at which the cycle began.
        done: how much of the cycle's work is done, see :class:`_Cycle`.
        renewed: 1 in a cycle that renews the hash functions.
        step: training steps so far.
        captured: 1 once a CUDA graph counts ``step`` on the device: the host has to ask.
        begun: with ``begun_end``, the tables that come in force in the next training step.
        begun_end: see ``begun``.
        fitted: 1 where the hash functions were trained on labels: they stay.
    """

    built: int = 0
    due: int = 0
    rehashes: int = 0
    version: int = 0
    pointer: int = 0
    seen: int = 0
    balanced: int = 0
    start: int = 0
    done: int = 0
    renewed: int = 0
    step: int = 0
    captured: int = 0
    begun: int = 0
    begun_end: int = 0
    fitted: int = 0

    @classmethod
    def of(cls, buffer: Tensor) -> State:
        """What a buffer says."""
        return cls(*buffer.tolist())

    def write(self, buffer: Tensor) -> None:
        """Into a buffer."""
        buffer.copy_(torch.tensor(self.values()))

    def values(self) -> list[int]:
        """In the buffer's order."""
        return list(vars(self).values())

    @classmethod
    def places(cls, *names: str) -> list[int]:
        """Where the buffer holds these."""
        order = [field.name for field in fields(cls)]
        return [order.index(name) for name in names]


_CAPTURED = State.places("captured")


class Buffers(NamedTuple):
    """The buffers of :class:`hashdl.tables.HashTables`, where each is described."""

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


class Settings(NamedTuple):
    """The rest of the op's arguments; what they mean, :class:`hashdl.HashConfig` tells."""

    family: str
    transform: str
    bits: int
    buckets: str
    capacity: int
    center_rows: bool
    seed: int
    rank: int
    every: int
    growth: float
    drift: float | None
    background: int
    computed: bool
    training: bool


# ---- a cycle's work ------------------------------------------------------------------------------


class _Cycle(NamedTuple):
    """The work of a cycle, counted in rows: for each group the N rows, then its tables.

    Args:
        n_rows: N.
        tables: L.
    """

    n_rows: int
    tables: int

    @property
    def build(self) -> int:
        """What a table counts for."""
        return max(self.n_rows // _BUILD_SHARE, 1)

    @property
    def total(self) -> int:
        """All of the work."""
        return len(groups_of(self.tables)) * self.n_rows + self.tables * self.build

    def due(self, state: State, now: int) -> int:
        """How much is to be done after a step: as much more in each, and all by the end."""
        if now >= state.due:
            return self.total
        due = self.total * (now - state.start) // (state.due - state.start)
        return due if due - state.done >= _SLICE else state.done

    def pieces(self, done: int, due: int) -> Iterator[tuple[int, int, range | int]]:
        """What to do, in order: (what is done after it, group, rows or table)."""
        for index, group in enumerate(groups_of(self.tables)):
            begin = index * self.n_rows + group.start * self.build
            if done < due and done < begin + self.n_rows:
                first = done - begin
                last = min(first + due - done, self.n_rows)
                done = begin + last
                yield done, index, range(first, last)
            for table in group:
                end = begin + self.n_rows + (table - group.start + 1) * self.build
                if done < min(due, end):
                    done = end
                    yield done, index, table


class _Asked(NamedTuple):
    """What the next training step needs to know of a GPU, on its way to the host.

    Attributes:
        drift: of touched rows, if it looks for that.
        touched: their number, and what a sample of the rows tells; if it begins a cycle's work.
    """

    drift: Readback | None
    touched: Readback | None


# By the `state` of the tables. A copy of the tables asks anew, and waits.
_asked: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_NOTHING_ASKED = _Asked(None, None)


# ---- codes and sketches --------------------------------------------------------------------------


def _not_finite() -> RuntimeError:
    return RuntimeError(
        "hashdl.HashTables: weight or bias: got NaN, infinity or values too large to be "
        "hashed in float32, wanted finite rows"
    )


class _Rows(NamedTuple):
    """Some rows of a layer.

    Attributes:
        weight: (M, d), of which ``picked`` are meant.
        bias: (M,), or None.
        picked: int64, which of them; None: all.
    """

    weight: Tensor
    bias: Tensor | None
    picked: Tensor | None = None

    @property
    def size(self) -> int:
        return self.weight.shape[0] if self.picked is None else self.picked.shape[0]

    def chunks(self, columns: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """So many at a time that projections of so many columns stay in cache."""
        most = _PROJECTIONS_ON_GPU if self.weight.is_cuda else _PROJECTIONS
        # All alike: a product with few rows left over may be rounded as the threads share it.
        count = -(-self.size // max(most // max(columns, 1), 1))
        for i in range(count):
            chunk = slice(self.size * i // count, self.size * (i + 1) // count)
            yield chunk, self._take(self.weight, chunk), self._take_bias(chunk)

    def _take(self, tensor: Tensor, chunk: slice) -> Tensor:
        if self.picked is None:
            return tensor[chunk]
        return tensor.index_select(0, self.picked[chunk])

    def _take_bias(self, chunk: slice) -> Tensor | None:
        return None if self.bias is None else self._take(self.bias, chunk)


def _hash_rows(
    rows: _Rows,
    scheme: Scheme,
    functions: Functions,
    group: range,
    codes: Tensor,
    sketches: Tensor | None = None,
) -> None:
    """Write the codes int32 (G, M) of M rows in the tables of a group.

    Those of a low rank are made of coordinates, which are written to ``sketches`` (M, rank), as the
    int32 of their bits.
    """
    columns = scheme.columns(functions.rows, group).shape[1]
    if scheme.fuses(rows.weight):  # but for a copy of the rows picked, nothing is held
        columns = 1 if rows.picked is None else rows.weight.shape[1]
    for chunk, weight, bias in rows.chunks(columns):
        try:  # what makes codes looks at every projection: no second look here
            if sketches is None:
                fresh = scheme.row_codes(weight, bias, functions, group)
            else:
                mapped = project_rows(weight, bias, functions.center, functions.maps[0])
                sketches[chunk] = mapped.view(torch.int32)
                projections = scheme.project_mapped_rows(mapped, functions, group)
                fresh = scheme.kind.codes(projections, scheme.bits).t()
        except RuntimeError as error:
            raise _not_finite() from error
        codes[:, chunk] = fresh


def _sketch_rows(
    rows: _Rows, planes: Tensor, center: Tensor, sketches: Tensor, norms: Tensor
) -> None:
    """Write sketches int32 (M, W) and lengths float32 (M,) of M rows."""
    levels = _levels(planes, sketches)
    for chunk, weight, bias in rows.chunks(planes.shape[1]):
        made = sketching.sketch(weight, bias, planes, center, levels)
        sketches[chunk], norms[chunk] = made


def _levels(planes: Tensor, sketches: Tensor) -> int:
    """Of sketches (M, W) by planes (D, S)."""
    return 16 if reference.has_levels(planes, sketches) else 2


# ---- the tables of one layer ---------------------------------------------------------------------


class _Rehash:
    """One call's view of the buffers, the weight and the settings.

    Args:
        weight: (N, d).
        bias: (N,), or None.
        buffers: of the tables, written.
        given: settings.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, buffers: Buffers, given: Settings
    ) -> None:
        self.weight, self.bias, self.buffers, self.given = weight, bias, buffers, given
        L, N = buffers.codes.shape
        self.groups, self.cycle = groups_of(L), _Cycle(N, L)
        # By sign bits, or by the coordinates of a low rank, which hashing makes in any case.
        self.signed = buffers.norms.numel() > 0
        self.mapped = buffers.sketches.numel() > 0 and not self.signed

    @cached_property
    def scheme(self) -> Scheme:
        """How the functions are made and met."""
        given = self.given
        return Scheme(
            *(given.family, given.transform, given.bits, len(self.buffers.codes)),
            *(given.center_rows, given.seed, given.rank),
        )

    @property
    def functions(self) -> Functions:
        """Those of the cycle."""
        b, dtype = self.buffers, self.scheme.kind.dtype
        made = (b.functions.view(dtype), b.next_query_functions.view(dtype))
        return Functions(*made, *(t.view(torch.float32) for t in (b.center, b.maps, b.scale)))

    def sample(self, balance: bool) -> Sample:
        """What new functions follow from."""
        b = self.buffers
        known = b.recent[: State.of(b.state).seen] if self.given.rank else b.moment
        queries = known.view(torch.float32) if balance and len(b.maps[0]) else None
        return self.scheme.sample(self.weight, self.bias, queries, b.maps.view(torch.float32))

    def new_functions(
        self, sample: Sample, codes: Tensor | None, *, looks: bool = True
    ) -> Functions:
        """See :meth:`Scheme.of_sample`."""
        b, seen = self.buffers, State.of(self.buffers.state).seen
        recent = b.recent[:seen].view(torch.float32)
        watched = (recent if enough(seen, b.moment, b.recent) else None, self.functions.rows)
        try:
            return self.scheme.of_sample(
                sample, self.weight, self.bias, codes, *watched, looks=looks
            )
        except ValueError as error:
            raise _not_finite() from error

    def set_functions(self, functions: Functions) -> None:
        b = self.buffers
        places = (b.functions, b.next_query_functions, b.center, b.maps, b.scale)
        for place, fresh in zip(places, functions, strict=True):
            place.copy_(fresh.contiguous().view(torch.int32))
        if self.signed:
            D, S = b.sketch_planes.shape
            known = enough(State.of(b.state).seen, b.moment, b.recent) and len(functions.maps[0])
            leads = known and _levels(b.sketch_planes, b.sketches) > 2
            moment = b.moment.view(torch.float32) if leads else None
            directions = (functions.maps, D, S, self.given.seed, moment)
            planes, query_planes = sketching.planes(*directions)
            b.sketch_planes.copy_(planes.view(torch.int32))
            b.next_query_sketch_planes.copy_(query_planes.view(torch.int32))

    def everything(self, functions: Functions) -> None:
        """Hash all rows with these functions and build all tables, or change nothing."""
        b, rows = self.buffers, _Rows(self.weight, self.bias)
        fresh = torch.empty_like(b.codes)
        sketches = torch.empty_like(b.sketches) if self.mapped else None
        for group in self.groups:
            codes = fresh[group.start : group.stop]
            _hash_rows(rows, self.scheme, functions, group, codes, sketches)
        b.codes.copy_(fresh)
        self.set_functions(functions)
        if sketches is not None:
            b.next_sketches.copy_(sketches)
        elif self.signed:
            self.sketch(rows, slice(None))
        for table in range(len(fresh)):
            self.put_in_force(table)
        b.dirty.zero_()
        _asked.pop(b.state, None)

    def advance(self, state: State, now: int, balance: bool) -> None:
        """Do what is due of the cycle."""
        due = self.cycle.due(state, now)
        if due <= state.done:
            return
        if state.done == 0:
            self.begin(state, balance)
        for done, index, piece in self.cycle.pieces(state.done, due):
            if isinstance(piece, range):
                self.hash_slice(index, piece, full=bool(state.renewed))
            elif not self.given.background:
                self.put_in_force(piece)
            else:
                if state.begun == state.begun_end:
                    state.begun = piece
                state.begun_end = piece + 1
            state.done = done
        if state.begun < state.begun_end:
            self.begin_to_build(range(state.begun, state.begun_end))

    def looks_for_drift(self, state: State, now: int) -> bool:
        """Whether drift of the rows may end the cycle early."""
        every = self.given.every
        if self.given.drift is None or not looks_for_drift(now, state.start, every):
            return False
        # While functions are renewed, codes of the old ones tell nothing.
        return not state.renewed and state.due > max(now, earliest_rehash(state.start, every))

    def has_drifted(self, state: State, now: int) -> bool:
        """Whether so many codes of touched rows have changed that the cycle is to end early."""
        if not self.looks_for_drift(state, now):
            return False
        asked = _asked.get(self.buffers.state, _NOTHING_ASKED).drift
        drift = self.drift() if asked is None else asked.arrived()[0]
        return float(drift) >= float(self.given.drift or 0)

    def drift(self) -> Tensor:
        """Share of changed codes among touched rows, of a sample of both.

        In the last group of tables: its rows are hashed at the end of a cycle.
        """
        index, n_rows = len(self.groups) - 1, self.cycle.n_rows
        group = self.groups[index]
        # Every so many-th of the touched rows; where they are fewer, the last row stands in.
        counts = (self.buffers.dirty & (1 << index)).bool().cumsum(0, dtype=torch.int32)
        touched = counts[-1]
        every = (touched + _DRIFT_ROWS - 1).div(_DRIFT_ROWS, rounding_mode="floor").clamp_min(1)
        wanted = torch.arange(_DRIFT_ROWS, device=counts.device) * every + 1
        some = torch.searchsorted(counts, wanted.int()).clamp_max(n_rows - 1)
        codes = self.buffers.codes[group.start : group.stop, some]
        fresh = torch.empty_like(codes)
        _hash_rows(_Rows(self.weight, self.bias, some), self.scheme, self.functions, group, fresh)
        there = wanted <= touched
        changed = ((fresh != codes) & there).sum()
        return changed.double() / (there.sum() * len(group)).clamp_min(1)

    def begin(self, state: State, balance: bool) -> None:
        """Choose the functions of a cycle."""
        # Queries change as a model learns: balance again at rehash 1, 2, 4, 8, ..., and when most
        # rows have moved, as they do early in training.
        if state.fitted:
            return
        asked = _asked.get(self.buffers.state, _NOTHING_ASKED).touched
        touched, *parts = (self.touched(),) if asked is None else asked.arrived()
        doubling = state.rehashes & (state.rehashes - 1) == 0
        moved = 2 * int(touched) > self.cycle.n_rows
        balance = balance and (doubling or moved)
        if not (balance or moved or self.scheme.kind.learns):
            return
        sample = Sample(*parts) if parts else self.sample(balance)
        if not balance:
            sample = sample._replace(queries=sample.queries.new_empty(0))
        functions = self.new_functions(sample, self.buffers.codes, looks=not parts)
        if not self.scheme.folds:
            self.everything(functions)
            state.done = self.cycle.total
            return
        self.set_functions(functions)
        state.renewed = 1
        # Now: should a row fail, no later step may take these for the old functions.
        state.write(self.buffers.state)

    def hash_slice(self, index: int, piece: range, full: bool) -> None:
        """Hash what is due of the rows, in the tables of a group."""
        b, bit, group = self.buffers, 1 << index, self.groups[index]
        some = slice(piece.start, piece.stop)
        dirty = b.dirty[some]
        picked = None if full else self.picked(dirty & bit)
        weight, bias = self.weight[some], None if self.bias is None else self.bias[some]
        rows = _Rows(weight, bias, picked)
        codes = b.codes[group.start : group.stop, some]
        sketches = b.next_sketches[some] if self.mapped else None
        if picked is None:
            _hash_rows(rows, self.scheme, self.functions, group, codes, sketches)
        elif picked.numel() > 0:
            fresh = codes.new_empty((len(group), picked.numel()))
            made = None if sketches is None else torch.empty_like(sketches[: picked.numel()])
            _hash_rows(rows, self.scheme, self.functions, group, fresh, made)
            codes[:, picked] = fresh
            if sketches is not None and made is not None:
                sketches[picked] = made
        if self.signed and index + 1 == len(self.groups):
            self.sketch(rows, some)
        dirty &= ~bit & 255

    def picked(self, touched: Tensor) -> Tensor | None:
        """Which rows of a slice are to be hashed; None: all of them.

        On a GPU all: the host would wait for the number of touched rows, and a matrix product over
        the slice is a small part of a step there.
        """
        if touched.is_cuda:
            return None
        rows = touched.nonzero().squeeze(1)
        # A gathered row costs more than one in its place.
        return None if 2 * rows.numel() > touched.numel() else rows

    def ask(self, state: State) -> None:
        """A GPU for what the next training step decides by, so that it need not wait."""
        _asked.pop(self.buffers.state, None)
        drift = touched = None
        if self.looks_for_drift(state, state.step):
            drift = Readback(self.drift())
        due = drift is not None or self.cycle.due(state, state.step) > 0
        if due and not (state.done or state.fitted):
            balance = enough(state.seen, self.buffers.moment, self.buffers.recent)
            touched = Readback(self.touched(), *self.sample(balance))
        if drift is not None or touched is not None:
            _asked[self.buffers.state] = _Asked(drift, touched)

    def touched(self) -> Tensor:
        """Number of the rows touched since some group hashed them."""
        return self.buffers.dirty.count_nonzero()

    def sketch(self, rows: _Rows, some: slice) -> None:
        """Make the sketches of some of the layer's rows."""
        b = self.buffers
        sketches, norms = b.next_sketches[some], b.next_norms[some].view(torch.float32)
        planes, center = (t.view(torch.float32) for t in (b.sketch_planes, b.center))
        if rows.picked is None:
            _sketch_rows(rows, planes, center, sketches, norms)
        elif rows.size > 0:
            fresh = sketches.new_empty((rows.size, sketches.shape[1]))
            lengths = norms.new_empty(rows.size)
            _sketch_rows(rows, planes, center, fresh, lengths)
            sketches[rows.picked], norms[rows.picked] = fresh, lengths

    def begin_to_build(self, tables: range) -> None:
        """In a thread; on a GPU nobody waits for the building of a table in any case."""
        codes, thread = self.buffers.codes, background(self.given.background)
        if thread is not None and codes.device.type == "cpu":
            snapshot = codes[tables.start : tables.stop].clone()
            thread.begin(lambda: self.build(tables, snapshot))

    def finish_building(self, state: State) -> None:
        """Put in force what the last training step has begun."""
        tables = range(state.begun, state.begun_end)
        if len(tables) == 0:
            return
        thread = background(self.given.background)
        built = None if thread is None else thread.result()
        if built is None:
            built = self.build(tables, self.buffers.codes[tables.start : tables.stop])
        for table, *parts in zip(tables, *built, strict=True):
            self.put_in_force(table, parts)
        state.begun = state.begun_end = 0
        # Now: should a row fail, no later step may do it again, of other codes.
        state.write(self.buffers.state)

    def build(self, tables: range, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and rows of some tables, of their codes (M, N)."""
        given = self.given
        offsets, rows = ops.build_tables(codes, given.bits)
        if given.buckets == "exact":
            return offsets, rows
        return ops.limit_buckets(
            offsets,
            rows,
            capacity=given.capacity,
            replacement=given.buckets,
            seed=given.seed,
            first_table=tables.start,
        )

    def put_in_force(self, table: int, built: Sequence[Tensor] | None = None) -> None:
        """Let queries meet a table, and the functions of its codes.

        Args:
            table: its number.
            built: its offsets and rows. Default: those of its codes as they are.
        """
        b = self.buffers
        one = range(table, table + 1)
        if built is None:
            built = [part[0] for part in self.build(one, b.codes[table : table + 1])]
        b.offsets[table], b.rows[table] = built
        fresh = self.scheme.columns(b.next_query_functions, one)
        self.scheme.columns(b.query_functions, one).copy_(fresh)
        if table + 1 == len(b.codes):
            b.sketches.copy_(b.next_sketches)
            b.norms.copy_(b.next_norms)
            b.query_sketch_planes.copy_(b.next_query_sketch_planes)


# ---- refresh_tables_: the op ---------------------------------------------------------------------
#
# One op, so that a compiled graph holds it as one opaque node: whether anything is due is known
# only as it runs.


def weight_key(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    """Sums that change when weight or bias, of which each is a Parameter, is written in place.

    Or replaced. What is computed anew for each call may come to lie where it lay before.
    """
    # In no loop: a single query is asked in the time of some tens of such lines.
    version = 0 if weight.is_inference() else weight._version
    if bias is None:
        return version, weight.data_ptr()
    version += 0 if bias.is_inference() else bias._version
    return version, weight.data_ptr() + bias.data_ptr()


def enough(seen: int, moment: Tensor, recent: Tensor) -> bool:
    """Whether so many queries were seen that one can balance by them.

    Args:
        seen: how many.
        moment: of theirs, (D, D), which may have full rank then; or empty.
        recent: the last of them, (Q, D), of which a few give a direction; or empty.
    """
    wanted = moment.shape[0] or min(recent.shape[0], _FEW_QUERIES)
    return 0 < wanted <= seen


def fit_functions(
    weight: Tensor,
    bias: Tensor | None,
    buffers: Buffers,
    given: Settings,
    x: Tensor,
    labels: Tensor,
) -> None:
    """Train the functions of tables that are up to date, and hash all rows: :meth:`Scheme.fit`."""
    rehash = _Rehash(weight, bias, buffers, given)
    with own_dtype(weight):
        rehash.everything(rehash.scheme.fit(weight, bias, rehash.functions, x, labels))
    state = State.of(buffers.state)
    state.fitted, state.renewed = 1, 0
    state.write(buffers.state)


def steps_so_far(state: State, step: Tensor) -> int:
    """Training steps so far, read from where the tables are only if replays count them there."""
    return int(step) if state.captured else state.step


def is_captured(tensor: Tensor) -> bool:
    """Whether what is done with a tensor now is captured in a CUDA graph."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def is_recomputed() -> bool:
    """Whether a backward pass does a forward pass again, as torch.utils.checkpoint lets it."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _capture_step(buffers: Buffers) -> None:
    """Let each replay count a training step; what was asked for is of a time before them."""
    _asked.pop(buffers.state, None)
    buffers.step.add_(1)
    buffers.state[_CAPTURED] = 1


def _refresh_tables_(weight: Tensor, bias: Tensor | None, *rest: Any) -> None:
    """Rebuild what is stale, do what is due of the cycle, and count the training step."""
    count = len(Buffers._fields)
    buffers, given = Buffers(*rest[:count]), Settings(*rest[count:])
    state, training = State.of(buffers.state), given.training
    if training and state.built and is_recomputed():
        return None  # it counts once, and meets what it met before
    if is_captured(weight):
        if not state.built:
            raise RuntimeError(
                "hashdl.HashTables: capture of a CUDA graph: got no tables, wanted a step before it"
            )
        return _capture_step(buffers) if training else None
    n_rows, features = buffers.codes.shape[1], buffers.center.shape[0] - 1
    checks.check_shape(weight, (n_rows, features), "refresh_tables_", "weight")
    key = (0, 0) if given.computed else weight_key(weight, bias)
    now = steps_so_far(state, buffers.step)
    before = state.values()
    balance = enough(state.seen, buffers.moment, buffers.recent) and not state.fitted
    stale = not state.built or state.pointer != key[1]
    # Replays change the weight, and not its version.
    known = state.version == key[0] and state.step == now and not given.computed
    stale |= not training and not known
    stale |= balance and not state.balanced
    rehash = _Rehash(weight, bias, buffers, given)
    with own_dtype(weight):
        if stale:
            codes = buffers.codes if state.built else None
            fresh = None if state.fitted else rehash.new_functions(rehash.sample(balance), codes)
            rehash.everything(rehash.functions if fresh is None else fresh)
            state.built, (state.version, state.pointer) = 1, key
            state.balanced = int(balance)
            state.begun = state.begun_end = 0
        elif training:
            rehash.finish_building(state)
            if rehash.has_drifted(state, now):
                state.due = max(now, earliest_rehash(state.start, given.every))
            rehash.advance(state, now, balance)
    finished = training and now >= state.due
    if finished or state.rehashes == 0:
        state.rehashes += 1
    if finished or stale:
        state.start, state.done, state.renewed = now, 0, 0
        state.due = next_rehash(now, state.rehashes - 1, given.every, given.growth)
    state.step = now + int(training)
    if training and weight.is_cuda:
        with own_dtype(weight):
            rehash.ask(state)
    if state.values() != before:
        state.write(buffers.state)
    if training:
        buffers.step.add_(1)


def _schema() -> str:
    """Every buffer is written but what observing queries renews."""
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    buffers = [
        f"Tensor {name}" if name in ("moment", "recent") else f"Tensor({next(letters)}!) {name}"
        for name in Buffers._fields
    ]
    settings = (
        "str family, str transform, int bits, str buckets, int capacity, bool center_rows, "
        "int seed, int rank, int every, float growth, float? drift, int background, bool computed"
    )
    arguments = ["Tensor weight", "Tensor? bias", *buffers, settings, "bool training"]
    return f"refresh_tables_({', '.join(arguments)}) -> ()"


refresh_tables_ = ops.define_stateful(_schema(), _refresh_tables_)
