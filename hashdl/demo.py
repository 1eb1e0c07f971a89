"""The demo: one model with a huge output layer, trained three ways, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hashdl.config import HashConfig
from hashdl.data import SparseDataset, load_lemmas
from hashdl.files import check_writable
from hashdl.metrics import recall
from hashdl.training.heads import DenseHead, HashedHead, HeadFactory, SampledHead
from hashdl.training.measure import machine
from hashdl.training.report import (
    comparison,
    contender_table,
    parts_table,
    plot_accuracy,
    write_json,
)
from hashdl.training.run import add_costs, run_head
from hashdl.training.trainer import Settings, Trainer

HIDDEN = 128
CONFIG = HashConfig(
    active=100, shared=500, candidates=400, tables=16, cap=64, sparse_grad=True
)


@dataclass(frozen=True)
class Contender:
    """One way to train the output layer.

    Attributes:
        make_head: the layer.
        lr: its rate, the best of :attr:`rates` on a validation part of the training samples.
        epochs: passes over the data.
        rates: those that were tried.
    """

    make_head: HeadFactory
    lr: float
    epochs: float
    rates: tuple[float, ...] = (2e-3, 5e-3, 1e-2)


CONTENDERS: dict[str, Contender] = {
    "dense": Contender(DenseHead, lr=5e-3, epochs=2),
    "sampled_1000": Contender(
        lambda features, n: SampledHead(features, n, negatives=1000), lr=1e-2, epochs=6
    ),
    "hashed": Contender(lambda features, n: HashedHead(features, n, CONFIG), lr=1e-2, epochs=4),
}


def run(folder: Path, *, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Train all contenders and write ``demo.json`` and ``demo.png``.

    Args:
        folder: where to.
        quick: on a small part of the data, in under a minute.
        seed: of all contenders.

    Returns:
        What ``demo.json`` holds.

    Raises:
        OSError: the folder cannot be written to.
    """
    check_writable(folder)
    train, test = load(quick)
    print(f"{train}\nheld out: {len(test):,} samples\n")
    contenders: dict[str, Any] = {}
    trainers: dict[str, Trainer] = {}
    for name, contender in CONTENDERS.items():
        settings = settings_of(contender, quick, seed)
        result, trainer = run_head(
            name, contender.make_head, train, test, settings, hidden=HIDDEN
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        add_costs(result, trainer)
        contenders[name] = result | {"rates_tried": list(contender.rates)}
        trainers = {name: trainer}  # the last one shows its predictions
    report = {
        "machine": machine(),
        "settings": {
            "data": "lemmas",
            "samples": len(train),
            "held_out": len(test),
            "n_features": train.n_features,
            "n_classes": train.n_labels,
            "hidden": HIDDEN,
            "quick": quick,
            "seed": seed,
            "hashed_config": dataclasses.asdict(CONFIG),
        },
        "contenders": contenders,
    }
    write_json(folder / "demo.json", report)
    plot_accuracy(folder / "demo.png", report)
    print(describe(report))
    return report


def describe(report: dict[str, Any]) -> str:
    """The result as text."""
    return "\n\n".join(
        [contender_table(report), parts_table(report), "\n".join(comparison(report))]
    )
