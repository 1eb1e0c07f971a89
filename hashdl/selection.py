"""From candidates to the active set of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
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
    are among the A, and ``labels`` (B, M) come first; in evaluation the tables are up to date, and
    there are no random rows.
    """
    config, sizes = tables.config, tables.sizes
    random = sizes.R if training else 0
    tables.refresh(weight, bias, training=training, queries=x)
    if random < sizes.A:
        return tables.find_active(x, weight, bias, labels, shared, random=random)
    with part("look-up"):  # nothing but draws
        nothing = tables.rows.new_empty((x.shape[0], 0))
        rows = ops.select(
            *(nothing, None, labels, shared),
            active=sizes.A,
            random=random,
            n_rows=weight.shape[0],
            seed=config.seed,
            step=tables.step,
        )
    return rows, None


def shortlist(tables: HashTables, x: Tensor, k: int) -> Tensor:
    """Candidates int32 (B, C) of the queries x (B, d) whose rows are read to find the best k.

    All that the look-up found; with *sketch*, the A (or k, if more) that the sketch ranks first.
    """
    found = tables.lookup(x)
    if tables.config.selection != "sketch":
        return found.candidates
    scores = tables.sketch_scores(found).masked_fill(found.candidates < 0, -torch.inf)
    kept = min(max(tables.sizes.A, k), scores.shape[1])
    return found.candidates.gather(1, scores.topk(kept, dim=1).indices)
