"""What benchmarks share that train the demo's model on real data: flags, runs, the search."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.common import Report, StopWanted, positive, save
from hashdl import demo
from hashdl.cli import load_data
from hashdl.data import SparseDataset
from hashdl.training.heads import HeadFactory
from hashdl.training.run import run_head
from hashdl.training.trainer import Figures, Settings, Trainer


def add_training_flags(
    parser: argparse.ArgumentParser,
    names: Sequence[str],
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    evaluate_every: int = demo.EVALUATION_STEPS,
) -> argparse._ArgumentGroup:
    """Flags of data, model and runs.

    Args:
        parser: of :func:`benchmarks.common.make_parser`.
        names: of the contenders.
        rates: default of ``--rates``.
        seeds: default of ``--seeds``.
        evaluate_every: default of ``--evaluate-every``, steps.

    Returns:
        The group of the runs' flags.
    """
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
        choices=names,
        default=list(names),
        metavar="NAME",
        help=f"of {', '.join(names)} (default: all)",
    )
    runs.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=list(seeds),
        help=f"one run each (default: {' '.join(map(str, seeds))})",
    )
    runs.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=list(rates),
        help=f"tried for each contender (default: {' '.join(f'{rate:g}' for rate in rates)})",
    )
    runs.add_argument("--hidden", type=positive, default=demo.HIDDEN, help="(default: 128)")
    runs.add_argument(
        "--init-std", type=float, default=demo.INIT_STD, help="of the embedding (default: 1)"
    )
    runs.add_argument("--batch", type=positive, default=256, help="(default: 256)")
    runs.add_argument(
        "--evaluate-every",
        type=positive,
        default=evaluate_every,
        help=f"steps of --batch samples (default: {evaluate_every})",
    )
    return runs


class Samples(NamedTuple):
    """What is learned, and what accuracy is measured on."""

    train: SparseDataset
    test: SparseDataset

    @property
    def metric(self) -> str:
        """The accuracy that counts."""
        return "top1" if self.train.single_label else "p1"

    def sizes(self) -> dict[str, int]:
        """For the settings of a report."""
        n_classes = self.train.n_labels
        return {
            "samples": len(self.train),
            "held_out_samples": len(self.test),
            "n_classes": n_classes,
        }


def load(args: argparse.Namespace) -> Samples:
    """Training and held-out samples."""
    lemmas = args.data == "lemmas"
    train, test = demo.load(args.quick) if lemmas else load_data(args.data)
    generator = torch.Generator().manual_seed(args.seed)
    kept = torch.randperm(len(test), generator=generator)[: args.held_out]
    return Samples(train, test.subset(kept))


class Run(NamedTuple):
    """One run of a contender.

    Attributes:
        name: of the contender.
        make_head: its output layer.
        epochs: passes over the training samples.
        lr: learning rate.
        batch: samples a step.
        seed: of the initial weights and of the order of samples.
        looks_once: accuracy is measured at the end alone.
    """

    name: str
    make_head: HeadFactory
    epochs: float
    lr: float
    batch: int
    seed: int
    looks_once: bool = False


class Trial(NamedTuple):
    """What a contender can be trained with.

    Attributes:
        epochs: passes over the training samples.
        lr: learning rate.
        batch: samples a step.
    """

    epochs: float
    lr: float
    batch: int

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Trial:
        """The trial that a result is of."""
        return cls(*(result[name] for name in cls._fields))


def most_accurate(results: Sequence[Mapping[str, float]], metric: str) -> Mapping[str, float]:
    """The trial after which a validation part was classified best; the first of equal ones.

    Args:
        results: the trials, with the accuracy of each.
        metric: name of the accuracy.
    """
    return max(results, key=lambda result: result[metric])


class TrainingRuns:
    """The runs of one report, and each contender's search.

    Args:
        args: flags of :func:`add_training_flags`.
        report: what earlier runs left in it is kept.
        data: samples.
        stop: ends the experiment between two runs.
        trials_from: for some contenders another one, whose trials they take where it takes part.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        report: Report,
        data: Samples,
        stop: StopWanted,
        trials_from: Mapping[str, str],
    ) -> None:
        self.args, self.report, self.data, self.stop = args, report, data, stop
        self.metric, self.trials_from = data.metric, trials_from
        for name in args.contenders:
            report["contenders"].setdefault(name, {"validation": [], "runs": {}})

    def search(
        self,
        trials: Mapping[str, Sequence[Trial]],
        run_of: Callable[[str, Trial, int], Run],
    ) -> None:
        """Make each contender's trials that have not been made yet.

        Args:
            trials: of each contender; one that takes another's makes none.
            run_of: the run of a contender, a trial and a seed; it trains on a part of the training
                samples, and its accuracy is that on the others.
        """
        validation = Samples(*self.data.train.split(self.args.validation_share, self.args.seed))
        for name in (name for name in trials if self._source(name) == name):
            results = self.report["contenders"][name]["validation"]
            made = {Trial.of(result) for result in results}
            for trial in trials[name]:
                if trial not in made:
                    run = run_of(name, trial, self.args.seed)._replace(looks_once=True)
                    found = self.run(run, validation)[0]
                    accuracy, seconds = float(found[self.metric]), found["train_seconds"]
                    results.append(
                        trial._asdict() | {self.metric: accuracy, "train_seconds": seconds}
                    )
                    save(self.args.json, self.report)

    def results(self, name: str) -> Sequence[Mapping[str, float]]:
        """Each trial of a contender, or of whose it takes, with its accuracy and seconds."""
        results: Sequence[Mapping[str, float]] = self.report["contenders"][self._source(name)][
            "validation"
        ]
        return results

    def choose(self, name: str, trial: Mapping[str, float]) -> None:
        """Note a contender's trial, and say so where its rate is an outermost one.

        Args:
            name: of the contender.
            trial: of :meth:`results`.
        """
        result, rates = self.report["contenders"][name], [each["lr"] for each in self.results(name)]
        result |= Trial.of(trial)._asdict()
        result["lr_is_outermost"] = trial["lr"] in (min(rates), max(rates))
        if result["lr_is_outermost"]:
            print(
                f"{name}: the best rate tried, {trial['lr']:g}, is an outermost one",
                file=sys.stderr,
            )

    def _source(self, name: str) -> str:
        """The contender whose trials this one takes."""
        other = self.trials_from.get(name, name)
        return other if other in self.report["contenders"] else name

    def run(
        self, run: Run, samples: Samples, figures: Figures | None = None
    ) -> tuple[dict[str, Any], Trainer]:
        """One run: :func:`hashdl.training.run.run_head`.

        Args:
            run: what to train.
            samples: of it.
            figures: noted at each evaluation, beside the accuracy.

        Raises:
            KeyboardInterrupt: Ctrl-C ended the run, or came before it.
        """
        if self.stop():
            raise KeyboardInterrupt
        args = self.args
        settings = Settings(
            epochs=run.epochs,
            batch_size=run.batch,
            lr=run.lr,
            seed=run.seed,
            evaluate_every=(
                sys.maxsize
                if run.looks_once  # after as many samples, whatever the batch
                else max(1, round(args.evaluate_every * args.batch / run.batch))
            ),
        )
        result, trainer = run_head(
            f"{run.name} {run.epochs:g} passes of {run.batch} lr {run.lr:g} seed {run.seed}",
            run.make_head,
            *samples,
            settings,
            hidden=args.hidden,
            init_std=args.init_std,
            figures=figures,
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        return result, trainer
