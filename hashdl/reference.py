"""Every op in plain torch: the oracle of the tests, and what runs where no kernel was built.

Written for clarity and for any device; the same values and the same order as the kernels. What an
argument means stands in :mod:`hashdl.ops`; here is only what needs the tensors' values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK31 = (1 << 31) - 1
_SHARED_STREAM = -1
_RANDOM_ROWS_STREAM = 1 << 40
_RESERVOIR_STREAM = 2 << 40


def _check(ok: bool | Tensor, op: str, argument: str, what: str) -> None:
    if not ok:
        raise RuntimeError(f"hashdl::{op}: {argument}: {what}")


def _check_ids(ids: Tensor, lowest: int, n_rows: int, op: str, argument: str) -> int:
    """The lowest id; 0 where there are none."""
    if ids.numel() == 0:
        return 0
    low, high = (int(end) for end in ids.aminmax())
    what = f"got ids from {low} to {high}, wanted {lowest} to {n_rows - 1}"
    _check(low >= lowest and high < n_rows, op, argument, what)
    return low


def _check_finite(values: Tensor, op: str, argument: str = "projections", hint: str = "") -> None:
    finite = bool(torch.isfinite(values).all())
    _check(finite, op, argument, f"got NaN or infinity, wanted finite values{hint}")


# ---- random numbers: csrc/cpu/random.h ---------------------------------------------------------


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    """A 64-bit constant as the int64 with the same bits."""
    return constant - (1 << 64) if constant >= 1 << 63 else constant


def _mix(z: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); int64 wraps as uint64."""
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _stream_keys(seed: int, step: Tensor, streams: Tensor) -> Tensor:
    key = _mix(torch.full_like(streams, _signed(seed & ((1 << 64) - 1))))
    return _mix(_mix(key ^ step.to(streams.device).reshape(())) ^ streams)


def _draw_below(keys: Tensor, draws: Tensor, bounds: Tensor | int) -> Tensor:
    """Uniform in [0, bound): keys and draws are broadcast."""
    return (_shift_right(_mix(keys ^ draws), 33) * bounds) >> 31


def _column_bits(keys: Tensor, columns: int) -> Tensor:
    """32 bits (U, columns) for each column of the streams (U,): two columns share a draw."""
    k = torch.arange(columns, device=keys.device)
    return (_mix(keys[:, None] ^ (k >> 1)) >> 32 * (k & 1)) & 0xFFFFFFFF


