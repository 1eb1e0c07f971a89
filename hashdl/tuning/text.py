"""Figures, tables and configurations as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from hashdl.config import HashConfig


def figure(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Lines with the columns of cells below each other; the ``left`` ones begin alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def in_code(config: HashConfig) -> str:
    """The call that makes a configuration."""
    changed = (
        f"{entry.name}={getattr(config, entry.name)!r}"
        for entry in dataclasses.fields(config)
        if getattr(config, entry.name) != entry.default
    )
    return f"hashdl.HashConfig({', '.join(changed)})"
