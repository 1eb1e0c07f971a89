"""How long each output layer trains until it is as accurate as the dense one.

The demo's model (embedding bag, ReLU, output layer) is trained on the built-in lemmas or on an XMC
data set. The goal is the dense layer's best accuracy less one point. On a validation part of the
training samples each contender is tried at each of --rates for each of its --epochs (rates fall to
0 towards the end of a run, so that a short one is not the beginning of a long one), with each of
its sizes of a batch (--batches); chosen are the passes and the size that reach the goal there, by a
standard error, in the fewest training seconds, at their best rate, or what is most accurate where
none do. This holds for the dense layer too; where it is most accurate otherwise, it is trained so
as well (dense_best), for the goal. Then all train with several seeds, and held-out accuracy is
noted every --evaluate-every steps of --batch samples. Reported are the training seconds to the
goal, evaluation not counted: mean and standard deviation over the seeds that reached it. Accuracy
is top-1, or P@1 with several labels a sample.

    python benchmarks/time_to_accuracy.py --json time_to_accuracy.json
    python benchmarks/time_to_accuracy.py --data xmc:train.txt,test.txt --epochs all=1,2
    python benchmarks/time_to_accuracy.py --batches all=256,512 hashed=512,1024

Runs take turns: all contenders with the first seed, then with the next. Finished runs are kept in
the JSON file; the same command goes on after them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

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
    CORRECTED,
    NAMES,
    TRAINING_CONFIGS,
    available,
    config_fields,
    make_configs,
    make_factories,
    parse_pairs,
)
from benchmarks.steps import add_config_flag
from benchmarks.training_runs import (
    Run,
    Samples,
    TrainingRuns,
    Trial,
    add_training_flags,
    load,
    most_accurate,
)
from hashdl.training.report import seconds_to
from hashdl.training.run import add_costs

#: Passes over the data that are tried. The cheaper a step, the more: what a user would do.
EPOCHS = {
    "dense": (1.0,),
    "dense_onednn": (1.0,),
    "chunked": (1.0,),
    "adaptive": (2.0, 3.0),
    "sampled_1000": (2.0, 3.0),
    "sampled_4000": (2.0, 3.0),
    "sampled_1000_half_log_q": (2.0, 3.0),
    "sampled_1000_log_q": (2.0, 3.0),
    "sampled_4000_half_log_q": (2.0, 3.0),
    "sampled_4000_log_q": (2.0, 3.0),
    "hashed": (1.0, 1.25),
    "hashed_shared": (1.0, 1.25),
}
_Number = TypeVar("_Number", int, float)
# The dense layer at its most accurate, where that is not how it reaches the goal soonest.
_BEST = "dense_best"
# The same loss as another contender's, so that the same rate and passes are the best.
_SAME_LOSS = {"dense_onednn": "dense", "chunked": "dense", _BEST: "dense"}
_MARGIN = 0.01
# These may differ between a report and a run that goes on with it.
_MAY_CHANGE = ("contenders", "rates", "epochs", "batches", "seeds")


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=None)
    rates, seeds = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2], [0, 1, 2]
    runs = add_training_flags(parser, (*NAMES, *CORRECTED), rates=rates, seeds=seeds)
    runs.add_argument(
        "--epochs",
        nargs="+",
        default=[],
        metavar="NAME=PASSES,…",
        help="passes that are tried of some contenders, or all=PASSES,… (default: "
        + " ".join(f"{name}={','.join(f'{p:g}' for p in tried)}" for name, tried in EPOCHS.items())
        + ")",
    )
    runs.add_argument(
        "--batches",
        nargs="+",
        default=[],
        metavar="NAME=SIZE,…",
        help="samples a step that are tried of some contenders, or all=SIZE,… (default: --batch)",
    )
    add_config_flag(parser)
    return parser


def tried(
    flag: str, overrides: Sequence[str], default: Mapping[str, tuple[_Number, ...]]
) -> dict[str, tuple[_Number, ...]]:
    """What is tried of each contender: passes, or sizes of a batch.

    Args:
        flag: where ``overrides`` stood.
        overrides: ``NAME=NUMBER,…``; the name ``all`` means all that have no other.
        default: by contender.

    Raises:
        ValueError: no such contender, or no positive numbers of the default's type.
    """
    number = type(next(iter(default.values()))[0])
    chosen = {
        name: tuple(number(each) for each in value.split(","))
        for name, value in parse_pairs(overrides).items()
    }
    wrong = sorted(name for name, values in chosen.items() if min(values) <= 0)
    if wrong:
        raise ValueError(f"{flag}: got some of {wrong} that are not positive, wanted positive ones")
    unknown = sorted(chosen.keys() - default.keys() - {"all"})
    if unknown:
        raise ValueError(f"{flag}: got {unknown}, wanted names of contenders, or all")
    of_all = chosen.pop("all", None)
    return {name: of_all or values for name, values in default.items()} | chosen


def soonest(
    results: Sequence[Mapping[str, float]], metric: str, goal: float
) -> Mapping[str, float]:
    """The best rate of the passes and the batch that reached a goal in the fewest seconds.

    The most accurate trial where none reached it.

    Args:
        results: the trials, with ``train_seconds`` and the accuracy of each.
        metric: name of the accuracy.
        goal: accuracy.
    """
    reached = [result for result in results if result[metric] >= goal]
    if not reached:
        return most_accurate(results, metric)
    # Another rate takes as long: seconds do not tell rates apart.
    quickest = min(reached, key=lambda result: result["train_seconds"])
    alike = ("epochs", "batch")
    return most_accurate(
        [result for result in reached if all(result[name] == quickest[name] for name in alike)],
        metric,
    )


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
        super().__init__(args, report, data, stop, trials_from=_SAME_LOSS)
        self.epochs = tried("--epochs", args.epochs, EPOCHS)
        self.batches = tried("--batches", args.batches, dict.fromkeys(EPOCHS, (args.batch,)))
        frequencies = torch.bincount(data.train.label_indices, minlength=data.train.n_labels)
        self.factories = make_factories(make_configs(TRAINING_CONFIGS, args.config), frequencies)

    def search_rates(self) -> None:
        """Choose each contender's rate and passes."""

        trials = {
            name: [
                Trial(epochs, rate, batch)
                for epochs, batch, rate in product(
                    self.epochs[name], self.batches[name], self.args.rates
                )
            ]
            for name in self.args.contenders
        }
        self.search(trials, self._run_of)
        contenders, goal = self.report["contenders"], math.inf
        best_runs = contenders.pop(_BEST, {"runs": {}})["runs"]
        if "dense" in contenders:
            best = most_accurate(self.results("dense"), self.metric)
            goal = best[self.metric] - _MARGIN
            if soonest(self.results("dense"), self.metric, self._for_sure(goal)) != best:
                contenders[_BEST] = {"validation": [], "runs": best_runs}
                self.choose(_BEST, best)
        for name in self.args.contenders:
            self.choose(name, soonest(self.results(name), self.metric, self._for_sure(goal)))

    def _for_sure(self, goal: float) -> float:
        """A standard error of accuracy on the validation part above a goal.

        What reaches the goal there by chance alone, of many trials, would miss it elsewhere.
        """
        if goal == math.inf:
            return goal
        held_out = self.args.validation_share * len(self.data.train)
        return goal + math.sqrt(max(goal * (1 - goal), 0) / held_out)

    def train_all(self) -> None:
        """Train each contender with each seed as chosen, unless that has been done."""
        for seed in self.args.seeds:
            for name, result in self.report["contenders"].items():
                if "lr" not in result:  # an earlier command was stopped in its search
                    continue
                chosen = Trial.of(result)
                done = result["runs"].get(str(seed))
                if done is None or Trial.of(done) != chosen:
                    run, trainer = self.run(self._run_of(name, chosen, seed), self.data)
                    add_costs(run, trainer)
                    result["runs"][str(seed)] = run
                    summarize(self.report, self.metric)
                    save(self.args.json, self.report)

    def _run_of(self, name: str, trial: Trial, seed: int) -> Run:
        make_head = self.factories[_SAME_LOSS[name] if name == _BEST else name]
        return Run(name, make_head, *trial, seed)


def summarize(report: Report, metric: str) -> None:
    """Add figures over the seeds to each contender, and the goal to the report.

    Args:
        report: with ``runs`` in its contenders.
        metric: ``"top1"`` or ``"p1"``, the accuracy that counts.
    """
    contenders = report["contenders"]
    dense = contenders.get(_BEST, contenders.get("dense", {"runs": {}}))["runs"]
    goal = (
        statistics.fmean(_best(run, metric) for run in dense.values()) - _MARGIN if dense else None
    )
    report["goal"] = {"metric": metric, "accuracy": goal}
    for result in contenders.values():
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
