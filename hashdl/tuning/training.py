"""tune_training: which way of hashing a layer learns most with, in the same seconds."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import metrics, optim
from hashdl.config import HashConfig
from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.progress import track
from hashdl.tuning.arguments import (
    check_inputs,
    check_tensor,
    family_names,
    linear_of,
    refusal,
)
from hashdl.tuning.text import figure, in_code, table

# Held-out inputs: a share of those given, and at most so many; those of the first look.
_HELD_OUT_SHARE, _MOST_HELD_OUT, _LOOKED_AT = 0.25, 4096, 512


class _Course(NamedTuple):
    """How long a race is, and how closely it is watched.

    Attributes:
        share: of the samples that are there to train on.
        held_out: most inputs that it is judged by.
        looks: at the accuracy, on the way.
    """

    share: float
    held_out: int
    looks: int


_HEAT, _FINAL = _Course(0.25, 1024, 4), _Course(1.0, _MOST_HELD_OUT, 8)
# Of those that run the heat, how many run the final, the given one aside.
_FINALISTS = 3
# Samples whose outputs of all rows are held at once.
_CHUNK = 256
# Of the second size that each way is tried at: probes and candidates, in multiples.
_MORE_PROBES, _MORE_CANDIDATES = 3, 4
# Coordinates of a low rank, for layers that have many more.
_RANK = 32

# Read by the races; tests put another one here.
_clock = time.perf_counter


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
        steps: training steps that it made in the seconds of the final.
        ms: measured milliseconds a step, rehashing included.
    """

    config: HashConfig
    gradient: float
    recall: float
    heat: float | None = None
    accuracy: float | None = None
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
    *("gradient", "recall", "heat", "ms", "steps", "accuracy"),
)


def _cells(trial: TrainingTrial) -> tuple[str, ...]:
    config = trial.config
    prepared = [name for name in ("center", "balance") if getattr(config, name) is not False]
    prepared = prepared if config.rank is None else ["center", f"rank {config.rank}"]
    raced = trial.accuracy is not None
    return (
        config.family,
        "+".join(prepared) or "-",
        config.selection,
        *(str(size) for size in (config.tables, config.probes, config.candidates or "-")),
        f"{trial.gradient:.3f}",
        f"{trial.recall:.3f}",
        "-" if trial.heat is None else f"{trial.heat:.3f}",
        *((figure(trial.ms), str(trial.steps), f"{trial.accuracy:.3f}") if raced else "---"),
    )


# ---- tune_training -----------------------------------------------------------------------------


def tune_training(
    layer: nn.Linear | HashSoftmaxWithLoss,
    inputs: Tensor,
    labels: Tensor,
    *,
    base: HashConfig | None = None,
    families: str | Sequence[str] | None = None,
    batch: int = 256,
    lr: float = 5e-3,
    seed: int = 0,
    progress: bool = True,
) -> TrainingResult:
    """Search how to hash an output layer so that it learns most in the same time.

    What active sets hold of the gradient tells which configurations are worth a closer look, but
    not which of them learns most: the same rows met again and again, or met as they were some
    steps ago, teach little; and those that find more take longer. So the best of each kind race, at
    both sizes that are tried: each trains a copy of the layer by Adam, on the inputs as they are,
    in the order given; what counts is the held-out precision at 1 after the seconds of the fastest.
    All kinds run a heat, over a quarter of the inputs; the best of them and the configuration given
    run the final, over all. That one stays unless another is better by more than the standard error
    of their difference, on the same held-out inputs.

    Ask in the midst of training: of a layer that has learned nothing every family finds the same.
    The number of active rows stays that of ``base``.

    Args:
        layer: an output layer. It is not changed.
        inputs: a sample of what it is given, (\\*, d): ten thousand or more, of which a quarter,
            but at most 4096, are held out. Best are samples that the layer has not learned from:
            of the others it may know the labels by heart.
        labels: int (\\*), or (\\*, M) padded with -1.
        base: the configuration to begin with, whose other fields, :attr:`HashConfig.active` among
            them, the others share. Default: the layer's own.
        families: hash families to try. Default: all.
        batch: samples a step.
        lr: learning rate of the race.
        seed: of the choice of held-out inputs.
        progress: show bars on stderr.

    Returns:
        A :class:`TrainingResult`: print it.

    Raises:
        TypeError: the layer is no output layer.
        ValueError: a family is unknown, shapes do not fit, or there are too few inputs.

    Examples:
        >>> head = HashSoftmaxWithLoss(16, 500, config=HashConfig(active=20))
        >>> x = torch.randn(600, 16)
        >>> result = tune_training(head, x, x.argmax(1), batch=32, progress=False,
        ...                        families=["simhash"])
        >>> result.config.active
        20
    """
    linear = linear_of("tune_training", layer)
    _check(linear, inputs, labels, batch)
    names = family_names("tune_training", families)
    if base is None:
        hashed = layer.linear if isinstance(layer, HashSoftmaxWithLoss) else linear
        base = hashed.config if isinstance(hashed, HashLinear) else HashConfig()
    race = _Race(linear, inputs, labels, batch, lr, seed)
    configs = list(dict.fromkeys(_configs(base, names, linear.in_features)))
    looks = [race.look(config) for config in track(configs, "Looking", enabled=progress)]
    entered = _best_of_each_kind(looks)
    heats = [race.run(trial, _HEAT) for trial in track(entered, "Heats", enabled=progress)]
    finalists = _finalists(heats)
    runs = [race.run(trial, _FINAL) for trial in track(finalists, "Final", enabled=progress)]
    return _judge(runs, [*_after_heats(heats), *looks])


