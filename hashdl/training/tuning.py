"""How to hash the output layer of a classifier, found by training it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch

from hashdl import metrics
from hashdl.config import HashConfig
from hashdl.data import SparseDataset
from hashdl.training.display import training_bar
from hashdl.training.evaluation import ranked
from hashdl.training.heads import HashedHead, head_factory
from hashdl.training.model import SparseClassifier
from hashdl.training.trainer import Settings, Trainer
from hashdl.tuning import TrainingResult, TrainingTrial, tune_training
from hashdl.tuning.arguments import family_names
from hashdl.tuning.race import Point, Race, Run, best_kinds, entrants
from hashdl.tuning.training import LayerRace

# Batches that the tuner is given; a share of all samples, where they are few; and batches at least.
_TUNED_ON, _TUNED_ON_SHARE, _TUNED_ON_LEAST = 64, 1 / 3, 4
# The share, where they judge whole trainings and all others are trained on.
_JUDGED_BY_SHARE = 0.1
# Families, or other ways of hashing, of which whole classifiers race.
_KINDS = 3
# Samples whose accuracy is shown beside the progress: those that are trained on.
_SHOWN = 256
# Passes of a run that ends by the clock.
_ENDLESS = 1e6


def tune_classifier(
    train: SparseDataset,
    *,
    config: HashConfig,
    hidden: int,
    init_std: float,
    settings: Settings,
    after: int,
    families: Sequence[str] | None = None,
    seconds: float | None = None,
    rates: Sequence[float] = (),
) -> TrainingResult:
    """Choose how to hash the output layer of a :class:`SparseClassifier` for training.

    By default :func:`hashdl.tune_training` does, of a layer in the midst of training. It is trained
    on other samples than the tuner is given: of those that it has seen, the layer knows the labels
    by heart, and races tell nothing.

    How much a look-up should find depends on how long training takes: what finds more learns more
    from a sample, what finds less meets each sample more often, and both change what the hidden
    layer learns. With ``seconds`` those short races choose three families alone; of these, whole
    classifiers race at all sizes and ``rates``, each from its beginning and as long as training
    will take: ten times as long for each rate.

    Args:
        train: samples to learn from.
        config: how the layer is hashed until then, and what the search begins with.
        hidden: width of the hidden layer.
        init_std: standard deviation of the initial embedding.
        settings: of the run whose beginning is trained.
        after: steps of training before the search; at most half of the run's.
        families: hash families to try. Default: all.
        seconds: of training, of which each contender has as many. Default: races of the layer.
        rates: learning rates of such races. Default: that of the run.

    Raises:
        ValueError: there are too few samples, or no such family: nothing is trained then.
        KeyboardInterrupt: Ctrl-C, in training.
    """
    names = family_names("tune_classifier", families)
    share = _TUNED_ON_SHARE if seconds is None else _JUDGED_BY_SHARE
    seen, unseen = _parted(train, share, settings)
    plan = _Plan(seen, hidden, init_std, settings)
    model = plan.beginning(config, after)
    assert isinstance(model.head, HashedHead)
    some = unseen.batch(torch.arange(len(unseen)))
    with torch.no_grad():
        samples = model(some), some.targets
    batch, lr, seed = settings.batch_size, settings.lr, settings.seed
    if seconds is None:
        return tune_training(
            *(model.head.softmax, *samples),
            base=config,
            families=names,
            batch=batch,
            lr=lr,
            seed=seed,
        )
    layers = LayerRace(model.head.linear, *samples, batch, lr, seed)
    race = _ClassifierRace(layers, plan, unseen, rates or [lr], seconds)
    return race.search(entrants(config, names, hidden), progress=True)


def _parted(
    train: SparseDataset, share: float, settings: Settings
) -> tuple[SparseDataset, SparseDataset]:
    """What the beginning of a run learns from, and what the tuner is given.

    Raises:
        ValueError: there are too few samples.
    """
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(settings.seed))
    batch = settings.batch_size
    fresh = max(round(share * len(train)), _TUNED_ON_LEAST * batch)
    fresh = min(fresh, _TUNED_ON * batch)
    if fresh >= len(train):
        wanted = f"more than {_TUNED_ON_LEAST} batches of {batch}"
        raise ValueError(f"tune_classifier: train: got {len(train)} samples, wanted {wanted}")
    return train.subset(order[fresh:]), train.subset(order[:fresh])


class _Plan(NamedTuple):
    """What is trained, and how."""

    train: SparseDataset
    hidden: int
    init_std: float
    settings: Settings

    def model(self, config: HashConfig) -> SparseClassifier:
        """A classifier that has learned nothing."""
        sizes = (self.train.n_features, self.hidden, self.train.n_labels)
        head = head_factory("hashed", config)
        return SparseClassifier(*sizes, head, self.settings.seed, self.init_std)

    def beginning(self, config: HashConfig, steps: int) -> SparseClassifier:
        """One after so many steps of training, half of all at most.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        model = self.model(config)
        shown = self.train.subset(torch.arange(min(_SHOWN, len(self.train))))
        trainer = _Beginning(model, self.train, shown, self.settings)
        trainer.most_steps = min(steps, max(1, trainer.total_steps // 2))
        with training_bar("training", trainer.most_steps) as watch:
            trainer.fit(watch)
        if trainer.interrupted:
            raise KeyboardInterrupt
        return model


class _Beginning(Trainer):
    """Ends after so many steps, in the midst of a longer run.

    Attributes:
        most_steps: how many.
    """

    most_steps = 0

    def _is_last(self) -> bool:
        return self.progress.step >= self.most_steps or super()._is_last()


class _Timed(Trainer):
    """Ends by the clock, and the rate falls with the seconds that are left."""

    def _left(self) -> float:
        assert self.settings.max_seconds is not None
        return max(0.0, 1 - self.progress.seconds / self.settings.max_seconds)


class _ClassifierRace(Race):
    """Whole classifiers, each trained from its beginning.

    Args:
        layers: looks at active sets.
        plan: what is trained.
        judges: held-out samples.
        rates: learning rates.
        seconds: of a final.
    """

    def __init__(
        self,
        layers: LayerRace,
        plan: _Plan,
        judges: SparseDataset,
        rates: Sequence[float],
        seconds: float,
    ) -> None:
        super().__init__(rates)
        self.layers, self.plan, self.judges, self.seconds = layers, plan, judges, seconds

    def look(self, config: HashConfig) -> TrainingTrial:
        """Of the layer in the midst of training."""
        return self.layers.look(config)

    def heat(self, trial: TrainingTrial) -> Run:
        """Of the layer alone."""
        return self.layers.heat(trial)

    def finalists(self, heats: Sequence[TrainingTrial]) -> list[TrainingTrial]:
        """All sizes of the best families."""
        return best_kinds(heats, _KINDS)

    def final(self, trial: TrainingTrial, lr: float) -> Run:
        """Of a whole classifier, as long as training will take."""
        model = self.plan.model(trial.config)
        settings = dataclasses.replace(
            self.plan.settings, epochs=_ENDLESS, lr=lr, max_seconds=self.seconds
        )
        train = self.plan.train
        trainer = _Timed(model, train, train.subset(torch.arange(1)), settings)
        begun = Point(0, 0.0, torch.zeros(len(self.judges)))
        progress = trainer.fit()
        if trainer.interrupted:
            raise KeyboardInterrupt
        pieces = [metrics.precision_at(*some, 1) for some in ranked(model, self.judges, 1)]
        reached = Point(progress.step, progress.seconds, torch.cat(pieces))
        return Run(trial, lr, [begun, reached])
