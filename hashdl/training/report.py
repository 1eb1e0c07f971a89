"""Results as a table, a plot and a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hashdl.files import atomic_path

Result = Mapping[str, Any]

#: Parts of a step in the order in which they happen.
PARTS = (
    *("data", "hidden", "rehash", "hash", "look-up", "select", "forward", "loss"),
    *("backward", "optimizer"),
)


def _require(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise ImportError(
            f"hashdl: this needs {package}: pip install 'torch-hashdl[cli]'"
        ) from error


def write_json(path: Path, report: Result) -> None:
    """Write a report; an interrupted write keeps the older file."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def cell(value: Any, pattern: str) -> str:
    """A figure as text; a dash where there is none."""
    return "–" if value is None else pattern.format(value)


def contender_table(report: Result) -> str:
    """What each contender reached and what it cost, as text."""
    columns: Sequence[tuple[str, str, str]] = (
        ("rate", "lr", "{:g}"),
        ("steps", "steps", "{:,.0f}"),
        ("train s", "train_seconds", "{:.1f}"),
        ("ms/step", "step_ms", "{:.1f}"),
        ("top-1", "top1", "{:.3f}"),
        ("top-5", "top5", "{:.3f}"),
        ("rows read", "touched", "{:.2%}"),
        ("mult. vs dense", "multiplications_vs_dense", "{:.2%}"),
        ("peak MB", "peak_mb", "{:,.0f}"),
    )
    rows = [
        [name, *(cell(result.get(key), pattern) for _, key, pattern in columns)]
        for name, result in report["contenders"].items()
    ]
    return render(["", *(title for title, _, _ in columns)], rows)


def parts_table(report: Result) -> str:
    """Milliseconds a step by part, as text."""
    contenders = report["contenders"]
    used = [
        part for part in PARTS if any(part in c.get("parts_ms", {}) for c in contenders.values())
    ]
    rows = [
        [name, *(cell(result.get("parts_ms", {}).get(part), "{:.2f}") for part in used)]
        for name, result in contenders.items()
    ]
    return render(["ms/step", *used], rows)


def render(titles: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """A table as aligned text, or in Markdown; the first column names the rows."""
    _require("rich")
    from rich import box
    from rich.console import Console
    from rich.table import Table

    style = box.MARKDOWN if markdown else None
    table = Table(box=style, pad_edge=markdown, header_style="bold")
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=240, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())


def seconds_to(history: Sequence[Result], metric: str, level: float) -> float | None:
    """Training seconds at the first evaluation that reached ``level``; None if none did.

    Examples:
        >>> seconds_to([{"seconds": 1.0, "top1": 0.1}, {"seconds": 2.0, "top1": 0.4}], "top1", 0.3)
        2.0
    """
    return next((point["seconds"] for point in history if point[metric] >= level), None)


def comparison(report: Result, metric: str = "top1") -> list[str]:
    """What the run says of the hashed layer against the others, a sentence each."""
    contenders = report["contenders"]
    hashed = contenders.get("hashed")
    if hashed is None:
        return []
    lines = []
    for name, other in contenders.items():
        if name == "hashed":
            continue
        best = max(other["history"], key=lambda point: point[metric])
        margin = 0.01 if name == "dense" else 0.0
        mine = seconds_to(hashed["history"], metric, best[metric] - margin)
        goal = f"{name}'s best {best[metric]:.3f}" + (" less 1 point" if margin else "")
        if mine is None:
            lines.append(f"hashed did not reach {goal} ({best['seconds']:.0f} s)")
        else:
            theirs = best["seconds"]
            lines.append(
                f"hashed reached {goal} in {mine:.1f} s; {name} took {theirs:.1f} s "
                f"({theirs / max(mine, 1e-9):.1f}x)"
            )
    return lines


def plot_accuracy(path: Path, report: Result, metric: str = "top1") -> None:
    """Held-out accuracy against training seconds, as PNG."""
    _require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, result in report["contenders"].items():
        history = result["history"]
        seconds = [point["seconds"] for point in history]
        axes.plot(seconds, [point[metric] for point in history], marker="o", ms=3, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("training seconds (log scale)")
    axes.set_ylabel("held-out top-1 accuracy")
    settings = report["settings"]
    axes.set_title(f"{settings['data']}: {settings['n_classes']:,} classes")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
