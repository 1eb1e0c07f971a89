"""One run from data to result: what the command line calls and the demo calls three times."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from hashdl.config import HashConfig
from hashdl.data import SparseDataset
from hashdl.training.display import training_bar
from hashdl.training.heads import HeadFactory, head_factory
from hashdl.training.measure import PeakMemory, machine, step_parts
from hashdl.training.model import SparseClassifier
from hashdl.training.report import finite, write_json
from hashdl.training.trainer import Figures, Settings, Trainer

_CHECKPOINT = "checkpoint.pt"


def run_head(
    name: str,
    make_head: HeadFactory,
    train: SparseDataset,
    test: SparseDataset,
    settings: Settings,
    *,
    hidden: int,
    init_std: float = 0.1,
    checkpoint: Path | None = None,
    resume: bool = False,
    figures: Figures | None = None,
) -> tuple[dict[str, Any], Trainer]:
    """Train one model and say what it reached and what it cost.

    Args:
        name: shown beside the progress.
        make_head: the output layer.
        train: samples to learn from.
        test: held-out samples.
        settings: of the run.
        hidden: width of the hidden layer.
        init_std: standard deviation of the initial embedding.
        checkpoint: file to save to; None: nowhere.
        resume: go on from ``checkpoint``.
        figures: what else is noted at each evaluation.

    Returns:
        The result, in the form of the benchmarks' JSON, and the trainer.
    """
    with PeakMemory() as memory:
        model = SparseClassifier(
            train.n_features, hidden, train.n_labels, make_head, settings.seed, init_std
        )
        trainer = Trainer(model, train, test, settings, checkpoint, figures)
        if resume and checkpoint is not None:
            trainer.resume(checkpoint)
        with training_bar(name, trainer.total_steps) as watch:
            trainer.fit(watch)
    progress = trainer.progress
    multiplications = model.head.multiplications(settings.batch_size)
    dense = 3.0 * hidden * train.n_labels
    result = {
        "epochs": settings.epochs,
        "lr": settings.lr,
        "batch": settings.batch_size,
        "steps": progress.step,
        "train_seconds": progress.seconds,
        "step_ms": 1000 * progress.seconds / max(progress.step, 1),
        **progress.accuracies(),
        "multiplications": multiplications,
        "multiplications_vs_dense": multiplications / dense,
        "history": [
            {key: finite(value) for key, value in point.items()} for point in progress.history
        ],
        "interrupted": trainer.interrupted,
    }
    if memory.megabytes is not None:
        result["peak_mb"] = memory.megabytes
    return result, trainer


def add_costs(result: dict[str, Any], trainer: Trainer) -> None:
    """Add the parts of a step and the rows it reads; the trainer's model moves on by some steps."""
    batch = trainer.train.batch(torch.arange(min(trainer.settings.batch_size, len(trainer.train))))
    with torch.no_grad():
        read = trainer.model.head.rows_read(trainer.model(batch), batch.targets)
    result["touched"] = read / trainer.train.n_labels
    result["parts_ms"] = step_parts(trainer)


def check_resumable(folder: Path) -> None:
    """See that there is something to go on from.

    Raises:
        ValueError: there is nothing.
    """
    if not (folder / _CHECKPOINT).exists():
        raise ValueError(f"--resume: there is no {folder / _CHECKPOINT}")


def train_classifier(
    train: SparseDataset,
    test: SparseDataset,
    *,
    head: str,
    config: HashConfig,
    negatives: int,
    hidden: int,
    init_std: float,
    settings: Settings,
    folder: Path,
    resume: bool,
) -> dict[str, Any]:
    """Train with checkpoints in a folder and write ``result.json`` there.

    Raises:
        ValueError: ``resume`` without a checkpoint, or one of another run.
    """
    if resume:
        check_resumable(folder)
    result, _ = run_head(
        head,
        head_factory(head, config, negatives),
        train,
        test,
        settings,
        hidden=hidden,
        init_std=init_std,
        checkpoint=folder / _CHECKPOINT,
        resume=resume,
    )
    report = {
        "machine": machine(),
        "settings": dataclasses.asdict(settings)
        | {"head": head, "hidden": hidden, "init_std": init_std, "n_classes": train.n_labels}
        | ({"config": dataclasses.asdict(config)} if head == "hashed" else {}),
        "contenders": {head: result},
    }
    write_json(folder / "result.json", report)
    return report
