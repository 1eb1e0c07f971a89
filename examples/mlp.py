"""A multi-layer perceptron on digits: dense, converted, and as a HashMLP.

    python examples/mlp.py

Needs scikit-learn for its digits. At this width hashing is no faster than the dense net: the table
says what it costs and what it keeps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

# For "python examples/mlp.py" as well as "python -m examples.mlp".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common import HIDDEN, accuracy, parse, show, train_classifier
from hashdl import HashMLP, convert
from hashdl.data import load_digits


def dense(width: int) -> nn.Sequential:
    """64 pixels, two hidden layers, 10 classes."""
    return nn.Sequential(
        *(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, 10),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train three nets and compare them."""
    args = parse(__doc__, arguments)
    width, epochs = (50, 1) if args.quick else (1000, 20)
    data = load_digits(seed=args.seed)
    config = HIDDEN.replace(active=0.1)
    sizes = (64, [width, width], 10)
    nets = {
        "dense": dense(width),
        "convert, 10 % active": convert(dense(width), config, filter_fn=lambda _, fqn: fqn != "4"),
        "HashMLP, 10 % active": HashMLP(*sizes, config=config, above_mean=True),
    }
    rows = []
    for name, net in nets.items():
        ms = train_classifier(net, data.train, epochs=epochs, lr=2e-3, seed=args.seed, what=name)
        rows.append([name, f"{accuracy(net, data.test):.3f}", f"{ms:.2f}"])
    show(["", "test accuracy", "ms a training step"], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
