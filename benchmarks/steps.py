"""Training steps of one huge output layer on synthetic inputs: building, timing, parts, memory."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.common import StopWanted, interleave, positive
from benchmarks.energy import rehash_reads, step_energy
from benchmarks.layers import CONFIGS, OPTIMIZERS, make_factories, step_configs
from hashdl.config import HashConfig
from hashdl.energy import EnergyMeter
from hashdl.memory import bytes_available
from hashdl.profiling import part
from hashdl.training.heads import HashedHead, Head
from hashdl.training.measure import PeakMemory, parts_of

#: Hidden inputs (B, d) and labels (B,) of a step.
Batch = tuple[Tensor, Tensor]

_CLUSTERS = 64
# A block of steps is timed as one: about so long, where no rehash sets its length.
_BLOCK_SECONDS, _MOST_STEPS, _LEAST_STEPS = 1.0, 50, 2
# A block of a hashed layer's steps: from one rehash to the next, but no more than these. A rehash
# that takes more steps is spread evenly over them.
_MOST_HASHED_STEPS = 200
_WARM_UP = 3
_PROFILED_STEPS = 5
_SMALL = 1000  # rows


def add_step_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmarks that time steps of a layer."""
    add_input_flags(parser)
    parser.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        default="adam",
        help="of the layer (default: adam); adam_bf16 holds its states in bfloat16, "
        "rowwise_adagrad one number a row",
    )
    add_config_flag(parser)


def add_input_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the synthetic inputs."""
    group = parser.add_argument_group("inputs")
    group.add_argument("--dim", type=positive, default=128, help="d, at least 16 (default: 128)")
    group.add_argument("--batch", type=positive, default=128, help="B (default: 128)")
    group.add_argument(
        "--labels",
        choices=("zipf", "uniform"),
        default="zipf",
        help="how labels are drawn: class k with probability log((k + 2) / (k + 1)) / log(N + 1), "
        "or all alike (default: zipf)",
    )


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that changes how the hashed contenders hash."""
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of HashConfig for the hashed contenders, for example tables=24 probes=1",
    )


# ---- inputs ------------------------------------------------------------------------------------


class Inputs:
    """Synthetic batches whose look-ups find what those of a trained layer would: rows that fit.

    Rows and inputs have one of 64 directions each beside noise, class k that of k mod 64, so that
    buckets are unevenly full. Inputs are rectified, as behind a ReLU.

    Args:
        n_rows: N.
        features: d.
        batch_size: B.
        labels: ``"zipf"`` or ``"uniform"``.
        seed: the same seed gives the same batches.
    """

    def __init__(self, n_rows: int, features: int, batch_size: int, labels: str, seed: int) -> None:
        self.n_rows, self.features = n_rows, features
        self.batch_size, self.labels = batch_size, labels
        self._generator = torch.Generator().manual_seed(seed)
        self._directions = torch.randn(_CLUSTERS, features, generator=self._generator)

    def batches(self, count: int) -> list[Batch]:
        """New batches; the inputs want a gradient, as those of a hidden layer do."""
        return [self._batch() for _ in range(count)]

    def _batch(self) -> Batch:
        targets = self._draw_labels()
        noise = torch.randn(self.batch_size, self.features, generator=self._generator)
        hidden = (noise + self._directions[targets % _CLUSTERS]).relu()
        return hidden.requires_grad_(), targets

    def _draw_labels(self) -> Tensor:
        if self.labels == "uniform":
            return torch.randint(self.n_rows, (self.batch_size,), generator=self._generator)
        u = torch.rand(self.batch_size, generator=self._generator, dtype=torch.float64)
        # The inverse of the distribution function log(k + 2) / log(N + 1).
        return ((self.n_rows + 1) ** u - 1).long().clamp_max(self.n_rows - 1)

    def frequencies(self) -> Tensor:
        """How likely each class is to be a label, float64 (N,)."""
        if self.labels == "uniform":
            return torch.ones(self.n_rows, dtype=torch.float64)
        return torch.arange(1, self.n_rows + 2, dtype=torch.float64).log().diff()

    @torch.no_grad()
    def add_clusters(self, weight: Tensor) -> None:
        """Add its direction to each row, at half of the rows' own scale; in place."""
        whole = self.n_rows - self.n_rows % _CLUSTERS
        scale = 0.5 * float(weight[:_CLUSTERS].std())
        # A view, so that no second (N, d) is held.
        weight[:whole].view(-1, _CLUSTERS, self.features).add_(self._directions, alpha=scale)


