"""How accurate a net stays when only a share of its hidden neurons is computed.

The study of Spring and Shrivastava (KDD 2017, section 6): nets with 2 and 3 hidden layers of 1000
ReLU units, trained with all neurons (standard), with random ones (dropout), with probabilities that
depend on the input (adaptive_dropout), with exactly the largest (winner_take_all), and with those
that hashing finds: by the published recipe (hashed_published: K = 6, L = 5, 10 probes), and by ours
(hashed; --config changes it), which has twice the share after the first layer. Each method at each
share of active neurons trains with every seed at each of --rates; the rate whose accuracy on the
validation part, mean over the seeds, is best counts. Reported is the test accuracy after the last
epoch, mean and standard deviation over the seeds.
With --rates-as-drawn layers that are drawn for few active inputs have rates as much larger as their
weights are; the standard net is trained as without.

Multiplications are those of a training step a sample (forward and both gradients; finding and
ranking the active neurons and rehashing included) and of a prediction, both as shares of the dense
net's. They are not those of active neurons: ours makes 5 % of the multiplications at --shares 0.085
with 2 hidden layers, and at --shares 0.093 with 3.

Milliseconds are those of a whole training step as implemented: all but the hashed methods are
masked dense nets. They are measured apart, when all of a data set and depth are trained: fresh nets
take blocks of steps in turn, and the median of the blocks counts; rehashes are as frequent as early
in training, when they are dearest. --retime measures them again, on a quiet machine, and trains
nothing. Joules are of such a block, by counters where there are any, and estimated.

    python benchmarks/kdd2017.py --json kdd2017.json
    python benchmarks/kdd2017.py --data mnist --layers 2 --shares 0.05 --seeds 0 --json mnist.json
    python benchmarks/kdd2017.py --data convex --shares 0.085 --rates-as-drawn --json convex.json
    python benchmarks/kdd2017.py --json kdd2017.json --retime
    python benchmarks/plot.py kdd2017.json kdd2017.png

Finished runs are kept in the JSON file; the same command goes on after them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# For "python benchmarks/kdd2017.py" as well as "python -m benchmarks.kdd2017".
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
    spread,
)
from benchmarks.hidden_nets import NAMES, OURS, PUBLISHED, Net, make_methods
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
from benchmarks.steps import add_config_flag
from hashdl.progress import track

# These may differ between a report and a run that goes on with it.
_MAY_CHANGE = ("contenders", "data", "layers", "shares", "seeds", "rates", "repeat", "retime")
#: Figures of a point that are means over its runs.
_OF_RUNS = ("top1", "train_share", "test_share")


def share(text: str) -> float:
    """A flag's value above 0, and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, wanted a share above 0, at most 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=5)
    runs = parser.add_argument_group("runs")
    for flag, names in (("--contenders", list(NAMES)), ("--data", list(DATA))):
        runs.add_argument(
            flag,
            nargs="+",
            choices=names,
            default=names,
            metavar="NAME",
            help=f"of {', '.join(names)} (default: all)",
        )
    runs.add_argument(
        "--layers", type=positive, nargs="+", default=[2, 3], help="hidden layers (default: 2 3)"
    )
    runs.add_argument(
        "--shares",
        type=share,
        nargs="+",
        default=[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9],
        help="of the neurons that are active (default: .01 .05 .1 .25 .5 .75 .9)",
    )
    runs.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each (default: 0 1 2)"
    )
    runs.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[3e-4, 1e-3, 3e-3, 1e-2],
        help="of Adam, tried for each method and share (default: 3e-4 1e-3 3e-3 1e-2)",
    )
    runs.add_argument(
        "--rates-as-drawn",
        action="store_true",
        help="larger rates in layers that are drawn larger (default: one rate for all layers)",
    )
    runs.add_argument("--epochs", type=positive, default=20, help="(default: 20)")
    runs.add_argument("--width", type=positive, default=1000, help="units a layer (default: 1000)")
    runs.add_argument("--batch", type=positive, default=32, help="(default: 32)")
    runs.add_argument(
        "--quick", action="store_true", help="a few samples of each data set: to try the command"
    )
    add_retime_flag(runs)
    add_config_flag(parser)
    return parser


