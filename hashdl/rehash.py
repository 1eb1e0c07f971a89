"""Rehashing: keeps tables in step with the weight, a little in every training step.

A *cycle* hashes once what is due and builds every table anew, spread evenly over the steps from one
rehash of the schedule to the next. Tables are taken a group at a time: the group's columns of
hyperplanes meet the rows, a slice in each step; after the last row the group's tables are built and
put in force, one after the other. Until then look-ups meet the old table and the planes that it was
built with, so that each table fits its own planes at every step.

In most cycles the hash functions stay, and only rows that were touched since the group hashed them
last are hashed: ``dirty`` has a bit a group. Some cycles renew the functions, and hash all rows.

All at once and in full is hashed what has no tables or a changed weight: the first time, after a
move or a load, and in evaluation after training. That begins a new cycle.

N rows, d features, L tables, K bits a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing import FAMILIES, balancing, centering
from hashdl.precision import own_dtype
from hashdl.schedule import next_rehash

# Tables hashed together: more of them read a row less often, and wait longer for one another.
_GROUP, _MOST_GROUPS = 8, 8  # a byte of `dirty` has 8 bits
# Rows that are worth a step's work: fewer wait until so many are due, or the cycle ends.
_SLICE = 1 << 12
# Building a table takes about as long as hashing this share of its rows.
_BUILD_SHARE = 32
# Projections made at once, of float32: they stay in cache until they are codes.
_PROJECTIONS = 1 << 18
# Rows that hash functions follow from: so many tell their mean and moment well enough.
_SAMPLE = 1 << 14


def groups_of(tables: int) -> list[range]:
    """Which tables are hashed together; at most 8 groups.

    Examples:
        >>> groups_of(20)
        [range(0, 8), range(8, 16), range(16, 20)]
    """
    size = max(_GROUP, -(-tables // _MOST_GROUPS))
    return [range(first, min(first + size, tables)) for first in range(0, tables, size)]


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
        version: with ``pointer``, :func:`_key` of weight and bias when all rows were hashed last.
        pointer: see ``version``.
        seen: queries that their moment is estimated from.
        balanced: 1 once the planes are balanced.
        start: training step at which the cycle began.
        done: how much of the cycle's work is done, see :class:`_Cycle`.
        renewed: 1 in a cycle that renews the hash functions.
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


class Buffers(NamedTuple):
    """The buffers of :class:`hashdl.tables.HashTables`, where each is described."""

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


class _Functions(NamedTuple):
    """Hash functions, float32: planes (d + 1, L K) for rows and for queries, a centre (d + 1,)."""

    planes: Tensor
    query_planes: Tensor
    center: Tensor


class _Settings(NamedTuple):
    """The rest of the op's arguments."""

    family: str
    bits: int
    seed: int
    center_rows: bool
    every: int
    growth: float
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


# ---- hash functions and codes --------------------------------------------------------------------


