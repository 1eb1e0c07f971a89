"""How the studies of hidden layers load their data, train and test."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from benchmarks.common import StopWanted, interleave
from benchmarks.energy import rehash_reads, step_energy
from benchmarks.hidden_nets import Net, Work
from hashdl import optim
from hashdl.data import (
    DenseDataset,
    Splits,
    load_convex,
    load_digits,
    load_mnist,
    load_rectangles,
)
from hashdl.energy import EnergyMeter

#: Test samples of the data that is drawn; of --quick, samples of any part.
_TEST, _QUICK = 10_000, 60
DATA: dict[str, Callable[[], Splits]] = {
    "mnist": load_mnist,
    # As many training samples as in the study, of which a sixth is for validation.
    "rectangles": lambda: load_rectangles(10_000, 2000, _TEST),
    "convex": lambda: load_convex(6000, 2000, _TEST),
    "digits": load_digits,
}
#: Samples whose active neurons are counted, and that are tested at once.
COUNTED = 256


def load(name: str, *, quick: bool) -> Splits:
    """A data set.

    Args:
        name: in :data:`DATA`.
        quick: a few samples of each part.
    """
    splits = DATA[name]()
    if not quick:
        return splits
    return Splits(*(part.subset(torch.arange(min(_QUICK, len(part)))) for part in splits))


def fit(
    net: Net,
    data: DenseDataset,
    rate: float,
    epochs: int,
    batch: int,
    seed: int,
    stop: StopWanted,
    groups: ParamsT | None = None,
) -> tuple[float, int]:
    """Train with Adam, its rate falling to 0 epoch by epoch; seconds and steps.

    Args:
        net: it is trained.
        data: what on.
        rate: of Adam at first, of parameters for which ``groups`` has no other.
        epochs: passes over the data.
        batch: samples a step.
        seed: of the order of samples.
        stop: asked after each epoch.
        groups: of parameters. Default: one, of all.

    Raises:
        KeyboardInterrupt: a stop was wanted.
    """
    optimizer = optim.Adam(net.parameters() if groups is None else groups, lr=rate)
    schedule = LambdaLR(optimizer, lambda epoch: 1 - epoch / epochs)
    net.train()
    steps, start = 0, time.perf_counter()
    for epoch in range(epochs):
        for inputs, targets in data.batches(batch, shuffle_seed=seed * epochs + epoch):
            _step(net, optimizer, inputs, targets)
            steps += 1
        schedule.step()
        if stop():
            raise KeyboardInterrupt
    return time.perf_counter() - start, steps


def _step(net: Net, optimizer: Optimizer, inputs: Tensor, targets: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(net(inputs), targets).backward()
    optimizer.step()


def energy(
    net: Net, data: DenseDataset, batch: int, work: Work, meter: EnergyMeter, steps: int
) -> dict[str, Any]:
    """Joules of a training step: :func:`benchmarks.energy.step_energy`.

    Args:
        net: its gradients become those of one step.
        data: what it was trained on.
        batch: samples a step.
        work: multiplications a sample.
        meter: of the training.
        steps: that the training had.
    """
    net.train()
    net.zero_grad()
    inputs, targets = next(data.batches(batch, shuffle_seed=0))
    F.cross_entropy(net(inputs), targets).backward()
    weights = sum(parameter.numel() for parameter in net.parameters())
    read = min(len(targets) * work.test, weights) + rehash_reads(net)
    figures = step_energy(meter, steps, net.parameters(), len(targets) * work.train, read)
    net.zero_grad()
    return figures


class TimedTraining:
    """A net in training, whose steps are timed in blocks.

    Args:
        net: it is trained.
        data: what on.
        rate: of Adam.
        batch: samples a step.
        seed: of the order of samples.
    """

    #: Steps of a block, which is timed as one: from one rehash of a fresh net to the next.
    BLOCK = 50

    def __init__(self, net: Net, data: DenseDataset, rate: float, batch: int, seed: int) -> None:
        self.net, self.data, self.batch = net, data, batch
        self._optimizer = optim.Adam(net.parameters(), lr=rate)
        self._batches = _endless(data, batch, seed)
        # Allocates states and builds tables.
        self.step_ms()

    def step_ms(self) -> float:
        """Milliseconds of a training step: mean over one block, without assembling batches."""
        batches = list(islice(self._batches, self.BLOCK))
        self.net.train()
        start = time.perf_counter()
        for inputs, targets in batches:
            _step(self.net, self._optimizer, inputs, targets)
        return 1e3 * (time.perf_counter() - start) / len(batches)

    def energy(self, work: Work) -> dict[str, Any]:
        """Joules of a step, over one block: :func:`energy`.

        Args:
            work: multiplications a sample.
        """
        with EnergyMeter() as meter:
            self.step_ms()
        return energy(self.net, self.data, self.batch, work, meter, self.BLOCK)


def step_figures(
    trainings: Mapping[str, TimedTraining],
    counted: Tensor,
    repeat: int,
    stop: StopWanted,
    what: str,
) -> dict[str, dict[str, Any]]:
    """Milliseconds and joules of a training step, of nets that take blocks of steps in turn.

    Args:
        trainings: of what nets, by name.
        counted: samples whose work is counted.
        repeat: blocks of each net; the median counts.
        stop: ends the measurement.
        what: shown beside the progress.

    Returns:
        ``step_ms``, ``rounds_ms`` and the figures of :func:`energy`, by name.

    Raises:
        KeyboardInterrupt: a stop was wanted in the first round.
    """
    measures = {name: training.step_ms for name, training in trainings.items()}
    rounds = interleave(measures, repeat, stop, what)
    figures: dict[str, dict[str, Any]] = {}
    for name, training in trainings.items():
        times = rounds[name]
        figures[name] = {"step_ms": statistics.median(times), "rounds_ms": times}
        figures[name] |= training.energy(training.net.multiplications(counted, training.batch))
    return figures


def _endless(data: DenseDataset, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after another."""
    for epoch in count():
        yield from data.batches(batch, shuffle_seed=seed + epoch)


@torch.no_grad()
def accuracy(net: Net, data: DenseDataset) -> float:
    """Share of the samples whose class is the largest output."""
    net.eval()
    right = [net(x).argmax(1) == y for x, y in data.batches(COUNTED, shuffle_seed=None)]
    return float(torch.cat(right).float().mean())