# ---- one layer in training ---------------------------------------------------------------------


class LayerStep:
    """One contender's layer with its optimizer: whole training steps, timed in blocks.

    A step is zero_grad, forward, loss, backward (down to the inputs' gradient) and optimizer;
    a block of a hashed layer's steps has its share of the rehashing as well.

    Args:
        head: the layer.
        optimizer: of its parameters.
        inputs: where batches come from; drawing them is not timed.
        block: steps of a block; None: as many as take about a second.
    """

    def __init__(self, head: Head, optimizer: Optimizer, inputs: Inputs, block: int | None) -> None:
        self.head, self.optimizer, self.inputs = head, optimizer, inputs
        self.given_block = block
        self.block = _LEAST_STEPS
        #: Milliseconds of the longest step of each block that was timed.
        self.longest_ms: list[float] = []

    def warm_up(self) -> None:
        """Allocate states and build tables, then set how many steps a block has."""
        self._train(self.inputs.batches(_WARM_UP))
        if self.given_block is not None:
            self.block = self.given_block
            return
        seconds = self.step_ms() / 1000
        self.block = min(max(round(_BLOCK_SECONDS / seconds), _LEAST_STEPS), _MOST_STEPS)

    def step_ms(self) -> float:
        """Milliseconds of a step: mean over one block."""
        seconds = self._train(self.inputs.batches(self.block))
        self.longest_ms.append(1000 * max(seconds))
        return 1000 * statistics.fmean(seconds)

    def parts_ms(self) -> dict[str, float]:
        """Mean milliseconds a step of each named part, under the profiler."""
        steps = self.given_block or min(self.block, _PROFILED_STEPS)
        batches = self.inputs.batches(steps)
        return parts_of(lambda: self._train(batches), steps)

    def energy(self) -> dict[str, Any]:
        """Joules of a step, over one block: :func:`benchmarks.energy.step_energy`."""
        batches = self.inputs.batches(self.block)
        with EnergyMeter() as meter:
            self._train(batches)
        B, weights = self.inputs.batch_size, sum(map(torch.numel, self.head.parameters()))
        read = min(B * self.rows_read() * self.head.features, weights) + rehash_reads(self.head)
        work = B * self.head.multiplications(B)
        return step_energy(meter, self.block, self.head.parameters(), work, read)

    def rows_read(self) -> float:
        """Mean number of rows that a sample of a step reads."""
        hidden, targets = self.inputs.batches(1)[0]
        with torch.no_grad():
            return self.head.rows_read(hidden, targets)

    def _train(self, batches: Sequence[Batch]) -> list[float]:
        """Seconds of each step."""
        moments = [time.perf_counter()]
        for hidden, targets in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.head.loss(hidden, targets)
            with part("backward"):
                loss.backward()
            self.optimizer.step()
            moments.append(time.perf_counter())
        return [end - begin for begin, end in pairwise(moments)]


