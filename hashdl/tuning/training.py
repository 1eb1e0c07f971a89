"""tune_training: which way of hashing a layer learns most with, in the same seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hashdl import metrics, optim
from hashdl.config import HashConfig
from hashdl.nn import HashLinear, HashSoftmaxWithLoss
from hashdl.tuning.arguments import (
    check_inputs,
    check_tensor,
    family_names,
    linear_of,
    refusal,
)
from hashdl.tuning.race import Point, Race, Run, TrainingResult, TrainingTrial, entrants

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
# Samples whose outputs of all rows are held at once.
_CHUNK = 256

# Read by the races; tests put another one here.
_clock = time.perf_counter


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
    all sizes that are tried: each trains a copy of the layer by Adam, on the inputs as they are,
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
    race = LayerRace(linear, inputs, labels, batch, lr, seed)
    return race.search(entrants(base, names, linear.in_features), progress=progress)


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


# ---- the race ----------------------------------------------------------------------------------


class LayerRace(Race):
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
        super().__init__([lr])
        x = inputs.detach().reshape(-1, linear.in_features).to(linear.weight)
        of_x = labels.reshape(len(x), -1).to(x.device)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        kept = min(round(_HELD_OUT_SHARE * len(x)), _MOST_HELD_OUT)
        held_out, train = order[:kept].sort().values, order[kept:].sort().values
        self.linear, self.batch = linear, batch
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

    def heat(self, trial: TrainingTrial) -> Run:
        """Over a quarter of the samples."""
        return self._run(trial, self.rates[0], _HEAT)

    def final(self, trial: TrainingTrial, lr: float) -> Run:
        """Over all."""
        return self._run(trial, lr, _FINAL)

    def _run(self, trial: TrainingTrial, lr: float, course: _Course) -> Run:
        """Train a copy of the layer, one pass over its share of the samples."""
        linear = copy.deepcopy(self.linear)
        head = HashSoftmaxWithLoss.from_linear(linear, trial.config).train()
        head.linear.calibrate(self.x[: len(self.x) // 2])
        optimizer = optim.Adam(head.parameters(), lr=lr, fused=True)
        batches = list(zip(self.x.split(self.batch), self.labels.split(self.batch), strict=True))
        batches = batches[: max(1, round(course.share * len(batches)))]
        every = max(1, len(batches) // course.looks)
        judges = slice(None, None, max(1, -(-len(self.held_out) // course.held_out)))
        seconds, points = 0.0, [Point(0, 0.0, self._hits(head.linear, judges))]
        for step, (x, labels) in enumerate(batches, 1):
            began = _clock()
            optimizer.zero_grad()
            head(x, labels).loss.backward()
            optimizer.step()
            seconds += _clock() - began
            if step % every == 0:
                points.append(Point(step, seconds, self._hits(head.linear, judges)))
        return Run(trial, lr, points)

    @torch.no_grad()
    def _hits(self, layer: nn.Linear, judges: slice) -> Tensor:
        """Precision at 1 of held-out inputs, over all rows."""
        held_out, of_held_out = self.held_out[judges], self.of_held_out[judges]
        pieces = [
            metrics.precision_at(F.linear(x, layer.weight, layer.bias).topk(1).indices, labels, 1)
            for x, labels in zip(held_out.split(_CHUNK), of_held_out.split(_CHUNK), strict=True)
        ]
        return torch.cat(pieces)
