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

from examples.common import accuracy, parse, run, show, train_classifier
from hashdl import HashConfig, HashMLP, convert
from hashdl.data import load_digits

#: For a HashMLP: all neurons are ranked in the twelve coordinates in which their outputs vary
#: most (see the README), three tenths of the active ones are random.
HIDDEN = HashConfig(
    active=0.1,
    rank=12,
    selection="sketch",
    bits=1,
    tables=1,
    probes=2,
    cap=1 << 20,
    candidates=1 << 20,
    random=0.3,
    rehash_every=100,
    sparse_grad=True,
)


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
    config = HashConfig(active=0.05, sparse_grad=True)
    hidden = convert(dense(width), config, filter_fn=lambda _, fqn: fqn != "4")
    nets = {
        "dense": dense(width),
        "convert, 5 % active": hidden,
        "HashMLP, 10 % active": HashMLP(64, [width, width], 10, config=HIDDEN, above=-0.5),
    }
    rows = []
    for name, net in nets.items():
        ms = train_classifier(net, data.train, epochs=epochs, lr=2e-3, seed=args.seed, what=name)
        rows.append([name, f"{accuracy(net, data.test):.3f}", f"{ms:.2f}"])
    show(["", "test accuracy", "ms a training step"], rows)
    return 0


if __name__ == "__main__":
    run(main)
