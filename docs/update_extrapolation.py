"""Write docs/extrapolation.md from a report: ``python docs/update_extrapolation.py width.json``.

The report is one of benchmarks/width.py; it is copied to docs/benchmarks/, so that every figure of
the page can be traced.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# For "python docs/update_extrapolation.py": benchmarks/ is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.hidden_nets import widened
from benchmarks.plot import plot
from benchmarks.power_law import PowerLaw
from benchmarks.tables import render_figures, tables_of
from hashdl import HashConfig
from hashdl.costs import hashing_work, observing_work, renewal_work

DOCS = Path(__file__).resolve().parent
#: Neurons that the laws are carried on to.
FAR = 10**9
_FLOAT = _INT = 4  # bytes

Report = Mapping[str, Any]


def config_of(report: Report, neurons: int) -> HashConfig:
    """How the hashed net of a report is hashed at a width."""
    settings = report["settings"]
    config = HashConfig(**settings["configs"]["hashed"])
    return widened(config, neurons, settings["active"], settings["active_growth"])


def counted(report: Report, neurons: int) -> float:
    """Multiplications a sample and training step of the hashed net, if buckets are even.

    The sizes of the configuration alone: nothing of it is measured.
    """
    settings, config = report["settings"], config_of(report, neurons)
    d, classes = settings["features"], settings["classes"]
    sizes = config.sizes(neurons)
    hashing = hashing_work(config, neurons, d)
    found = min(sizes.C, sizes.L * sizes.P * min(config.cap, neurons / 2**sizes.K))
    ranking = found * (
        (config.rank or config.sketch_coordinates) if config.selection == "sketch" else d
    )
    # Chosen by what was ranked, active neurons are computed once more only after a sketch.
    forward = sizes.A * d if config.selection == "sketch" else 0
    gradients = sizes.A * d
    output = 3 * classes * sizes.A
    interval = config.rehash_interval(neurons) * settings["batch"]
    upkeep = renewal_work(config, neurons, d) / interval + observing_work(config, d)
    total: float = hashing + ranking + forward + gradients + output + upkeep
    return total


def gigabytes(report: Report, neurons: int) -> dict[str, float]:
    """Memory of the hashed net in training, by what holds it."""
    settings, config = report["settings"], config_of(report, neurons)
    sizes = config.sizes(neurons)
    parameters = neurons * (settings["features"] + 1 + settings["classes"])
    tables = sizes.L * (2 * neurons + 2**sizes.K + 1) * _INT + neurons
    words = 0
    if config.selection == "sketch":
        words = config.rank or config.sketch_bits // 32 + 1
    parts = {
        "weights and biases, float32": parameters * _FLOAT,
        "Adam's two states": 2 * parameters * _FLOAT,
        "codes and tables": tables,
        "sketches, in force and to come": 2 * neurons * words * _INT,
    }
    return {name: size / 1e9 for name, size in parts.items()}


def laws_of(result: Mapping[str, Any]) -> dict[str, PowerLaw]:
    """The laws of a contender."""
    return {key: PowerLaw(**law) for key, law in result.get("laws", {}).items()}


def law_lines(report: Report) -> str:
    """A row a law."""
    lines = [
        "| | exponent | 95 % interval | between the two widest | at 10⁹, if it holds | "
        "95 % interval of one measurement |",
        "|---|---|---|---|---|---|",
    ]
    units = {"multiplications": "multiplications", "step_ms": "ms a step"}
    for name, result in report["contenders"].items():
        for key, law in laws_of(result).items():
            far = law.predict(FAR)
            lines.append(
                f"| {name}, {units[key]} | {law.exponent:.3f} | ± {law.error:.3f} "
                f"| {last_slope(result['by_rows'], key):.3f} "
                f"| {number(far.value)} | {number(far.low)} to {number(far.high)} |"
            )
    return "\n".join(lines)


def last_slope(by_rows: Mapping[str, Mapping[str, float]], key: str) -> float:
    """The exponent that the two widest nets alone say."""
    before, last = sorted(by_rows, key=int)[-2:]
    growth = by_rows[last][key] / by_rows[before][key]
    return math.log(growth) / math.log(int(last) / int(before))


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def count_lines(report: Report) -> str:
    """Measured multiplications beside counted ones."""
    lines = ["| neurons | measured | counted | measured / counted |", "|---|---|---|---|"]
    by_rows = report["contenders"]["hashed"]["by_rows"]
    for n in sorted(map(int, by_rows)):
        measured, upper = by_rows[str(n)]["multiplications"], counted(report, n)
        lines.append(f"| {n:,} | {number(measured)} | {number(upper)} | {measured / upper:.2f} |")
    lines.append(f"| {FAR:,} | not measured | {number(counted(report, FAR))} | |")
    return "\n".join(lines)


def memory_lines(report: Report, widest: int) -> str:
    """Gigabytes at the widest net measured, and far from it."""
    parts, far = (gigabytes(report, n) for n in (widest, FAR))
    lines = [f"| GB | {widest:,} neurons | {FAR:,} |", "|---|---|---|"]
    lines += [f"| {name} | {number(parts[name])} | {number(far[name])} |" for name in parts]
    total = [number(sum(some.values())) for some in (parts, far)]
    lines.append(f"| together | {total[0]} | {total[1]} |")
    return "\n".join(lines)


def accuracy_line(report: Report) -> str:
    """How accurate the hashed net is beside the dense one, where both were trained."""
    hashed, dense = (
        report["contenders"].get(name, {}).get("by_rows", {}) for name in ("hashed", "standard")
    )
    both = sorted(hashed.keys() & dense.keys(), key=int)
    if not both:
        return "No width has both nets: whether accuracies match was not measured."
    points = {n: 100 * (hashed[n]["top1"] - dense[n]["top1"]) for n in both}
    worst = min(points, key=points.__getitem__)
    return (
        f"Of {len(both)} widths with both nets, the hashed one is {points[worst]:+.2f} points from "
        f"the dense one at worst (at {int(worst):,} neurons), "
        f"{sum(points.values()) / len(points):+.2f} on average."
    )


def page(report: Report) -> str:
    """The page."""
    settings, machine = report["settings"], report["machine"]
    by_rows = report["contenders"]["hashed"]["by_rows"]
    widths = sorted(map(int, by_rows))
    config, far_config = (config_of(report, n) for n in (widths[-1], FAR))
    sizes, far = config.sizes(widths[-1]), far_config.sizes(FAR)
    tables = "\n\n".join(render_figures(figures, markdown=True) for figures in tables_of(report))
    return f"""\
