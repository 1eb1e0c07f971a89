"""The training loop: progress, held-out accuracy against seconds, checkpoints, Ctrl-C, resume."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from hashdl import optim
from hashdl.data import Batch, SparseDataset
from hashdl.errors import first_line
from hashdl.files import atomic_path
from hashdl.nn import HashSoftmaxWithLoss
from hashdl.profiling import part
from hashdl.tables import HashTables
from hashdl.training.evaluation import evaluate
from hashdl.training.interrupt import stop_requests
from hashdl.training.model import SparseClassifier

_Module = TypeVar("_Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class Settings:
    """What a training run depends on, beside model and data.

    Attributes:
        epochs: passes over the data; a fraction ends within one.
        batch_size: samples a step.
        lr: learning rate of Adam in the first half; then it falls linearly to 0 at the end.
        seed: of the order of samples and of random draws.
        evaluate_every: steps between two looks at held-out accuracy; 0: after each epoch.
        max_seconds: training seconds after which to stop; None: no limit.
    """

    epochs: float = 3
    batch_size: int = 256
    lr: float = 5e-3
    seed: int = 0
    evaluate_every: int = 0
    max_seconds: float | None = None


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps done.
        seconds: of training, evaluation and checkpoints not counted.
        history: at each evaluation, ``step``, ``epoch``, ``seconds``, ``loss`` and accuracies.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def accuracies(self) -> dict[str, float]:
        """Those of the last evaluation; none before the first."""
        last = self.history[-1] if self.history else {}
        return {name: value for name, value in last.items() if name.startswith(("p", "top"))}


#: Called after each step with (progress, loss, total steps); after each evaluation as well.
Watcher = Callable[[Progress, float, int], None]
#: Figures of a model, by name, noted at each evaluation; they must not change it.
Figures = Callable[[SparseClassifier], dict[str, float]]


class Trainer:
    """Trains a classifier with Adam: row updates for sparse gradients, torch's fused for dense.

    Args:
        model: what to train.
        train: samples to learn from.
        test: held-out samples.
        settings: see :class:`Settings`.
        checkpoint: file to save to and to resume from; None: nowhere.
        figures: what else is noted at each evaluation.

    Attributes:
        progress: how far the run is.
        interrupted: whether Ctrl-C ended :meth:`fit`.
    """

    def __init__(
        self,
        model: SparseClassifier,
        train: SparseDataset,
        test: SparseDataset,
        settings: Settings,
        checkpoint: Path | None = None,
        figures: Figures | None = None,
    ) -> None:
        self.model, self.train, self.test = model, train, test
        self.settings, self.checkpoint, self.figures = settings, checkpoint, figures
        self.optimizer = optim.Adam(model.parameters(), lr=settings.lr, fused=True)
        self.progress = Progress()
        self.interrupted = False

    @property
    def steps_per_epoch(self) -> int:
        """Steps that one pass over the data takes."""
        return max(1, -(-len(self.train) // self.settings.batch_size))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return max(1, round(self.settings.epochs * self.steps_per_epoch))

    def fit(self, watch: Watcher | None = None) -> Progress:
        """Train to the end, to the limit in seconds, or until Ctrl-C.

        Ctrl-C lets the step end, saves a checkpoint and returns; a second one interrupts at once.
        """
        self.model.train()
        self.interrupted = False
        with torch.random.fork_rng(devices=[]), stop_requests() as stop_wanted:
            loss = torch.tensor(float("nan"))
            began = time.perf_counter()
            for batch in self._batches():
                # Not torch.manual_seed, which seeds every device and takes far longer.
                torch.default_generator.manual_seed(self.settings.seed + self.progress.step)
                self._set_rate()
                loss = self.step(batch)
                now = time.perf_counter()
                self.progress.seconds += now - began
                self.interrupted = stop_wanted()
                finished = self._is_last() or self.interrupted
                if finished or self._evaluation_is_due():
                    self._look(float(loss))
                if watch is not None:
                    watch(self.progress, float(loss), self.total_steps)
                if finished:
                    break
                began = time.perf_counter()
        return self.progress

    def _batches(self) -> Iterator[Batch]:
        """Batches from where the run is; each epoch has its own order."""
        while self.progress.step < self.total_steps:
            epoch, done = divmod(self.progress.step, self.steps_per_epoch)
            order = torch.Generator().manual_seed(self.settings.seed * 100_003 + epoch)
            permutation = torch.randperm(len(self.train), generator=order)
            for rows in permutation.split(self.settings.batch_size)[done:]:
                yield self.train.batch(rows)

    def _set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * min(1.0, 2 * self._left())

    def _left(self) -> float:
        """Share of the run."""
        return 1 - self.progress.step / self.total_steps

    def step(self, batch: Batch) -> torch.Tensor:
        """One training step; the loss, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model.loss(batch)
        with part("backward"):
            loss.backward()
        self.optimizer.step()
        self.progress.step += 1
        return loss.detach()

    def _is_last(self) -> bool:
        limit = self.settings.max_seconds
        out_of_time = limit is not None and self.progress.seconds >= limit
        return out_of_time or self.progress.step >= self.total_steps

    def _evaluation_is_due(self) -> bool:
        every = self.settings.evaluate_every or self.steps_per_epoch
        return self.progress.step % every == 0

    def _look(self, loss: float) -> None:
        """Note held-out accuracy and save."""
        entry = {
            "step": float(self.progress.step),
            "epoch": self.progress.step / self.steps_per_epoch,
            "seconds": self.progress.seconds,
            "loss": loss,
        }
        if self.figures is not None:
            entry |= self.figures(self.model)
        self.progress.history.append(entry | evaluate(self.model, self.test))
        if self.checkpoint is not None:
            self.save(self.checkpoint)

    # ---- checkpoints ---------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write all that a resumed run needs; an interrupted write keeps the older file.

        Tables are not saved: they are rebuilt at the next step, in this run as in a resumed one,
        so that both go on bit for bit alike.
        """
        tables = self._tables()
        for table in tables.values():
            table.invalidate()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "settings": self._fixed_settings(),
            "hashing": self._hashing(),
            "tables": {name: table.history() for name, table in tables.items()},
            "labels": {name: head.recent_labels for name, head in self._heads().items()},
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: the file is no checkpoint, or of a run with other settings or sizes.
        """
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            settings, hashing = state["settings"], state["hashing"]
        except FileNotFoundError:
            raise
        except Exception as error:
            why = f"not a checkpoint of hashdl ({first_line(error)})"
            raise ValueError(f"{path}: {why}") from error
        _check_same(path, settings, self._fixed_settings())
        self._check_sizes(path, state["model"])
        _check_same(path, hashing, self._hashing())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        for name, table in self._tables().items():
            table.set_history(state["tables"][name])
        for name, head in self._heads().items():
            head.recent_labels.copy_(state["labels"][name])

    def _check_sizes(self, path: Path, saved: dict[str, torch.Tensor]) -> None:
        """Before anything is loaded: load_state_dict refuses after it has."""
        ours = self.model.state_dict()
        differing = [
            f"{name}: got {_shape(saved.get(name))}, wanted {_shape(ours.get(name))}"
            for name in ours | saved
            if _shape(saved.get(name)) != _shape(ours.get(name))
        ]
        if differing:
            raise ValueError(f"{path}: saved by a model of other sizes ({'; '.join(differing)})")

    def _heads(self) -> dict[str, HashSoftmaxWithLoss]:
        return self._modules_of(HashSoftmaxWithLoss)

    def _tables(self) -> dict[str, HashTables]:
        return self._modules_of(HashTables)

    def _modules_of(self, kind: type[_Module]) -> dict[str, _Module]:
        """The model's modules of a kind, by their paths."""
        modules = self.model.named_modules()
        return {name: module for name, module in modules if isinstance(module, kind)}

    def _fixed_settings(self) -> dict[str, Any]:
        """Settings that a resumed run must share: all that its steps depend on."""
        fixed = dataclasses.asdict(self.settings)
        return {name: fixed[name] for name in ("epochs", "batch_size", "lr", "seed")} | {
            "samples": len(self.train)
        }

    def _hashing(self) -> dict[str, Any]:
        """How layers are hashed, by the path of each field: steps depend on it as well."""
        return {
            f"{name.removesuffix('tables')}config.{field_name}": value
            for name, table in self._tables().items()
            for field_name, value in dataclasses.asdict(table.config).items()
        }


def _shape(tensor: torch.Tensor | None) -> str:
    return "none" if tensor is None else f"shape {tuple(tensor.shape)}"


def _check_same(path: Path, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a checkpoint of a run that was set up otherwise."""
    differing = [name for name in saved | ours if saved.get(name) != ours.get(name)]
    if differing:
        there, here = ({name: run.get(name) for name in differing} for run in (saved, ours))
        raise ValueError(
            f"{path}: saved by a run with {there}; this one has {here}: go on with the same, or "
            "begin anew"
        )
