"""Races of configurations: what was tried, how runs are judged, and what each one learned."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hashdl.config import HashConfig
from hashdl.progress import track
from hashdl.tuning.text import figure, in_code, table

# Of those that run the heat, how many run the final, the given one aside.
_FINALISTS = 3
# Of the larger sizes that each way is tried at: probes and candidates, in multiples.
_LARGER = ((2, 2), (3, 4))
# Coordinates of a low rank, for layers that have many more.
_RANK = 32


@dataclass(frozen=True)
class TrainingTrial:
    """One configuration that was tried.

    Attributes:
        config: the configuration.
        gradient: share of the gradient that its active sets hold, of the weights as they were
            given: :func:`hashdl.metrics.active`.
        recall: share of the ten largest outputs that are active.
        heat: held-out precision at 1 after the heat; None: it took no part.
        accuracy: likewise after the final.
        lr: the learning rate at which it was best in the final.
        steps: training steps that it made in the seconds of the final.
        ms: measured milliseconds a step, rehashing included.
    """

    config: HashConfig
    gradient: float
    recall: float
    heat: float | None = None
    accuracy: float | None = None
    lr: float | None = None
    steps: int | None = None
    ms: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`tune_training` returns; ``print(result)`` shows :attr:`table`.

    Attributes:
        config: the best configuration.
        best: its trial.
        given: the trial of the configuration that the search began with.
        trials: everything that was tried: those in the final by their accuracy, those in the heat
            by theirs, the others by the share of the gradient.
        seconds: how long each one trained in the final.
    """

    config: HashConfig
    best: TrainingTrial
    given: TrainingTrial
    trials: tuple[TrainingTrial, ...]
    seconds: float

    @property
    def table(self) -> str:
        """What was tried, and what it learned."""
        lines = table([_HEADINGS, *map(_cells, self.trials)], left=(0, 1, 2))
        lines[self.trials.index(self.best) + 1] += "  <-"
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """Everything as plain values, for a JSON file."""
        return {
            "config": dataclasses.asdict(self.config),
            "seconds": self.seconds,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def __str__(self) -> str:
        best, given = self.best.accuracy, self.given.accuracy
        return (
            f"{self.table}\n\nheld-out precision at 1 after {figure(self.seconds)} s of training\n"
            f"{in_code(self.config)}\n{best:.3f}, and {given:.3f} as given"
        )


_HEADINGS = (
    *("family", "prepared", "ranked by", "L", "P", "C"),
    *("gradient", "recall", "heat", "lr", "ms", "steps", "accuracy"),
)


def _cells(trial: TrainingTrial) -> tuple[str, ...]:
    config = trial.config
    prepared = [name for name in ("center", "balance") if getattr(config, name) is not False]
    prepared = prepared if config.rank is None else ["center", f"rank {config.rank}"]
    final = "----" if trial.accuracy is None else _final_cells(trial)
    return (
        config.family,
        "+".join(prepared) or "-",
        config.selection,
        *(str(size) for size in (config.tables, config.probes, config.candidates or "-")),
        f"{trial.gradient:.3f}",
        f"{trial.recall:.3f}",
        "-" if trial.heat is None else f"{trial.heat:.3f}",
        *final,
    )


def _final_cells(trial: TrainingTrial) -> tuple[str, ...]:
    return (f"{trial.lr:g}", figure(trial.ms), str(trial.steps), f"{trial.accuracy:.3f}")


# ---- races -------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A look at a run.

    Attributes:
        steps: so far.
        seconds: of training so far.
        hits: float (Q,), precision at 1 of each held-out input.
    """

    steps: int
    seconds: float
    hits: Tensor


class Run(NamedTuple):
    """One configuration's run at one learning rate."""

    trial: TrainingTrial
    lr: float
    points: list[Point]


class Race(ABC):
    """What configurations train in a search.

    Args:
        rates: learning rates of the final; heats have one.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates

    @abstractmethod
    def look(self, config: HashConfig) -> TrainingTrial:
        """What active sets hold of the gradient now."""

    @abstractmethod
    def heat(self, trial: TrainingTrial) -> Run:
        """A shorter run."""

    @abstractmethod
    def final(self, trial: TrainingTrial, lr: float) -> Run:
        """A run of full length."""

    def finalists(self, heats: Sequence[TrainingTrial]) -> list[TrainingTrial]:
        """Of those that ran the heat, those that run the final."""
        return _best(heats, _FINALISTS)

    def search(self, configs: Sequence[HashConfig], *, progress: bool) -> TrainingResult:
        """Look at all, let the best of each kind run a heat, and the best of these the final.

        Args:
            configs: the given one first.
            progress: show bars.
        """
        looks = [self.look(config) for config in track(configs, "Looking", enabled=progress)]
        entered = _best_of_each_kind(looks)
        heats = _after_heats(
            [self.heat(trial) for trial in track(entered, "Heats", enabled=progress)]
        )
        finals = list(product(self.finalists(heats), self.rates))
        runs = [self.final(*some) for some in track(finals, "Final", enabled=progress)]
        return _judge(runs, [*heats, *looks])


# ---- what takes part ---------------------------------------------------------------------------


def entrants(base: HashConfig, names: Sequence[str], features: int) -> list[HashConfig]:
    """All that is tried.

    Args:
        base: the configuration to begin with, the first of them.
        names: of families.
        features: d.
    """
    return _distinct(_configs(base, names, features), features)


def _configs(base: HashConfig, names: Sequence[str], features: int) -> Iterator[HashConfig]:
    """What is tried: every family, prepared in two ways, at three sizes; and what else there is."""
    ways = (True, False) if HashConfig().balances(features) else (False,)
    yield base
    for name in names:
        for balance in ways:
            bits = base.bits if name == base.family else None
            config = base.replace(family=name, bits=bits, rank=None, center=True, balance=balance)
            if name == "kmeans":  # a few tables do what many of the others do
                config = config.replace(tables=min(base.tables, 4), probes=2)
            yield from (config, *_larger(config))
    if "simhash" in names and features > 2 * _RANK:
        low = base.replace(family="simhash", bits=None, balance=None, rank=_RANK)
        yield from (low, *_larger(low))
    yield from _larger(base.replace(selection="sketch"))


def _distinct(configs: Iterable[HashConfig], features: int) -> list[HashConfig]:
    """The first of those that do the same."""
    found: dict[HashConfig, HashConfig] = {}
    for config in configs:
        balance = None if config.rank is not None else config.balances(features)
        found.setdefault(config.replace(balance=balance), config)
    return list(found.values())


def _larger(config: HashConfig) -> Iterator[HashConfig]:
    """Of which look-ups find more."""
    candidates = config.candidates
    for more_probes, more_candidates in _LARGER:
        yield config.replace(
            probes=more_probes * config.probes,
            candidates=None if candidates is None else more_candidates * candidates,
        )


def _best_of_each_kind(looks: Sequence[TrainingTrial]) -> list[TrainingTrial]:
    """The given one, and of each kind the one with the largest share of the gradient.

    Sizes are kinds: a look-up that finds more is better on every step, and makes fewer of them.
    """
    given, *others = looks
    kinds: dict[tuple[object, ...], TrainingTrial] = {}
    for trial in sorted(others, key=lambda trial: -trial.gradient):
        config = trial.config
        size = (config.tables, config.probes, config.candidates)
        kinds.setdefault((*_kind(config), *size), trial)
    return [given, *kinds.values()]


def _best(heats: Sequence[TrainingTrial], count: int) -> list[TrainingTrial]:
    """The given one, and so many that did best in the heat."""
    given, *others = heats
    return [given, *sorted(others, key=_heat)[:count]]


def best_kinds(heats: Sequence[TrainingTrial], count: int) -> list[TrainingTrial]:
    """The given one, and all sizes of the kinds whose best did best in the heat.

    Args:
        heats: trials that ran it, the given one first.
        count: of kinds.
    """
    given, *others = heats
    kinds: dict[tuple[object, ...], list[TrainingTrial]] = {}
    for trial in sorted(others, key=_heat):
        kinds.setdefault(_kind(trial.config), []).append(trial)
    return [given, *chain.from_iterable(list(kinds.values())[:count])]


def _heat(trial: TrainingTrial) -> float:
    """To sort by: the best first."""
    return -(trial.heat or 0.0)


def _kind(config: HashConfig) -> tuple[object, ...]:
    return config.family, config.rank, config.selection


def _after_heats(heats: Sequence[Run]) -> list[TrainingTrial]:
    """With what each had reached when the first of them was done."""
    _, reached = _reached(heats)
    return [replace(run.trial, heat=float(point.hits.mean())) for run, point in reached]


def _reached(runs: Sequence[Run]) -> tuple[float, list[tuple[Run, Point]]]:
    """Seconds of the fastest run, and where each configuration was then, at its best rate."""
    seconds = min(run.points[-1].seconds for run in runs)
    best: dict[HashConfig, tuple[Run, Point]] = {}
    for run in runs:
        point = _at(run.points, seconds)
        _, known = best.get(run.trial.config, (run, None))
        if known is None or point.hits.mean() > known.hits.mean():
            best[run.trial.config] = run, point
    return seconds, list(best.values())


def _judge(runs: Sequence[Run], looks: Sequence[TrainingTrial]) -> TrainingResult:
    """The run that had reached most when the first of them was done; the first, for little less.

    Args:
        runs: of the final.
        looks: everything that was tried; of a configuration that is there twice, the first counts.
    """
    seconds, reached = _reached(runs)
    raced = [
        replace(
            run.trial,
            accuracy=float(point.hits.mean()),
            lr=run.lr,
            steps=point.steps,
            ms=1000 * run.points[-1].seconds / run.points[-1].steps,
        )
        for run, point in reached
    ]
    hits = [point.hits for _, point in reached]
    best = max(range(len(hits)), key=lambda i: float(hits[i].mean()))
    gain = hits[best] - hits[0]
    if float(gain.mean()) <= float(gain.std() / len(gain) ** 0.5):
        best = 0
    others = {trial.config: trial for trial in reversed(looks)}
    for trial in raced:
        del others[trial.config]
    trials = (
        *sorted(raced, key=lambda trial: -(trial.accuracy or 0.0)),
        *sorted(others.values(), key=lambda trial: (-(trial.heat or -1.0), -trial.gradient)),
    )
    return TrainingResult(raced[best].config, raced[best], raced[0], trials, seconds)


def _at(points: Sequence[Point], seconds: float) -> Point:
    """Where a run was after so many seconds: between two looks, as far as it had come from one."""
    later = next((i for i, point in enumerate(points) if point.seconds >= seconds), len(points) - 1)
    before, after = points[max(later - 1, 0)], points[later]
    if after.seconds <= seconds:
        return after
    way = (seconds - before.seconds) / (after.seconds - before.seconds)
    steps = round(before.steps + way * (after.steps - before.steps))
    return Point(steps, seconds, torch.lerp(before.hits, after.hits, way))
