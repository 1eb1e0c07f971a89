"""How work, time and accuracy grow with the width of a hidden layer.

A net with one hidden layer is trained on the same task at each number of neurons, dense and hashed.
The hashed one computes --active neurons a sample where there are 1000, and of N neurons
(N / 1000)^--active-growth times as many. Each net is trained with each learning rate of --rates,
and the one that is best on the validation part is reported: multiplications a sample (those of a
training step, finding neurons and rehashing included), test accuracy, milliseconds and joules a
step; and power laws of multiplications and milliseconds, fitted from --fit-from neurons on.
docs/update_extrapolation.py makes a page of it, which carries the laws on to 10^9 neurons.

    python benchmarks/width.py --json width.json
    python benchmarks/width.py --json width.json --retime
    python benchmarks/plot.py width.json width.png
    python docs/update_extrapolation.py width.json

Milliseconds are those of a whole training step, measured apart: fresh nets of a width take blocks
of steps in turn, and the median of the blocks counts; rehashes are as frequent as early in
training, when they are dearest. --retime measures them again, on a quiet machine, and trains
nothing.

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
    add_retime_flag,
    as_finished,
    continued,
    make_parser,
    new_report,
    positive,
    run_benchmark,
    save,
)
from benchmarks.hidden_nets import WIDE, WIDE_ABOVE, Hashed, Net, Standard, widened
from benchmarks.hidden_training import (
    COUNTED,
    DATA,
    TimedTraining,
    accuracy,
    fit,
    load,
    step_figures,
)
from benchmarks.layers import config_fields, make_configs
from benchmarks.power_law import fit as fit_power
from benchmarks.steps import add_config_flag
from hashdl import HashConfig
from hashdl.data import Splits
from hashdl.progress import track

NAMES = ("standard", "hashed")
_MAY_CHANGE = ("contenders", "neurons", "dense_up_to", "fit_from", "repeat", "retime")
#: Figures that laws are fitted to.
_GROWING = ("multiplications", "step_ms")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=5)
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
    add_retime_flag(runs)
    add_config_flag(parser)
    return parser


def summarize(report: Report, fit_from: int) -> None:
    """Add the laws by which figures grow."""
    for result in report["contenders"].values():
        fitted = {int(n): some for n, some in result["by_rows"].items() if int(n) >= fit_from}
        laws = {
            key: fit_power({n: some[key] for n, some in fitted.items() if key in some})
            for key in _GROWING
        }
        result["laws"] = {key: law._asdict() for key, law in laws.items() if law is not None}


class Study:
    """All widths of one report.

    Args:
        args: the flags.
        report: what earlier runs left in it is kept.
        splits: the data.
        config: how the hashed nets hash.
        stop: ends the study after the epoch in progress, which is lost with its width.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        report: Report,
        splits: Splits,
        config: HashConfig,
        stop: StopWanted,
    ) -> None:
        self.args, self.report, self.splits = args, report, splits
        self.config, self.stop = config, stop
        self.counted = splits.valid.inputs[:COUNTED]

    def run(self) -> None:
        """Train and time the nets of each width; with --retime, only time those that there are.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        args = self.args
        for n in track(self._widths(), "Widths"):
            if not args.retime:
                for name in args.contenders:
                    if name != "standard" or n <= args.dense_up_to:
                        self._train(name, n)
            self._time(n)

    def _widths(self) -> list[int]:
        """Those asked for; with --retime, all that there are."""
        if not self.args.retime:
            return sorted(self.args.neurons)
        results = self.report["contenders"].values()
        return sorted({int(n) for result in results for n in result["by_rows"]})

    def _train(self, name: str, n: int) -> None:
        """Search the rate, unless that was done."""
        by_rows = self.report["contenders"].setdefault(name, {"by_rows": {}})["by_rows"]
        if str(n) in by_rows:
            return
        tried = {rate: self._run(name, n, rate) for rate in self.args.rates}
        valid = {f"{rate:g}": figures.pop("valid") for rate, figures in tried.items()}
        best = max(self.args.rates, key=lambda rate: valid[f"{rate:g}"])
        by_rows[str(n)] = tried[best] | {"lr": best, "validation": valid}
        save(self.args.json, self.report)

    def _run(self, name: str, n: int, rate: float) -> dict[str, Any]:
        """Work and accuracy of a net that is trained."""
        args, splits = self.args, self.splits
        net = self._build(name, n)
        fit(net, splits.train, rate, args.epochs, args.batch, args.seed, self.stop)
        work = net.multiplications(self.counted, args.batch)
        return {
            "multiplications": work.train,
            "multiplications_test": work.test,
            "top1": accuracy(net, splits.test),
            "valid": accuracy(net, splits.valid),
        }

    def _build(self, name: str, n: int) -> Net:
        """A net that is not trained yet."""
        torch.manual_seed(self.args.seed)
        train = self.splits.train
        sizes = [train.inputs.shape[1], n, train.n_classes]
        if name == "standard":
            return Standard(sizes, 1.0)
        wide = widened(self.config, n, self.args.active, self.args.active_growth)
        return Hashed(sizes, wide.active, wide, above=WIDE_ABOVE)

    def _time(self, n: int) -> None:
        """Give the nets of a width the time and joules of a step, measured in turn.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed in the first round.
        """
        contenders = self.report["contenders"]
        trained = {
            name: result["by_rows"][str(n)]
            for name, result in contenders.items()
            if str(n) in result["by_rows"]
        }
        if not self.args.retime and all("rounds_ms" in figures for figures in trained.values()):
            return
        batch, seed = self.args.batch, self.args.seed
        trainings = {
            name: TimedTraining(self._build(name, n), self.splits.train, figures["lr"], batch, seed)
            for name, figures in trained.items()
        }
        what = f"Timing, {n:,} neurons"
        timed = step_figures(trainings, self.counted, self.args.repeat, self.stop, what)
        for name, figures in timed.items():
            trained[name] |= figures
        save(self.args.json, self.report)


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """The study, or as much of it as there was time for."""
    if args.retime:
        args = as_finished(args)
    splits = load(args.data, quick=args.quick)
    configs = make_configs({"hashed": WIDE}, args.config)
    report = new_report(
        "width",
        args,
        configs=config_fields(configs),
        features=splits.train.inputs.shape[1],
        classes=splits.train.n_classes,
    )
    report = continued(args.json, report, _MAY_CHANGE, threads_too=args.retime)
    try:
        Study(args, report, splits, configs["hashed"], stop).run()
    except KeyboardInterrupt:
        print("interrupted: finished widths are kept", file=sys.stderr)
    summarize(report, args.fit_from)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