def _round_at_random(values: Tensor, bits: Tensor) -> Tensor:
    """As bfloat16: up for as many of the 2^16 values of the lowest bits as a value lies above."""
    numbers = values.float().view(torch.int32).long()
    rounded = ((numbers + (bits & 0xFFFF)) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(values.isnan(), torch.nan, rounded)


# ---- codes and tables --------------------------------------------------------------------------


def pack_signs(projections: Tensor, bits: int) -> Tensor:
    """Oracle of :func:`hashdl.ops.pack_signs`."""
    _check_finite(projections, "pack_signs")
    M, LK = projections.shape
    signs = (projections > 0).reshape(M, LK // bits, bits)
    powers = 1 << torch.arange(bits, device=projections.device)
    codes = (signs * powers).sum(-1)
    return (codes - ((codes >> 31) << 32)).to(torch.int32)  # bit 31 is the sign


def sign_codes(
    weight: Tensor, bias: Tensor | None, center: Tensor, planes: Tensor, bits: int
) -> Tensor:
    """Oracle of :func:`hashdl.ops.sign_codes`."""
    projections = weight.float() @ planes[:-1] - center @ planes
    if bias is not None:
        projections += bias.float()[:, None] * planes[-1]
    _check_finite(projections, "sign_codes", "weight")
    return pack_signs(projections, bits).t().contiguous()


def build_tables(codes: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.build_tables`."""
    L = codes.shape[0]
    in_range = bool(((codes >= 0) & (codes < 2**bits)).all())
    _check(in_range, "build_tables", "codes", "got a code outside [0, 2^bits)")
    rows = torch.argsort(codes, dim=1, stable=True).to(torch.int32)
    counts = codes.new_zeros((L, 2**bits + 1))
    counts.scatter_add_(1, codes.long() + 1, torch.ones_like(codes))
    return counts.cumsum(1, dtype=torch.int32), rows


def limited_width(N: int, buckets: int, capacity: int) -> int:
    """Most rows that buckets of a capacity hold of N."""
    return min(N, capacity * buckets) if buckets else N


def limit_buckets(
    offsets: Tensor, rows: Tensor, capacity: int, replacement: str, seed: int, first_table: int
) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.limit_buckets`."""
    (L, N), buckets = rows.shape, offsets.shape[1] - 1
    sizes = offsets.long().diff(dim=1)
    inside = (sizes >= 0).all() & (offsets[:, 0] >= 0).all() & (offsets[:, -1] <= N).all()
    what = "got a bucket that ends before it starts, or outside rows"
    _check(inside, "limit_buckets", "offsets", what)
    kept = sizes.clamp_max(capacity)
    limited_offsets = torch.nn.functional.pad(kept.cumsum(1), (1, 0))
    limited = rows.new_full((L, limited_width(N, buckets, capacity)), -1)
    for table in range(L):
        first, last = (int(offsets[table, end]) for end in (0, -1))
        arrivals = torch.arange(first, last, device=rows.device)
        bucket = torch.repeat_interleave(sizes[table])
        number = arrivals - offsets[table].long()[bucket] + 1  # of an arrival in its bucket
        if replacement == "fifo":
            slot = number - 1 - (sizes - kept)[table, bucket]
        else:
            number_of_table = torch.tensor([first_table + table])
            keys = _stream_keys(seed, number_of_table, _RESERVOIR_STREAM + bucket)
            slot = torch.where(number <= capacity, number - 1, _draw_below(keys, number, number))
        stays = (slot >= 0) & (slot < capacity)
        place = (limited_offsets[table, bucket] + slot)[stays]
        latest = torch.zeros(limited.shape[1], dtype=torch.int64, device=rows.device)
        latest.scatter_reduce_(0, place, arrivals[stays], "amax")
        total = int(limited_offsets[table, -1])
        limited[table, :total] = rows[table, latest[:total]]
    return limited_offsets.to(torch.int32), limited


def mark_rows_(dirty: Tensor, rows: Tensor, bits: int) -> None:
    """Oracle of :func:`hashdl.ops.mark_rows_`."""
    _check_ids(rows, -1, dirty.shape[0], "mark_rows_", "rows")
    dirty[rows[rows >= 0].long()] = bits


# ---- digits and structured projections ----------------------------------------------------------

DIGIT_BITS = 3
_LOWEST = torch.finfo(torch.float32).min


def slots_of(bits: int) -> list[int]:
    """Slots of each digit of a code: digits of 3 bits, and one of the bits that are left.

    Examples:
        >>> slots_of(10)
        [8, 8, 8, 2]
    """
    rest = bits % DIGIT_BITS
    return [2**DIGIT_BITS] * (bits // DIGIT_BITS) + ([2**rest] if rest else [])


def _digits(projections: Tensor, bits: int) -> tuple[Tensor, ...]:
    """The slots (M, L, m) of each digit."""
    slots, (M, width) = slots_of(bits), projections.shape
    codes = projections.reshape(M, width // sum(slots), sum(slots))
    return torch.split(codes, slots, dim=2)


def pack_digits(projections: Tensor, bits: int) -> Tensor:
    """Oracle of :func:`hashdl.ops.pack_digits`."""
    _check_finite(projections, "pack_digits")
    digits = [
        slots.argmax(2) << DIGIT_BITS * i for i, slots in enumerate(_digits(projections, bits))
    ]
    return torch.stack(digits).sum(0).to(torch.int32)


def _ranked_digits(projections: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Costs and flips (B, L, digits, 8) of each digit's values, the own one first.

    Values that a shorter digit does not have cost NaN.
    """
    costs, flips = [], []
    for i, slots in enumerate(_digits(projections, bits)):
        values, order = slots.sort(dim=2, descending=True, stable=True)
        lacks = values[..., :1] - values
        missing = 2**DIGIT_BITS - slots.shape[2]
        costs.append(torch.nn.functional.pad(lacks, (0, missing), value=torch.nan))
        flip = (order ^ order[..., :1]) << DIGIT_BITS * i
        flips.append(torch.nn.functional.pad(flip, (0, missing)))
    gaps, ranked = torch.stack(costs, 2), torch.stack(flips, 2)
    cheapest = gaps[..., 1].argsort(dim=2, stable=True)[..., None].expand_as(gaps)
    return gaps.gather(2, cheapest).square(), ranked.gather(2, cheapest)


def probe_digits(projections: Tensor, bits: int, probes: int) -> Tensor:
    """Oracle of :func:`hashdl.ops.probe_digits`."""
    _check_finite(projections, "probe_digits", hint=_INPUT)
    probes = min(probes, 2**bits)
    costs, flips = _ranked_digits(projections, bits)
    # The P cheapest changes lie within the first P - 1 digits and their P cheapest values.
    digits, values = min(costs.shape[2], probes - 1), min(2**DIGIT_BITS, probes)
    total = costs.new_zeros(*costs.shape[:2], 1)
    flip = torch.zeros_like(total, dtype=torch.int64)
    for i in range(digits):  # the first digit varies fastest
        more = costs[:, :, i, :values, None]
        more = torch.where(torch.arange(values, device=more.device)[:, None] > 0, more, 0)
        total = (total[:, :, None] + more).flatten(2)
        flip = (flip[:, :, None] ^ flips[:, :, i, :values, None]).flatten(2)
    total[..., 0] = -1  # the own code first whatever the costs; NaN sorts last
    cheapest = total.argsort(dim=2, stable=True)[..., :probes]
    own = pack_digits(projections, bits)[..., None]
    return own ^ flip.gather(2, cheapest).to(torch.int32)


def densified_projections(vectors: Tensor, functions: Tensor) -> Tensor:
    """Oracle of :func:`hashdl.ops.densified_projections`."""
    op, begins, attempts = "densified_projections", functions[0], functions[1:]
    marked = bool(((begins == 1) | (begins == 0)).all() & (begins[:1] == 1).all())
    _check(marked, op, "functions", "the first row: wanted 1 where a digit begins, else 0")
    _check_ids(attempts, 0, vectors.shape[1], op, "functions")
    _check_finite(vectors, op, "vectors")
    M, C = vectors.shape[0], functions.shape[1]
    projections = torch.zeros((M, C), device=vectors.device, dtype=torch.float32)
    if projections.numel() == 0:
        return projections
    # Zeros count as lowest, so that any other coordinate wins.
    values = torch.where(vectors == 0, _LOWEST, vectors)
    largest, top = values.max(1, keepdim=True)
    firsts = begins.nonzero().flatten().tolist()
    for first, end in zip(firsts, [*firsts[1:], C], strict=True):
        place, slots = slice(first, end), end - first
        tried = values[:, attempts[:, place].flatten().long()].reshape(M, -1, slots)
        some = (tried > _LOWEST).any(2)
        chosen = tried[torch.arange(M, device=vectors.device), some.to(torch.int8).argmax(1)]
        # Where no attempt meets anything, the largest coordinate tells the slot.
        slot = _draw_below(_mix(attempts[0, first].long()), top, slots)
        last = torch.full_like(chosen, _LOWEST).scatter(1, slot, largest)
        projections[:, place] = torch.where(some.any(1, keepdim=True), chosen, last)
    return projections.masked_fill((vectors == 0).all(1, keepdim=True), 0)


_ROUNDS = 3


def _signs(key: int, n: int, device: torch.device) -> Tensor:
    """The sign flips (3, n) of one block: a bit of a random number each."""
    words = torch.arange(-(-n // 64), device=device)
    bits = torch.arange(64, device=device)
    rounds = [
        (_stream_keys(key, torch.tensor([step]), words)[:, None] >> bits) & 1
        for step in range(_ROUNDS)
    ]
    return 1 - 2 * torch.stack(rounds).flatten(1)[:, :n].float()


def _walsh_hadamard(x: Tensor) -> Tensor:
    """The transform of each row of x (M, n), n a power of two."""
    n, h = x.shape[1], 1
    while h < n:
        a, b = x[:, : n // 2], x[:, n // 2 :]
        x, h = torch.stack([a + b, a - b], 2).flatten(1), 2 * h
    return x


def hadamard_projections(vectors: Tensor, functions: Tensor) -> Tensor:
    """Oracle of :func:`hashdl.ops.hadamard_projections`."""
    M, D = vectors.shape
    n = 1 << (max(D, 1) - 1).bit_length()
    keys, coordinates = functions
    low, high = (int(end) for end in coordinates.aminmax()) if coordinates.numel() else (0, 0)
    what = f"got coordinates from {low} to {high}, wanted 0 to {n - 1}"
    _check(low >= 0 and high < n, "hadamard_projections", "functions", what)
    padded = torch.nn.functional.pad(vectors, (0, n - D))
    projections = vectors.new_empty((M, keys.shape[0]))
    for key in keys.unique().tolist():
        x = padded
        for signs in _signs(key, n, vectors.device):
            x = _walsh_hadamard(x * signs)
        of_block = keys == key
        projections[:, of_block] = x[:, coordinates[of_block].long()] / n
    return projections


# ---- look-up -----------------------------------------------------------------------------------

_INPUT = " (is the input finite?)"


def probe_signs(projections: Tensor, bits: int, probes: int, op: str = "probe_signs") -> Tensor:
    """Oracle of :func:`hashdl.ops.probe_signs`."""
    _check_finite(projections, op, hint=_INPUT)
    B, LK = projections.shape
    probes = min(probes, 2**bits)
    p = projections.reshape(B, LK // bits, bits)
    magnitudes, order = p.abs().sort(dim=-1, stable=True)
    squares = magnitudes * magnitudes
    # The P cheapest sets lie within the P - 1 smallest bits, since each bit alone is a set.
    free = min(bits, probes - 1)
    masks = torch.arange(1 << free, device=p.device)
    costs = squares.new_zeros((*squares.shape[:2], 1 << free))
    flips = torch.zeros(costs.shape, dtype=torch.int64, device=p.device)
    for k in range(free):
        chosen = (masks >> k) & 1
        costs = costs + torch.where(chosen > 0, squares[..., k, None], 0)  # not 0 * inf
        flips |= (1 << order[..., k, None]) * chosen
    # Set 0 (no flip) is probe 0 whatever the costs; the others go by cost, then by mask.
    costs[..., 0] = -1
    cheapest = costs.argsort(dim=-1, stable=True)[..., :probes]
    own = pack_signs(projections, bits).long()
    return (own.unsqueeze(-1) ^ flips.gather(-1, cheapest)).to(torch.int32)


def best_columns(scores: Tensor, groups: int, count: int, op: str = "best_columns") -> Tensor:
    """Oracle of :func:`hashdl.ops.best_columns`."""
    _check_finite(scores, op, "scores", _INPUT)
    M, GW = scores.shape
    width = GW // groups
    order = scores.reshape(M, groups, width).argsort(dim=-1, descending=True, stable=True)
    return order[..., : min(count, width)].to(torch.int32)


def nearest_columns(
    rows: Tensor, bias: Tensor | None, functions: Tensor, offset: Tensor | None, groups: int
) -> Tensor:
    """Oracle of :func:`hashdl.ops.nearest_columns`."""
    scores = rows @ functions[: rows.shape[1]]
    if bias is not None:
        scores += bias[:, None] * functions[-1]
    if offset is not None:
        scores += offset
    _check_finite(scores, "nearest_columns", "rows")
    best: Tensor = scores.unflatten(1, (groups, -1)).max(2).indices
    return best.to(torch.int32)


def lookup(
    buckets: Tensor,
    offsets: Tensor,
    rows: Tensor,
    cap: int,
    candidates: int,
    seed: int,
    step: Tensor,
    op: str = "lookup",
) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.lookup`."""
    (L, N), B, last = rows.shape, buckets.shape[0], offsets.shape[1] - 2
    inside = bool(((buckets >= -1) & (buckets <= last)).all())
    _check(inside, op, "buckets", f"got a bucket outside -1 to {last}")
    codes = buckets.long().transpose(1, 2)  # (B, P, L): order of reading
    table = torch.arange(L, device=rows.device).expand_as(codes)
    there = codes >= 0
    codes = codes.clamp_min(0)
    first = torch.where(there, offsets[table, codes].long(), 0)
    size = torch.where(there, offsets[table, codes + 1].long() - first, 0)
    inside = bool(((first >= 0) & (size >= 0) & (first + size <= N)).all())
    _check(inside, op, "offsets", "got a bucket that ends before it starts, or outside rows")
    start = _draw_below(_stream_keys(seed, step, codes), table, size)
    start = torch.where(size > cap, start, 0)
    read = size.clamp_max(cap)
    found = torch.full((B, candidates), -1, dtype=torch.int32, device=rows.device)
    hits = torch.zeros_like(found)
    for b in range(B):
        segment = torch.repeat_interleave(read[b].flatten())  # which bucket each read is of
        ends = read[b].flatten().cumsum(0)
        place = torch.arange(segment.numel(), device=rows.device)
        place = place - (ends - read[b].flatten())[segment] + start[b].flatten()[segment]
        place = place % size[b].flatten()[segment]
        at = table[b].flatten()[segment] * N + first[b].flatten()[segment] + place
        distinct, counts = _first_seen(rows.flatten()[at])
        kept = min(distinct.numel(), candidates)
        found[b, :kept] = distinct[:kept]
        hits[b, :kept] = counts[:kept].to(torch.int32)
    return found, hits


def _first_seen(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values in order of first appearance, and their counts."""
    distinct, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    position = torch.arange(values.numel(), device=values.device)
    first = position.new_full(distinct.shape, values.numel())
    first = first.scatter_reduce(0, inverse, position, "amin")
    order = first.argsort()
    return distinct[order], counts[order]


def sketch_scores(
    sketch_queries: Tensor, sketches: Tensor, norms: Tensor | None, candidates: Tensor
) -> Tensor:
    """Oracle of :func:`hashdl.ops.sketch_scores`."""
    N = sketches.shape[0]
    _check_ids(candidates, -1, N, "sketch_scores", "candidates")
    if norms is None:
        return gather_linear(sketch_queries, sketches, None, candidates)
    scores = torch.zeros(candidates.shape, device=candidates.device, dtype=torch.float32)
    if N == 0:
        return scores
    leveled = has_levels(sketch_queries, sketches)
    bits = _LEVEL_BITS if leveled else 1
    places = torch.arange(0, 32, bits, device=sketches.device)
    most = 2**bits - 1
    for b in range(candidates.shape[0]):  # a sample at a time: (B, C, S) may not fit
        ids = candidates[b].clamp_min(0).long()
        codes = 2 * ((sketches[ids].unsqueeze(-1) >> places) & most).flatten(1) - most
        if leveled:
            query, scale = _query_levels(sketch_queries[b])
            sums = scale * (codes * query).sum(1).to(scores.dtype)
        else:
            sums = (codes.to(sketch_queries.dtype) * sketch_queries[b]).sum(1)
        scores[b] = norms[ids] * sums
    return scores.masked_fill(candidates < 0, 0)


# Bits of a level; the largest integer of a query, and the least coordinate that is not taken for 0.
_LEVEL_BITS, _QUERY_LEVEL, _QUERY_FLOOR = 4, 127, 2.0**-100


def has_levels(sketch_queries: Tensor, sketches: Tensor) -> bool:
    """Whether queries (B, S) are those of sketches (N, W) of sixteen levels, S = 8 W."""
    return sketch_queries.shape[1] * _LEVEL_BITS == 32 * sketches.shape[1] > 0


def _query_levels(query: Tensor) -> tuple[Tensor, Tensor]:
    """Integers, and their scale; a query that is not finite has one of NaN."""
    most = query.abs().max()
    if not bool(query.isfinite().all()):
        return torch.zeros_like(query, dtype=torch.int64), most * torch.nan
    if most < _QUERY_FLOOR:
        return torch.zeros_like(query, dtype=torch.int64), most / _QUERY_LEVEL
    return (query * (_QUERY_LEVEL / most)).round().long(), most / _QUERY_LEVEL


# ---- selection ---------------------------------------------------------------------------------


def repeats(rows: Tensor) -> Tensor:
    """True where a row id of a sample stands in an earlier column as well. rows (B, Q)."""
    Q = rows.shape[1]
    order = rows.argsort(dim=1, stable=True)
    ordered = rows.gather(1, order)
    same = torch.zeros_like(rows, dtype=torch.bool)
    if Q > 1:
        same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(same).scatter(1, order, same)


def distinct_labels(labels: Tensor) -> Tensor:
    """Oracle of :func:`hashdl.ops.distinct_labels`."""
    return labels.masked_fill(repeats(labels) | (labels < 0), -1)


def select(
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
) -> Tensor:
    """Oracle of :func:`hashdl.ops.select`."""
    B, C = candidates.shape
    device = candidates.device
    if labels is None:
        labels = candidates.new_empty((B, 0))
    if shared is None:
        shared = candidates.new_empty((0,))
    for name, ids in (("candidates", candidates), ("labels", labels), ("shared", shared)):
        _check_ids(ids, -1, n_rows, op, name)
    M, best = labels.shape[1], active - random

    # Columns by precedence (labels, candidates, draws): whatever repeats an earlier one goes.
    keys = _stream_keys(seed, step, _RANDOM_ROWS_STREAM + torch.arange(B, device=device))
    draws = _draw_below(keys[:, None], torch.arange(random, device=device), n_rows)
    labels = torch.where(repeats(labels) | torch.isin(labels, shared), -1, labels)
    pool = torch.cat([labels, candidates], 1)
    pool = torch.where(repeats(pool) | torch.isin(pool, shared), -1, pool)[:, M:]

    ranked = torch.zeros((B, C), device=device, dtype=torch.float32) if scores is None else scores
    ranked = torch.where(ranked.isnan(), -torch.inf, ranked)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, (pool.gather(1, order) < 0).long().argsort(dim=1, stable=True))
    kept = order[:, :best].sort(dim=1).values  # the best, in order of discovery
    chosen = pool.gather(1, kept)
    chosen = chosen.gather(1, (chosen < 0).long().argsort(dim=1, stable=True))
    chosen = torch.nn.functional.pad(chosen, (0, best - chosen.shape[1]), value=-1)

    rows = torch.cat([labels, chosen, draws.to(torch.int32)], 1)
    return torch.where(repeats(rows) | torch.isin(rows, shared), -1, rows)


def find_active(
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
) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.find_active`."""
    n_rows = weight.shape[0]
    found, hits = lookup(buckets, offsets, table_rows, cap, candidates, seed, step, op)
    _check_ids(found, -1, n_rows, op, "table_rows")
    if selection == "threshold":
        found = torch.where(hits >= threshold, found, -1)
    scores: Tensor | None = None
    if selection == "exact":
        scores = gather_linear(x, weight, bias, found).float()
    elif selection == "sketch":
        assert sketch_queries is not None
        assert sketches is not None
        scores = sketch_scores(sketch_queries, sketches, norms, found)
    elif selection != "union":
        scores = hits.float()
    rows = select(found, scores, labels, shared, active, random, n_rows, seed, step, op)
    return rows, gather_linear(x, weight, bias, rows)


def find_best(
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
) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.find_best`."""
    selection = "exact" if sketches is None else "sketch"
    computed = k if sketches is None else max(active, k)
    rows, z = find_active(
        *(buckets, offsets, table_rows, sketch_queries, sketches, norms),
        *(x, weight, bias, None, None),
        cap=cap,
        candidates=candidates,
        selection=selection,
        threshold=0,
        active=computed,
        random=0,
        seed=seed,
        step=step,
        op=op,
    )
    missing = rows < 0  # behind all rows, so that -inf of a row comes first
    ranked = z.masked_fill(missing | z.isnan(), -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)[:, :k]
    return z.masked_fill(missing, -torch.inf).gather(1, order), rows.gather(1, order).long()


def columns_of(probing: str, bits: int) -> int:
    """Projections that tell the buckets of one table."""
    return bits if probing == "signs" else 2**bits


def project(x: Tensor, functions: Tensor) -> Tensor:
    """(x, 1) times functions (d + 1, F), given as the int32 of their bits."""
    planes = functions.view(torch.float32)
    return x.float() @ planes[:-1] + planes[-1]


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
    """Oracle of :func:`hashdl.ops.search`."""
    op, projections = "search", project(x, functions)
    if probing == "signs":
        buckets = probe_signs(projections, bits, probes, op)
    else:
        buckets = best_columns(projections, projections.shape[1] >> bits, probes, op)
    queries = None if sketch_functions is None else project(x, sketch_functions)
    lengths = None if norms is None else norms.view(torch.float32)
    if ordered and sketches is not None and lengths is not None:
        place = table_rows[0].argsort()
        sketches, lengths = sketches[place], lengths[place]
    return find_best(
        *(buckets, offsets, table_rows, queries, sketches, lengths, x, weight, bias),
        *(cap, candidates, active, k, seed),
        step=step,
        op=op,
    )


def _padded(ids: Tensor, size: int) -> Tensor:
    """Ids as int32 (size,), -1 after the last."""
    return torch.nn.functional.pad(ids, (0, size - ids.numel()), value=-1).to(torch.int32)


def shared_rows(
    labels: Tensor, count: int, max_labels: int, n_rows: int, seed: int, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.shared_rows`."""
    _check_ids(labels, -1, n_rows, "shared_rows", "labels")
    key = _stream_keys(seed, step, torch.tensor([_SHARED_STREAM], device=labels.device))
    draws = _draw_below(key, torch.arange(4 * count, device=labels.device), n_rows)
    distinct = _first_seen(labels[labels >= 0])[0][:max_labels]
    rows = _first_seen(torch.cat([distinct, draws.to(torch.int32)]))[0][:count]
    n_labels = torch.tensor([distinct.numel()], device=labels.device)
    return _padded(rows, count), n_labels, _padded(distinct, max_labels)


# ---- gathered linear ---------------------------------------------------------------------------


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over numbers of a dtype are made in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def gather_linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """Oracle of :func:`hashdl.ops.gather_linear`."""
    _check_ids(rows, -1, weight.shape[0], "gather_linear", "rows")
    ids = rows.clamp_min(0).long()
    wide = accumulator(weight.dtype)
    z = x.new_zeros(rows.shape, dtype=wide)
    for b in range(rows.shape[0]):  # a sample at a time: (B, A, d) may not fit
        if weight.shape[0] > 0:
            z[b] = weight[ids[b]].to(wide) @ x[b].to(wide, copy=True)
    if bias is not None and weight.shape[0] > 0:
        z += bias[ids].to(wide)
    return z.masked_fill(rows < 0, 0).to(weight.dtype)


def gather_linear_backward(
    grad_z: Tensor,
    x: Tensor,
    weight: Tensor,
    rows: Tensor,
    extra_rows: Tensor | None,
    extra_grad: Tensor | None,
    extra_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.gather_linear_backward`."""
    N, d = weight.shape
    _check_ids(rows, -1, N, "gather_linear_backward", "rows")
    wide = accumulator(weight.dtype)
    grad_x = torch.zeros_like(x, dtype=wide)
    sample, column = (rows >= 0).nonzero(as_tuple=True)
    row = rows[sample, column]
    grad = grad_z[sample, column].to(wide)
    grad_x.index_add_(0, sample, grad[:, None] * weight[row.long()].to(wide))

    if extra_rows is None or extra_grad is None:
        extra_rows, extra_grad = rows.new_empty((0,)), weight.new_empty((0, d))
    _check_ids(extra_rows, -1, N, "gather_linear_backward", "extra_rows")
    if extra_bias is None:
        extra_bias = extra_grad.new_zeros(extra_rows.shape)
    real = extra_rows >= 0
    touched, inverse = torch.cat([row, extra_rows[real]]).unique(return_inverse=True)
    grad_weight = weight.new_zeros((touched.numel(), d), dtype=wide)
    grad_bias = weight.new_zeros(touched.shape, dtype=wide)
    parts = torch.cat([grad[:, None] * x[sample].to(wide), extra_grad[real].to(wide)])
    grad_weight.index_add_(0, inverse, parts)
    grad_bias.index_add_(0, inverse, torch.cat([grad, extra_bias[real].to(wide)]))
    dtype = weight.dtype
    return grad_x.to(dtype), touched, grad_weight.to(dtype), grad_bias.to(dtype)


def scatter_rows(values: Tensor, rows: Tensor, n_rows: int, fill: float) -> Tensor:
    """Oracle of :func:`hashdl.ops.scatter_rows`."""
    _check_ids(rows, -1, n_rows, "scatter_rows", "rows")
    out = values.new_full((values.shape[0], n_rows), fill)
    sample, column = (rows >= 0).nonzero(as_tuple=True)
    out[sample, rows[sample, column].long()] = values[sample, column]
    return out


def combine_rows(values: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """Oracle of :func:`hashdl.ops.combine_rows`."""
    _check_ids(rows, -1, weight.shape[0], "combine_rows", "rows")
    wide = accumulator(weight.dtype)
    sample, column = (rows >= 0).nonzero(as_tuple=True)
    parts = values[sample, column, None].to(wide) * weight[rows[sample, column].long()].to(wide)
    out = weight.new_zeros((rows.shape[0], weight.shape[1]), dtype=wide)
    return out.index_add_(0, sample, parts).to(weight.dtype)


# ---- from active inputs to active outputs ------------------------------------------------------


def _spread(values: Tensor, columns: Tensor, d: int) -> Tensor:
    """Dense inputs (B, d), in the dtype that sums are made in."""
    sample, place = (columns >= 0).nonzero(as_tuple=True)
    at = (sample, columns[sample, place].long())
    x = values.new_zeros((values.shape[0], d), dtype=accumulator(values.dtype))
    return x.index_put_(at, values[sample, place].to(x.dtype), accumulate=True)


def gather_sparse_linear(
    values: Tensor, columns: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor
) -> Tensor:
    """Oracle of :func:`hashdl.ops.gather_sparse_linear`."""
    op, (N, d) = "gather_sparse_linear", weight.shape
    _check_ids(columns, -1, d, op, "columns")
    _check_ids(rows, -1, N, op, "rows")
    ids, wide = rows.clamp_min(0).long(), accumulator(weight.dtype)
    z = values.new_zeros(rows.shape, dtype=wide)
    for b in range(rows.shape[0] if N else 0):  # a sample at a time: (B, A, J) may not fit
        met = columns[b] >= 0
        some = weight[ids[b].unsqueeze(1), columns[b, met].long()].to(wide)
        z[b] = (some * values[b, met].to(wide)).sum(1)
    if bias is not None and N:
        z += bias[ids].to(wide)
    return z.masked_fill(rows < 0, 0).to(weight.dtype)


def gather_sparse_linear_backward(
    grad_z: Tensor, values: Tensor, columns: Tensor, weight: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.gather_sparse_linear_backward`."""
    op, (N, d), wide = "gather_sparse_linear_backward", weight.shape, accumulator(weight.dtype)
    _check_ids(columns, -1, d, op, "columns")
    _check_ids(rows, -1, N, op, "rows")
    x = _spread(values, columns, d)
    layer = (x, weight.to(wide), rows, None, None, None)
    grad_x, touched, _, grad_bias = gather_linear_backward(grad_z.to(wide), *layer)
    grad_values = (
        grad_x.gather(1, columns.clamp_min(0).long()) if d else grad_x.new_zeros(values.shape)
    )
    grad_values = grad_values.masked_fill(columns < 0, 0)

    # Every (sample, row, input) that is no padding, by its place in the weight.
    b, a, i = ((rows >= 0).unsqueeze(2) & (columns >= 0).unsqueeze(1)).nonzero(as_tuple=True)
    places, inverse = (rows[b, a].long() * d + columns[b, i]).unique(return_inverse=True)
    grad_weight = weight.new_zeros(places.shape, dtype=wide)
    grad_weight.index_add_(0, inverse, grad_z[b, a].to(wide) * values[b, i].to(wide))
    entry_rows = places // max(d, 1)
    starts = torch.searchsorted(entry_rows, touched.long())
    starts = torch.cat([starts, starts.new_tensor([places.numel()])])
    entry_columns = (places - entry_rows * d).to(torch.int32)
    dtype = weight.dtype
    return (
        *(grad_values.to(dtype), touched, grad_bias.to(dtype)),
        *(starts, entry_columns, grad_weight.to(dtype)),
    )


# ---- log probabilities of labels ---------------------------------------------------------------


def find_shared(rows: Tensor, shared: Tensor) -> Tensor:
    """Oracle of :func:`hashdl.ops.find_shared`."""
    if shared.shape[0] == 0:
        return torch.full_like(rows, -1)
    ordered, order = shared.sort(stable=True)
    at = torch.searchsorted(ordered, rows.contiguous()).clamp_max(shared.shape[0] - 1)
    return torch.where((ordered[at] == rows) & (rows >= 0), order[at].to(torch.int32), -1)


def _active_logits(z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None) -> Tensor:
    """Logits (B, Q + T + 1): those of z, those of s, and that of any row that is not active."""
    wide = accumulator(z.dtype)
    parts = [z.to(wide).masked_fill(rows < 0, -torch.inf)]
    if s is not None and shared is not None:
        parts.append(s.to(wide).masked_fill(shared < 0, -torch.inf))
    return torch.nn.functional.pad(torch.cat(parts, 1), (0, 1), value=-torch.inf)


def active_log_prob(
    z: Tensor, s: Tensor | None, rows: Tensor, shared: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.active_log_prob`."""
    logits = _active_logits(z, s, rows, shared)
    (B, M), Q, absent = labels.shape, rows.shape[1], logits.shape[1] - 1
    places = torch.full((B, M), absent, device=z.device)
    if shared is not None:
        at = find_shared(labels, shared)
        places = torch.where(at >= 0, Q + at, places)
    places = torch.where(rows[:, :M] == labels, torch.arange(M, device=z.device), places)
    counted = labels >= 0
    places = places.masked_fill(~counted, -1)

    logsumexp = logits.logsumexp(1)
    log_probs = logits.gather(1, places.clamp_min(0)) - logsumexp[:, None]
    log_prob = torch.where(counted, log_probs, 0).sum(1) / counted.sum(1).clamp_min(1)
    return log_prob.to(z.dtype), logsumexp, places.to(torch.int32)


def active_log_prob_backward(
    grad_log_prob: Tensor,
    z: Tensor,
    s: Tensor | None,
    rows: Tensor,
    shared: Tensor | None,
    logsumexp: Tensor,
    places: Tensor,
) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.active_log_prob_backward`."""
    logits = _active_logits(z, s, rows, shared)
    _check_ids(places, -1, logits.shape[1], "active_log_prob_backward", "places")
    counted = places >= 0
    labels = counted.sum(1, keepdim=True)
    shares = counted.to(logits.dtype) / labels.clamp_min(1)
    probabilities = (logits - logsumexp[:, None]).exp()
    # Also where the sum is NaN, or nothing is there to be summed.
    probabilities = probabilities.masked_fill(logits == -torch.inf, 0)
    grad = (-probabilities).scatter_add(1, places.clamp_min(0).long(), shares)
    grad = (grad * grad_log_prob[:, None]).masked_fill(labels == 0, 0).to(z.dtype)
    Q = z.shape[1]
    return grad[:, :Q].clone(), grad[:, Q:-1].clone()


# ---- row optimizers ----------------------------------------------------------------------------


def row_ids(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Oracle of :func:`hashdl.ops.row_ids`."""
    if bool((ids >> 31 != 0).any()):
        raise RuntimeError("hashdl::row_ids: ids: got one outside 0 to 2^31 - 1")
    return ids.to(torch.int32), (ids[1:] > ids[:-1]).all()


def _touched(rows: Tensor, grad: Tensor, n_rows: int, op: str) -> tuple[Tensor, Tensor]:
    """Row numbers and their gradients, without padding: an entry with the row of the one before."""
    _check_ids(rows, 0, n_rows, op, "rows")
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    return rows[first].long(), grad[first]


def _per_row(state: Tensor, like: Tensor) -> Tensor:
    """A row's scalar state as a column beside (U, d)."""
    return state.unsqueeze(-1) if state.dim() < like.dim() else state


def _mean_square(grad: Tensor, state: Tensor) -> Tensor:
    """Squares, averaged over the row when the state holds one scalar a row."""
    squares = grad * grad
    return squares.mean(-1) if state.dim() < grad.dim() else squares


def sgd_rows_(
    weight: Tensor,
    momentum_buffer: Tensor | None,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """Oracle of :func:`hashdl.ops.sgd_rows_`."""
    ids, grad = _touched(rows, grad, weight.shape[0], "sgd_rows_")
    w = weight[ids].to(accumulator(weight.dtype))
    g = grad.to(w.dtype) + weight_decay * w
    if momentum_buffer is not None:
        buffer = momentum * momentum_buffer[ids] + g
        momentum_buffer[ids] = buffer
        g = g + momentum * buffer if nesterov else buffer
    weight[ids] = (w - lr * g).to(weight.dtype)


def adagrad_rows_(
    weight: Tensor,
    sum: Tensor,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
) -> None:
    """Oracle of :func:`hashdl.ops.adagrad_rows_`."""
    ids, grad = _touched(rows, grad, weight.shape[0], "adagrad_rows_")
    w = weight[ids].to(sum.dtype)
    g = grad.to(w.dtype) + weight_decay * w
    total = sum[ids] + _mean_square(g, sum)
    sum[ids] = total
    weight[ids] = (w - lr * g / (_per_row(total, g).sqrt() + eps)).to(weight.dtype)


def adam_rows_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    grad: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: Tensor,
    seed: int,
) -> None:
    """Oracle of :func:`hashdl.ops.adam_rows_`."""
    ids, grad = _touched(rows, grad, weight.shape[0], "adam_rows_")
    if step.device.type == "cpu":
        wanted = f"got {float(step)}, wanted 1 or more"
        _check(bool(step >= 1), "adam_rows_", "step", wanted)
    t = step.double().reshape(())
    w = weight[ids].to(accumulator(weight.dtype))
    g = grad.to(w.dtype)
    if decoupled:
        w = w * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * w
    old_m, old_v = exp_avg[ids].to(w.dtype), exp_avg_sq[ids].to(w.dtype)
    m = old_m + (1 - beta1) * (g - old_m)
    v = beta2 * old_v + (1 - beta2) * _mean_square(g, exp_avg_sq)
    bits = _column_bits(_stream_keys(seed, step.long(), ids), math.prod(g.shape[1:])).view(g.shape)
    for state, new, shift in ((exp_avg, m, 0), (exp_avg_sq, v, 16)):
        narrow = state.dtype == torch.bfloat16
        state[ids] = _round_at_random(new, bits >> shift) if narrow else new
    root = _per_row(v, g).sqrt() / (1 - beta2**t) ** 0.5 + eps
    weight[ids] = (w - lr / (1 - beta1**t) * m / root).to(weight.dtype)
