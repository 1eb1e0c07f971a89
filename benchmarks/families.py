"""Which hash family an output layer learns most with, at one number of active rows a sample.

The demo's model (embedding bag, ReLU, output layer) is trained on the built-in lemmas or on an XMC
data set with one contender a family, each with the same number of active rows, candidates and
tables; with the configuration that hashdl.tune picks for training; with uniform random rows; and
with the *oracle*, whose active sets are the exactly largest outputs: what perfect retrieval would
learn. Each contender's rate is the best of --rates on a validation part of the training samples, in
--search-share of the passes (the oracle, whose steps compute all rows, takes that of balanced
SimHash). Then each trains with each seed twice:

  the same passes   what a step of a family teaches
  the same seconds  those that the fastest takes for its passes, the oracle aside: what a user gets

The learning rate falls to 0 at the end of either. Beside held-out accuracy (top-1, or P@1 with
several labels a sample) stands what active sets of the held-out samples hold in the end: the share
of the ten largest outputs, and of the gradient (hashdl.metrics.active).

    python benchmarks/families.py --json families.json
    python benchmarks/families.py --data xmc:train.txt,test.txt --epochs 3 --json families_xmc.json

Finished runs are kept in the JSON file; the same command goes on after them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# For "python benchmarks/families.py" as well as "python -m benchmarks.families".
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
from benchmarks.layers import config_fields, make_configs
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
from hashdl import HashConfig, TrainingResult, demo, metrics, ops
from hashdl.functional import active_linear_log_prob
from hashdl.nn.softmax import reduced
from hashdl.profiling import part
from hashdl.training.heads import HashedHead, Head
from hashdl.training.model import SparseClassifier
from hashdl.training.trainer import Settings
from hashdl.training.tuning import tune_classifier

_BASE = demo.CONFIG.replace(bits=None)
#: How each family hashes: as the demo, but for what the family is.
CONFIGS = {
    "simhash_balanced": _BASE,
    "simhash": _BASE.replace(balance=False),
    "simhash_sparse": _BASE.replace(family="simhash_sparse"),
    "simhash_hadamard": _BASE.replace(family="simhash_hadamard"),
    "wta": _BASE.replace(family="wta"),
    "dwta": _BASE.replace(family="dwta"),
    "minhash": _BASE.replace(family="minhash"),
    "kmeans": _BASE.replace(family="kmeans", tables=4, probes=2),
    "learned": _BASE.replace(family="learned"),
    "learned_balanced": _BASE.replace(family="learned", balance=True),
    "low_rank": _BASE.replace(rank=32),
    "sketch": _BASE.replace(selection="sketch", candidates=500, probes=12),
    "random": _BASE.replace(random=1.0),
}
NAMES = (*CONFIGS, "tuned", "oracle")
_DEFAULT = "simhash_balanced"
# The oracle's steps are dear, and its loss is that of the others.
_TRIALS_FROM = {"oracle": _DEFAULT}
# Held-out samples whose active sets are looked at.
_LOOKED_AT = 512
# Shares of the time at which two runs count as equally long.
_SAME_TIME = 0.02
_MAY_CHANGE = ("contenders", "rates", "seeds")


class OracleHead(HashedHead):
    """The labels and the largest of all N outputs: an active set that retrieval cannot better."""

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the active sets."""
        layer = self.linear
        labels, _ = self.softmax._labels(targets, hidden.shape[:-1])
        with part("look-up"), torch.no_grad():
            A, M = layer.config.sizes(self.n_classes).A, labels.shape[1]
            logits = F.linear(hidden, layer.weight, layer.bias)
            best = logits.topk(min(A + M, self.n_classes))  # labels may be among them
            rows = ops.select(
                *(best.indices.int(), best.values, labels, None),
                active=A,
                random=0,
                n_rows=self.n_classes,
                seed=0,
                step=torch.zeros(1, dtype=torch.int64),
            )
        log_prob = active_linear_log_prob(
            hidden, layer.weight, layer.bias, rows, labels, sparse_grad=True
        )
        with part("loss"):
            return reduced(log_prob, labels, "mean")

    def multiplications(self, batch_size: int) -> float:
        """All outputs, and the active rows' gradients."""
        active = self.linear.config.sizes(self.n_classes).A + 1
        return (self.n_classes + 2.0 * active) * self.features

    def rows_read(self, hidden: Tensor, targets: Tensor) -> float:
        """All of them."""
        return float(self.n_classes)


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = make_parser(__doc__, repeat=None)
    rates, seeds = [5e-3, 1e-2], [0]
    runs = add_training_flags(parser, NAMES, rates=rates, seeds=seeds, evaluate_every=400)
    runs.add_argument("--epochs", type=float, default=1.0, help="passes (default: 1)")
    runs.add_argument(
        "--search-share",
        type=float,
        default=0.3,
        help="of the passes, for the search of rates (default: .3)",
    )
    runs.add_argument(
        "--tune-seconds",
        type=float,
        help="let whole trainings of so many seconds race in the tuner (default: layers alone)",
    )
    runs.add_argument(
        "--tune-after",
        type=positive,
        default=300,
        help="steps of training after which the tuner sees the layer (default: 300)",
    )
    add_config_flag(parser)
    return parser


