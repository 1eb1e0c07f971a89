"""One progress bar for everything in hashdl that can take more than a few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


def track(
    iterable: Iterable[T],
    description: str,
    total: float | None = None,
    enabled: bool = True,
) -> Iterator[T]:
    """Yield the items of ``iterable`` and show on stderr how far it is.

    With rich installed and stderr a terminal this is a bar with rate and remaining time; otherwise
    it is one line at the beginning and one at the end, so that logs stay readable.

    Args:
        iterable: What to iterate over.
        description: What is being done, as a short phrase ("Reading labels.txt").
        total: Number of items; by default ``len(iterable)`` where it has one.
        enabled: False yields the items and prints nothing.

    Yields:
        The items, unchanged.

    Examples:
        >>> list(track(range(3), "Counting", enabled=False))
        [0, 1, 2]
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if not enabled:
        yield from iterable
        return
    bar = make_bar() if sys.stderr.isatty() else None
    if bar is None:
        yield from _announced(iterable, description)
        return
    with bar:
        yield from bar.track(iterable, total=total, description=description)


def _announced(iterable: Iterable[T], description: str) -> Iterator[T]:
    """Yield the items between a first and a last line on stderr."""
    print(f"{description} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    count = 0
    for item in iterable:
        yield item
        count += 1
    seconds = time.perf_counter() - start
    print(f"{description}: {count:,} in {seconds:.1f} s", file=sys.stderr, flush=True)


def make_bar() -> Progress | None:
    """Return a rich progress bar on stderr, or None when rich is not installed."""
    try:
        from rich import progress
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None

    class RateColumn(progress.ProgressColumn):
        """Items a second; rich shows it by itself only when the total is unknown."""

        def render(self, task: progress.Task) -> Text:
            return progress.TaskProgressColumn.render_speed(task.finished_speed or task.speed)

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        RateColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
