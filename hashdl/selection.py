"""From candidates to the active set of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.profiling import part
from hashdl.tables import HashTables


def score_candidates(
    config: HashConfig,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    candidates: Tensor,
    hits: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Candidates that may be active, and float32 scores (B, C) to rank them by.

    *exact* ranks by logit, *frequency* and *threshold* by hits, *union* by order of discovery
    (no scores); *threshold* drops candidates with too few hits.
    """
    if config.selection == "exact":
        return candidates, ops.gather_linear(x, weight, bias, candidates).float()
    if config.selection == "union":
        return candidates, None
    if config.selection == "threshold":
        candidates = torch.where(hits >= config.threshold, candidates, -1)
    return candidates, hits.float()


@torch.no_grad()
def select_active(
    config: HashConfig,
    tables: HashTables,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    training: bool,
    labels: Tensor | None = None,
    shared: Tensor | None = None,
) -> Tensor:
    """Active rows int32 (B, M + A) of the queries x (B, d): see :func:`hashdl.ops.select`.

    In training the tables follow their schedule, random rows are among the A, and ``labels``
    (B, M) come first; in evaluation the tables are up to date, and there are no random rows.
    """
    sizes = tables.sizes
    random = sizes.R if training else 0
    tables.refresh(weight, bias, training=training)
    if random == sizes.A and sizes.A > 0:
        candidates, scores = x.new_empty((x.shape[0], 0), dtype=torch.int32), None
    else:
        found, hits = tables.lookup(x)
        with part("select"):
            candidates, scores = score_candidates(config, x, weight, bias, found, hits)
    with part("select"):
        return ops.select(
            candidates,
            scores,
            labels,
            shared,
            active=sizes.A,
            random=random,
            n_rows=weight.shape[0],
            seed=config.seed,
            step=tables.step,
        )
