"""How long each output layer trains until it is as accurate as the dense one.

The demo's model (embedding bag, ReLU, output layer) is trained on the built-in lemmas or on an XMC
data set. Each contender's learning rate is the best of --rates on a validation part of the training
samples; then it trains at that rate with several seeds, and held-out accuracy is noted every
--evaluate-every steps. The goal is the dense layer's best accuracy (mean over the seeds) less one
point; reported are the training seconds to the goal, evaluation not counted: mean and standard
deviation over the seeds that reached it. Accuracy is top-1, or P@1 with several labels a sample.

    python benchmarks/time_to_accuracy.py --json time_to_accuracy.json
    python benchmarks/time_to_accuracy.py --data xmc:train.txt,test.txt --epochs all=5 --json x.json

Runs take turns: all contenders with the first seed, then with the next. Finished runs are kept in
the JSON file; the same command goes on after them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# For "python benchmarks/time_to_accuracy.py" as well as "python -m benchmarks.time_to_accuracy".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import (
    Report,
    StopWanted,
    continued,
    make_parser,
    new_report,
    run_benchmark,
    save,
    spread,
)
from benchmarks.layers import (
    NAMES,
    TRAINING_CONFIGS,
    available,
    config_fields,
    make_configs,
    make_factories,
    parse_pairs,
)
from benchmarks.steps import add_config_flag
from benchmarks.training_runs import Run, Samples, TrainingRuns, add_training_flags, load
from hashdl import demo
from hashdl.training.report import seconds_to
from hashdl.training.run import add_costs

#: Passes over the data. The cheaper a step, the more passes: what a user would do with the time.
EPOCHS = {
    "dense": demo.CONTENDERS["dense"].epochs,
    "chunked": demo.CONTENDERS["dense"].epochs,
    "adaptive": demo.CONTENDERS["sampled_1000"].epochs,
    "sampled_1000": demo.CONTENDERS["sampled_1000"].epochs,
    "sampled_4000": demo.CONTENDERS["sampled_1000"].epochs,
    "hashed": demo.CONTENDERS["hashed"].epochs,
    "hashed_shared": demo.CONTENDERS["hashed"].epochs,
}
# The same loss as another contender's, so that the same rate is the best.
_SAME_LOSS = {"chunked": "dense"}
_MARGIN = 0.01
# These may differ between a report and a run that goes on with it.
_MAY_CHANGE = ("contenders", "rates", "seeds")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=None)
    rates, seeds = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2], [0, 1, 2]
    runs = add_training_flags(parser, NAMES, rates=rates, seeds=seeds)
    runs.add_argument(
        "--epochs",
        nargs="+",
        default=[],
        metavar="NAME=PASSES",
        help=f"passes of some contenders, or all=PASSES (default: {EPOCHS})",
    )
    add_config_flag(parser)
    return parser


def passes(overrides: Sequence[str]) -> dict[str, float]:
    """Epochs of each contender.

    Raises:
        ValueError: no such contender, or no number.
    """
    chosen = {name: float(value) for name, value in parse_pairs(overrides).items()}
    default = chosen.pop("all", None)
    epochs = EPOCHS if default is None else dict.fromkeys(EPOCHS, default)
    unknown = sorted(chosen.keys() - EPOCHS.keys())
    if unknown:
        raise ValueError(f"--epochs: got {unknown}, wanted names of contenders, or all")
    return epochs | chosen


class Experiment(TrainingRuns):
    """All runs of one report.

    Args:
        args: the flags.
        report: what earlier runs left in it is kept.
        data: training and held-out samples.
        stop: ends the experiment between two runs.
    """

    def __init__(
        self, args: argparse.Namespace, report: Report, data: Samples, stop: StopWanted
    ) -> None:
        super().__init__(args, report, data, stop, rate_from=_SAME_LOSS)
        self.epochs = passes(args.epochs)
        frequencies = torch.bincount(data.train.label_indices, minlength=data.train.n_labels)
        self.factories = make_factories(make_configs(TRAINING_CONFIGS, args.config), frequencies)

    def search_rates(self) -> None:
        """Choose each contender's rate."""

        def validate(name: str, rate: float, samples: Samples) -> float:
            run, _ = self.run(
                self._run_of(name, rate, self.args.seed)._replace(looks_once=True), samples
            )
            return float(run[self.metric])

        self.search(self.args.contenders, validate)

    def train_all(self) -> None:
        """Train each contender with each seed at its rate, unless that has been done."""
        for seed in self.args.seeds:
            for name in self.args.contenders:
                result = self.report["contenders"][name]
                done = result["runs"].get(str(seed))
                if done is None or done["lr"] != result["lr"]:
                    run, trainer = self.run(self._run_of(name, result["lr"], seed), self.data)
                    add_costs(run, trainer)
                    result["runs"][str(seed)] = run
                    summarize(self.report, self.metric)
                    save(self.args.json, self.report)

    def _run_of(self, name: str, rate: float, seed: int) -> Run:
        return Run(name, self.factories[name], self.epochs[name], rate, seed)


def summarize(report: Report, metric: str) -> None:
    """Add figures over the seeds to each contender, and the goal to the report.

    Args:
        report: with ``runs`` in its contenders.
        metric: ``"top1"`` or ``"p1"``, the accuracy that counts.
    """
    dense = report["contenders"].get("dense", {"runs": {}})["runs"]
    goal = (
        statistics.fmean(_best(run, metric) for run in dense.values()) - _MARGIN if dense else None
    )
    report["goal"] = {"metric": metric, "accuracy": goal}
    for result in report["contenders"].values():
        if result["runs"]:
            result |= _over_seeds(list(result["runs"].values()), metric, goal)


def _best(run: Mapping[str, Any], metric: str) -> float:
    return max(float(point[metric]) for point in run["history"])


def _over_seeds(
    runs: Sequence[Mapping[str, Any]], metric: str, goal: float | None
) -> dict[str, Any]:
    """Means of a contender's runs, and seconds to the goal."""
    best = [_best(run, metric) for run in runs]
    figures: dict[str, Any] = {
        name: statistics.fmean(run[name] for run in runs)
        for name in ("step_ms", "train_seconds", metric)
    }
    figures |= {f"best_{metric}": statistics.fmean(best), f"best_{metric}_std": spread(best)}
    parts = runs[0]["parts_ms"]
    figures["parts_ms"] = {
        part: statistics.fmean(run["parts_ms"].get(part, 0.0) for run in runs) for part in parts
    }
    if goal is not None:
        times = [seconds_to(run["history"], metric, goal) for run in runs]
        reached = [time for time in times if time is not None]
        figures |= {"seconds_to_goal": None, "seconds_to_goal_std": None, "reached": len(reached)}
        if reached:
            figures["seconds_to_goal"] = statistics.fmean(reached)
            figures["seconds_to_goal_std"] = spread(reached)
    return figures


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """Search the rates, then train with each seed."""
    data = load(args)
    args.contenders = available(args.contenders, single_label=data.train.single_label)
    report = new_report(
        "time_to_accuracy",
        args,
        **data.sizes(),
        configs=config_fields(make_configs(TRAINING_CONFIGS, args.config)),
    )
    report = continued(args.json, report, _MAY_CHANGE)
    experiment = Experiment(args, report, data, stop)
    experiment.search_rates()
    experiment.train_all()
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