@dataclass(frozen=True)
class Setup:
    """What the figures of a layer depend on, beside the contender.

    Attributes:
        rows: N.
        dim: d.
        batch: B.
        labels: ``"zipf"`` or ``"uniform"``.
        optimizer: of :data:`benchmarks.layers.OPTIMIZERS`.
        seed: of inputs and layers.
        configs: how the hashed contenders hash.
    """

    rows: int
    dim: int
    batch: int
    labels: str
    optimizer: str
    seed: int
    configs: Mapping[str, HashConfig]

    @classmethod
    def of(cls, args: argparse.Namespace, rows: int) -> Setup:
        """From the flags.

        Raises:
            ValueError: ``--config`` names no field, or the schedule would stretch.
        """
        # A growing interval would leave some blocks with less rehashing: the early, dearest
        # schedule is what is measured.
        configs = step_configs(rows, args.config, rehash_growth=1.0)
        if any(config.rehash_growth != 1 for config in configs.values()):
            raise ValueError("--config: rehash_growth: wanted 1, so that blocks of steps are alike")
        return cls(
            rows, args.dim, args.batch, args.labels, args.optimizer, args.seed, configs=configs
        )

    def build(self, name: str) -> LayerStep:
        """A contender's layer, warmed up."""
        torch.manual_seed(self.seed)
        inputs = Inputs(self.rows, self.dim, self.batch, self.labels, self.seed)
        head = make_factories(self.configs, inputs.frequencies())[name](self.dim, self.rows)
        block = None
        if isinstance(head, HashedHead):
            interval = head.linear.config.rehash_interval(self.rows)
            block = min(interval, _MOST_HASHED_STEPS)
            # The time of the other layers does not depend on values.
            inputs.add_clusters(head.linear.weight)
        optimizer = OPTIMIZERS[self.optimizer](head.parameters())
        step = LayerStep(head, optimizer, inputs, block)
        step.warm_up()
        return step

    def bytes_needed(self, name: str) -> float:
        """About what a contender holds at its peak, in bytes."""
        compact = self.optimizer != "adam"  # states of half the bytes, or next to none
        weight = 4.0 * self.rows * self.dim
        if name in CONFIGS:
            # Codes and tables, and new codes while all rows are hashed at once.
            return (2 if compact else 3) * weight + 4.0 * 3 * self.rows * self.configs[name].tables
        if name.startswith("sampled"):
            return (2 if compact else 3) * weight
        if name == "adaptive":
            return weight / 2
        # Weight, gradient and states; logits, their softmax and its gradient.
        logits = 4.0 * self.rows * self.batch
        return (3 if compact else 4) * weight + (1 if name == "chunked" else 3) * logits


def measure_layers(
    names: Sequence[str], setup: Setup, repeat: int, stop: StopWanted, what: str
) -> dict[str, dict[str, Any]]:
    """Step time, parts, rows read and peak memory of contenders that are timed in turn.

    Args:
        names: of the contenders; all are held in memory at once.
        setup: sizes and inputs.
        repeat: rounds.
        stop: ends the measurement.
        what: shown beside the progress.

    Returns:
        For each contender ``step_ms`` (median of the rounds), ``rounds_ms``, ``longest_ms`` (the
        longest step of a block, which holds a rehash; median), ``block_steps``, ``rows_read``,
        joules, ``parts_ms`` and, where the system tells, ``peak_mb``; and ``vs_dense`` and
        ``vs_sampled_1000``, medians of the rounds' ratios, where these take part.

    Raises:
        ValueError: it would not fit into memory.
        KeyboardInterrupt: stopped before there were figures.
    """
    _check_memory(names, setup)
    results: dict[str, dict[str, Any]] = {}
    steps: dict[str, LayerStep] = {}
    for name in names:
        # What the first layer of its kind loads into the process is not counted.
        replace(setup, rows=min(setup.rows, _SMALL)).build(name)
        with PeakMemory() as memory:
            steps[name] = setup.build(name)
        results[name] = {"block_steps": steps[name].block}
        if memory.megabytes is not None:
            results[name]["peak_mb"] = memory.megabytes
        if stop():
            raise KeyboardInterrupt
    measures: dict[str, Callable[[], float]] = {name: step.step_ms for name, step in steps.items()}
    rounds = interleave(measures, repeat, stop, what)
    for name, step in steps.items():
        results[name] |= {"step_ms": statistics.median(rounds[name]), "rounds_ms": rounds[name]}
        results[name]["longest_ms"] = statistics.median(step.longest_ms[-len(rounds[name]) :])
        results[name] |= _ratios(rounds, name)
        results[name]["rows_read"] = step.rows_read()
        results[name] |= step.energy()
        if not stop():
            results[name]["parts_ms"] = step.parts_ms()
    return results


def _check_memory(names: Sequence[str], setup: Setup) -> None:
    needed, available = sum(map(setup.bytes_needed, names)), bytes_available()
    if available is not None and needed > available:
        raise ValueError(
            f"{', '.join(names)} at {setup.rows:,} rows need about {needed / 1e9:.1f} GB together, "
            f"and {available / 1e9:.1f} GB are free: choose fewer --contenders or smaller sizes"
        )


def _ratios(rounds: Mapping[str, Sequence[float]], name: str) -> dict[str, float]:
    """Medians of a contender's time over that of the rivals, round by round."""
    return {
        f"vs_{rival}": statistics.median(
            mine / theirs for mine, theirs in zip(rounds[name], rounds[rival], strict=True)
        )
        for rival in ("dense", "sampled_1000")
        if rival in rounds
    }
