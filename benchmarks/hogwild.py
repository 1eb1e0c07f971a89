"""Asynchronous training without locks: hashed updates of several processes rarely meet.

A HashMLP in shared memory is trained by several processes at once (Hogwild, Recht et al., NIPS
2011): each takes its share of every epoch's batches and updates the rows and entries that its
samples met, with plain SGD and no lock. Tables are shared too; the first process alone rebuilds
them. A look-up that meets a table while it is being replaced is repeated.

For each number of workers: seconds of training, speed-up against the first number, test accuracy.
The overlap is the share of the weights that a step updates which another step, of other samples,
updates as well; from it follows the share that at least one of w - 1 other workers in the same step
would update, if they choose independently: 1 - (1 - overlap)^(w - 1).

    python benchmarks/hogwild.py --json hogwild.json
    python benchmarks/hogwild.py --workers 1 2 4 --data rectangles --json hogwild.json

Every worker runs on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

# For "python benchmarks/hogwild.py" as well as "python -m benchmarks.hogwild".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    make_parser,
    new_report,
    positive,
    run_benchmark,
    save,
)
from benchmarks.hidden_nets import Hashed
from benchmarks.hidden_training import DATA, accuracy, load
from benchmarks.layers import config_fields, make_configs
from benchmarks.steps import add_config_flag
from hashdl import HashConfig, optim
from hashdl.data import DenseDataset
from hashdl.tables import HashTables

_SIMULATED = (2, 4, 8, 16, 32, 64)
# Pairs of steps whose overlap is measured; look-ups of a step before it is given up.
_PAIRS, _TRIES = 20, 100


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=None)
    runs = parser.add_argument_group("runs")
    runs.add_argument("--data", choices=list(DATA), default="mnist", help="(default: mnist)")
    runs.add_argument(
        "--workers", type=positive, nargs="+", default=[1, 2], help="processes (default: 1 2)"
    )
    runs.add_argument("--layers", type=positive, default=2, help="hidden layers (default: 2)")
    runs.add_argument("--width", type=positive, default=1000, help="units a layer (default: 1000)")
    runs.add_argument("--active", type=float, default=0.05, help="share (default: .05)")
    runs.add_argument("--rate", type=float, default=0.1, help="of SGD (default: .1)")
    runs.add_argument("--epochs", type=positive, default=10, help="(default: 10)")
    runs.add_argument("--batch", type=positive, default=8, help="samples a step (default: 8)")
    runs.add_argument("--quick", action="store_true", help="a few samples: to try the command")
    add_config_flag(parser)
    return parser


def tables_of(net: torch.nn.Module) -> list[HashTables]:
    """The tables of all hashed layers."""
    return [module for module in net.modules() if isinstance(module, HashTables)]


def work(
    worker: int,
    workers: int,
    net: Hashed,
    data: DenseDataset,
    args: argparse.Namespace,
    ready: Any,
    seconds: Tensor,
) -> None:
    """What one process does.

    Args:
        worker: its number.
        workers: how many there are.
        net: in shared memory.
        data: what all learn, in shared memory.
        args: the flags.
        ready: a barrier; training begins when all are there, and ends when all are done.
        seconds: (1,), in shared memory; the first process writes here how long that took.
    """
    torch.set_num_threads(1)
    if worker > 0:
        for tables in tables_of(net):
            tables.refresh = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = optim.SGD(net.parameters(), lr=args.rate)
    net.train()
    ready.wait()
    start = time.perf_counter()
    for epoch in range(args.epochs):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * (1 - epoch / args.epochs)
        batches = data.batches(args.batch, shuffle_seed=args.seed * args.epochs + epoch)
        for number, (inputs, targets) in enumerate(batches):
            if number % workers == worker:
                step(net, optimizer, inputs, targets, alone=workers == 1)
    ready.wait()
    if worker == 0:
        seconds[0] = time.perf_counter() - start


def step(
    net: Hashed, optimizer: optim.SGD, inputs: Tensor, targets: Tensor, *, alone: bool
) -> None:
    """One step; again where another process was replacing a table.

    Raises:
        RuntimeError: it fails for another reason.
    """
    for tries in range(_TRIES):
        optimizer.zero_grad()
        try:
            loss = F.cross_entropy(net(inputs), targets)
        except RuntimeError:  # a half-written table holds buckets that fit nowhere
            if alone or tries == _TRIES - 1:
                raise
            continue
        # Weights may change between forward and backward: that is what Hogwild allows, and other
        # processes' writes are not counted by autograd.
        loss.backward()
        optimizer.step()
        return


def train(net: Hashed, data: DenseDataset, workers: int, args: argparse.Namespace) -> float:
    """Train with so many processes; seconds from their common start to their common end.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a worker failed.
    """
    seconds = torch.zeros(1, dtype=torch.float64).share_memory_()
    ready = mp.get_context("spawn").Barrier(workers)
    # Joined by hand: a worker that fails ends the others, which wait for it.
    running = start_processes(
        work, (workers, net, data, args, ready, seconds), workers, join=False, start_method="spawn"
    )
    while not running.join():
        pass
    return float(seconds)


def overlap(net: Hashed, data: DenseDataset, batch: int, seed: int) -> float:
    """Mean share of the weights that a step updates which a step of other samples updates too."""
    net.train()
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for _ in range(_PAIRS):
        order = torch.randperm(len(data), generator=generator)
        one, other = (
            updated(net, *(tensor[rows] for tensor in (data.inputs, data.targets)))
            for rows in (order[:batch], order[batch : 2 * batch])
        )
        both = sum(int(torch.isin(a, b).sum()) for a, b in zip(one, other, strict=True))
        shares.append(both / max(sum(map(len, one)), 1))
    net.zero_grad()
    return sum(shares) / len(shares)


def updated(net: Hashed, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """For each parameter, the numbers of the rows or entries that have a gradient."""
    net.zero_grad()
    F.cross_entropy(net(inputs), targets).backward()
    places = []
    for parameter in net.parameters():
        grad = parameter.grad
        if grad is not None and grad.is_sparse:
            indices = grad.coalesce().indices()
            last = indices[1] if len(indices) == 2 else 0
            places.append(indices[0] * parameter.shape[-1] + last)
    return places


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """Train with each number of workers."""
    base = HashConfig(tables=8, candidates=2 * max(1, round(args.active * args.width)))
    config = make_configs({"hashed": base}, args.config)["hashed"].replace(sparse_grad=True)
    report = new_report("hogwild", args, configs=config_fields({"hashed": config}))
    splits = load(args.data, quick=args.quick)
    for tensor in (splits.train.inputs, splits.train.targets):
        tensor.share_memory_()
    sizes = [splits.train.inputs.shape[1], *[args.width] * args.layers, splits.train.n_classes]
    first: float | None = None
    for workers in args.workers:
        torch.manual_seed(args.seed)
        net = Hashed(sizes, args.active, config).train()
        with torch.no_grad():
            net(splits.train.inputs[: args.batch])  # builds the tables before they are shared
        seconds = train(net.share_memory(), splits.train, workers, args)
        first = seconds if first is None else first
        shared = overlap(net, splits.train, args.batch, args.seed)
        report["contenders"][f"workers_{workers}"] = {
            "train_seconds": seconds,
            "speed_up": first / seconds,
            "top1": accuracy(net, splits.test),
            "overlap": shared,
            "met": {str(w): 1 - (1 - shared) ** (w - 1) for w in _SIMULATED},
        }
        save(args.json, report)
        if stop():
            break
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
