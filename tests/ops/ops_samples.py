"""Sample arguments of every op, and ways to run an op: compiled, by its oracle, by its fallback.

A builder ``NAME_args`` answers with positional arguments for ``torch.ops.hashdl.NAME`` that fit
each other; its parameters are the letters of :mod:`hashdl.ops` and whatever else tests vary.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor

from hashdl import ops, reference
from hashdl.config import HashConfig
from hashdl.tables import HashTables

Args = tuple[Any, ...]
Path = Callable[[str], Callable[..., Any]]
"""kernel or fallback: from an op's name to the call."""
RunPython = Callable[..., subprocess.CompletedProcess[str]]
"""The fixture run_python."""

# No deadline: how long an example takes says nothing on a machine that others use as well.
few_examples = settings(max_examples=40, deadline=None)
many_examples = settings(max_examples=200, deadline=None)

DTYPES = ops.FLOATING

# Kernel and oracle sum in another order, in float32 (float64 for float64), and round once: what
# is left is some units of the accumulation, or one unit of a 16-bit result.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}


# ---- tensors -------------------------------------------------------------------------------------


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def int32(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def row_ids(B: int, A: int, N: int, *, padding: float = 0.2, seed: int = 0) -> Tensor:
    """int32 (B, A): distinct ids a sample in random order, some of them -1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(B, N, generator=generator).argsort(dim=1)[:, :A]
    ids = torch.nn.functional.pad(ids, (0, A - ids.shape[1]), value=-1)
    gone = torch.rand(B, A, generator=generator) < padding
    return ids.masked_fill(gone, -1).to(torch.int32)


def whole(*shape: int, seed: int) -> Tensor:
    """Small integers, as float32."""
    return randn(*shape, seed=seed).mul(2).round()


def uneven(B: int, d: int, *, seed: int = 11) -> Tensor:
    """Queries (B, d) that vary ten times as much in their first feature as in their last."""
    return randn(B, d, seed=seed) * torch.logspace(0, -1, d)


def strided(tensor: Tensor) -> Tensor:
    """The same values, every other element of a larger tensor."""
    return torch.stack([tensor, torch.ones_like(tensor)], dim=-1)[..., 0]


def step_of(step: int) -> Tensor:
    return torch.tensor([step])


# ---- builders ------------------------------------------------------------------------------------


def pack_signs_args(M: int = 5, L: int = 3, bits: int = 4) -> Args:
    return randn(M, L * bits), bits


def sign_codes_args(
    M: int = 7,
    d: int = 5,
    L: int = 3,
    bits: int = 4,
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Args:
    """Small integers: projections are exact, whatever the order of their sums."""
    weight, planes = whole(M, d, seed=31).to(dtype), whole(d + 1, L * bits, seed=32)
    biases = whole(M, seed=33).to(dtype) if bias else None
    return weight, biases, whole(d + 1, seed=34), planes, bits


def digit_values(M: int, L: int, bits: int, *, coarse: bool = False) -> Tensor:
    """Values (M, L S) of the slots of L codes; ``coarse``: many are equal."""
    values = randn(M, L * sum(reference.slots_of(bits)), seed=18)
    return values.round() if coarse else values


def pack_digits_args(M: int = 5, L: int = 3, bits: int = 7, coarse: bool = False) -> Args:
    return digit_values(M, L, bits, coarse=coarse), bits


def probe_digits_args(
    B: int = 5,
    L: int = 3,
    bits: int = 7,
    probes: int = 6,
    coarse: bool = False,
    lowest: bool = False,
) -> Args:
    """``lowest``: half of the slots are empty, so that costs leave float32."""
    values = digit_values(B, L, bits, coarse=coarse)
    if lowest:
        values[:, ::2] = torch.finfo(torch.float32).min
    return values, bits, probes


def sparse_vectors(M: int, D: int, share: float, *, seed: int = 19) -> Tensor:
    """float32 (M, D) of which a share is not zero; the last vector is zero."""
    vectors = randn(M, D, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    vectors[torch.rand(M, D, generator=generator) >= share] = 0
    vectors[-1:] = 0
    return vectors


def densified_projections_args(
    M: int = 9, D: int = 13, C: int = 20, T: int = 3, share: float = 0.2
) -> Args:
    generator = torch.Generator().manual_seed(20)
    coordinates = torch.randint(max(D, 1), (T, C if D else 0), generator=generator)
    begins = torch.tensor([column % 7 in (0, 3) for column in range(coordinates.shape[1])])
    return sparse_vectors(M, D, share), torch.cat([begins[None], coordinates]).int()


def hadamard_projections_args(M: int = 5, D: int = 13, C: int = 40, block: int = 16) -> Args:
    """``block`` functions have a key in common."""
    n = 1 << (max(D, 1) - 1).bit_length()
    keys = torch.arange(C, dtype=torch.int32) // block - 1
    coordinates = torch.arange(C, dtype=torch.int32) * 5 % n
    return randn(M, D, seed=21), torch.stack([keys, coordinates])


def build_tables_args(N: int = 30, L: int = 3, bits: int = 3) -> Args:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(2**bits, (L, N), dtype=torch.int32, generator=generator)
    return codes, bits


def limit_buckets_args(
    N: int = 30, L: int = 3, bits: int = 2, capacity: int = 4, replacement: str = "reservoir"
) -> Args:
    offsets, rows = reference.build_tables(*build_tables_args(N, L, bits))
    return offsets, rows, capacity, replacement, 5, 2


def mark_rows__args(B: int = 4, A: int = 5, N: int = 40, bits: int = 3) -> Args:
    return torch.full((N,), 128, dtype=torch.uint8), row_ids(B, A, N), bits


def probe_signs_args(
    B: int = 4, L: int = 3, bits: int = 4, probes: int = 3, coarse: bool = False
) -> Args:
    """``coarse`` rounds the projections: equal magnitudes, and zeros."""
    projections = randn(B, L * bits, seed=2)
    return projections.round() if coarse else projections, bits, probes


def best_columns_args(
    M: int = 4, groups: int = 3, width: int = 9, count: int = 3, coarse: bool = False
) -> Args:
    """``coarse`` rounds the scores: many are equal."""
    scores = randn(M, groups * width, seed=2)
    return scores.round() if coarse else scores, groups, count


def nearest_columns_args(
    M: int = 7,
    d: int = 5,
    groups: int = 3,
    width: int = 9,
    bias: bool = True,
    offset: bool = True,
    coarse: bool = False,
) -> Args:
    """``coarse`` rounds everything: sums are exact, and many are equal."""

    def drawn(*shape: int, seed: int) -> Tensor:
        values = randn(*shape, seed=seed)
        return values.round() if coarse else values

    return (
        drawn(M, d, seed=1),
        drawn(M, seed=2) if bias else None,
        drawn(d + bias, groups * width, seed=3),
        drawn(groups * width, seed=4) if offset else None,
        groups,
    )


def lookup_args(
    B: int = 4,
    N: int = 60,
    L: int = 3,
    bits: int = 4,
    probes: int = 3,
    cap: int = 128,
    candidates: int = 20,
    seed: int = 0,
    step: int = 0,
    missing: float = 0.0,
) -> Args:
    """``missing`` is the share of the probes that are -1."""
    buckets = reference.probe_signs(*probe_signs_args(B, L, bits, probes))
    gone = torch.rand(buckets.shape, generator=torch.Generator().manual_seed(3)) < missing
    offsets, rows = reference.build_tables(*build_tables_args(N, L, bits))
    buckets = buckets.masked_fill(gone, -1)
    return buckets, offsets, rows, cap, candidates, seed, step_of(step)


def sketch_scores_args(
    B: int = 4,
    C: int = 12,
    W: int = 3,
    N: int = 40,
    padding: float = 0.2,
    coordinates: int | None = None,
    levels: int = 2,
) -> Args:
    """``W`` words of sign bits or sixteen levels a row, or ``coordinates``."""
    candidates = row_ids(B, C, N, padding=padding, seed=10)
    if coordinates is not None:
        return randn(B, coordinates, seed=9), randn(N, coordinates, seed=12), None, candidates
    sketches = sign_bits(N, W)
    queries = randn(B, (32 if levels == 2 else 8) * W, seed=9)
    return queries, sketches, randn(N, seed=12).abs(), candidates


def sign_bits(N: int, W: int) -> Tensor:
    """int32 (N, W): any 32 bits."""
    generator = torch.Generator().manual_seed(8)
    return torch.randint(-(2**31), 2**31, (N, W), generator=generator).to(torch.int32)


def score_kinds(B: int, C: int) -> dict[str, Tensor | None]:
    ties = randn(B, C, seed=3).round()
    special = ties.clone()
    special[:, ::3], special[:, 1::5], special[:, 2::7] = torch.nan, -torch.inf, torch.inf
    return {"none": None, "distinct": randn(B, C, seed=3), "ties": ties, "special": special}


def select_args(
    B: int = 4,
    C: int = 12,
    M: int = 2,
    T: int = 5,
    N: int = 40,
    active: int = 8,
    random: int = 3,
    scores: str = "distinct",
    seed: int = 0,
    step: int = 0,
    repeats: bool = False,
) -> Args:
    """``repeats`` gives the columns of the labels the same labels; M = 0 and T = 0 mean None."""
    labels = row_ids(B, M, N, seed=4) if M else None
    if labels is not None and repeats:
        labels = labels[:, :1].expand(B, M).contiguous()
    shared = row_ids(1, T, N, seed=5)[0] if T else None
    candidates = row_ids(B, C, N, seed=6)
    kind = score_kinds(B, C)[scores]
    return candidates, kind, labels, shared, active, random, N, seed, step_of(step)


def find_active_args(
    B: int = 4,
    N: int = 60,
    d: int = 5,
    M: int = 2,
    T: int = 5,
    L: int = 3,
    bits: int = 4,
    candidates: int = 20,
    selection: str = "exact",
    active: int = 8,
    random: int = 3,
    bias: bool = True,
    coordinates: int | None = None,
    levels: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Args:
    """Small integers as weights and inputs: outputs are exact, and many are equal."""
    lookup = lookup_args(B, N, L, bits, candidates=candidates)
    sketch: Args = (None, None, None)
    if selection == "sketch":
        queries = randn(B, coordinates or (64 if levels == 2 else 16), seed=8).mul(2).round()
        sketch = queries, sign_bits(N, 2), randn(N, seed=6).abs()
        if coordinates is not None:
            sketch = queries, randn(N, coordinates, seed=6).mul(2).round(), None
    x, weight = randn(B, d, seed=3).mul(2).round(), randn(N, d, seed=4).mul(2).round()
    labels = row_ids(B, M, N, seed=4) if M else None
    shared = row_ids(1, T, N, seed=5)[0] if T else None
    return (
        *(*lookup[:3], *sketch, x.to(dtype), weight.to(dtype)),
        *(randn(N, seed=7).round().to(dtype) if bias else None, labels, shared),
        *(*lookup[3:5], selection, 2, active, random, *lookup[5:]),
    )


def find_best_args(
    k: int = 4, active: int = 8, sketch: bool = True, special: bool = False, **parameters: Any
) -> Args:
    """``special``: outputs of NaN and infinities."""
    selection = "sketch" if sketch else "exact"
    given = find_active_args(selection=selection, M=0, T=0, random=0, active=0, **parameters)
    tables, (x, weight, bias), (cap, candidates) = given[:6], given[6:9], given[11:13]
    if special:
        for place, value in enumerate((torch.nan, torch.inf, -torch.inf)):
            weight[place::7] = value
    return *tables, x, weight, bias, cap, candidates, active, k, *given[17:]


def search_args(
    d: int = 5,
    L: int = 3,
    bits: int = 4,
    probing: str = "signs",
    probes: int = 3,
    ordered: bool = False,
    **parameters: Any,
) -> Args:
    """Small integers as functions too: projections are exact, whatever the order of their sums."""
    given = find_best_args(d=d, L=L, bits=bits, **parameters)
    tables, (queries, sketches, norms), layer = given[1:3], given[3:6], given[6:9]
    F = L * reference.columns_of(probing, bits)
    functions = [whole(d + 1, F, seed=23)]
    if queries is not None:
        functions.append(whole(d + 1, queries.shape[1], seed=24))
    of_tables, *of_sketch = (f.view(torch.int32) for f in functions)
    sketch = (*of_sketch, sketches, norms.view(torch.int32)) if of_sketch else (None, None, None)
    if ordered:
        sketch = (sketch[0], *(of_rows[tables[1][0]] for of_rows in sketch[1:]))
    return *layer, of_tables, *tables, *sketch, ordered, probing, bits, probes, *given[9:]


def shared_rows_args(
    B: int = 10,
    count: int = 8,
    max_labels: int | None = None,
    N: int = 40,
    seed: int = 0,
    step: int = 0,
) -> Args:
    labels = row_ids(1, 1, N, padding=0, seed=7).expand(B, 1)[:, 0].contiguous()
    labels[::2] = row_ids(1, labels[::2].numel(), N, padding=0.3, seed=8)[0]
    return labels, count, count if max_labels is None else max_labels, N, seed, step_of(step)


def gather_linear_args(
    B: int = 3,
    A: int = 6,
    N: int = 20,
    d: int = 19,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
    padding: float = 0.2,
) -> Args:
    x, weight = randn(B, d, dtype=dtype), randn(N, d, dtype=dtype, seed=1)
    rows = row_ids(B, A, N, padding=padding)
    return x, weight, randn(N, dtype=dtype, seed=2) if bias else None, rows


def gather_linear_backward_args(
    B: int = 3,
    A: int = 6,
    N: int = 20,
    d: int = 19,
    dtype: torch.dtype = torch.float32,
    extras: int | None = 4,
    extra_bias: bool = True,
    padding: float = 0.2,
) -> Args:
    """``extras`` is E; N small makes them overlap the rows. None: there are none."""
    x, weight, _, rows = gather_linear_args(B, A, N, d, dtype, padding=padding)
    extra: Args = (None, None, None)
    if extras is not None:
        more_bias = randn(extras, dtype=dtype, seed=4) if extra_bias else None
        extra_rows = row_ids(1, extras, N, seed=5)[0]
        extra = (extra_rows, randn(extras, d, dtype=dtype, seed=3), more_bias)
    return randn(B, A, dtype=dtype, seed=6), x, weight, rows, *extra


def scatter_rows_args(
    B: int = 3,
    A: int = 6,
    N: int = 20,
    dtype: torch.dtype = torch.float32,
    fill: float = 0.0,
    padding: float = 0.2,
) -> Args:
    return randn(B, A, dtype=dtype), row_ids(B, A, N, padding=padding), N, fill


def combine_rows_args(
    B: int = 3,
    A: int = 6,
    N: int = 20,
    d: int = 19,
    dtype: torch.dtype = torch.float32,
    padding: float = 0.2,
) -> Args:
    rows = row_ids(B, A, N, padding=padding)
    return randn(B, A, dtype=dtype), randn(N, d, dtype=dtype, seed=1), rows


def gather_sparse_linear_args(
    B: int = 3,
    inputs: int = 7,
    A: int = 6,
    N: int = 20,
    d: int = 19,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
    padding: float = 0.2,
) -> Args:
    """``inputs`` is I, the active inputs a sample."""
    values, weight = randn(B, inputs, dtype=dtype), randn(N, d, dtype=dtype, seed=1)
    columns = row_ids(B, inputs, d, padding=padding, seed=18)
    some_bias = randn(N, dtype=dtype, seed=2) if bias else None
    return values, columns, weight, some_bias, row_ids(B, A, N, padding=padding)


def gather_sparse_linear_backward_args(
    B: int = 3, A: int = 6, dtype: torch.dtype = torch.float32, **parameters: Any
) -> Args:
    args = gather_sparse_linear_args(B=B, A=A, dtype=dtype, **parameters)
    values, columns, weight, _, rows = args
    return randn(B, A, dtype=dtype, seed=6), values, columns, weight, rows


def active_sparse_linear_args(
    sparse_grad: bool = False, requires_grad: bool = False, **parameters: Any
) -> Args:
    values, columns, weight, bias, rows = gather_sparse_linear_args(**parameters)
    for tensor in (values, weight, bias):
        if tensor is not None:
            tensor.requires_grad_(requires_grad)
    return values, columns, weight, bias, rows, sparse_grad


def active_columns_args(
    B: int = 3,
    inputs: int = 7,
    N: int = 6,
    d: int = 19,
    dtype: torch.dtype = torch.float32,
    transposed: bool = True,
    padding: float = 0.2,
    sparse_grad: bool = False,
    requires_grad: bool = False,
) -> Args:
    """``transposed``: the weight's memory."""
    values, columns, weight, _, _ = gather_sparse_linear_args(
        B, inputs, N=N, d=d, dtype=dtype, padding=padding
    )
    weight = weight.t().contiguous().t() if transposed else weight
    for tensor in (values, weight):
        tensor.requires_grad_(requires_grad)
    return values, columns, weight, sparse_grad


def distinct_labels_args(B: int = 5, M: int = 7, N: int = 6) -> Args:
    """Many come twice."""
    generator = torch.Generator().manual_seed(9)
    return (torch.randint(-1, N, (B, M), generator=generator).to(torch.int32),)


def find_shared_args(B: int = 5, A: int = 6, T: int = 9, N: int = 20) -> Args:
    shared = row_ids(1, T, N, padding=0.2, seed=17)[0]
    return row_ids(B, A, N, seed=18), shared


def active_log_prob_args(
    B: int = 4,
    M: int = 2,
    A: int = 5,
    T: int | None = 5,
    N: int = 40,
    dtype: torch.dtype = torch.float32,
    absent: bool = False,
    special: bool = False,
) -> Args:
    """The rows are the labels and A more; some labels are shared. ``absent``: some are nowhere.

    ``special``: samples with infinite and NaN logits; the last one's are all -inf.
    """
    labels, shared, s = row_ids(B, M, N, seed=13), None, None
    if T is not None:
        shared, _, _ = reference.shared_rows(labels.flatten(), T, T // 2, N, 0, step_of(0))
        shared[-1:] = -1
        s = 3 * randn(B, T, dtype=dtype, seed=14)
    pool = row_ids(B, A, N, seed=15)
    rows = reference.select(pool, None, labels, shared, A, 0, N, 0, step_of(0))
    z = 3 * randn(B, M + A, dtype=dtype, seed=16)
    if absent:
        rows[::2, :M] = -1
    if special:
        for logits in [z] if s is None else [z, s]:
            logits[:, ::3] = -torch.inf
            logits[1:2, 1::3], logits[2:3, 1::3], logits[3:] = torch.inf, torch.nan, -torch.inf
    return z, s, rows, shared, labels


def active_log_prob_backward_args(**parameters: Any) -> Args:
    args = active_log_prob_args(**parameters)
    log_prob, logsumexp, places = reference.active_log_prob(*args)
    grad = randn(*log_prob.shape, dtype=log_prob.dtype, seed=17)
    return grad, *args[:4], logsumexp, places


def row_ids_args(U: int = 9, descends: int | None = None) -> Args:
    """Ascending ids, but for one that is that of the row before it."""
    ids = torch.arange(U) * 3
    if descends is not None:
        ids[descends] = ids[descends - 1]
    return (ids,)


def _update_args(N: int, U: int, d: int | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Weight (N, d), or (N,) where d is None; distinct rows; their gradient."""
    tail = () if d is None else (d,)
    rows = row_ids(1, U, N, padding=0, seed=1)[0]
    return randn(N, *tail, dtype=dtype), rows, randn(U, *tail, dtype=dtype, seed=2)


def _state(weight: Tensor, *, row_wise: bool = False, seed: int = 3) -> Tensor:
    shape = weight.shape[:1] if row_wise else weight.shape
    return randn(*shape, dtype=torch.promote_types(weight.dtype, torch.float32), seed=seed).abs()


def sgd_rows__args(
    N: int = 20,
    U: int = 7,
    d: int | None = 19,
    dtype: torch.dtype = torch.float32,
    buffer: bool = True,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.01,
) -> Args:
    weight, rows, grad = _update_args(N, U, d, dtype)
    momentum_buffer = _state(weight) if buffer else None
    return weight, momentum_buffer, rows, grad, 0.1, momentum, nesterov, weight_decay


def adagrad_rows__args(
    N: int = 20,
    U: int = 7,
    d: int | None = 19,
    dtype: torch.dtype = torch.float32,
    row_wise: bool = False,
    weight_decay: float = 0.01,
) -> Args:
    weight, rows, grad = _update_args(N, U, d, dtype)
    return weight, _state(weight, row_wise=row_wise), rows, grad, 0.1, 1e-10, weight_decay


def adam_rows__args(
    N: int = 20,
    U: int = 7,
    d: int | None = 19,
    dtype: torch.dtype = torch.float32,
    row_wise: bool = False,
    weight_decay: float = 0.01,
    decoupled: bool = False,
    step: int = 3,
    narrow: bool = False,
    seed: int = 5,
) -> Args:
    """``narrow``: states of elements are bfloat16."""
    weight, rows, grad = _update_args(N, U, d, dtype)
    exp_avg, exp_avg_sq = _state(weight), _state(weight, row_wise=row_wise, seed=4)
    if narrow:
        exp_avg = exp_avg.bfloat16()
        exp_avg_sq = exp_avg_sq if row_wise else exp_avg_sq.bfloat16()
    options = (0.1, 0.9, 0.999, 1e-8, weight_decay, decoupled, torch.tensor(float(step)), seed)
    return weight, exp_avg, exp_avg_sq, rows, grad, *options


def active_linear_args(
    B: int = 3,
    A: int = 4,
    N: int = 12,
    d: int = 5,
    T: int | None = 3,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
    known: bool = False,
    sparse_grad: bool = False,
    requires_grad: bool = False,
) -> Args:
    """``T`` shared rows, the last of them padding; None: there are none. ``known``: z is given."""
    x, weight, some_bias, rows = gather_linear_args(B, A, N, d, dtype, bias)
    shared = None if T is None else int32([*range(1, T), -1][:T])
    z = ops.gather_linear(x, weight, some_bias, rows) if known else None
    for tensor in (x, weight, some_bias):
        if tensor is not None:
            tensor.requires_grad_(requires_grad)
    return x, weight, some_bias, rows, shared, z, sparse_grad


def active_linear_log_prob_args(
    *, log_q: bool = False, requires_grad: bool = False, **parameters: Any
) -> Args:
    """The first row of each sample is its label; with ``log_q`` one shared row is left out."""
    *layer, known, sparse_grad = active_linear_args(requires_grad=requires_grad, **parameters)
    x, rows, shared = layer[0], layer[3], layer[4]
    own = shared_log_q = places = None
    if log_q:
        own = randn(*rows.shape, dtype=x.dtype, seed=5)
        if shared is not None:
            shared_log_q = randn(len(shared), dtype=x.dtype, seed=6)
            places = torch.full(rows.shape, -1, dtype=torch.int32)
            places[:1, -1:] = 0
    return *layer, known, rows[:, :1].clone(), own, shared_log_q, places, sparse_grad


def refresh_tables__args(
    N: int = 30,
    d: int = 6,
    bits: int = 3,
    L: int = 2,
    bias: bool = True,
    balance: bool = True,
    queries: int = 0,
    sketch: bool = True,
    training: bool = True,
    family: str = "simhash",
    rank: int | None = None,
    levels: int = 2,
) -> Args:
    """``queries``: how many have been observed; planes are balanced after d + 1."""
    config = HashConfig(
        family=family,
        bits=bits,
        tables=L,
        balance=None if rank else balance,
        rank=rank,
        selection="sketch" if sketch else "exact",
        sketch_levels=levels,
    )
    tables = HashTables(N, d, config)
    tables.observe(uneven(queries, d), training=True)
    settings: dict[str, Any] = {
        "weight": randn(N, d),
        "bias": randn(N, seed=1) if bias else None,
        "family": config.family,
        "transform": config.transform or "",
        "bits": bits,
        "buckets": config.buckets,
        "capacity": 0,
        "seed": config.seed,
        "rank": rank or 0,
        "center_rows": config.center,
        "every": tables.rehash_every,
        "growth": config.rehash_growth,
        "drift": config.rehash_drift,
        "background": 0,
        "computed": False,
        "training": training,
    }
    return _with_buffers("refresh_tables_", tables, settings)


def observe_queries__args(
    B: int = 5, d: int = 6, training: bool = True, rank: int | None = None
) -> Args:
    tables = HashTables(30, d, HashConfig(balance=None if rank else True, rank=rank))
    given = {"x": uneven(B, d), "training": training, "always": False}
    return _with_buffers("observe_queries_", tables, given)


def _with_buffers(name: str, tables: HashTables, given: dict[str, Any]) -> Args:
    """All arguments of a stateful op: what is given, and the tables' buffers."""
    names = [argument.name for argument in overload(name)._schema.arguments]
    every = given | dict(tables.named_buffers())
    return tuple(every[name] for name in names)


OPS = (
    "pack_signs",
    "sign_codes",
    "pack_digits",
    "probe_digits",
    "densified_projections",
    "hadamard_projections",
    "build_tables",
    "limit_buckets",
    "mark_rows_",
    "probe_signs",
    "best_columns",
    "nearest_columns",
    "lookup",
    "sketch_scores",
    "select",
    "shared_rows",
    "gather_linear",
    "gather_linear_backward",
    "combine_rows",
    "gather_sparse_linear",
    "gather_sparse_linear_backward",
    "scatter_rows",
    "distinct_labels",
    "find_shared",
    "active_log_prob",
    "active_log_prob_backward",
    "row_ids",
    "sgd_rows_",
    "adagrad_rows_",
    "adam_rows_",
)
"""Ops with a kernel: hashdl.ops has their checks, hashdl.reference their oracle."""


def sample(name: str, **parameters: Any) -> Args:
    """Arguments of an op, by its builder."""
    args: Args = globals()[f"{name}_args"](**parameters)
    return args


def sample_dict(name: str, **parameters: Any) -> dict[str, Any]:
    """The same, by the names in the schema."""
    names = [argument.name for argument in overload(name)._schema.arguments]
    return dict(zip(names, sample(name, **parameters), strict=True))


# ---- running -------------------------------------------------------------------------------------


def overload(name: str) -> Any:
    return getattr(torch.ops.hashdl, name).default


def kernel(name: str) -> Callable[..., Any]:
    """What the dispatcher has for CPU tensors: the compiled kernel where there is one."""
    return overload(name)


def fallback(name: str) -> Callable[..., Any]:
    """What it has for every other device, run on CPU tensors: the checks, then the oracle."""
    other_device = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)
    return lambda *args: overload(name).redispatch(other_device, *args)


def clone(args: Args) -> Args:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)


def tensors(values: Any) -> list[Tensor]:
    """The tensors among an op's arguments or results."""
    values = values if isinstance(values, tuple) else (values,)
    return [value for value in values if isinstance(value, Tensor)]


def run(call: Callable[..., Any], args: Args) -> list[Tensor]:
    """What the call answers, and then its arguments as it left them; on a copy of these."""
    args = clone(args)
    return tensors(call(*args)) + tensors(args)


def assert_same_bits(left: list[Tensor], right: list[Tensor]) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


def assert_kernel_is_reference(name: str, args: Args) -> None:
    """Same results, and the same arguments after: ids to the bit, numbers to the tolerance."""
    expected = run(getattr(reference, name), args)
    actual = tensors(kernel(name)(*args)) + tensors(args)
    assert len(actual) == len(expected)
    for got, wanted in zip(actual, expected, strict=True):
        bound = TOLERANCE.get(wanted.dtype, 0)
        torch.testing.assert_close(got, wanted, rtol=bound, atol=bound, equal_nan=True)


def assert_uniform(values: Tensor, bound: int) -> None:
    """Chi-square over [0, bound), six standard deviations wide; the seed is fixed, so no flakes."""
    counts = torch.bincount(values.long(), minlength=bound)
    assert counts.numel() == bound
    expected = values.numel() / bound
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < bound - 1 + 6 * (2 * (bound - 1)) ** 0.5
