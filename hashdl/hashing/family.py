"""What a hash family is: see docs/families.md for how to add one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Family(ABC):
    r"""Gives vectors codes of K bits in L tables, so that similar vectors often have equal ones.

    Vectors have D coordinates: d + 1, for a row (w, b) against a query (x, 1), so that the bias
    counts, and those that a transform appends. They come centred, balanced and transformed as
    :class:`hashdl.HashConfig` says. A family holds no state: its functions are one tensor, whose
    columns belong to the tables in their order, the same number to each.

    Attributes:
        name: as in ``HashConfig.family``.
        linear: projections are ``vectors @ functions``. Centring and balancing then fold into the
            functions, and cost nothing. Others override :meth:`project`.
        learns: functions follow from the rows: :meth:`fit` renews them at every rehash.
        watches: functions follow from recent queries too: :meth:`fit` is given some, and in place
            of :meth:`make`'s functions those in use, where rows were hashed before.
        dtype: of the functions: float32 or int32.
        probing: how a linear family's :meth:`probe` reads projections, where
            :func:`hashdl.ops.search` knows it: ``"signs"`` or ``"columns"``. A single query is
            answered faster with it.
        known_collisions: :meth:`collision` says how probable equal codes are.
    """

    name: ClassVar[str]
    linear: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.float32
    probing: ClassVar[str | None] = None
    known_collisions: ClassVar[bool] = False

    def default_bits(self, n_rows: int) -> int:
        """K where none is given: buckets of about 4 rows, and 2^20 buckets at most."""
        return min(max(round(math.log2(max(n_rows, 2))) - 2, 1), 20)

    @abstractmethod
    def shape(self, D: int, L: int, K: int) -> tuple[int, int]:
        """Of the functions: (D, L times the columns of a table) for a linear family."""

    @abstractmethod
    def make(self, D: int, L: int, K: int, seed: int) -> Tensor:
        """Functions of that shape, drawn on the CPU, so that every device has the same."""

    def multiplications(self, D: int, L: int, K: int) -> int:
        """Of hashing one vector."""
        rows, columns = self.shape(D, L, K)
        return rows * columns

    def fit(
        self,
        functions: Tensor,
        rows: Tensor,
        codes: Tensor | None,
        K: int,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Functions that suit the rows.

        Args:
            functions: of :meth:`make`.
            rows: float32 (M, D), a sample.
            codes: int32 (M, L), what they were hashed to last, or None.
            K: bits a table.
            queries: float32 (Q, D), recent ones in the coordinates of the rows, if the family
                :attr:`watches` them; None: too few were seen.
        """
        return functions

    def sample(self, K: int) -> int:
        """Rows that :meth:`fit` wants to see at least."""
        return 1

    def project(self, vectors: Tensor, functions: Tensor) -> Tensor:
        """What codes are made of: (M, columns), from vectors (M, D) and some tables' functions."""
        return vectors @ functions

    @abstractmethod
    def codes(self, projections: Tensor, K: int) -> Tensor:
        """Codes int32 (M, tables) in [0, 2^K), of :meth:`project`."""

    @abstractmethod
    def probe(self, projections: Tensor, K: int, P: int) -> Tensor:
        """At most P distinct buckets that a query probes in each table, most likely first.

        Returns:
            int32 (B, tables, P), -1 = none.
        """

    def collision(self, cosines: Tensor, K: int) -> Tensor:
        """Probability, over the functions, of equal codes in one table; tables are independent.

        Args:
            cosines: of the angles between rows and queries, any shape.
            K: bits of a code.
        """
        raise NotImplementedError(f"{self.name} has no known collision probabilities")