def _spread(weight: Tensor, bias: Tensor | None, most: int) -> tuple[Tensor, Tensor | None]:
    """At most so many rows, evenly spread."""
    every = max(1, -(-weight.shape[0] // most))
    return weight[::every], None if bias is None else bias[::every]


def _new_functions(
    weight: Tensor, bias: Tensor | None, moment: Tensor, count: int, given: _Settings, balance: bool
) -> _Functions:
    """Functions for the rows as they are now, from a sample of them: no more work for more rows."""
    rows, some_bias = _spread(weight, bias, _SAMPLE)
    center = torch.zeros(weight.shape[1] + 1, device=weight.device)
    if given.center_rows:
        center = centering.row_mean(rows, some_bias)
    planes = FAMILIES[given.family].make_planes(weight.shape[1], count, given.seed)
    planes = planes.to(weight.device)
    if bias is None:
        planes[-1] = 0  # (x, 1) against (w, 0): the 1 would turn queries off their rows
    moments = [balancing.row_moment(rows, some_bias, center)] if balance else []
    if not all(bool(values.isfinite().all()) for values in (center, *moments)):
        raise _not_finite()
    if not balance:
        return _Functions(planes, planes, center)
    balanced = balancing.balanced_planes(planes, moment.view(torch.float32), *moments)
    return _Functions(*balanced, center)


def _not_finite() -> RuntimeError:
    return RuntimeError(
        "hashdl.HashTables: weight or bias: got NaN, infinity or values too large to be "
        "hashed in float32, wanted finite rows"
    )


def _take(tensor: Tensor, chunk: slice, picked: Tensor | None) -> Tensor:
    """A chunk of the rows picked."""
    return tensor[chunk] if picked is None else tensor.index_select(0, picked[chunk])


def _hash_rows(
    weight: Tensor,
    bias: Tensor | None,
    picked: Tensor | None,
    functions: _Functions,
    group: range,
    given: _Settings,
    codes: Tensor,
    squares: Tensor,
) -> None:
    """Codes (G, M) of M rows in the tables of a group, written a chunk at a time.

    Args:
        weight: (N, d).
        bias: (N,), or None.
        picked: int64 (M,), which rows; None: all.
        functions: the hash functions.
        group: the tables.
        given: settings.
        codes: int32 (G, M), written.
        squares: float32 (M,), written: the sums of the rows' squared projections; if empty, not.
    """
    planes = functions.planes[:, group.start * given.bits : group.stop * given.bits]
    size = max(_PROJECTIONS // planes.shape[1], 1)
    for first in range(0, codes.shape[1], size):
        chunk = slice(first, first + size)
        rows, some_bias = (
            tensor if tensor is None else _take(tensor, chunk, picked) for tensor in (weight, bias)
        )
        projections = FAMILIES[given.family].project_rows(rows, some_bias, functions.center, planes)
        try:
            packed = ops.pack_signs(projections, given.bits)
        except RuntimeError as error:  # it looks at every projection: no second look here
            raise _not_finite() from error
        codes[:, chunk] = packed.t()
        if squares.numel() > 0:
            squares[chunk] = projections.square_().sum(1)


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
        self, weight: Tensor, bias: Tensor | None, buffers: Buffers, given: _Settings
    ) -> None:
        self.weight, self.bias, self.buffers, self.given = weight, bias, buffers, given
        L, N = buffers.codes.shape
        self.groups, self.cycle = groups_of(L), _Cycle(N, L)

    @property
    def functions(self) -> _Functions:
        """Those of the cycle."""
        b = self.buffers
        floats = (b.planes, b.next_query_planes, b.center)
        return _Functions(*(buffer.view(torch.float32) for buffer in floats))

    def new_functions(self, balance: bool) -> _Functions:
        count = self.buffers.planes.shape[1]
        return _new_functions(
            self.weight, self.bias, self.buffers.moment, count, self.given, balance
        )

    def set_functions(self, functions: _Functions) -> None:
        b = self.buffers
        places = (b.planes, b.next_query_planes, b.center)
        for place, fresh in zip(places, functions, strict=True):
            place.copy_(fresh.contiguous().view(torch.int32))

    def everything(self, balance: bool) -> None:
        """Hash all rows with new functions and build all tables, or change nothing."""
        b = self.buffers
        functions = self.new_functions(balance)
        codes, squares = torch.empty_like(b.codes), torch.empty_like(b.squares)
        for index, group in enumerate(self.groups):
            place = codes[group.start : group.stop], squares[index].view(torch.float32)
            _hash_rows(self.weight, self.bias, None, functions, group, self.given, *place)
        b.codes.copy_(codes)
        b.squares.copy_(squares)
        self.set_functions(functions)
        for table in range(len(codes)):
            self.put_in_force(table)
        self.measure_rows()
        b.dirty.zero_()

    def advance(self, state: State, now: int, balance: bool) -> None:
        """Do what is due of the cycle."""
        for done, index, piece in self.cycle.pieces(state.done, self.cycle.due(state, now)):
            if state.done == 0:
                self.begin(state, balance)
            if isinstance(piece, range):
                self.hash_slice(index, piece, full=bool(state.renewed))
            else:
                self.put_in_force(piece)
                if piece + 1 == self.groups[index].stop:
                    self.measure_rows()
            state.done = done

    def begin(self, state: State, balance: bool) -> None:
        """Choose the functions of a cycle."""
        # Queries change as a model learns: balance again at rehash 1, 2, 4, 8, ...
        renewed = balance and state.rehashes & (state.rehashes - 1) == 0
        touched = int(self.buffers.dirty.count_nonzero())
        if state.renewed or renewed or 2 * touched > self.cycle.n_rows:
            self.set_functions(self.new_functions(balance))
            state.renewed = 1
            # Now: should a row fail, no later call may take these for the old functions.
            state.write(self.buffers.state)

    def hash_slice(self, index: int, piece: range, full: bool) -> None:
        """Hash what is due of the rows, in the tables of a group."""
        b, bit, group = self.buffers, 1 << index, self.groups[index]
        some = slice(piece.start, piece.stop)
        dirty = b.dirty[some]
        touched = (dirty & bit).nonzero().squeeze(1)
        weight, bias = self.weight[some], None if self.bias is None else self.bias[some]
        codes = b.codes[group.start : group.stop, some]
        squares = b.squares[index, some].view(torch.float32)
        # A gathered row costs more than one in its place.
        if full or 2 * touched.numel() > len(piece):
            _hash_rows(weight, bias, None, self.functions, group, self.given, codes, squares)
        elif touched.numel() > 0:
            fresh = codes.new_empty((len(group), touched.numel()))
            lengths = squares.new_empty(touched.numel() if squares.numel() > 0 else 0)
            _hash_rows(weight, bias, touched, self.functions, group, self.given, fresh, lengths)
            codes[:, touched] = fresh
            if squares.numel() > 0:
                squares[touched] = lengths
        if touched.numel() > 0:
            dirty &= ~bit & 255

    def put_in_force(self, table: int) -> None:
        """Build a table of its codes; from now on queries meet the planes of these."""
        b, K = self.buffers, self.given.bits
        offsets, rows = ops.build_tables(b.codes[table : table + 1], K)
        b.offsets[table] = offsets[0]
        b.rows[table] = rows[0]
        columns = slice(table * K, (table + 1) * K)
        b.query_planes[:, columns] = b.next_query_planes[:, columns]
        if b.sketches.numel() > 0:
            b.sketches[:, table] = b.codes[table]

    def measure_rows(self) -> None:
        """Lengths of the rows, where they are wanted."""
        b = self.buffers
        if b.squares.numel() > 0:
            # The mean square of a vector's projections on Gaussian planes estimates its own square.
            mean = b.squares.view(torch.float32).sum(0) / b.planes.shape[1]
            b.norms.copy_(mean.sqrt().view(torch.int32))


# ---- refresh_tables_: the op ---------------------------------------------------------------------
#
# One op, so that a compiled graph holds it as one opaque node: whether anything is due is known
# only as it runs.


def _key(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    """Sums that change when weight or bias is written in place, or replaced."""
    tensors = [weight] if bias is None else [weight, bias]
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return sum(versions), sum(tensor.data_ptr() for tensor in tensors)


def enough(seen: int, moment: Tensor) -> bool:
    """Whether a moment comes from so many queries that it may have full rank."""
    return 0 < moment.shape[0] <= seen


def _refresh_tables_(weight: Tensor, bias: Tensor | None, *rest: Any) -> None:
    """Rebuild what is stale, do what is due of the cycle, and count the training step."""
    count = len(Buffers._fields)
    buffers, given = Buffers(*rest[:count]), _Settings(*rest[count:])
    now, training = int(buffers.step), given.training
    state, key = State.of(buffers.state), _key(weight, bias)
    before = state.values()
    balance = enough(state.seen, buffers.moment)
    stale = not state.built or state.pointer != key[1]
    stale |= not training and state.version != key[0]
    stale |= balance and not state.balanced
    rehash = _Rehash(weight, bias, buffers, given)
    with own_dtype(weight):
        if stale:
            rehash.everything(balance)
            state.built, (state.version, state.pointer) = 1, key
            state.balanced = int(balance)
        elif training:
            rehash.advance(state, now, balance)
    finished = training and now >= state.due
    if finished or state.rehashes == 0:
        state.rehashes += 1
    if finished or stale:
        state.start, state.done, state.renewed = now, 0, 0
        state.due = next_rehash(now, state.rehashes - 1, given.every, given.growth)
    if state.values() != before:
        state.write(buffers.state)
    if training:
        buffers.step.fill_(now + 1)


ops.define_stateful(
    "refresh_tables_(Tensor weight, Tensor? bias, Tensor(a!) planes, Tensor(b!) query_planes, "
    "Tensor(c!) next_query_planes, Tensor moment, Tensor(d!) center, Tensor(e!) codes, "
    "Tensor(f!) sketches, Tensor(g!) squares, Tensor(h!) norms, Tensor(i!) offsets, "
    "Tensor(j!) rows, Tensor(k!) dirty, Tensor(l!) step, Tensor(m!) state, str family, int bits, "
    "int seed, bool center_rows, int every, float growth, bool training) -> ()",
    _refresh_tables_,
)