class FamilyRuns(TrainingRuns):
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
        super().__init__(args, report, data, stop, trials_from=_TRIALS_FROM)
        self.configs = make_configs(CONFIGS, args.config)
        self.looked_at = data.test.batch(torch.arange(min(_LOOKED_AT, len(data.test))))

    def search_rates(self) -> None:
        """Choose each contender's rate."""
        passes = self.args.epochs * self.args.search_share
        trials = [Trial(passes, rate, self.args.batch) for rate in self.args.rates]

        self.search(dict.fromkeys(self.args.contenders, trials), self._run_of)
        for name in self.args.contenders:
            self.choose(name, most_accurate(self.results(name), self.metric))

    def tune(self) -> None:
        """Let the tuner pick a configuration, of the default's layer in the midst of training."""
        result = self.report["contenders"]["tuned"]
        if "config" not in result:
            began = time.perf_counter()
            found = self._tuned()
            print(found, file=sys.stderr)
            result |= {"tune_seconds": time.perf_counter() - began, "tuning": found.figures()}
            result["config"] = dataclasses.asdict(found.config)
            save(self.args.json, self.report)
        self.configs["tuned"] = HashConfig(**result["config"])

    def _tuned(self) -> TrainingResult:
        args, (train, _) = self.args, self.data
        return tune_classifier(
            train,
            config=self.configs[_DEFAULT],
            hidden=args.hidden,
            init_std=args.init_std,
            settings=Settings(args.epochs, args.batch, float(args.rates[0]), args.seed),
            after=args.tune_after,
            seconds=args.tune_seconds,
            rates=args.rates,
        )

    def train_all(self) -> None:
        """Train each contender with each seed for the same passes, then for the same seconds."""
        for seed in self.args.seeds:
            for name in self.args.contenders:
                self._train(name, seed, "same_passes", self.args.epochs)
            fastest = min(
                (
                    result["runs"][str(seed)]["same_passes"]["train_seconds"]
                    for name, result in self.report["contenders"].items()
                    if name != "oracle" and str(seed) in result["runs"]
                ),
                default=None,
            )
            for name in self.args.contenders:
                if fastest is not None and name != "oracle":
                    self._train_so_long(name, seed, fastest)

    def _train_so_long(self, name: str, seed: int, seconds: float) -> None:
        """Train for as many passes as take so many seconds."""
        runs = self.report["contenders"][name]["runs"][str(seed)]
        by_passes = runs["same_passes"]
        if by_passes["train_seconds"] <= seconds * (1 + _SAME_TIME):
            runs["same_seconds"] = by_passes
            return
        passes = self.args.epochs * seconds / by_passes["train_seconds"]
        self._train(name, seed, "same_seconds", passes)

    def _train(self, name: str, seed: int, kind: str, passes: float) -> None:
        """One run, unless it has been done at this rate and for about so many passes."""
        result = self.report["contenders"][name]
        runs = result["runs"].setdefault(str(seed), {})
        done = runs.get(kind, {"lr": None, "passes": passes})
        if done["lr"] == result["lr"] and abs(done["passes"] / passes - 1) <= _SAME_TIME:
            return
        trial = Trial(passes, result["lr"], self.args.batch)
        run, _ = self.run(self._run_of(name, trial, seed), self.data, self.figures)
        runs[kind] = run | {"passes": passes}
        summarize(self.report, self.metric)
        save(self.args.json, self.report)

    def figures(self, model: SparseClassifier) -> dict[str, float]:
        """What active sets of some held-out samples hold."""
        if isinstance(model.head, OracleHead) or not isinstance(model.head, HashedHead):
            return {}
        with torch.no_grad():
            hidden = model(self.looked_at)
        found = metrics.active(model.head.linear, hidden, self.looked_at.targets)
        return {"recall": found.recall, "gradient": found.gradient}

    def _run_of(self, name: str, trial: Trial, seed: int) -> Run:
        def make_head(features: int, n_classes: int) -> Head:
            if name == "oracle":
                return OracleHead(features, n_classes, self.configs[_DEFAULT])
            return HashedHead(features, n_classes, self.configs[name])

        return Run(name, make_head, *trial, seed)


