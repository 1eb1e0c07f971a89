"""A training run on the screen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hashdl.progress import make_bar
from hashdl.training.trainer import Progress, Watcher


@contextmanager
def training_bar(name: str, total_steps: int) -> Iterator[Watcher]:
    """Show a run: a bar on a terminal, else a line at each evaluation. Both go to stderr.

    Args:
        name: of the run.
        total_steps: steps that it takes.

    Yields:
        What to hand to :meth:`Trainer.fit`.
    """
    bar = make_bar() if sys.stderr.isatty() else None
    if bar is None:
        yield _LinePrinter(name)
        return
    with bar:
        task = bar.add_task(name, total=total_steps)

        def update(progress: Progress, loss: float, total: int) -> None:
            text = f"{name}  loss {loss:.3f}  {_accuracies(progress)}"
            bar.update(task, completed=progress.step, description=text)

        yield update


class _LinePrinter:
    """Prints each new evaluation."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, 0

    def __call__(self, progress: Progress, loss: float, total: int) -> None:
        if len(progress.history) == self.seen:
            return
        self.seen = len(progress.history)
        last = progress.history[-1]
        print(
            f"{self.name}: step {progress.step:,}/{total:,}  {last['seconds']:.1f} s  "
            f"loss {last['loss']:.3f}  {_accuracies(progress)}",
            file=sys.stderr,
            flush=True,
        )


def _accuracies(progress: Progress) -> str:
    """The accuracies of the last evaluation."""
    return "  ".join(f"{name} {value:.3f}" for name, value in progress.accuracies().items())
