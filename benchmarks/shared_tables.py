"""Hash tables that one process rebuilds while others look up in them, without waiting.

What look-ups read exists twice in shared memory. One copy is in force; the owner of the tables
writes the other one, once no step reads it any more, and then puts it in force for the steps to
come. So no look-up ever meets a half-written table, and nobody waits: where a step still reads the
spare copy, the owner tries again after its next step.

Rows that a step is about to change are noted in the copy that it reads; the owner takes these marks
over when it has the copy to itself, so none is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from hashdl.rehash import State
from hashdl.tables import HashTables

#: The buffers of HashTables that look-ups read.
_READ = (
    *("query_functions", "maps", "offsets", "rows"),
    *("query_sketch_planes", "sketches", "norms"),
)
#: Copies of them, and where in ``Board.state`` their numbers begin.
_COPIES, _NEXT, _IN_FORCE, _HELD = 2, 0, 1, 2
_NOTHING = -1


class Board:
    """Which step is to be taken next, and which copy of the tables it reads.

    Args:
        workers: how many there are.
        lock: held for a few reads and writes of small numbers.
        tables: of all layers, built.
    """

    def __init__(
        self, workers: int, lock: AbstractContextManager[bool], tables: Sequence[HashTables]
    ) -> None:
        self.lock = lock
        # The next step, the copy in force, and the copy that each worker's step reads.
        self.state = torch.tensor([0, 0, *[_NOTHING] * workers]).share_memory_()
        self.copies = [[_shared_copy(some) for some in tables] for _ in range(_COPIES)]

    def take(self, worker: int) -> tuple[int, int]:
        """The number of a step that nobody else takes, and the copy that it reads."""
        with self.lock:
            number, copy = self.state[[_NEXT, _IN_FORCE]].tolist()
            self.state[_NEXT] += 1
            self.state[_HELD + worker] = copy
            return number, copy

    def leave(self, worker: int) -> None:
        """The worker reads no copy any more."""
        with self.lock:
            self.state[_HELD + worker] = _NOTHING

    def spare(self) -> int | None:
        """The copy that is not in force, unless a step still reads it."""
        with self.lock:
            in_force, *held = self.state[_IN_FORCE:].tolist()
        other = (in_force + 1) % _COPIES
        return None if other in held else other

    def put_in_force(self, copy: int) -> None:
        """Steps that are taken from now on read this copy."""
        with self.lock:
            self.state[_IN_FORCE] = copy


def _shared_copy(tables: HashTables) -> dict[str, Tensor]:
    copy = {name: getattr(tables, name).clone().share_memory_() for name in _READ}
    return copy | {"dirty": torch.zeros_like(tables.dirty).share_memory_()}


class Reader:
    """A worker that looks up in tables which another one rebuilds.

    Args:
        worker: its number.
        board: of all workers.
        tables: the worker's own, whose buffers are replaced.
    """

    def __init__(self, worker: int, board: Board, tables: Sequence[HashTables]) -> None:
        self.worker, self.board, self.tables = worker, board, tables
        self._copy = _NOTHING
        for some in tables:
            some.refresh = lambda *_, **__: None  # type: ignore[method-assign]
            some.step = torch.zeros_like(some.step)

    def next_step(self) -> int:
        """Take a step; its look-ups read what is in force now."""
        number, copy = self.board.take(self.worker)
        if copy != self._copy:
            self._copy = copy
            for some, shared in zip(self.tables, self.board.copies[copy], strict=True):
                for name, buffer in shared.items():
                    setattr(some, name, buffer)
        for some in self.tables:
            some.step.fill_(number)  # random numbers of look-ups follow from it
        return number

    def end_step(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """No more steps."""
        self.board.leave(self.worker)


class Owner:
    """The worker that rebuilds the tables, in memory of its own.

    It rehashes after as many steps of its own as make an interval of the schedule with those of the
    others.

    Args:
        board: of all workers.
        tables: the worker's own, in shared memory; brought up to date by :meth:`close`.
        workers: how many there are.
    """

    def __init__(self, board: Board, tables: Sequence[HashTables], workers: int) -> None:
        self.board, self.tables = board, tables
        self._shared = [dict(some.named_buffers()) for some in tables]
        for some, shared in zip(tables, self._shared, strict=True):
            some.rehash_every = -(-some.rehash_every // workers)
            for name, buffer in shared.items():
                setattr(some, name, buffer.clone())
        self._readers, self._published = workers > 1, self._starts()

    def next_step(self) -> int:
        """Take a step; its look-ups read the owner's tables."""
        number, _ = self.board.take(0)
        self.board.leave(0)
        return number

    def end_step(self) -> None:
        """Hand on tables that were rebuilt, if the spare copy is free."""
        starts = self._starts()
        if not self._readers or starts == self._published:
            return
        copy = self.board.spare()
        if copy is None:
            return
        for some, shared in zip(self.tables, self.board.copies[copy], strict=True):
            some.dirty |= shared["dirty"]
            shared["dirty"].zero_()
            for name in _READ:
                shared[name].copy_(getattr(some, name))
        self.board.put_in_force(copy)
        self._published = starts

    def close(self) -> None:
        """No more steps: leave the tables in shared memory."""
        for some, shared in zip(self.tables, self._shared, strict=True):
            for name, buffer in shared.items():
                buffer.copy_(getattr(some, name))

    def _starts(self) -> list[int]:
        """When each layer's cycle of rehashing began: all tables of the one before are in force."""
        return [State.of(some.state).start for some in self.tables]
