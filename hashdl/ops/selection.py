"""Which candidates become active."""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import reference
from hashdl.ops.checks import (
    check,
    check_at_least,
    check_dtype,
    check_ids,
    check_n_rows,
    check_shape,
    check_step,
)
from hashdl.ops.registration import define_op, kernels

# ---- sketch_scores ------------------------------------------------------------------------------


def check_sketch(queries: Tensor, sketches: Tensor, norms: Tensor | None, B: int, op: str) -> None:
    """Projections of queries, and sketches and lengths of all rows."""
    if norms is None:
        check_dtype(sketches, torch.float32, op, "sketches")
        check_shape(sketches, (None, None), op, "sketches")
        S = sketches.shape[1]
    else:
        check_ids(sketches, (None, None), op, "sketches")
        check_dtype(norms, torch.float32, op, "norms")
        check_shape(norms, (sketches.shape[0],), op, "norms")
        leveled = queries.dim() == 2 and reference.has_levels(queries, sketches)
        S = (8 if leveled else 32) * sketches.shape[1]
    check_dtype(queries, torch.float32, op, "sketch_queries")
    check_shape(queries, (B, S), op, "sketch_queries")


def _check_sketch_scores(
    sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor
) -> None:
    op = "sketch_scores"
    check_ids(candidates, (None, None), op, "candidates")
    check_sketch(sketch_queries, sketches, norms, candidates.shape[0], op)


@define_op(
    "sketch_scores(Tensor sketch_queries, Tensor sketches, Tensor? norms, Tensor candidates) "
    "-> Tensor",
    _check_sketch_scores,
)
def _(sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor) -> Tensor:
    return candidates.new_empty(candidates.shape, dtype=torch.float32)


def sketch_scores(
    sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor
) -> Tensor:
    r"""Inner products of candidates and queries, estimated from sketches of the rows.

    From sign bits of their projections,

    .. math:: s_{bc} = |v_r| \sum_{k=1}^{S} \operatorname{sign}(\langle p_k, v_r \rangle) \,
        \langle p_k, q_b \rangle, \qquad r = c_{bc}

    Its expectation over random directions p is proportional to the inner product of v and q
    (Dong, Charikar and Li, *Asymmetric distance estimation with sketches*, SIGIR 2008, section 4);
    the query keeps its projections, the row has one bit of each. Where there are but S = 8 W
    projections for W words a row, the row has four bits of each: with levels l of 0 to 15,

    .. math:: s_{bc} = |v_r| \sum_{k=1}^{S} (2 l_{rk} - 15) \, \delta_b
        \operatorname{round}(\langle p_k, q_b \rangle / \delta_b), \qquad
        \delta_b = \max_k |\langle p_k, q_b \rangle| / 127,

    so that all sums are of integers (:mod:`hashdl.hashing.sketching`). Or, without ``norms``, from
    some coordinates as they are: :math:`s_{bc} = \sum_k \langle p_k, v_r \rangle \,
    \langle q_k, x_b \rangle`, as of :mod:`hashdl.hashing.lowrank`.

    Args:
        sketch_queries: float32 (B, S), projections of the queries.
        sketches: int32 (N, S / 32), sign bits of the rows: :func:`pack_signs` with 32 bits; or
            int32 (N, S / 8), levels, the first in the lowest bits of a word; or float32 (N, S),
            their projections.
        norms: float32 (N,), lengths of the rows; None for projections.
        candidates: int32 (B, C), -1 = none.

    Returns:
        scores: float32 (B, C), 0 at padding.

    Examples:
        >>> queries = torch.ones(1, 32)
        >>> sketches = torch.tensor([[-1], [0b111]], dtype=torch.int32)  # 32 and 3 bits set
        >>> candidates = torch.tensor([[0, 1, -1]], dtype=torch.int32)
        >>> sketch_scores(queries, sketches, torch.tensor([1.0, 2.0]), candidates)
        tensor([[ 32., -52.,   0.]])
    """
    scores: Tensor = kernels.sketch_scores(sketch_queries, sketches, norms, candidates)
    return scores


# ---- select -------------------------------------------------------------------------------------


def check_select(
    candidates: Tensor,
    scores: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    active: int,
    random: int,
    n_rows: int,
    seed: int,
    step: Tensor,
    op: str = "select",
) -> None:
    """What :func:`select` takes."""
    check_ids(candidates, (None, None), op, "candidates")
    check(0 <= random <= active, op, "random", f"got {random}, wanted 0 to active = {active}")
    check_n_rows(n_rows, op)
    if scores is not None:
        check_dtype(scores, torch.float32, op, "scores")
        check_shape(scores, tuple(candidates.shape), op, "scores")
    if labels is not None:
        check_ids(labels, (candidates.shape[0], None), op, "labels")
    if shared is not None:
        check_ids(shared, (None,), op, "shared")
    check_step(step, op)