def _check(linear: nn.Linear, inputs: Tensor, labels: Tensor, batch: int) -> None:
    refuse = partial(refusal, "tune_training")
    d = linear.in_features
    check_inputs("tune_training", inputs, d)
    check_tensor("tune_training", "labels", labels)
    shape = inputs.shape[:-1]
    if labels.shape[: len(shape)] != shape or labels.dim() > len(shape) + 1:
        wanted = ", ".join(map(str, shape))
        raise refuse("labels", f"shape {tuple(labels.shape)}", f"({wanted}) or ({wanted}, M)")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise refuse("labels", labels.dtype, "integers")
    if batch < 1:
        raise refuse("batch", batch, "1 or more")
    if inputs.numel() // d < 4 * batch:
        raise refuse("inputs", f"{inputs.numel() // d} samples", f"at least 4 batches of {batch}")


def _configs(base: HashConfig, names: Sequence[str], features: int) -> Iterator[HashConfig]:
    """What is tried: every family, prepared in two ways, at two sizes; and what else there is."""
    ways = (True, False) if HashConfig().balances(features) else (False,)
    yield base
    for name in names:
        for balance in ways:
            bits = base.bits if name == base.family else None
            config = base.replace(family=name, bits=bits, rank=None, center=True, balance=balance)
            if name == "kmeans":  # a few tables do what many of the others do
                config = config.replace(tables=min(base.tables, 4), probes=2)
            yield config
            yield _more(config)
    if "simhash" in names and features > 2 * _RANK:
        low = base.replace(family="simhash", bits=None, balance=None, rank=_RANK)
        yield from (low, _more(low))
    yield _more(base).replace(selection="sketch")


