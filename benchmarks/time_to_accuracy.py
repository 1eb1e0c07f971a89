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
    positive,
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
from hashdl import demo
from hashdl.cli import load_data
from hashdl.data import SparseDataset
from hashdl.training.report import seconds_to
from hashdl.training.run import add_costs, run_head
from hashdl.training.trainer import Settings

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
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        default="lemmas",
        help="lemmas (default; as in the demo), python_source, or xmc:TRAIN,TEST",
    )
    data.add_argument("--quick", action="store_true", help="a small part of the lemmas")
    data.add_argument(
        "--held-out",
        type=positive,
        default=demo.HELD_OUT,
        help=f"most samples that are held out (default: {demo.HELD_OUT})",
    )
    data.add_argument(
        "--validation-share",
        type=float,
        default=demo.VALIDATION_SHARE,
        help=f"of the training samples, for the rates (default: {demo.VALIDATION_SHARE})",
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "--contenders",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: all)",
    )
    runs.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each (default: 0 1 2)"
    )
    runs.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1e-3, 2e-3, 5e-3, 1e-2, 2e-2],
        help="tried for each contender (default: 1e-3 2e-3 5e-3 1e-2 2e-2)",
    )
    runs.add_argument(
        "--epochs",
        nargs="+",
        default=[],
        metavar="NAME=PASSES",
        help=f"passes of some contenders, or all=PASSES (default: {EPOCHS})",
    )
    runs.add_argument("--hidden", type=positive, default=demo.HIDDEN, help="(default: 128)")
    runs.add_argument(
        "--init-std", type=float, default=demo.INIT_STD, help="of the embedding (default: 1)"
    )
    runs.add_argument("--batch", type=positive, default=256, help="(default: 256)")
    runs.add_argument(
        "--evaluate-every",
        type=positive,
        default=demo.EVALUATION_STEPS,
        help=f"steps (default: {demo.EVALUATION_STEPS})",
    )
    add_config_flag(parser)
    return parser


def load(args: argparse.Namespace) -> tuple[SparseDataset, SparseDataset]:
    """Training and held-out samples."""
    lemmas = args.data == "lemmas"
    train, test = demo.load(args.quick) if lemmas else load_data(args.data)
    generator = torch.Generator().manual_seed(args.seed)
    return train, test.subset(torch.randperm(len(test), generator=generator)[: args.held_out])


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


class Experiment:
    """All runs of one report.

    Args:
        args: the flags.
        report: what earlier runs left in it is kept.
        train: training samples.
        test: held-out ones.
        stop: ends the experiment between two runs.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        report: Report,
        train: SparseDataset,
        test: SparseDataset,
        stop: StopWanted,
    ) -> None:
        self.args, self.report, self.stop = args, report, stop
        self.train, self.test = train, test
        self.metric = "top1" if train.single_label else "p1"
        self.epochs = passes(args.epochs)
        frequencies = torch.bincount(train.label_indices, minlength=train.n_labels)
        self.factories = make_factories(make_configs(TRAINING_CONFIGS, args.config), frequencies)
        for name in args.contenders:
            report["contenders"].setdefault(name, {"validation": {}, "runs": {}})

    def search_rates(self) -> None:
        """Train each contender at each rate that has not been tried yet, and choose the best."""
        train, validation = self.train.split(self.args.validation_share, self.args.seed)
        searched = [name for name in self.args.contenders if self._rate_from(name) == name]
        for rate in self.args.rates:
            for name in searched:
                tried = self.report["contenders"][name]["validation"]
                if f"{rate:g}" in tried:
                    continue
                result = self._run(name, rate, self.args.seed, train, validation, last_only=True)
                tried[f"{rate:g}"] = result[self.metric]
                save(self.args.json, self.report)
        for name in self.args.contenders:
            self._choose_rate(name)

    def _choose_rate(self, name: str) -> None:
        result = self.report["contenders"][name]
        tried = self.report["contenders"][self._rate_from(name)]["validation"]
        best = max(tried, key=tried.__getitem__)
        result["lr"] = float(best)
        result["lr_is_outermost"] = result["lr"] in (
            min(map(float, tried)),
            max(map(float, tried)),
        )
        if result["lr_is_outermost"]:
            print(f"{name}: the best rate tried, {best}, is an outermost one", file=sys.stderr)

    def _rate_from(self, name: str) -> str:
        """The contender whose search gives this one's rate."""
        same = _SAME_LOSS.get(name, name)
        return same if same in self.report["contenders"] else name

    def train_all(self) -> None:
        """Train each contender with each seed at its rate, unless that has been done."""
        for seed in self.args.seeds:
            for name in self.args.contenders:
                result = self.report["contenders"][name]
                done = result["runs"].get(str(seed))
                if done is None or done["lr"] != result["lr"]:
                    result["runs"][str(seed)] = self._run(
                        name, result["lr"], seed, self.train, self.test
                    )
                    summarize(self.report, self.metric)
                    save(self.args.json, self.report)

    def _run(
        self,
        name: str,
        rate: float,
        seed: int,
        train: SparseDataset,
        test: SparseDataset,
        *,
        last_only: bool = False,
    ) -> dict[str, Any]:
        """One run.

        Args:
            name: of the contender.
            rate: learning rate.
            seed: of the initial weights and of the order of samples.
            train: what to learn.
            test: what accuracy is measured on.
            last_only: measure it at the end alone, and take no costs.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the run, or came before it.
        """
        if self.stop():
            raise KeyboardInterrupt
        settings = Settings(
            epochs=self.epochs[name],
            batch_size=self.args.batch,
            lr=rate,
            seed=seed,
            evaluate_every=sys.maxsize if last_only else self.args.evaluate_every,
        )
        result, trainer = run_head(
            f"{name} lr {rate:g} seed {seed}",
            self.factories[name],
            train,
            test,
            settings,
            hidden=self.args.hidden,
            init_std=self.args.init_std,
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        if not last_only:
            add_costs(result, trainer)
        return result


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
    train, test = load(args)
    args.contenders = available(args.contenders, single_label=train.single_label)
    report = new_report(
        "time_to_accuracy",
        args,
        samples=len(train),
        held_out_samples=len(test),
        n_classes=train.n_labels,
        configs=config_fields(make_configs(TRAINING_CONFIGS, args.config)),
    )
    report = continued(args.json, report, _MAY_CHANGE)
    experiment = Experiment(args, report, train, test, stop)
    experiment.search_rates()
    experiment.train_all()
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