@define_op(
    "select(Tensor candidates, Tensor? scores, Tensor? labels, Tensor? shared, int active, "
    "int random, int n_rows, int seed, Tensor step) -> Tensor",
    check_select,
)
def _(
    candidates: Tensor,
    scores: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    active: int,
    random: int,
    n_rows: int,
    seed: int,
    step: Tensor,
) -> Tensor:
    M = 0 if labels is None else labels.shape[1]
    return candidates.new_empty((candidates.shape[0], M + active))


def select(
    candidates: Tensor,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    shared: Tensor | None = None,
    *,
    active: int,
    random: int = 0,
    n_rows: int,
    seed: int,
    step: Tensor,
) -> Tensor:
    """The active set of each sample: labels, the best candidates, and uniform random rows.

    Args:
        candidates: int32 (B, C), distinct within a sample, -1 = none.
        scores: float32 (B, C), higher is better, ties to the earlier column; None: all equal.
        labels: int32 (B, M), -1 = none: always active.
        shared: int32 (T,), -1 = none: rows that the whole batch has already, never selected.
        active: A, rows a sample beside its labels.
        random: R of these are drawn uniformly from all N rows.
        n_rows: N.
        seed: of the draws.
        step: int64, one element: another step, other draws.

    Returns:
        rows: int32 (B, M + A): M labels in their own columns, A - R candidates in order of
        discovery, R draws. A row stands once in a sample; what repeats or is shared is -1.
    """
    rows: Tensor = kernels.select(
        candidates, scores, labels, shared, active, random, n_rows, seed, step
    )
    return rows


# ---- shared_rows --------------------------------------------------------------------------------


def _check_shared_rows(
    labels: Tensor, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> None:
    op = "shared_rows"
    check_ids(labels, (None,), op, "labels")
    check_at_least(count, 0, op, "count")
    what = f"got {max_labels}, wanted 0 to count = {count}"
    check(0 <= max_labels <= count, op, "max_labels", what)
    check_n_rows(n_rows, op)
    check_step(step, op)


@define_op(
    "shared_rows(Tensor labels, int count, int max_labels, int n_rows, int seed, Tensor step) "
    "-> (Tensor, Tensor, Tensor)",
    _check_shared_rows,
)
def _(
    labels: Tensor, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n_labels = labels.new_empty((1,), dtype=torch.int64)
    return labels.new_empty((count,)), n_labels, labels.new_empty((max_labels,))


def shared_rows(
    labels: Tensor, *, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that a whole batch scores: its distinct labels, then distinct uniform draws.

    Args:
        labels: int32, 1-d, -1 = none.
        count: T, rows wanted.
        max_labels: most labels among them, the first ones; 0 to T.
        n_rows: N.
        seed: of the draws.
        step: int64, one element.

    Returns:
        rows: int32 (T,), distinct, padded with -1 where the draws gave out (T near N).
        n_labels: int64 (1,), how many of them are labels; these stand first.
        distinct: int32 (max_labels,), these labels alone, padded with -1.
    """
    rows, n_labels, distinct = kernels.shared_rows(labels, count, max_labels, n_rows, seed, step)
    return rows, n_labels, distinct


# ---- distinct_labels ----------------------------------------------------------------------------


def _check_distinct_labels(labels: Tensor) -> None:
    check_ids(labels, (None, None), "distinct_labels", "labels")


@define_op("distinct_labels(Tensor labels) -> Tensor", _check_distinct_labels)
def _(labels: Tensor) -> Tensor:
    return labels.new_empty(labels.shape)


def distinct_labels(labels: Tensor) -> Tensor:
    """Each label once a sample, in the first of its columns.

    Args:
        labels: int32 (B, M), -1 = none.

    Returns:
        distinct: int32 (B, M), -1 where there is none, and where a label stands once more.

    Examples:
        >>> distinct_labels(torch.tensor([[7, 2, 7, -1]], dtype=torch.int32))
        tensor([[ 7,  2, -1, -1]], dtype=torch.int32)
    """
    distinct: Tensor = kernels.distinct_labels(labels)
    return distinct


# ---- find_shared --------------------------------------------------------------------------------


def _check_find_shared(rows: Tensor, shared: Tensor) -> None:
    check_ids(rows, (None, None), "find_shared", "rows")
    check_ids(shared, (None,), "find_shared", "shared")


@define_op("find_shared(Tensor rows, Tensor shared) -> Tensor", _check_find_shared)
def _(rows: Tensor, shared: Tensor) -> Tensor:
    return rows.new_empty(rows.shape)


def find_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """Where rows stand among those that a batch shares.

    Args:
        rows: int32 (B, A), -1 = padding.
        shared: int32 (T,), distinct, -1 = padding.

    Returns:
        places: int32 (B, A), 0 to T - 1; -1 for padding and for a row that is not shared.

    Examples:
        >>> shared = torch.tensor([7, 2, -1], dtype=torch.int32)
        >>> find_shared(torch.tensor([[2, 5, -1]], dtype=torch.int32), shared)
        tensor([[ 1, -1, -1]], dtype=torch.int32)
    """
    places: Tensor = kernels.find_shared(rows, shared)
    return places
