"""How work, time and accuracy grow with the width of a hidden layer.

A net with one hidden layer is trained on the same task at each number of neurons, dense and hashed.
The hashed one computes --active neurons a sample where there are 1000, and of N neurons
(N / 1000)^--active-growth times as many. Each net is trained with each learning rate of --rates,
and the one that is best on the validation part is reported: multiplications a sample (those of a
training step, finding neurons and rehashing included), milliseconds and joules a step, test
accuracy; and power laws of multiplications and milliseconds, fitted from --fit-from neurons on.
docs/update_extrapolation.py makes a page of it, which carries the laws on to 10^9 neurons.

    python benchmarks/width.py --json width.json
    python benchmarks/plot.py width.json width.png
    python docs/update_extrapolation.py width.json

Widths that were finished are kept in the JSON file; the same command goes on after them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# For "python benchmarks/width.py" as well as "python -m benchmarks.width".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    continued,
    make_parser,
    new_report,
    positive,
    run_benchmark,
    save,
)
from benchmarks.hidden_nets import WIDE, Hashed, Net, Standard, widened
from benchmarks.hidden_training import COUNTED, DATA, accuracy, energy, fit, load
from benchmarks.layers import config_fields, make_configs
from benchmarks.power_law import fit as fit_power
from benchmarks.steps import add_config_flag
from hashdl.energy import EnergyMeter
from hashdl.progress import track

NAMES = ("standard", "hashed")
_MAY_CHANGE = ("contenders", "neurons", "dense_up_to", "fit_from")
#: Figures that laws are fitted to.
_GROWING = ("multiplications", "step_ms")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=None)
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--data", choices=list(DATA), default="rectangles", help="(default: rectangles)"
    )
    runs.add_argument(
        "--contenders", nargs="+", choices=NAMES, default=list(NAMES), help="(default: both)"
    )
    runs.add_argument(
        "--neurons",
        type=positive,
        nargs="+",
        default=[1000, 3162, 10_000, 31_623, 100_000, 316_228],
        help="of the hidden layer (default: 10^3 to 10^5.5 in steps of 10^.5)",
    )
    runs.add_argument(
        "--dense-up-to",
        type=positive,
        default=100_000,
        help="neurons: the dense net takes long (default: 100000)",
    )
    runs.add_argument(
        "--active", type=positive, default=100, help="neurons, of 1000 (default: 100)"
    )
    runs.add_argument(
        "--active-growth", type=float, default=0.35, help="power of the width (default: .35)"
    )
    runs.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1e-3, 3e-3],
        help="of Adam, tried for each net (default: 1e-3 3e-3)",
    )
    runs.add_argument("--epochs", type=positive, default=8, help="(default: 8)")
    runs.add_argument("--batch", type=positive, default=32, help="(default: 32)")
    runs.add_argument(
        "--fit-from", type=positive, default=1000, help="neurons, for exponents (default: 1000)"
    )
    runs.add_argument("--quick", action="store_true", help="a few samples: to try the command")
    add_config_flag(parser)
    return parser


def summarize(report: Report, fit_from: int) -> None:
    """Add the laws by which figures grow."""
    for result in report["contenders"].values():
        fitted = {int(n): some for n, some in result["by_rows"].items() if int(n) >= fit_from}
        laws = {key: fit_power({n: fitted[n][key] for n in fitted}) for key in _GROWING}
        result["laws"] = {key: law._asdict() for key, law in laws.items() if law is not None}


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """Train at each width."""
    config = make_configs({"hashed": WIDE}, args.config)["hashed"]
    splits = load(args.data, quick=args.quick)
    d, classes = splits.train.inputs.shape[1], splits.train.n_classes
    configs = config_fields({"hashed": config})
    report = new_report("width", args, configs=configs, features=d, classes=classes)
    report = continued(args.json, report, _MAY_CHANGE)

    def build(name: str, sizes: Sequence[int]) -> Net:
        if name == "standard":
            return Standard(sizes, 1.0)
        wide = widened(config, sizes[1], args.active, args.active_growth)
        return Hashed(sizes, wide.active, wide)

    def best_of_rates(name: str, n: int) -> dict[str, Any]:
        tried = {rate: run(name, n, rate) for rate in args.rates}
        valid = {f"{rate:g}": figures.pop("valid") for rate, figures in tried.items()}
        best = max(args.rates, key=lambda rate: valid[f"{rate:g}"])
        return tried[best] | {"lr": best, "validation": valid}

    def run(name: str, n: int, rate: float) -> dict[str, Any]:
        torch.manual_seed(args.seed)
        net = build(name, [d, n, classes])
        schedule = (rate, args.epochs, args.batch, args.seed)
        with EnergyMeter() as meter:
            seconds, steps = fit(net, splits.train, *schedule, stop)
        work = net.multiplications(splits.valid.inputs[:COUNTED], args.batch)
        return {
            "multiplications": work.train,
            "multiplications_test": work.test,
            "step_ms": 1e3 * seconds / steps,
            "top1": accuracy(net, splits.test),
            "valid": accuracy(net, splits.valid),
        } | energy(net, splits.train, args.batch, work, meter, steps)

    pairs = [
        (name, n)
        for n in sorted(args.neurons)
        for name in args.contenders
        if name != "standard" or n <= args.dense_up_to
    ]
    try:
        for name, n in track(pairs, "Widths"):
            by_rows = report["contenders"].setdefault(name, {"by_rows": {}})["by_rows"]
            if str(n) not in by_rows:
                by_rows[str(n)] = best_of_rates(name, n)
                save(args.json, report)
    except KeyboardInterrupt:
        print("interrupted: finished widths are kept", file=sys.stderr)
    summarize(report, args.fit_from)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
