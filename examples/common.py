"""What the examples share: flags, training a classifier, timing, and a table of the outcome."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import HashMLP, optim
from hashdl.data import DenseDataset
from hashdl.progress import track
from hashdl.training.report import render

T = TypeVar("T")


def parse(doc: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of every example; seeds torch and sets its threads.

    Args:
        doc: the script's docstring, shown by ``--help``.
        arguments: the command line; None: that of the process.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny: to try the command")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--threads", type=int, help="(default: torch's)")
    args = parser.parse_args(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args


def run(main: Callable[[], int]) -> None:
    """Run an example as a command, and exit.

    Args:
        main: of the example; its exit status.
    """
    name = Path(sys.argv[0]).name
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except ImportError as error:
        sys.exit(f"{name}: error: {error}")


def train_classifier(
    model: nn.Module, data: DenseDataset, *, epochs: int, lr: float, seed: int, what: str
) -> float:
    """Train with Adam and cross entropy; milliseconds a step of 32 samples.

    Args:
        model: from inputs to logits.
        data: what to learn.
        epochs: passes.
        lr: learning rate.
        seed: of the order of samples.
        what: shown beside the progress.
    """
    # Layers that are drawn for few active inputs have larger rates.
    groups = model.parameter_groups(lr) if isinstance(model, HashMLP) else model.parameters()
    optimizer = optim.Adam(groups, lr=lr)
    model.train()
    steps, start = 0, time.perf_counter()
    for epoch in track(range(epochs), what):
        for inputs, targets in data.batches(32, shuffle_seed=seed * epochs + epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            steps += 1
    return 1e3 * (time.perf_counter() - start) / max(steps, 1)


@torch.no_grad()
def accuracy(model: nn.Module, data: DenseDataset) -> float:
    """Share of the samples whose class is the largest output."""
    return float((model.eval()(data.inputs).argmax(1) == data.targets).float().mean())


def timed(call: Callable[[], T], repeat: int) -> tuple[T, float]:
    """What a call answers, and the median of its milliseconds after one call to warm up."""
    result, times = call(), []
    for _ in range(repeat):
        start = time.perf_counter()
        result = call()
        times.append(1e3 * (time.perf_counter() - start))
    return result, sorted(times)[len(times) // 2]


def mean_cosine(one: Tensor, other: Tensor) -> float:
    """Mean cosine of vectors (B, d) and theirs."""
    return float(F.cosine_similarity(one, other, dim=1).mean())


def show(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    print(render(titles, rows, markdown=False))
