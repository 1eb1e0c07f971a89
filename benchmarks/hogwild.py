"""Asynchronous training without locks: hashed updates of several processes rarely meet.

A HashMLP in shared memory is trained by several processes at once (Hogwild, Recht et al., NIPS
2011): each takes the next batch that nobody has taken, and updates the rows and entries that its
samples met, with plain SGD and no lock. The first process rebuilds the tables too, and takes as
many fewer batches; the others read one of two copies of them, which it hands on when it is whole
(shared_tables.py). Nobody waits for anybody until all batches of all epochs are taken.

For each number of workers: seconds of training, speed-up against the first number, test accuracy,
the workers' CPU seconds together, and which share of a single worker's the tables take. Where CPU
seconds grow with the workers, memory and caches are what limits them; what the tables take limits
any number of workers, since one alone rebuilds them.

The overlap is the share of the rows and entries that a step updates which another step, of other
samples, updates as well; from it follows the share that at least one of w - 1 other workers in the
same step would update, if they choose independently: 1 - (1 - overlap)^(w - 1).

More workers than there are processors are simulated (--simulate): w gradients are computed one
after another from the same weights, then all are applied. That is how w workers in lock step would
train; accuracy and overlap are measured, and the speed-up is at most what the tables allow. Where
the updates of a round meet too often they add up to a step that is too long: such a run may
diverge, and has no accuracy then. A smaller --rate bears more workers.

    python benchmarks/hogwild.py --json hogwild.json
    python benchmarks/hogwild.py --workers 1 2 4 --data rectangles --json hogwild.json

Every worker runs on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

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
from benchmarks.hidden_nets import OURS, Hashed
from benchmarks.hidden_training import DATA, accuracy, load
from benchmarks.layers import config_fields, make_configs
from benchmarks.shared_tables import Board, Owner, Reader
from benchmarks.steps import add_config_flag
from hashdl import optim
from hashdl.data import DenseDataset
from hashdl.memory import keep_large_blocks
from hashdl.nn import HashLinear
from hashdl.progress import track
from hashdl.tables import HashTables

_SIMULATED = (2, 4, 8, 16, 32, 64)
# Steps are small, and there are many: with the default schedule tables would take most of the time.
_REHASH_EVERY = 200
# A weight so large is not learnt.
_HUGE = 1e4
# Pairs of steps, or simulated rounds of steps, whose overlap is measured.
_PAIRS = 20
#: Inputs and targets of a step.
Batch = tuple[Tensor, Tensor]


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=None)
    runs = parser.add_argument_group("runs")
    runs.add_argument("--data", choices=list(DATA), default="mnist", help="(default: mnist)")
    runs.add_argument(
        "--workers", type=positive, nargs="+", default=[1, 2], help="processes (default: 1 2)"
    )
    runs.add_argument(
        "--simulate",
        type=positive,
        nargs="*",
        default=[4, 16, 64],
        help="numbers of workers in lock step (default: 4 16 64)",
    )
    runs.add_argument("--layers", type=positive, default=2, help="hidden layers (default: 2)")
    runs.add_argument("--width", type=positive, default=1000, help="units a layer (default: 1000)")
    runs.add_argument("--active", type=float, default=0.05, help="share (default: .05)")
    runs.add_argument("--rate", type=float, default=0.2, help="of SGD (default: .2)")
    runs.add_argument("--epochs", type=positive, default=10, help="(default: 10)")
    runs.add_argument("--batch", type=positive, default=8, help="samples a step (default: 8)")
    runs.add_argument("--quick", action="store_true", help="a few samples: to try the command")
    add_config_flag(parser)
    return parser


def tables_of(net: torch.nn.Module) -> list[HashTables]:
    """The tables of all hashed layers."""
    return [module for module in net.modules() if isinstance(module, HashTables)]


class Schedule(NamedTuple):
    """Which samples and rate each step of a run has, whoever takes it.

    Attributes:
        data: what is learnt.
        batch: samples a step.
        epochs: passes.
        rate: of the first epoch; it falls to 0 epoch by epoch.
        seed: of the order of samples.
    """

    data: DenseDataset
    batch: int
    epochs: int
    rate: float
    seed: int

    @classmethod
    def of(cls, data: DenseDataset, args: argparse.Namespace) -> Schedule:
        """From the flags."""
        return cls(data, args.batch, args.epochs, args.rate, args.seed)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.epochs * self._of_epoch

    @property
    def _of_epoch(self) -> int:
        return -(-len(self.data) // self.batch)

    def batches(self, numbers: Iterator[int]) -> Iterator[tuple[float, Batch]]:
        """Rate and batch of some steps, until one is past the end.

        Args:
            numbers: of the steps, ascending.
        """
        known, order = -1, torch.empty(0)
        for number in numbers:
            epoch, place = divmod(number, self._of_epoch)
            if epoch >= self.epochs:
                return
            if epoch != known:
                known, seed = epoch, self.seed * self.epochs + epoch
                generator = torch.Generator().manual_seed(seed)
                order = torch.randperm(len(self.data), generator=generator)
            rows = order[place * self.batch : (place + 1) * self.batch]
            rate = self.rate * (1 - epoch / self.epochs)
            yield rate, (self.data.inputs[rows], self.data.targets[rows])


class Seconds(NamedTuple):
    """What training took.

    Attributes:
        wall: from the workers' common start to their common end.
        cpu: of all workers together.
        tables: CPU seconds for which the first one kept the tables up to date.
    """

    wall: float
    cpu: float
    tables: float


def work(
    worker: int,
    workers: int,
    net: Hashed,
    schedule: Schedule,
    board: Board,
    ready: Any,
    seconds: Tensor,
) -> None:
    """What one process does.

    Args:
        worker: its number.
        workers: how many there are.
        net: in shared memory.
        schedule: of all; its data are in shared memory.
        board: of all workers.
        ready: a barrier; training begins when all are there, and ends when all are done.
        seconds: (workers, 3), in shared memory: a line of :class:`Seconds` each.
    """
    torch.set_num_threads(1)
    keep_large_blocks()
    tables = tables_of(net)
    refreshing = Stopwatch()
    part: Owner | Reader
    if worker == 0:
        part = Owner(board, tables, workers)
        for some in tables:
            some.refresh = refreshing.timing(some.refresh)  # type: ignore[method-assign]
    else:
        part = Reader(worker, board, tables)
    optimizer = optim.SGD(net.parameters(), lr=schedule.rate)
    net.train()
    ready.wait()
    start, busy = time.perf_counter(), time.thread_time()
    for rate, batch in schedule.batches(iter(part.next_step, None)):
        # Weights may change between forward and backward: that is what Hogwild allows, and other
        # processes' writes are not counted by autograd.
        gradient(net, *batch)
        apply(optimizer, rate)
        part.end_step()
    busy = time.thread_time() - busy
    part.close()
    ready.wait()
    seconds[worker] = torch.tensor([time.perf_counter() - start, busy, refreshing.seconds])


class Stopwatch:
    """Adds up the CPU seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timing(self, call: Any) -> Any:
        """The same call, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            result = call(*args, **kwargs)
            self.seconds += time.thread_time() - start
            return result

        return timed


def gradient(net: Hashed, inputs: Tensor, targets: Tensor) -> list[Tensor | None]:
    """That of the loss, by parameter, in place of the one before."""
    net.zero_grad()
    F.cross_entropy(net(inputs), targets).backward()
    return [parameter.grad for parameter in net.parameters()]


def apply(optimizer: optim.SGD, rate: float) -> None:
    """Update by the gradients that the parameters have."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def train(net: Hashed, schedule: Schedule, workers: int) -> Seconds:
    """Train with so many processes.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a worker failed.
    """
    context = mp.get_context("spawn")
    board = Board(workers, context.Lock(), tables_of(net))
    seconds = torch.zeros(workers, len(Seconds._fields), dtype=torch.float64).share_memory_()
    ready = context.Barrier(workers)
    # Joined by hand: a worker that fails ends the others, which wait for it.
    running = start_processes(
        work, (workers, net, schedule, board, ready, seconds), workers, join=False
    )
    while not running.join():
        pass
    for layer in net.modules():
        if isinstance(layer, HashLinear):
            layer.rehash()  # this process has seen no weight change
    wall, cpu, tables = seconds.t()
    return Seconds(float(wall.max()), float(cpu.sum()), float(tables.sum()))


