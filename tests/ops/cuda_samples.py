"""Small cases of every op for the CUDA kernels, which run a thread at a time on the host."""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]

LOG_PROBS: list[Case] = [
    {},
    {"B": 0},
    {"M": 0, "A": 0, "T": None},  # no logits
    {"T": None},
    {"T": 0},
    {"A": 300, "T": 270, "N": 900, "B": 2},  # more than a block has threads
    {"absent": True},
    {"special": True},
]
UPDATES: list[Case] = [{}, {"U": 0}, {"d": None}, {"d": 1}, {"d": 32}, {"d": 280, "U": 3}]

# What the kernels must get right beside the numbers: more than a warp or a block takes at once,
# 16-byte loads and what does not allow them, maps that do not fit into shared memory.
CASES: dict[str, list[Case]] = {
    "pack_signs": [
        {},
        {"M": 0},
        {"L": 1, "bits": 1},
        {"M": 3, "L": 2, "bits": 24},
        {"M": 9, "L": 2, "bits": 32},
        {"M": 90, "L": 7, "bits": 5},
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
        {"bits": 9, "probes": 300},  # a heap that shared memory has no room for
        {"B": 90, "bits": 11, "probes": 16, "coarse": True},
        {"bits": 24, "L": 2, "probes": 5},
    ],
    "densified_projections": [
        *({}, {"M": 0}, {"D": 0}, {"D": 1}, {"C": 0}, {"C": 1}, {"T": 1}),
        *({"share": share} for share in (0.0, 0.05, 1.0)),
        {"M": 20, "D": 300, "share": 0.02, "T": 8, "C": 100},
        {"M": 3, "D": 900, "share": 0.002, "T": 2, "C": 1000},  # more digits than threads
    ],
    "hadamard_projections": [
        *({}, {"M": 0}, {"C": 0}),
        *({"D": D} for D in (0, 1, 2, 3, 8, 64, 65, 200)),
        {"C": 7, "block": 1},
        {"M": 9, "D": 130, "C": 300, "block": 100},
        {"M": 3, "D": 1000, "C": 700, "block": 40},  # more than one warp's runs
        {"M": 2, "D": 23_000, "C": 300, "block": 150},  # numbers in global memory
    ],
    "build_tables": [
        *({}, {"N": 0}, {"N": 1}, {"L": 0}, {"bits": 1}),
        {"N": 600, "L": 2, "bits": 9},
    ],
    "limit_buckets": [
        *({}, {"replacement": "fifo"}, {"L": 0}, {"capacity": 1}, {"capacity": 2**62}),
        *({"N": N, "replacement": kind} for N in (0, 1) for kind in ("fifo", "reservoir")),
        {"N": 500, "L": 2, "bits": 9, "capacity": 1},
        {"N": 900, "bits": 1, "capacity": 100},
    ],
    "mark_rows_": [{}, {"B": 0}, {"bits": 255}, {"B": 50, "A": 30}],
    "probe_signs": [
        {},
        {"B": 0},
        {"probes": 1},
        {"bits": 1, "probes": 2},
        {"bits": 4, "probes": 16},
        {"bits": 9, "probes": 12, "coarse": True},
        {"bits": 10, "probes": 500},  # a heap that shared memory has no room for
        {"bits": 3, "probes": 100},  # more than there are buckets
        {"B": 40, "bits": 24, "L": 2, "probes": 9},
    ],
    "best_columns": [
        *({}, {"M": 0}, {"width": 1}, {"count": 1}, {"count": 100}),
        {"M": 12, "width": 16, "coarse": True},
        {"M": 2, "width": 300, "groups": 1, "count": 5, "coarse": True},
    ],
    "lookup": [
        *({}, {"B": 0}, {"N": 0}, {"N": 1}, {"L": 0}, {"candidates": 0}, {"missing": 1.0}),
        {"missing": 0.3},
        {"candidates": 5, "probes": 8},  # overflow
        {"candidates": 200, "probes": 8},  # more than can be found
        {"N": 300, "bits": 2, "cap": 1},
        {"N": 300, "bits": 2, "cap": 7, "probes": 4, "candidates": 40},
        {"N": 300, "bits": 2, "cap": 7, "probes": 4, "seed": -(2**63), "step": 2**62},
        {"B": 2, "L": 40, "probes": 8, "candidates": 50},  # more buckets than threads
        {"B": 2, "N": 900, "L": 2, "bits": 1, "cap": 1000, "candidates": 700},  # more rows
        {"B": 600, "N": 30, "L": 1, "candidates": 12_000},  # map in global memory
    ],
    "sketch_scores": [
        *({}, {"B": 0}, {"C": 0}, {"N": 0}, {"N": 1}, {"padding": 1.0}),
        *({"W": W} for W in (1, 9)),
        {"W": 70, "B": 1},  # more words than are at hand
        *({"coordinates": S} for S in (1, 16, 33)),
        {"C": 150, "N": 200, "B": 2, "padding": 0.0},  # more than one block's
    ],
    "select": [
        {},
        {"B": 0},
        {"C": 0},
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
        {"B": 2, "C": 600, "N": 900, "active": 300, "random": 10, "scores": "ties"},
        {"B": 2, "C": 30, "N": 50_000, "active": 9000, "random": 8990},  # map in global memory
    ],
    "shared_rows": [
        *({}, {"B": 0}, {"count": 0}, {"count": 3}, {"max_labels": 3}, {"max_labels": 0}),
        {"N": 12, "count": 30},  # draws give out
        {"B": 1500, "count": 700, "max_labels": 500, "N": 10_000, "seed": -1, "step": 7},
        {"B": 10, "count": 9000, "N": 10**6},  # map in global memory
    ],
    "find_active": [
        *({"selection": kind} for kind in ("sketch", "frequency", "threshold", "union")),
        {"selection": "sketch", "coordinates": 6},
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
    ],
    "gather_linear": [
        *({}, {"bias": False}, {"B": 0}, {"A": 0}, {"A": 1}, {"N": 1}, {"padding": 1.0}),
        {"N": 0, "A": 3},  # all padding
        *({"d": d} for d in (0, 1, 16, 33, 280)),
        *({"B": 9, "A": 12, "d": d} for d in (64, 33)),  # rows of many samples
    ],
    "gather_linear_backward": [
        *({}, {"extra_bias": False}, {"extras": 0}, {"extras": None}, {"extras": 20}),
        *({"B": 0}, {"A": 0}, {"A": 1}, {"N": 1}),
        *({"d": d} for d in (0, 1, 16, 280)),
        {"padding": 1.0},
        {"N": 5000, "A": 30},
        {"B": 150, "A": 2, "N": 3, "d": 40, "extras": 3},  # rows with many pairs
    ],
    "combine_rows": [
        *({}, {"B": 0}, {"A": 0}, {"A": 1}, {"N": 1}, {"padding": 1.0}),
        *({"d": d} for d in (0, 1, 16, 280)),
    ],
    "scatter_rows": [
        *({}, {"B": 0}, {"A": 0}, {"N": 1}, {"fill": float("-inf")}),
        {"padding": 1.0, "fill": 1.0},
    ],
    "active_log_prob": LOG_PROBS,
    "active_log_prob_backward": LOG_PROBS,
    "sgd_rows_": [*UPDATES, {"buffer": False, "d": 16}, {"nesterov": True}],
    "adagrad_rows_": [
        *UPDATES,
        {"weight_decay": 0.0},
        *({"row_wise": True, "d": d} for d in (8, 9)),
    ],
    "adam_rows_": [
        *UPDATES,
        {"step": 100_000, "weight_decay": 0.0},
        {"decoupled": True},
        *({"row_wise": True, "decoupled": True, "d": d} for d in (8, 9)),
    ],
}
FLOATING = {
    "find_active",
    "find_best",
    "search",
    *list(CASES)[list(CASES).index("gather_linear") :],
}
"""Ops over numbers of any floating dtype."""
