"""Cases of every op: what each kernel must get right, and more for those of a CPU and of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

Case = dict[str, Any]
Cases = dict[str, list[Case]]

OPTIMIZERS = ("sgd_rows_", "adagrad_rows_", "adam_rows_")

_LOG_PROBS: list[Case] = [
    {},
    {"B": 0},
    {"M": 0, "A": 0, "T": None},  # no logits
    {"T": None},
    {"T": 0},
    {"T": 40},  # everything is shared
    {"absent": True},
    {"special": True},
]
_UPDATES: list[Case] = [
    *({}, {"U": 0}, {"N": 0, "U": 0}, {"N": 1, "U": 1}, {"U": 20}),
    *({"d": None}, {"d": 1}, {"d": 16}, {"d": 33}),
]
_SPARSE: list[Case] = [
    *({"B": 0}, {"A": 0}, {"A": 1}, {"inputs": 0}, {"inputs": 1}, {"A": 0, "inputs": 0}),
    *({"N": 0}, {"N": 1}, {"d": 0}, {"d": 1}, {"N": 0, "d": 0}),
    {"padding": 1.0},
    {"padding": 0.0, "A": 7, "inputs": 16, "d": 16},
    {"inputs": 50, "d": 5},  # columns that repeat
    {"B": 3, "inputs": 20, "d": 9000},  # columns far apart
]

BOTH: Cases = {
    "pack_signs": [
        *({}, {"M": 0}),
        {"L": 1, "bits": 1},
        {"M": 3, "L": 2, "bits": 24},
        {"M": 9, "L": 2, "bits": 32},
    ],
    "pack_digits": [
        *({}, {"M": 0}, {"L": 0}),
        *({"bits": bits} for bits in (1, 2, 3, 4, 24)),
        {"M": 90, "L": 7, "coarse": True},  # more than a block's
    ],
    "probe_digits": [
        *({}, {"B": 0}, {"L": 0}, {"probes": 1}),
        {"bits": 1, "probes": 2},
        {"bits": 2, "probes": 100},  # more than there are buckets
        {"bits": 7, "probes": 128, "coarse": True},
        {"bits": 8, "probes": 40, "lowest": True},
        {"B": 90, "bits": 11, "probes": 16, "coarse": True},
        {"bits": 24, "L": 2, "probes": 5},
    ],
    "densified_projections": [
        *({}, {"M": 0}, {"D": 0}, {"D": 1}, {"C": 0}, {"C": 1}, {"T": 1}),
        *({"share": share} for share in (0.0, 0.05, 1.0)),
        {"M": 20, "D": 300, "share": 0.02, "T": 8, "C": 100},
    ],
    "hadamard_projections": [
        *({}, {"M": 0}, {"C": 0}),
        *({"D": D} for D in (0, 1, 2, 3, 8, 64, 65, 200)),
        {"C": 7, "block": 1},
        {"M": 9, "D": 130, "C": 300, "block": 100},
    ],
    "build_tables": [*({}, {"N": 0}, {"N": 1}, {"L": 0}, {"bits": 1})],
    "limit_buckets": [
        *({}, {"replacement": "fifo"}, {"L": 0}, {"capacity": 1}, {"capacity": 2**62}),
        *({"N": N, "replacement": kind} for N in (0, 1) for kind in ("fifo", "reservoir")),
    ],
    "mark_rows_": [{}, {"B": 0}, {"N": 1}, {"bits": 255}, {"B": 50, "A": 30}],  # repeats
    "probe_signs": [
        *({}, {"B": 0}, {"L": 0}, {"probes": 1}),
        {"bits": 1, "probes": 2},
        {"bits": 4, "probes": 16},
        {"bits": 9, "probes": 12, "coarse": True},
        {"bits": 3, "probes": 100},  # more than there are buckets
    ],
    "best_columns": [
        *({}, {"M": 0}, {"width": 1}, {"count": 1}),
        {"count": 100},  # more than there are columns
    ],
    "lookup": [
        *({}, {"B": 0}, {"N": 0}, {"N": 1}, {"L": 0}, {"candidates": 0}),
        *({"missing": 0.3}, {"missing": 1.0}),
        {"candidates": 5, "probes": 8},  # overflow
        {"candidates": 200, "probes": 8},  # more than can be found
        {"N": 300, "bits": 2, "cap": 1},
        {"N": 300, "bits": 2, "cap": 7, "probes": 4, "candidates": 40},
        {"N": 300, "bits": 2, "cap": 7, "probes": 4, "seed": -(2**63), "step": 2**62},
    ],
    "sketch_scores": [
        *({}, {"B": 0}, {"C": 0}, {"C": 1}, {"N": 0}, {"N": 1}, {"padding": 1.0}),
        *({"W": W} for W in (1, 9)),
        *({"coordinates": S} for S in (1, 16, 33)),
        *({"levels": 16} | more for more in ({}, {"B": 0}, {"C": 0}, {"N": 0}, {"padding": 1.0})),
    ],
    "select": [
        *({}, {"B": 0}, {"C": 0}),
        {"M": 0, "T": 0},
        {"active": 0, "random": 0},
        {"active": 5, "random": 5},
        {"active": 5, "random": 0},
        {"active": 30, "random": 4},  # more than there are candidates
        {"N": 1, "C": 3, "random": 8},
        {"N": 9, "C": 9, "M": 3, "T": 4, "active": 9, "random": 6},  # draws collide
        {"M": 4, "repeats": True},
        {"T": 40},  # everything is shared
        {"seed": -5, "step": 2**40},
        *({"scores": kind, "C": 30} for kind in ("none", "ties", "special")),
        {"scores": "special", "C": 30, "active": 28},
    ],
    "shared_rows": [
        *({}, {"B": 0}, {"N": 1}, {"count": 0}, {"max_labels": 3}, {"max_labels": 0}),
        {"count": 3},  # fewer than there are labels
        {"N": 12, "count": 12},  # near N, draws give out
        {"N": 12, "count": 30},
    ],
    "distinct_labels": [{}, {"B": 0}, {"M": 0}, {"M": 1}, {"B": 2, "M": 300, "N": 90}],
    "find_shared": [{}, {"B": 0}, {"A": 0}, {"T": 0}, {"T": 1}, {"T": 20}, {"N": 5000}],
    "gather_linear": [
        *({}, {"bias": False}, {"B": 0}, {"A": 0}, {"A": 1}, {"N": 1}, {"padding": 1.0}),
        {"N": 0, "A": 3},  # all padding
        {"padding": 0.0, "A": 7},
        *({"d": d} for d in (0, 1, 16, 33)),
    ],
    "gather_linear_backward": [
        *({}, {"extra_bias": False}, {"extras": 0}, {"extras": None}),
        {"extras": 20},  # every row
        *({"B": 0}, {"B": 0, "extras": None}, {"A": 0}, {"A": 1}, {"N": 0}, {"N": 1}),
        *({"d": d} for d in (0, 1, 16)),
        *({"padding": 1.0}, {"padding": 1.0, "extras": None}),
        {"N": 5000, "A": 30},  # ids of more than one digit of the radix sort
    ],
    "combine_rows": [
        *({}, {"B": 0}, {"A": 0}, {"A": 1}, {"N": 0}, {"N": 1}, {"padding": 1.0}),
        *({"d": d} for d in (0, 1, 16)),
    ],
    "gather_sparse_linear": [{}, {"bias": False}, *_SPARSE],
    "gather_sparse_linear_backward": [{}, *_SPARSE],
    "scatter_rows": [
        *({}, {"B": 0}, {"A": 0}, {"N": 0}, {"N": 1}, {"fill": float("-inf")}),
        {"padding": 1.0, "fill": 1.0},
    ],
    "active_log_prob": _LOG_PROBS,
    "active_log_prob_backward": _LOG_PROBS,
    "sgd_rows_": [
        *_UPDATES,
        *({"buffer": False, "d": d} for d in (9, 16)),
        {"nesterov": True},
        {"momentum": 0.0, "weight_decay": 0.0},
    ],
    "adagrad_rows_": [
        *_UPDATES,
        {"weight_decay": 0.0},
        *({"row_wise": True, "d": d} for d in (8, 9)),
    ],
    "adam_rows_": [
        *_UPDATES,
        {"step": 1},
        {"step": 100_000, "weight_decay": 0.0},
        {"decoupled": True},
        {"row_wise": True},
        *({"row_wise": True, "decoupled": True, "d": d} for d in (8, 9)),
        *({"narrow": True, "d": d} for d in (None, 1, 16, 19, 64, 131)),
        *({"narrow": True, "U": U} for U in (0, 1, 20)),
        {"narrow": True, "step": 100_000, "decoupled": True, "seed": -1},
        *({"narrow": True, "row_wise": True, "d": d} for d in (1, 16, 131)),
    ],
}


def _each(names: Sequence[str], *cases: Case) -> Cases:
    return {name: list(cases) for name in names}


# Rows as long as those of large models, and one that no vector divides.
_LONG = (4097, 8192)
_LONG_ROWS: list[Case] = [{"B": 2, "A": 3, "N": 5, "d": d} for d in _LONG]

# A look-up of many candidates, of rows that vectors do not divide, and what may rank them.
_MANY: Case = {"B": 9, "N": 300, "d": 130, "bits": 5, "candidates": 90, "active": 30}
_SKETCHES: list[Case] = [{}, {"levels": 16}, {"coordinates": 6}, {"coordinates": 16}]

# More than a vector or a part of a parallel loop takes at once, and what is fetched ahead.
_CPU: Cases = {
    "sign_codes": [
        *({}, {"M": 0}, {"d": 0}, {"L": 0}, {"bias": False}),
        *({"M": M} for M in (1, 4, 6, 13)),  # rows that are taken at once, and fewer
        *({"L": L, "bits": bits} for L, bits in ((1, 1), (1, 32), (3, 11), (8, 13), (9, 24))),
        {"M": 300, "d": 130, "L": 8, "bits": 15},
    ],
    "find_active": [
        *(_MANY | {"selection": kind} for kind in ("exact", "frequency", "threshold", "union")),
        *(_MANY | {"selection": "sketch"} | sketch for sketch in _SKETCHES),
    ],
    "find_best": [
        _MANY | {"sketch": False, "k": 12},
        *(_MANY | sketch | {"k": 12} for sketch in _SKETCHES),
        {"special": True, "k": 20},
    ],
    "search": [
        {"L": 1, "ordered": True},
        {"B": 9, "L": 1, "probing": "columns", "probes": 9, "k": 12, "ordered": True},
        _MANY | {"sketch": False, "k": 12},
        *(_MANY | {"levels": levels, "k": 12} for levels in (2, 16)),
        _MANY | {"levels": 16, "L": 1, "probing": "columns", "ordered": True},
    ],
    "pack_signs": [
        {"M": 1, "L": 0},
        {"M": 700, "L": 7, "bits": 5},
        {"M": 9, "L": 5, "bits": 17},
        {"M": 9, "L": 3, "bits": 32},
    ],
    "probe_digits": [{"bits": 3, "probes": 8}, {"bits": 7, "probes": 128}],
    "densified_projections": [{"M": 200, "D": 300, "share": 0.02, "T": 8, "C": 100}],
    "hadamard_projections": [{"M": 90, "D": 130, "C": 300, "block": 100}],
    "build_tables": [
        {"N": 3, "L": 1, "bits": 12},
        {"N": 500, "L": 9, "bits": 4},
        {"N": 70, "bits": 24, "L": 1},
        {"N": 50_000, "L": 2, "bits": 9},  # in parts
    ],
    "limit_buckets": [
        {"N": 500, "L": 9, "bits": 4, "capacity": 7},
        {"N": 500, "bits": 12, "capacity": 1},
        {"N": 5000, "bits": 1, "capacity": 100},
        {"N": 5000, "bits": 1, "capacity": 100, "replacement": "fifo"},
    ],
    "probe_signs": [
        *({"L": 1, "bits": 1}, {"probes": 16}, {"probes": 16, "coarse": True}),
        {"bits": 24, "probes": 9},
        {"B": 70, "L": 9, "bits": 7, "probes": 20, "coarse": True},
    ],
    "best_columns": [
        *({"groups": 1}, {"count": 9}),
        *({"width": width, "count": 5} for width in (15, 16, 17, 64, 65, 200)),
        *({"width": width, "count": 1} for width in (16, 64, 129)),
        *({"width": width, "count": 20, "coarse": True} for width in (16, 64, 129)),
        *({"width": width, "count": 70, "coarse": True} for width in (72, 128, 272)),  # many
        {"width": 128, "count": 128},
        {"M": 70, "groups": 9, "width": 128, "count": 3, "coarse": True},
    ],
    "nearest_columns": [
        *({}, {"bias": False}, {"offset": False}, {"bias": False, "offset": False}),
        *({"M": M} for M in (0, 1, 6, 95, 97, 200)),
        *({"width": width, "coarse": True} for width in (1, 2, 15, 16, 63, 64, 65, 200)),
        *({"d": d, "groups": 1, "width": 128} for d in (0, 1, 64)),
        {"M": 300, "d": 40, "width": 130, "coarse": True},
    ],
    "lookup": [
        *({"bits": 1, "probes": 2}, {"bits": 4, "probes": 16}, {"missing": 0.5, "probes": 8}),
        {"B": 50, "N": 2000, "L": 8, "bits": 6, "cap": 20, "candidates": 300, "probes": 5},
    ],
    "sketch_scores": [
        *({"W": W} for W in (0, 2, 8, 17)),
        *({"levels": 16, "W": W} for W in (0, 1, 8, 17, 31, 32, 33, 70)),
        *({"levels": 16, "B": 2, "C": C, "padding": 0.0} for C in (7, 8, 39, 80)),
        *({"coordinates": S} for S in (0, 8)),
        {"padding": 0.0},
        {"B": 30, "C": 90, "W": 9, "N": 500},  # candidates beyond what is fetched ahead
    ],
    "select": [{"B": 60, "C": 200, "N": 500, "active": 50, "random": 10, "scores": "ties"}],
    "shared_rows": [{"B": 300, "count": 100, "N": 10_000, "seed": -1, "step": 7}],
    "find_shared": [{"B": 300, "A": 40, "T": 500, "N": 3000}],
    "gather_linear": [{"B": 40, "A": 50, "N": 200, "d": 130}, *_LONG_ROWS],
    "gather_linear_backward": [
        *_LONG_ROWS,
        {"B": 40, "A": 30, "N": 200, "d": 130},
        {"B": 12, "A": 80, "N": 5000, "d": 512},  # a gradient that is stored past the caches
    ],
    "combine_rows": [
        {"B": 1, "A": 30, "N": 50, "d": 1100},  # in blocks
        {"B": 40, "A": 30, "N": 200, "d": 130},
    ],
    **_each(
        ("gather_sparse_linear", "gather_sparse_linear_backward"),
        {"B": 2, "A": 300, "inputs": 40, "N": 500, "d": 70},  # in blocks
        {"B": 40, "A": 30, "inputs": 33, "N": 90, "d": 130},
    ),
    **_each(
        ("active_log_prob", "active_log_prob_backward"),
        *({"M": 0}, {"M": 9, "A": 0}, {"N": 1}),
        *({"A": A, "T": T} for A, T in ((1, 1), (14, 16), (15, 31), (33, 17))),
        {"absent": True, "T": None},
        {"special": True, "A": 40, "T": None},
        {"B": 30, "M": 6, "A": 60, "T": 150, "N": 2000},
    ),
    "row_ids": [
        *({"U": U} for U in (0, 1, 9, 100_000)),  # the last one on several threads
        *({"U": 40_000, "descends": at} for at in (1, 20_000, 39_999)),
    ],
    **_each(
        OPTIMIZERS,
        *({"N": 300, "U": 100, "d": d} for d in (67, 1)),
        *({"N": 4, "U": 3, "d": d} for d in _LONG),
    ),
}

# More than a warp or a block takes at once, 16-byte loads and what does not allow them, maps that
# do not fit into shared memory. Small ones: on the host they run a thread at a time.
_CUDA: Cases = {
    "pack_signs": [{"M": 90, "L": 7, "bits": 5}],
    "probe_digits": [{"bits": 9, "probes": 300}],  # a heap that shared memory has no room for
    "densified_projections": [
        {"M": 3, "D": 900, "share": 0.002, "T": 2, "C": 1000},  # more digits than threads
    ],
    "hadamard_projections": [
        {"M": 3, "D": 1000, "C": 700, "block": 40},  # more than one warp's runs
        {"M": 2, "D": 23_000, "C": 300, "block": 150},  # numbers in global memory
    ],
    "build_tables": [{"N": 600, "L": 2, "bits": 9}],
    "limit_buckets": [
        {"N": 500, "L": 2, "bits": 9, "capacity": 1},
        {"N": 900, "bits": 1, "capacity": 100},
    ],
    "probe_signs": [
        {"bits": 10, "probes": 500},  # a heap that shared memory has no room for
        {"B": 40, "bits": 24, "L": 2, "probes": 9},
    ],
    "best_columns": [
        {"M": 12, "width": 16, "coarse": True},
        {"M": 2, "width": 300, "groups": 1, "count": 5, "coarse": True},
    ],
    "lookup": [
        {"B": 2, "L": 40, "probes": 8, "candidates": 50},  # more buckets than threads
        {"B": 2, "N": 900, "L": 2, "bits": 1, "cap": 1000, "candidates": 700},  # more rows
        {"B": 600, "N": 30, "L": 1, "candidates": 12_000},  # map in global memory
    ],
    "sketch_scores": [
        {"W": 70, "B": 1},  # more words than are at hand
        {"W": 70, "B": 1, "levels": 16},
        {"C": 150, "N": 200, "B": 2, "padding": 0.0},  # more than one block's
    ],
    "select": [
        {"B": 2, "C": 600, "N": 900, "active": 300, "random": 10, "scores": "ties"},
        {"B": 2, "C": 30, "N": 50_000, "active": 9000, "random": 8990},  # map in global memory
    ],
    "shared_rows": [
        {"B": 1500, "count": 700, "max_labels": 500, "N": 10_000, "seed": -1, "step": 7},
        {"B": 10, "count": 9000, "N": 10**6},  # map in global memory
    ],
    "find_active": [
        *({"selection": kind} for kind in ("sketch", "frequency", "threshold", "union")),
        {"selection": "sketch", "coordinates": 6},
        {"selection": "sketch", "levels": 16},
        *({"M": M, "T": T} for M, T in ((2, 5), (0, 0))),
        {"active": 3, "random": 3},
        {"random": 0},
    ],
    "find_best": [
        *({}, {"sketch": False}, {"B": 0}, {"k": 0}, {"k": 1}, {"candidates": 0}),
        {"k": 30},  # more than are found
        {"k": 9, "active": 0, "bias": False},
        {"N": 900, "bits": 2, "candidates": 700, "active": 600, "k": 300},  # more than threads
        {"special": True, "sketch": False, "k": 20},
    ],
    "search": [
        *({}, {"sketch": False}, {"B": 0}, {"B": 9}, {"bias": False}),
        {"probing": "columns"},
        {"probing": "columns", "L": 1, "probes": 9, "k": 12},
        {"probing": "columns", "levels": 16},
    ],
    "gather_linear": [
        {"d": 280},
        *({"B": 9, "A": 12, "d": d} for d in (64, 33, 296, 515, 1104)),  # rows of many samples
    ],
    "gather_linear_backward": [
        {"d": 280},
        {"B": 150, "A": 2, "N": 3, "d": 40, "extras": 3},  # rows with many pairs
    ],
    "combine_rows": [{"d": 280}],
    "gather_sparse_linear": [{"B": 2, "A": 40, "inputs": 70, "d": 300}],
    "gather_sparse_linear_backward": [
        {"B": 20, "A": 9, "inputs": 150, "N": 12, "d": 300},  # rows with many pairs
        {"B": 60, "A": 2, "inputs": 150, "N": 2, "d": 6000, "padding": 0.0},  # more than is summed
        {"B": 2, "A": 3, "N": 3, "d": 400_000},  # columns in global memory
    ],
    **_each(
        ("active_log_prob", "active_log_prob_backward"),
        {"A": 300, "T": 270, "N": 900, "B": 2},  # more than a block has threads
    ),
    "row_ids": [
        *({"U": U} for U in (0, 1, 9, 600)),  # the last one by several blocks
        *({"U": 600, "descends": at} for at in (1, 256, 599)),
    ],
    **_each(OPTIMIZERS, {"d": 32}, {"d": 280, "U": 3}),
}

FLOATING = {"find_active", "find_best", "search", "sign_codes"}
FLOATING |= {*list(BOTH)[list(BOTH).index("gather_linear") :]}
"""Ops over numbers of any floating dtype."""


def _joined(first: Cases, second: Cases) -> Cases:
    return {name: [*first.get(name, ()), *second.get(name, ())] for name in {**first, **second}}


CPU, CUDA = _joined(BOTH, _CPU), _joined(BOTH, _CUDA)


def parameters(cases: Cases) -> list[Any]:
    """For pytest: a name and a case each."""

    def text(case: Case) -> str:
        return ",".join(f"{key}={value}" for key, value in case.items()) or "default"

    return [
        pytest.param(name, case, id=f"{name}-{text(case)}")
        for name, every in cases.items()
        for case in every
    ]
