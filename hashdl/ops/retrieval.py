"""From the buckets of a query to what it finds."""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import reference
from hashdl.ops.checks import (
    PROBINGS,
    SELECTIONS,
    check,
    check_at_least,
    check_bias,
    check_bits,
    check_ids,
    check_step,
)
from hashdl.ops.linear import check_input, check_layer
from hashdl.ops.registration import define_op, kernels
from hashdl.ops.selection import check_select, check_sketch
from hashdl.ops.tables import check_tables

# ---- lookup -------------------------------------------------------------------------------------


def _check_lookup(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
    op: str = "lookup",
) -> None:
    check_tables(offsets, rows, op)
    check_ids(buckets, (None, rows.shape[0], None), op, "buckets")
    check_at_least(cap, 1, op, "cap")
    check_at_least(candidates, 0, op, "candidates")
    check_step(step, op)


@define_op(
    "lookup(Tensor buckets, Tensor offsets, Tensor rows, int cap, int candidates, int seed, "
    "Tensor step) -> (Tensor, Tensor)",
    _check_lookup,
)
def _(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    B = buckets.shape[0]
    return rows.new_empty((B, candidates)), rows.new_empty((B, candidates))


def lookup(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    *,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """Distinct rows in the probed buckets, and how many of those buckets each stands in.

    All tables' first probes are read before their second ones, and so on: where there are more than
    C rows, what is left out comes from the least likely buckets.

    Args:
        buckets: int32 (B, L, P), the buckets to probe, most likely first; -1 = none. A family's
            ``probe`` gives them (:class:`hashdl.hashing.Family`).
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        rows: int32 (L, N), of :func:`build_tables`, or fewer of :func:`limit_buckets`.
        cap: most rows read from one bucket, from a random place on, around its end: the same one
            for all samples, so that what a sample finds does not depend on those beside it.
        candidates: C, most rows kept a sample.
        seed: of the random places.
        step: int64, one element: another step, other random places.

    Returns:
        candidates: int32 (B, C) in order of discovery, padded with -1.
        hits: int32 (B, C), 0 at padding.
    """
    found, hits = kernels.lookup(buckets, offsets, rows, cap, candidates, seed, step)
    return found, hits


# ---- find_active --------------------------------------------------------------------------------


def _check_find_active(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    cap: int,
    candidates: int,
    selection: str,
    threshold: int,
    active: int,
    random: int,
    seed: int,
    step: Tensor,
    op: str = "find_active",
) -> None:
    wanted = f"got {selection!r}, wanted one of {list(SELECTIONS)}"
    check(selection in SELECTIONS, op, "selection", wanted)
    _check_lookup(buckets, offsets, table_rows, cap, candidates, seed, step, op=op)
    found = buckets.new_empty((buckets.shape[0], candidates), device="meta")
    check_layer(op, x, weight, found)
    check_bias(op, weight, bias)
    n_rows = weight.shape[0]
    if selection == "sketch":
        what = "got None, wanted sketch_queries and sketches for selection 'sketch'"
        if sketch_queries is None or sketches is None:
            raise RuntimeError(f"hashdl::{op}: sketches: {what}")
        check_sketch(sketch_queries, sketches, norms, buckets.shape[0], op)
        rows = sketches.shape[0]
        check(rows == n_rows, op, "sketches", f"got {rows} rows, wanted {n_rows}")
    check_select(found, None, labels, shared, active, random, n_rows, seed, step, op=op)


@define_op(
    "find_active(Tensor buckets, Tensor offsets, Tensor table_rows, Tensor? sketch_queries, "
    "Tensor? sketches, Tensor? norms, Tensor x, Tensor weight, Tensor? bias, Tensor? labels, "
    "Tensor? shared, int cap, int candidates, str selection, int threshold, int active, "
    "int random, int seed, Tensor step) -> (Tensor, Tensor)",
    _check_find_active,
)
def _(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    shared: Tensor | None,
    cap: int,
    candidates: int,
    selection: str,
    threshold: int,
    active: int,
    random: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], active + (0 if labels is None else labels.shape[1]))
    return table_rows.new_empty(shape), x.new_empty(shape)


def find_active(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    labels: Tensor | None = None,
    shared: Tensor | None = None,
    *,
    cap: int,
    candidates: int,
    selection: str,
    threshold: int,
    active: int,
    random: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """:func:`lookup`, scores of the candidates, :func:`select` and :func:`gather_linear` at once.

    Nothing leaves the cache between them. Not differentiable: its outputs are the forward of
    :func:`hashdl.functional.active_linear`.

    Args:
        buckets: int32 (B, L, P), see :func:`lookup`.
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        table_rows: int32 (L, N), likewise; or fewer, of :func:`limit_buckets`.
        sketch_queries: float32 (B, S), see :func:`sketch_scores`; for ``"sketch"`` alone.
        sketches: int32 (N, S / 32) or (N, S / 8), or float32 (N, S), likewise.
        norms: float32 (N,), or None, likewise.
        x: (B, d) of the weight's dtype.
        weight: (N, d).
        bias: (N,), or None.
        labels: int32 (B, M), see :func:`select`.
        shared: int32 (T,), see :func:`select`.
        cap: see :func:`lookup`.
        candidates: C, see :func:`lookup`.
        selection: what candidates are ranked by: ``"exact"`` their outputs, ``"sketch"``
            :func:`sketch_scores`, ``"frequency"`` hits, ``"threshold"`` hits where there are at
            least ``threshold``, ``"union"`` the order of discovery.
        threshold: see ``selection``.
        active: A, see :func:`select`.
        random: R, see :func:`select`.
        seed: of all draws.
        step: int64, one element.

    Returns:
        rows: int32 (B, M + A), as of :func:`select`.
        z: (B, M + A), their outputs, 0 at padding.
    """
    rows, z = kernels.find_active(
        *(buckets, offsets, table_rows, sketch_queries, sketches, norms),
        *(x, weight, bias, labels, shared),
        *(cap, candidates, selection, threshold, active, random, seed, step),
    )
    return rows, z


# ---- find_best ----------------------------------------------------------------------------------


def _check_find_best(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
    op: str = "find_best",
) -> None:
    sketch = (sketch_queries, sketches, norms)
    check_at_least(active, 0, op, "active")
    check_at_least(k, 0, op, "k")
    selection = "sketch" if any(part is not None for part in sketch) else "exact"
    _check_find_active(
        *(buckets, offsets, table_rows, *sketch, x, weight, bias, None, None),
        *(cap, candidates, selection, 0, max(active, k), 0, seed, step),
        op=op,
    )


@define_op(
    "find_best(Tensor buckets, Tensor offsets, Tensor table_rows, Tensor? sketch_queries, "
    "Tensor? sketches, Tensor? norms, Tensor x, Tensor weight, Tensor? bias, int cap, "
    "int candidates, int active, int k, int seed, Tensor step) -> (Tensor, Tensor)",
    _check_find_best,
)
def _(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), table_rows.new_empty(shape, dtype=torch.int64)


def find_best(
    buckets: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_queries: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """The k largest outputs among what a look-up finds: :func:`find_active`, and its best in order.

    Args:
        buckets: int32 (B, L, P), see :func:`lookup`.
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        table_rows: int32 (L, N), likewise; or fewer, of :func:`limit_buckets`.
        sketch_queries: float32 (B, S), see :func:`sketch_scores`; None together with ``sketches``:
            all candidates are computed.
        sketches: int32 (N, S / 32) or (N, S / 8), or float32 (N, S), likewise.
        norms: float32 (N,), or None, likewise.
        x: (B, d) of the weight's dtype.
        weight: (N, d).
        bias: (N,), or None.
        cap: see :func:`lookup`.
        candidates: C, see :func:`lookup`.
        active: A, how many candidates are computed where sketches rank them: the best, k or more.
        k: outputs wanted.
        seed: of the look-up.
        step: int64, one element.

    Returns:
        values: (B, k), descending, ties to the candidate found first; NaN ranks with -inf, and
            -inf is what pads.
        rows: int64 (B, k), padded with -1.
    """
    values, rows = kernels.find_best(
        *(buckets, offsets, table_rows, sketch_queries, sketches, norms),
        *(x, weight, bias, cap, candidates, active, k, seed, step),
    )
    return values, rows


# ---- search -------------------------------------------------------------------------------------


def _check_functions(op: str, functions: Tensor, x: Tensor, argument: str) -> None:
    check_ids(functions, (x.shape[1] + 1, None), op, argument)


def _check_search(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_functions: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    ordered: bool,
    probing: str,
    bits: int,
    probes: int,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> None:
    op = "search"
    wanted = f"got {probing!r}, wanted one of {list(PROBINGS)}"
    check(probing in PROBINGS, op, "probing", wanted)
    check_bits(bits, op)
    check_at_least(probes, 1, op, "probes")
    check_input(op, x, weight)
    _check_functions(op, functions, x, "functions")
    width, F = reference.columns_of(probing, bits), functions.shape[1]
    what = f"got shape {tuple(functions.shape)}, wanted columns for tables of {width}"
    check(F > 0 and F % width == 0, op, "functions", what)
    queries, lengths = None, None
    if any(given is not None for given in (sketch_functions, sketches, norms)):
        if sketch_functions is None or sketches is None or norms is None:
            what = "got None, wanted sketch_functions, sketches and norms"
            raise RuntimeError(f"hashdl::{op}: sketches: {what}")
        _check_functions(op, sketch_functions, x, "sketch_functions")
        check_ids(norms, (None,), op, "norms")
        shape = (x.shape[0], sketch_functions.shape[1])
        queries = x.new_empty(shape, dtype=torch.float32, device="meta")
        lengths = norms.view(torch.float32)
    fits = queries is not None and offsets.shape[0] == 1 and not x.is_cuda
    what = "got True, wanted False without sketches, for several tables and on a GPU"
    check(not ordered or fits, op, "ordered", what)
    what = "got True, wanted False for a table that lacks rows"
    check(not ordered or table_rows.shape[-1] == weight.shape[0], op, "ordered", what)
    buckets = offsets.new_empty((x.shape[0], F // width, 0), device="meta")
    _check_find_best(
        *(buckets, offsets, table_rows, queries, sketches, lengths, x, weight, bias),
        *(cap, candidates, active, k, seed, step),
        op=op,
    )


@define_op(
    "search(Tensor x, Tensor weight, Tensor? bias, Tensor functions, Tensor offsets, "
    "Tensor table_rows, Tensor? sketch_functions, Tensor? sketches, Tensor? norms, "
    "bool ordered, str probing, int bits, int probes, int cap, int candidates, int active, int k, "
    "int seed, Tensor step) -> (Tensor, Tensor)",
    _check_search,
)
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_functions: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    ordered: bool,
    probing: str,
    bits: int,
    probes: int,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], k)
    return x.new_empty(shape), table_rows.new_empty(shape, dtype=torch.int64)


def search(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Tensor,
    offsets: Tensor,
    table_rows: Tensor,
    sketch_functions: Tensor | None,
    sketches: Tensor | None,
    norms: Tensor | None,
    *,
    ordered: bool = False,
    probing: str,
    bits: int,
    probes: int,
    cap: int,
    candidates: int,
    active: int,
    k: int,
    seed: int,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """From queries to their largest outputs: projections, the buckets to probe, :func:`find_best`.

    A single query is asked in the time of a few small ops: hence all of them in one. What is in
    float32 is given as the int32 of its bits, as :class:`hashdl.tables.HashTables` keeps it.

    Args:
        x: (B, d) of the weight's dtype.
        weight: (N, d).
        bias: (N,), or None.
        functions: int32 (d + 1, F), bits of what (x, 1) is multiplied by.
        offsets: int32 (L, 2^K + 1), of :func:`build_tables`.
        table_rows: int32 (L, N), likewise; or fewer, of :func:`limit_buckets`.
        sketch_functions: int32 (d + 1, S), bits of what gives ``sketch_queries``; None together
            with the next two: see :func:`find_best`.
        sketches: int32 (N, S / 32) or (N, S / 8), see :func:`sketch_scores`.
        norms: int32 (N,), bits of the rows' lengths.
        ordered: the i-th sketch and length are of row ``table_rows[0, i]``, so that a bucket's
            are read one after the other. Of one table that has all rows, on the CPU; the answer is
            the same.
        probing: what projections mean: ``"signs"``, F = L K: :func:`probe_signs`; ``"columns"``,
            F = L 2^K: :func:`best_columns`.
        bits: K.
        probes: P.
        cap: see :func:`lookup`.
        candidates: C, see :func:`lookup`.
        active: see :func:`find_best`.
        k: outputs wanted.
        seed: of the look-up.
        step: int64, one element.

    Returns:
        values: (B, k), see :func:`find_best`.
        rows: int64 (B, k).
    """
    values, rows = kernels.search(
        *(x, weight, bias, functions, offsets, table_rows, sketch_functions, sketches, norms),
        *(ordered, probing, bits, probes, cap, candidates, active, k, seed, step),
    )
    return values, rows
