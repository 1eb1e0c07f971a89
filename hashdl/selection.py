"""From candidates to the active set of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.functions import Nonzero
from hashdl.profiling import part
from hashdl.tables import HashTables


@torch.no_grad()
def select_active(
    tables: HashTables,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    training: bool,
    labels: Tensor | None = None,
    shared: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Active rows int32 (B, M + A) of the queries x (B, d), and their outputs if they are known.

    See :func:`hashdl.ops.find_active`. In training the tables follow their schedule, random rows
    are among the A, and ``labels`` (B, M) come first; in evaluation the tables are up to date,
    and E rows are active, none of them random.
    """
    config, sizes = tables.config, tables.sizes
    active, random = (sizes.A, sizes.R) if training else (sizes.E, 0)
    with tables.up_to_date(weight, bias, training=training, queries=x):
        if random < active:
            layer = (x, weight, bias)
            return tables.find_active(*layer, labels, shared, active=active, random=random)
    with part("look-up"):  # nothing but draws
        nothing = tables.rows.new_empty((x.shape[0], 0))
        rows = ops.select(
            *(nothing, None, labels, shared),
            active=active,
            random=random,
            n_rows=weight.shape[0],
            seed=config.seed,
            step=tables.step,
        )
    return rows, None


@torch.no_grad()
def select_from_active(
    tables: HashTables,
    x: Tensor,
    inputs: Nonzero,
    weight: Tensor,
    bias: Tensor | None,
    *,
    training: bool,
) -> Tensor:
    """Active rows int32 (B, A) of queries x (B, d) of which few inputs are not zero.

    As :func:`select_active`, but *exact* ranks candidates by those inputs alone: values and
    columns (B, I), as for :func:`hashdl.ops.gather_sparse_linear`; and with *sketch* no row is
    read.
    """
    config, sizes = tables.config, tables.sizes
    active, random = (sizes.A, sizes.R) if training else (sizes.E, 0)
    if config.selection not in ("exact", "sketch") or random == active:
        return select_active(tables, x, weight, bias, training=training)[0]
    with tables.up_to_date(weight, bias, training=training, queries=x):
        mapped = tables.map_queries(x, inputs)
        candidates = tables.lookup(x, has_bias=bias is not None, mapped=mapped)
        with part("look-up"):
            if config.selection == "sketch":
                scores = tables.sketch_scores(x, candidates, mapped)
            else:
                scores = ops.gather_sparse_linear(*inputs, weight, bias, candidates).float()
            return ops.select(
                *(candidates, scores, None, None),
                active=active,
                random=random,
                n_rows=weight.shape[0],
                seed=config.seed,
                step=tables.step,
            )


def find_best(
    tables: HashTables, x: Tensor, weight: Tensor, bias: Tensor | None, k: int
) -> tuple[Tensor, Tensor]:
    """The k largest outputs (B, k) among what the tables find, descending, and their rows.

    Every candidate is computed; with *sketch*, as many as :func:`_ranked` says of those that the
    sketch ranks first. -inf and -1 where fewer than k candidates were found.
    """
    return tables.find_best(x, weight, bias, active=_ranked(tables, k), k=k)


def _ranked(tables: HashTables, k: int) -> int:
    return max(tables.sizes.A, k)


def rows_read(tables: HashTables, x: Tensor, k: int, *, has_bias: bool) -> Tensor:
    """How many rows' weights :func:`find_best` reads for each query of x (B, d): (B,)."""
    found = (tables.lookup(x, has_bias=has_bias) >= 0).sum(1)
    if tables.config.selection == "sketch":
        return found.clamp_max(_ranked(tables, k))
    return found