class Study:
    """All runs of one report.

    Args:
        args: the flags.
        report: what earlier runs left in it is kept.
        stop: ends the study after the epoch in progress, which is lost with its run.
    """

    def __init__(self, args: argparse.Namespace, report: Report, stop: StopWanted) -> None:
        self.args, self.report, self.stop = args, report, stop
        self.methods = make_methods(make_configs({"hashed": OURS}, args.config)["hashed"])
        self.splits = {name: load(name, quick=args.quick) for name in args.data}

    def run(self) -> None:
        """Search the rates and train with each seed, point by point; then time what is new.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if not self.args.retime:
            self._train_all()
        for title, points in self._depths().items():
            if self.args.retime or not all("rounds_ms" in point for _, point in points):
                self._time(title, points)
                save(self.args.json, self.report)

    def _train_all(self) -> None:
        for name, point in track(list(self._points()), "Points"):
            for rate in self.args.rates:
                trials = point["trials"].setdefault(f"{rate:g}", {})
                for seed in self.args.seeds:
                    if str(seed) not in trials:
                        trials[str(seed)] = self._train(name, point, rate, seed)
                        save(self.args.json, self.report)
            choose_rate(point)
            summarize(self.report)
            save(self.args.json, self.report)

    def _points(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each contender with each data set, depth and share; standard has one share."""
        args = self.args
        for data in args.data:
            for layers in args.layers:
                for name in args.contenders:
                    points = self.report["contenders"].setdefault(name, {"points": {}})["points"]
                    for active in [1.0] if name == "standard" else args.shares:
                        new = {"data": data, "layers": layers, "share": active}
                        new |= {"trials": {}, "runs": {}}
                        yield name, points.setdefault(f"{data}/{layers}/{active:g}", new)

    def _train(self, name: str, point: dict[str, Any], rate: float, seed: int) -> dict[str, Any]:
        """The figures of one run.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        splits, args = self.splits[point["data"]], self.args
        net = self._build(name, point, seed)
        schedule = (rate, args.epochs, args.batch, seed)
        groups = net.parameter_groups(rate) if args.rates_as_drawn else None
        fit(net, splits.train, *schedule, self.stop, groups)
        work, dense = (
            some.multiplications(splits.valid.inputs[:COUNTED], args.batch)
            for some in (net, self._build("standard", point, seed))
        )
        return {
            "valid": accuracy(net, splits.valid),
            "top1": accuracy(net, splits.test),
            "train_share": work.train / dense.train,
            "test_share": work.test / dense.test,
        }

    def _build(self, name: str, point: Mapping[str, Any], seed: int) -> Net:
        """A net that is not trained yet."""
        train = self.splits[point["data"]].train
        sizes = [train.inputs.shape[1], *[self.args.width] * point["layers"], train.n_classes]
        torch.manual_seed(seed)
        return self.methods[name](sizes, point["share"])

    def _depths(self) -> Mapping[str, list[tuple[str, dict[str, Any]]]]:
        """Contenders and points that have runs, by data set and depth."""
        depths: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for name, result in self.report["contenders"].items():
            for point in result["points"].values():
                wanted = point["data"] in self.args.data and point["layers"] in self.args.layers
                if wanted and point["runs"]:
                    title = f"{point['data']}, {point['layers']} layers"
                    depths.setdefault(title, []).append((name, point))
        return depths

    def _time(self, title: str, points: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Give points the time and joules of a step, measured in turn.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed in the first round.
        """
        args, seed = self.args, self.args.seed
        trainings = {}
        for name, point in points:
            net, train = self._build(name, point, seed), self.splits[point["data"]].train
            key = f"{name}/{point['share']:g}"
            trainings[key] = TimedTraining(net, train, point["lr"], args.batch, seed)
        counted = self.splits[points[0][1]["data"]].valid.inputs[:COUNTED]
        figures = step_figures(trainings, counted, args.repeat, self.stop, f"Timing, {title}")
        for key, (_, point) in zip(trainings, points, strict=True):
            point |= figures[key]


def choose_rate(point: dict[str, Any]) -> None:
    """Take the runs at the rate that is best on the validation part, mean over the seeds.

    Args:
        point: with ``trials`` of as many seeds at each rate: those at which some are missing,
            as of an earlier command with other seeds, do not count.
    """
    trials = point["trials"]
    seeds = max(map(len, trials.values()))
    means = {
        float(rate): statistics.fmean(run["valid"] for run in runs.values())
        for rate, runs in trials.items()
        if len(runs) == seeds
    }
    best = max(means, key=means.__getitem__)
    point["lr"], point["runs"] = best, trials[f"{best:g}"]
    point["lr_is_outermost"] = best in (min(means), max(means))


def summarize(report: Report) -> None:
    """Add means over the seeds to each point, and the difference to the standard net."""
    contenders = report["contenders"]
    for result in contenders.values():
        for point in result["points"].values():
            runs = list(point["runs"].values())
            if not runs:
                continue
            for name in _OF_RUNS:
                point[name] = statistics.fmean(run[name] for run in runs)
            point["top1_std"] = spread([run["top1"] for run in runs])
    standard = contenders.get("standard", {"points": {}})["points"]
    for result in contenders.values():
        for point in result["points"].values():
            dense = standard.get(f"{point['data']}/{point['layers']}/1", {})
            if "top1" in point and "top1" in dense:
                point["top1_vs_standard"] = point["top1"] - dense["top1"]


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """The study, or as much of it as there was time for."""
    if args.retime:
        args = as_finished(args)
    configs = {"hashed_published": PUBLISHED} | make_configs({"hashed": OURS}, args.config)
    report = new_report("kdd2017", args, configs=config_fields(configs))
    report = continued(args.json, report, _MAY_CHANGE, threads_too=args.retime)
    study = Study(args, report, stop)
    try:
        study.run()
    except KeyboardInterrupt:
        print("interrupted: finished runs are kept", file=sys.stderr)
    summarize(report)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