def _more(config: HashConfig) -> HashConfig:
    """Of which look-ups find more."""
    candidates = config.candidates
    return config.replace(
        probes=_MORE_PROBES * config.probes,
        candidates=None if candidates is None else _MORE_CANDIDATES * candidates,
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
        kinds.setdefault((config.family, config.rank, config.selection, *size), trial)
    return [given, *kinds.values()]


# ---- the race ----------------------------------------------------------------------------------


class _Point(NamedTuple):
    """A look at a run.

    Attributes:
        steps: so far.
        seconds: of training so far.
        hits: float (Q,), precision at 1 of each held-out input.
    """

    steps: int
    seconds: float
    hits: Tensor


class _Run(NamedTuple):
    """One configuration's run."""

    trial: TrainingTrial
    points: list[_Point]


class _Race:
    """A layer, samples that its copies train on, and others that judge them.

    Args:
        linear: the layer.
        inputs: (*, d).
        labels: (*) or (*, M).
        batch: samples a step.
        lr: learning rate.
        seed: of the choice of held-out samples.
    """

    def __init__(
        self, linear: nn.Linear, inputs: Tensor, labels: Tensor, batch: int, lr: float, seed: int
    ) -> None:
        x = inputs.detach().reshape(-1, linear.in_features).to(linear.weight)
        of_x = labels.reshape(len(x), -1).to(x.device)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        kept = min(round(_HELD_OUT_SHARE * len(x)), _MOST_HELD_OUT)
        held_out, train = order[:kept].sort().values, order[kept:].sort().values
        self.linear, self.batch, self.lr = linear, batch, lr
        self.x, self.labels = x[train], of_x[train]
        self.held_out, self.of_held_out = x[held_out], of_x[held_out]

    def look(self, config: HashConfig) -> TrainingTrial:
        """What active sets hold of the gradient now."""
        layer = HashLinear.from_linear(self.linear, config).train()
        layer.calibrate(self.x[: len(self.x) // 2])
        some = slice(None, _LOOKED_AT)
        k = min(10, layer.out_features)
        found = metrics.active(layer, self.held_out[some], self.of_held_out[some], k)
        return TrainingTrial(config, found.gradient, found.recall)

    def run(self, trial: TrainingTrial, course: _Course) -> _Run:
        """Train a copy of the layer, one pass over its share of the samples."""
        linear = copy.deepcopy(self.linear)
        head = HashSoftmaxWithLoss.from_linear(linear, trial.config).train()
        head.linear.calibrate(self.x[: len(self.x) // 2])
        optimizer = optim.Adam(head.parameters(), lr=self.lr, fused=True)
        batches = list(zip(self.x.split(self.batch), self.labels.split(self.batch), strict=True))
        batches = batches[: max(1, round(course.share * len(batches)))]
        every = max(1, len(batches) // course.looks)
        judges = slice(None, None, max(1, -(-len(self.held_out) // course.held_out)))
        seconds, points = 0.0, [_Point(0, 0.0, self._hits(head.linear, judges))]
        for step, (x, labels) in enumerate(batches, 1):
            began = _clock()
            optimizer.zero_grad()
            head(x, labels).loss.backward()
            optimizer.step()
            seconds += _clock() - began
            if step % every == 0:
                points.append(_Point(step, seconds, self._hits(head.linear, judges)))
        return _Run(trial, points)

    @torch.no_grad()
    def _hits(self, layer: nn.Linear, judges: slice) -> Tensor:
        """Precision at 1 of held-out inputs, over all rows."""
        held_out, of_held_out = self.held_out[judges], self.of_held_out[judges]
        pieces = [
            metrics.precision_at(F.linear(x, layer.weight, layer.bias).topk(1).indices, labels, 1)
            for x, labels in zip(held_out.split(_CHUNK), of_held_out.split(_CHUNK), strict=True)
        ]
        return torch.cat(pieces)


def _finalists(heats: Sequence[_Run]) -> list[TrainingTrial]:
    """The given one, and the best of the others after the heat."""
    given, *others = _after_heats(heats)
    return [given, *sorted(others, key=lambda trial: -(trial.heat or 0.0))[:_FINALISTS]]


def _after_heats(heats: Sequence[_Run]) -> list[TrainingTrial]:
    """With what each had reached when the first of them was done."""
    _, reached = _reached(heats)
    return [
        replace(run.trial, heat=float(point.hits.mean()))
        for run, point in zip(heats, reached, strict=True)
    ]


def _reached(runs: Sequence[_Run]) -> tuple[float, list[_Point]]:
    """Seconds of the fastest run, and where each one was then."""
    seconds = min(run.points[-1].seconds for run in runs)
    return seconds, [_at(run.points, seconds) for run in runs]


def _judge(runs: Sequence[_Run], looks: Sequence[TrainingTrial]) -> TrainingResult:
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
            steps=point.steps,
            ms=1000 * run.points[-1].seconds / run.points[-1].steps,
        )
        for run, point in zip(runs, reached, strict=True)
    ]
    best = max(range(len(raced)), key=lambda i: float(reached[i].hits.mean()))
    gain = reached[best].hits - reached[0].hits
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


def _at(points: Sequence[_Point], seconds: float) -> _Point:
    """Where a run was after so many seconds: between two looks, as far as it had come from one."""
    later = next((i for i, point in enumerate(points) if point.seconds >= seconds), len(points) - 1)
    before, after = points[max(later - 1, 0)], points[later]
    if after.seconds <= seconds:
        return after
    way = (seconds - before.seconds) / (after.seconds - before.seconds)
    steps = round(before.steps + way * (after.steps - before.steps))
    return _Point(steps, seconds, torch.lerp(before.hits, after.hits, way))
