"""What was tried for :func:`hashdl.tune`, what it cost, and the table of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hashdl.config import HashConfig
from hashdl.nn import HashLinear
from hashdl.tuning.text import figure, in_code, table


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        config: the configuration.
        recall: share of the k largest outputs that it finds, on held-out inputs.
        touched: mean share of all rows whose weights are read.
        found: mean share of all rows that the look-up finds.
        estimate_ms: cost of a query by a model, to choose what is timed.
        ms: measured milliseconds a query, of a call with ``batch`` of them; None: not timed.
        capped: whether some buckets hold more rows than ``config.cap`` lets a query read.
    """

    config: HashConfig
    recall: float
    touched: float
    found: float
    estimate_ms: float
    ms: float | None = None
    capped: bool = False


@dataclass(frozen=True)
class TuneResult:
    """What :func:`hashdl.tune` returns; ``print(result)`` shows :attr:`table`.

    Attributes:
        config: the best configuration.
        layer: a :class:`HashLinear` with it, over the same parameters, ready to be asked.
        met: whether every target is met on held-out inputs.
        best: the trial of ``config``.
        trials: everything that was tried, the cheapest of each kind first.
        dense_ms: measured milliseconds a query of computing every row.
        k: how many of the largest outputs counted.
        batch: queries a call when timing.
    """

    config: HashConfig
    layer: HashLinear
    met: bool
    best: Trial
    trials: tuple[Trial, ...]
    dense_ms: float
    k: int
    batch: int

    @property
    def table(self) -> str:
        """What was tried and what it cost: the timed ones, then the best of each family."""
        timed = [trial for trial in self.trials if trial.ms is not None]
        families = {trial.config.family: trial for trial in reversed(self.trials)}
        shown = [*timed, *(trial for trial in families.values() if trial.ms is None)]
        headings = [name for name in _COLUMNS if name != "cap" or any(t.capped for t in shown)]
        cells = ([_cells(trial)[name] for name in headings] for trial in shown)
        lines = table([headings, *cells], left=(0, 1, 2))
        if self.best in timed:
            lines[timed.index(self.best) + 1] += "  <-"
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        return {
            "met": self.met,
            "dense_ms": self.dense_ms,
            "config": dataclasses.asdict(self.config),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def __str__(self) -> str:
        verdict = "" if self.met else "No configuration meets the targets; the nearest is\n"
        return (
            f"{self.table}\n\nms a query, {self.batch} at once; every row: "
            f"{figure(self.dense_ms)} ms\n{verdict}{in_code(self.config)}\n"
            f"recall@{self.k} {self.best.recall:.3f}, "
            f"{self.best.touched:.1%} of the rows read{self._against_every_row()}"
        )

    def _against_every_row(self) -> str:
        """How the best compares with the product with every row, where it was timed."""
        ms, dense_ms = self.best.ms, self.dense_ms
        if ms is None:
            return ""
        if ms > dense_ms:
            return f", {figure(ms / dense_ms)} times as slow as every row: stay dense here"
        return f", {figure(dense_ms / ms)} times as fast as every row"


_COLUMNS = (
    *("family", "prepared", "ranked by"),
    *("K", "L", "P", "cap", "recall", "read", "found", "ms"),
)


def _cells(trial: Trial) -> dict[str, str]:
    config = trial.config
    ranked = config.selection == "sketch"
    return {
        "family": config.family,
        "prepared": "+".join(_steps(config)) or "-",
        "ranked by": f"{_words_for(config)}, then {config.active} rows" if ranked else "outputs",
        "K": str(config.bits),
        "L": str(config.tables),
        "P": str(config.probes),
        "cap": str(config.cap) if trial.capped else "-",
        "recall": f"{trial.recall:.3f}",
        "read": f"{trial.touched:.2%}",
        "found": f"{trial.found:.2%}",
        "ms": "-" if trial.ms is None else figure(trial.ms),
    }


def _steps(config: HashConfig) -> list[str]:
    """What is done to rows and queries before they are hashed, in this order."""
    steps = [name for name in ("center", "balance") if getattr(config, name)]
    if config.rank is not None:
        steps.append(f"rank {config.rank}")
    return steps if config.transform is None else [*steps, config.transform]


def _words_for(config: HashConfig) -> str:
    """What ranks the candidates."""
    if config.rank is not None:
        return f"{config.rank} coordinates"
    if config.sketch_levels == 2:
        return f"{config.sketch_bits} bits"
    return f"{config.sketch_coordinates} x {config.sketch_levels} levels"