# Growth with the width of a hidden layer

Written by `docs/update_extrapolation.py` from [width.json](benchmarks/width.json):
`python benchmarks/width.py --json width.json`.

## What was measured

{machine["threads"]} threads of an {machine["processor"]} ({machine.get("simd", "no extension")}),
torch {machine["torch"]}; {settings["data"]}, {settings["features"]} inputs and
{settings["classes"]} classes, one hidden layer, batches of {settings["batch"]}, Adam for
{settings["epochs"]} epochs, at that of the rates {settings["rates"]} which is best on the
validation part, seed {settings["seed"]}, one run a width and rate. The hashed net computes
{settings["active"]} neurons a sample of 1,000, and of N neurons
(N / 1,000)^{settings["active_growth"]:g} times as many: {sizes.A} of {widths[-1]:,}. Its
multiplications include hashing, ranking and rehashing.

![Growth with the number of neurons](benchmarks/width.png)

{tables}

{accuracy_line(report)}

## Laws

Fitted by least squares in logarithms from {settings["fit_from"]:,} neurons on. The interval of the
exponent is Student's; the one at 10⁹ is that of a single further measurement, which is wider the
farther it is from what was fitted.

{law_lines(report)}

## To 10⁹ neurons

Two ways to get there, and neither is a measurement. The laws above assume that what they were
fitted to goes on. The count below assumes the configuration: A = {far.A} active neurons at 10⁹
({sizes.A} at {widths[-1]:,}), K = {far.K} bits ({sizes.K}), tables L = {far.L},
P = {far.P} probes ({sizes.P}), all that the buckets hold ranked, and these even; a rehash in
{config.rehash_interval(FAR):,} steps to begin with.

{count_lines(report)}

What both assume, and nobody has measured here:

- that {far.A} active neurons are enough at 10⁹. So wide a net has more rows than it will ever
  update: with {settings["batch"]} samples a step, a row is met about every
  {FAR // (far.A * settings["batch"]):,} steps.
- that look-ups find neurons as good in {far.P} of {2**far.K:,} buckets, which hold
  {FAR >> far.K:,} rows on average ({sizes.P} of {2**sizes.K:,}, and
  {max(1, widths[-1] >> sizes.K):,} rows, at {widths[-1]:,} neurons).
- that accuracy stays. It is not extrapolated: it depends on the data, which narrower nets may have
  learnt already.
- that a row read from memory costs the same. Milliseconds were measured where tables and weights
  are in one machine's memory; a row farther away takes longer, by as much as what is between.

## Memory

{memory_lines(report, widths[-1])}

Row-wise Adagrad (`hashdl.optim.RowWiseAdagrad`) has one state a row in place of Adam's two a
weight. Row numbers are int32: up to 2.1 · 10⁹ neurons in one layer.
"""


def main(path: Path, docs: Path = DOCS) -> None:
    """Write the page, its plot and a copy of the report.

    Args:
        path: of the report.
        docs: where ``extrapolation.md`` and the folder ``benchmarks`` stand.

    Raises:
        ValueError: it is no report of width.py, or has too few widths for a law.
    """
    report = json.loads(path.read_text())
    benchmark = report.get("settings", {}).get("benchmark")
    if benchmark != "width":
        raise ValueError(f"{path}: got a report of {benchmark}, wanted one of width")
    if not report["contenders"].get("hashed", {}).get("laws"):
        raise ValueError(f"{path}: got no law of the hashed net, wanted three widths or more")
    copies = docs / "benchmarks"
    copies.mkdir(parents=True, exist_ok=True)
    if path.resolve() != (copies / "width.json").resolve():
        shutil.copyfile(path, copies / "width.json")
    plot(copies / "width.png", report)
    (docs / "extrapolation.md").write_text(page(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="of benchmarks/width.py")
    main(parser.parse_args().report)
