"""The contract of every op: schema, checks, shapes (the fake kernel), and a typed function.

B samples, N rows, d features, L tables, K bits a table, P probes, C candidates, A active rows,
M labels a sample, T rows shared by the batch, U distinct rows. Row ids are int32; -1 is padding.

The plain-torch implementation of each op (:mod:`hashdl.reference`) is registered for every device;
``hashdl._C`` overrides it with compiled CPU kernels. Checks on a tensor's *values* (ids in range,
finite projections) are made where the values are at hand: in the kernels and in the reference.
"""

from hashdl.ops.checks import FLOATING, MAX_BITS, PROBINGS, REPLACEMENTS, SELECTIONS, SKETCH_LEVELS
from hashdl.ops.hashing import (
    best_columns,
    densified_projections,
    hadamard_projections,
    nearest_columns,
    pack_digits,
    pack_signs,
    probe_digits,
    probe_signs,
    sign_codes,
)
from hashdl.ops.linear import (
    combine_rows,
    gather_linear,
    gather_linear_backward,
    gather_sparse_linear,
    gather_sparse_linear_backward,
    scatter_rows,
)
from hashdl.ops.loss import active_log_prob, active_log_prob_backward
from hashdl.ops.optimizers import adagrad_rows_, adam_rows_, row_ids, sgd_rows_
from hashdl.ops.registration import (
    define_differentiable,
    define_stateful,
    has_cuda_kernel,
    make_differentiable,
)
from hashdl.ops.retrieval import find_active, find_best, lookup, search
from hashdl.ops.selection import distinct_labels, find_shared, select, shared_rows, sketch_scores
from hashdl.ops.tables import build_tables, limit_buckets, mark_rows_

__all__ = [
    "FLOATING",
    "MAX_BITS",
    "PROBINGS",
    "REPLACEMENTS",
    "SELECTIONS",
    "SKETCH_LEVELS",
    "active_log_prob",
    "active_log_prob_backward",
    "adagrad_rows_",
    "adam_rows_",
    "best_columns",
    "build_tables",
    "combine_rows",
    "define_differentiable",
    "define_stateful",
    "densified_projections",
    "distinct_labels",
    "find_active",
    "find_best",
    "find_shared",
    "gather_linear",
    "gather_linear_backward",
    "gather_sparse_linear",
    "gather_sparse_linear_backward",
    "hadamard_projections",
    "has_cuda_kernel",
    "limit_buckets",
    "lookup",
    "make_differentiable",
    "mark_rows_",
    "nearest_columns",
    "pack_digits",
    "pack_signs",
    "probe_digits",
    "probe_signs",
    "row_ids",
    "scatter_rows",
    "search",
    "select",
    "sgd_rows_",
    "shared_rows",
    "sign_codes",
    "sketch_scores",
]
