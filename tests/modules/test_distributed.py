"""Hashed layers in several processes."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import hashdl
from hashdl.distributed import keep_tables_local
from hashdl.rehash import State

RANKS, STEPS = 2, 4

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo"
)


def trained(rank: int) -> tuple[list[Tensor], dict[str, object]]:
    """Parameters, and the state of the tables, after one rank's training."""
    torch.manual_seed(0)
    config = hashdl.HashConfig(active=20)
    model = nn.Sequential(nn.Linear(8, 8), hashdl.HashLinear(8, 200, config=config))
    replica = DistributedDataParallel(keep_tables_local(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tables = model[1].tables
    for step in range(STEPS):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(10 * step + rank)
        replica(torch.randn(16, 8, generator=generator)).square().sum().backward()
        optimizer.step()
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    return parameters, vars(State.of(tables.state))


def train(rank: int, folder: str) -> None:
    """One rank's training; what came of it is left in a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    torch.save(trained(rank), Path(folder) / f"{rank}.pt")
    # A replica holds on to gloo's threads, which a process that ends must not have any more: it
    # would abort, now and then. Replicas lie in cycles.
    gc.collect()
    dist.destroy_process_group()


@needs_gloo
@pytest.mark.slow
def test_ranks_share_parameters_and_keep_tables_of_their_own(tmp_path: Path) -> None:
    multiprocessing.spawn(train, (str(tmp_path),), RANKS)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    parameters: list[list[Tensor]] = [result[0] for result in results]
    for ours, theirs in zip(*parameters, strict=True):
        assert torch.equal(ours, theirs)
    for _, state in results:
        assert state["step"] == STEPS
        assert state["start"] == 0  # never built again


def test_what_was_ignored_before_still_is() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), hashdl.HashLinear(8, 200))
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["0.running_mean"])
    keep_tables_local(model)
    left = {name for name, _ in model.named_buffers()} - model._ddp_params_and_buffers_to_ignore
    assert left == {"0.running_var", "0.num_batches_tracked"}
