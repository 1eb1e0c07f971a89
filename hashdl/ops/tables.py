"""Tables built from codes, and which rows are to be hashed again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hashdl import reference
from hashdl.ops.checks import (
    REPLACEMENTS,
    check,
    check_at_least,
    check_bits,
    check_dtype,
    check_ids,
    check_in_place,
    check_shape,
)
from hashdl.ops.registration import define_op, kernels

# ---- build_tables -------------------------------------------------------------------------------


def _check_build_tables(codes: Tensor, bits: int) -> None:
    check_bits(bits, "build_tables")
    check_ids(codes, (None, None), "build_tables", "codes")


@define_op("build_tables(Tensor codes, int bits) -> (Tensor, Tensor)", _check_build_tables)
def _(codes: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    L, N = codes.shape
    return codes.new_empty((L, 2**bits + 1)), codes.new_empty((L, N))


def build_tables(codes: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Tables by counting sort: the rows of each bucket, ascending, one bucket after the other.

    Args:
        codes: int32 (L, N), a table a row, each in [0, 2^K).
        bits: K.

    Returns:
        offsets: int32 (L, 2^K + 1); bucket c of table l is rows[l] from offsets[l, c] up to
            offsets[l, c + 1].
        rows: int32 (L, N).
    """
    offsets, rows = kernels.build_tables(codes, bits)
    return offsets, rows


# ---- limit_buckets ------------------------------------------------------------------------------


def _check_limit_buckets(
    offsets: Tensor, rows: Tensor, capacity: int, replacement: str, seed: int, first_table: int
) -> None:
    op = "limit_buckets"
    check_tables(offsets, rows, op)
    check_at_least(capacity, 1, op, "capacity")
    wanted = f"got {replacement!r}, wanted one of {list(REPLACEMENTS)}"
    check(replacement in REPLACEMENTS, op, "replacement", wanted)


def check_tables(offsets: Tensor, rows: Tensor, op: str) -> None:
    """Offsets and rows of tables."""
    check_ids(rows, (None, None), op, "rows")
    check_ids(offsets, (rows.shape[0], None), op, "offsets")
    what = f"got shape {tuple(offsets.shape)}, wanted (L, buckets + 1)"
    check(offsets.shape[1] >= 1, op, "offsets", what)


@define_op(
    "limit_buckets(Tensor offsets, Tensor rows, int capacity, str replacement, int seed, "
    "int first_table) -> (Tensor, Tensor)",
    _check_limit_buckets,
)
def _(
    offsets: Tensor, rows: Tensor, capacity: int, replacement: str, seed: int, first_table: int
) -> tuple[Tensor, Tensor]:
    L, N = rows.shape
    width = reference.limited_width(N, offsets.shape[1] - 1, capacity)
    return torch.empty_like(offsets), rows.new_empty((L, width))


def limit_buckets(
    offsets: Tensor,
    rows: Tensor,
    *,
    capacity: int,
    replacement: str,
    seed: int,
    first_table: int = 0,
) -> tuple[Tensor, Tensor]:
    """Tables whose buckets keep at most ``capacity`` rows; rows arrive in ascending order.

    ``"fifo"`` keeps the newest arrivals. ``"reservoir"`` keeps each arrival with the same
    probability: the i-th one is taken with probability capacity / i, for a uniform slot (Vitter,
    *Random sampling with a reservoir*, ACM TOMS 1985, algorithm R). The draws follow from the
    seed, the table and the bucket.

    Args:
        offsets: int32 (L, buckets + 1), of :func:`build_tables`.
        rows: int32 (L, N), of :func:`build_tables`.
        capacity: 1 or more.
        replacement: ``"fifo"`` or ``"reservoir"``.
        seed: of the draws.
        first_table: number of the first of these tables, for the draws.

    Returns:
        offsets: int32 (L, buckets + 1).
        rows: int32 (L, min(N, capacity buckets)), -1 after the last bucket. The rows of a bucket
        ascend; those of a reservoir that was full stand in their slots.

    Examples:
        >>> codes = torch.tensor([[1, 0, 1, 1, 1]], dtype=torch.int32)
        >>> offsets, rows = build_tables(codes, 1)
        >>> limit_buckets(offsets, rows, capacity=2, replacement="fifo", seed=0)
        (tensor([[0, 1, 3]], dtype=torch.int32), tensor([[ 1,  3,  4, -1]], dtype=torch.int32))
    """
    limited: tuple[Tensor, Tensor] = kernels.limit_buckets(
        offsets, rows, capacity, replacement, seed, first_table
    )
    return limited


# ---- mark_rows_ ---------------------------------------------------------------------------------


def _check_mark_rows_(dirty: Tensor, rows: Tensor, bits: int) -> None:
    op = "mark_rows_"
    check_dtype(dirty, torch.uint8, op, "dirty")
    check_shape(dirty, (None,), op, "dirty")
    check_in_place(op, dirty, "dirty")
    check_dtype(rows, torch.int32, op, "rows")
    check(0 <= bits <= 255, op, "bits", f"got {bits}, wanted 0 to 255")


@define_op("mark_rows_(Tensor(a!) dirty, Tensor rows, int bits) -> ()", _check_mark_rows_)
def _(*args: Any) -> None:
    return None


def mark_rows_(dirty: Tensor, rows: Tensor, bits: int) -> None:
    """Note of some rows that they are about to change: ``dirty[r] = bits``, in place.

    Args:
        dirty: uint8 (N,), contiguous.
        rows: int32 of any shape, -1 = none; rows may repeat.
        bits: 0 to 255.
    """
    kernels.mark_rows_(dirty, rows, bits)
