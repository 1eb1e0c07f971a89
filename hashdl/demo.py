"""The demo: one model with a huge output layer, trained three ways, side by side."""

from __future__ import annotations

import dataclasses
import json
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

HIDDEN, INIT_STD = 128, 1.0
CLASSES, QUICK_CLASSES = 80_000, 8_000
HELD_OUT = 5_000
VALIDATION_SHARE = 0.01
EVALUATION_STEPS, QUICK_EVALUATION_STEPS = 100, 60
# Passes over the small data are repeated: it has too few steps for the same rates otherwise.
QUICK_EPOCHS = 3
CONFIG = HashConfig(
    active=40,
    candidates=250,
    bits=14,
    tables=8,
    probes=6,
    cap=64,
    rehash_every=25,
    sparse_grad=True,
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
    rates: tuple[float, ...]


CONTENDERS: dict[str, Contender] = {
    "dense": Contender(DenseHead, lr=5e-3, epochs=1, rates=(5e-3, 1e-2, 2e-2)),
    "sampled_1000": Contender(
        lambda features, n: SampledHead(features, n, negatives=1000),
        lr=2e-3,
        epochs=3,
        rates=(2e-3, 5e-3, 1e-2, 2e-2),
    ),
    "hashed": Contender(
        lambda features, n: HashedHead(features, n, CONFIG),
        lr=5e-3,
        epochs=1.25,
        rates=(2e-3, 3e-3, 5e-3, 1e-2),
    ),
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
    examples = ""
    for name, contender in CONTENDERS.items():
        settings = settings_of(contender, quick, seed)
        result, trainer = run_head(
            name, contender.make_head, train, test, settings, hidden=HIDDEN, init_std=INIT_STD
        )
        if trainer.interrupted:
            raise KeyboardInterrupt
        result |= retrieval(trainer)
        examples = predictions(trainer)
        add_costs(result, trainer)
        contenders[name] = result | {"rates_tried": list(contender.rates)}
    report = {
        "machine": machine(),
        "settings": {
            "data": "lemmas",
            "samples": len(train),
            "held_out": len(test),
            "n_features": train.n_features,
            "n_classes": train.n_labels,
            "hidden": HIDDEN,
            "init_std": INIT_STD,
            "quick": quick,
            "seed": seed,
            "hashed_config": dataclasses.asdict(CONFIG),
        },
        "contenders": contenders,
    }
    write_json(folder / "demo.json", report)
    plot_accuracy(folder / "demo.png", report)
    print(f"{describe(report)}\n\n{examples}\n\n{folder}/demo.json, {folder}/demo.png")
    return report


def search_rates(folder: Path, *, quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Train every contender at each of its rates, and write ``rates.json``.

    Accuracy is that on a validation part of the training samples; held-out ones are not looked at.
    This is where :attr:`Contender.lr` comes from.

    Args:
        folder: where to.
        quick: on a small part of the data.
        seed: of all contenders.
    """
    check_writable(folder)
    train, validation = load(quick)[0].split(VALIDATION_SHARE, seed)
    found: dict[str, Any] = {}
    for name, contender in CONTENDERS.items():
        for rate in contender.rates:
            settings = dataclasses.replace(settings_of(contender, quick, seed), lr=rate)
            result, trainer = run_head(
                f"{name} lr {rate:g}",
                contender.make_head,
                train,
                validation,
                settings,
                hidden=HIDDEN,
                init_std=INIT_STD,
            )
            if trainer.interrupted:
                raise KeyboardInterrupt
            found.setdefault(name, {})[f"{rate:g}"] = result["top1"]
    report = {"machine": machine(), "validation_samples": len(validation), "top1": found}
    write_json(folder / "rates.json", report)
    print(json.dumps(found, indent=2))
    return report


def load(quick: bool) -> tuple[SparseDataset, SparseDataset]:
    """Training and held-out word forms; held-out ones are thinned so that evaluation is quick."""
    train, test = load_lemmas(max_labels=QUICK_CLASSES if quick else CLASSES)
    kept = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:HELD_OUT]
    return train, test.subset(kept)


def settings_of(contender: Contender, quick: bool, seed: int) -> Settings:
    """Rate, length and evaluations of a contender's run."""
    steps = QUICK_EVALUATION_STEPS if quick else EVALUATION_STEPS
    epochs = contender.epochs * (QUICK_EPOCHS if quick else 1)
    return Settings(epochs=epochs, lr=contender.lr, seed=seed, evaluate_every=steps)


def describe(report: dict[str, Any]) -> str:
    """The result as text."""
    return "\n\n".join(
        [contender_table(report), parts_table(report), "\n".join(comparison(report))]
    )


def predictions(trainer: Trainer, count: int = 8) -> str:
    """Some held-out samples, their label, and what the model thinks of them."""
    test = trainer.test
    names, words = test.label_names, test.sample_names
    if names is None or words is None:
        return ""
    trainer.model.eval()
    batch = test.batch(torch.arange(min(count, len(test))))
    best = trainer.model.topk(batch, 3).tolist()
    lines = []
    for word, label, guesses in zip(words, batch.targets.tolist(), best, strict=False):
        mark = "ok" if guesses[0] == label else "  "
        guessed = ", ".join(names[guess].partition(":")[2] for guess in guesses)
        lines.append(f"  {mark} {word:24} {names[label].partition(':')[2]:20} {guessed}")
    return f"     {'form':24} {'lemma':20} three best guesses\n" + "\n".join(lines)


def retrieval(trainer: Trainer) -> dict[str, float]:
    """Held-out top-1 by the tables alone, and what share of the rows that reads."""
    head = trainer.model.head
    if not isinstance(head, HashedHead):
        return {}
    trainer.model.eval()
    batch = trainer.test.batch(torch.arange(len(trainer.test)))
    with torch.no_grad():
        hidden = trainer.model(batch)
    found = head.softmax.topk(hidden, 1)[1].squeeze(1)
    report = recall(head.linear, hidden, k=1)
    return {
        "top1_by_tables": float((found == batch.targets).float().mean()),
        "touched_by_tables": report.touched,
    }