def simulate(net: Hashed, schedule: Schedule, workers: int) -> float:
    """Train as so many workers in lock step would; the overlap.

    In each round all gradients are those of the weights before it. The overlap is the share of the
    rows and entries that a step updates which another step of its round updates as well, as a mean
    over rounds of the whole run. Training ends early once it diverges.
    """
    optimizer = optim.SGD(net.parameters(), lr=schedule.rate)
    net.train()
    steps = schedule.batches(iter(range(schedule.steps)))
    rounds = -(-schedule.steps // workers)
    every, met = max(1, rounds // _PAIRS), []
    for number in track(range(rounds), f"{workers} workers"):
        gradients, rates = [], []
        for rate, batch in islice(steps, workers):
            gradients.append(gradient(net, *batch))
            rates.append(rate)
        if number % every == 0 and len(gradients) > 1:
            met.append(met_share(gradients))
        for rate, grads in zip(rates, gradients, strict=True):
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter.grad = grad
            apply(optimizer, rate)
        if diverged(net):
            break
    return sum(met) / max(len(met), 1)


@torch.no_grad()
def diverged(net: Hashed) -> bool:
    """Whether some weight is huge, or no number."""
    return not all(float(parameter.abs().max()) < _HUGE for parameter in net.parameters())


def met_share(gradients: Sequence[Sequence[Tensor | None]]) -> float:
    """Share of the rows and entries of some steps' gradients that another one has too.

    Args:
        gradients: of each step, by parameter.
    """
    both = total = 0
    for grads in zip(*gradients, strict=True):
        places = [places_of(grad) for grad in grads if grad is not None and grad.is_sparse]
        if places:
            counts = torch.cat(places).unique(return_counts=True)[1]
            both += int(counts[counts > 1].sum())
            total += int(counts.sum())
    return both / max(total, 1)


def overlap(net: Hashed, schedule: Schedule) -> float:
    """Mean share of what a step updates that a step of other samples updates as well."""
    net.train()
    data, batch = schedule.data, schedule.batch
    generator = torch.Generator().manual_seed(schedule.seed)
    shares = []
    for _ in range(_PAIRS):
        order = torch.randperm(len(data), generator=generator)
        pair = (order[:batch], order[batch : 2 * batch])
        shares.append(
            met_share([gradient(net, data.inputs[rows], data.targets[rows]) for rows in pair])
        )
    net.zero_grad()
    return sum(shares) / len(shares)


def places_of(grad: Tensor) -> Tensor:
    """Numbers of the rows or entries that a sparse gradient has."""
    indices = grad.coalesce().indices()
    last = indices[1] if len(indices) == 2 else 0
    return indices[0] * grad.shape[-1] + last


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """Train with each number of workers, then simulate more."""
    base = OURS.replace(random=0.2, rehash_every=_REHASH_EVERY)
    config = make_configs({"hashed": base}, args.config)["hashed"]
    report = new_report("hogwild", args, configs=config_fields({"hashed": config}))
    splits = load(args.data, quick=args.quick)
    for tensor in (splits.train.inputs, splits.train.targets):
        tensor.share_memory_()
    sizes = [splits.train.inputs.shape[1], *[args.width] * args.layers, splits.train.n_classes]
    schedule = Schedule.of(splits.train, args)

    def make_net() -> Hashed:
        torch.manual_seed(args.seed)
        net = Hashed(sizes, args.active, config).train()
        with torch.no_grad():
            net(splits.train.inputs[: args.batch])  # builds the tables
        return net

    results, alone = report["contenders"], 0.0
    for workers in args.workers:
        net = make_net()
        seconds = train(net.share_memory(), schedule, workers)
        shared = overlap(net, schedule)
        alone = alone or seconds.wall
        results[f"workers_{workers}"] = {
            "train_seconds": seconds.wall,
            "speed_up": alone / seconds.wall,
            "cpu_seconds": seconds.cpu,
            "tables_share": seconds.tables / seconds.cpu,
            "top1": accuracy(net, splits.test),
            "overlap": shared,
            "met": {str(w): 1 - (1 - shared) ** (w - 1) for w in _SIMULATED},
        }
        save(args.json, report)
        if stop():
            return report
    share = next(iter(results.values()))["tables_share"]
    for workers in args.simulate:
        net = make_net()
        met = simulate(net, schedule, workers)
        results[f"simulated_{workers}"] = {
            "speed_up_limit": min(workers, 1 / share),
            "overlap_of_round": met,
        }
        if not diverged(net):
            results[f"simulated_{workers}"]["top1"] = accuracy(net, splits.test)
        save(args.json, report)
        if stop():
            break
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