def summarize(report: Report, metric: str) -> None:
    """Add figures over the seeds to each contender, and comparisons to the report.

    Args:
        report: with ``runs`` in its contenders.
        metric: ``"top1"`` or ``"p1"``, the accuracy that counts.
    """
    contenders = report["contenders"]
    for result in contenders.values():
        for kind in ("same_passes", "same_seconds"):
            runs = [runs[kind] for runs in result["runs"].values() if kind in runs]
            if runs:
                result |= _over_seeds(runs, metric, kind)
    report["comparison"] = {
        "metric": metric,
        "tuned_less_best_family": _lead(contenders, "same_seconds"),
        "tuned_less_oracle": _difference(contenders, "tuned", "oracle", "same_passes"),
    }


def _over_seeds(runs: Sequence[Mapping[str, Any]], metric: str, kind: str) -> dict[str, Any]:
    """Means of a contender's runs."""
    values = [float(run[metric]) for run in runs]
    figures = {kind: statistics.fmean(values), f"{kind}_std": spread(values)}
    if kind == "same_passes":
        names = ("step_ms", "train_seconds")
        figures |= {name: statistics.fmean(run[name] for run in runs) for name in names}
        last = [run["history"][-1] for run in runs]
        figures |= {
            name: statistics.fmean(point[name] for point in last)
            for name in ("recall", "gradient")
            if all(name in point for point in last)
        }
    return figures


def _lead(contenders: Mapping[str, Mapping[str, Any]], kind: str) -> float | None:
    """How far the tuner's configuration is above the best of the families."""
    others = [
        result[kind] for name, result in contenders.items() if name in CONFIGS and kind in result
    ]
    if not others or kind not in contenders.get("tuned", {}):
        return None
    return float(contenders["tuned"][kind] - max(others))


def _difference(
    contenders: Mapping[str, Mapping[str, Any]], one: str, other: str, kind: str
) -> float | None:
    if any(kind not in contenders.get(name, {}) for name in (one, other)):
        return None
    return float(contenders[one][kind]) - float(contenders[other][kind])


def measure(args: argparse.Namespace, stop: StopWanted) -> Report:
    """Search the rates, then train with each seed."""
    data = load(args)
    configs = config_fields(make_configs(CONFIGS, args.config))
    report = new_report("families", args, **data.sizes(), configs=configs)
    report = continued(args.json, report, _MAY_CHANGE)
    runs = FamilyRuns(args, report, data, stop)
    if "tuned" in args.contenders:
        runs.tune()
    runs.search_rates()
    runs.train_all()
    summarize(report, data.metric)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    return run_benchmark(build_parser(), measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
