"""A convolutional net on digits whose wide classifier is hashed by ``convert``.

    python examples/cnn_classifier.py

Needs scikit-learn for its digits. The convolutions stay as they are; the two linear layers of the
classifier that are wide are swapped, and chained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

# For "python examples/cnn_classifier.py" as well as "python -m examples.cnn_classifier".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common import accuracy, parse, run, show, train_classifier
from hashdl import HashConfig, convert
from hashdl.data import load_digits


def make_cnn(width: int) -> nn.Sequential:
    """Two convolutions on 8 × 8 pixels, and a classifier of two wide layers."""
    features = nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    )
    classifier = nn.Sequential(
        *(nn.Linear(128, width), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)),
    )
    return nn.Sequential(features, classifier)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the net dense and with hashed layers, and compare."""
    args = parse(__doc__, arguments)
    width, epochs = (50, 1) if args.quick else (2000, 12)
    data = load_digits(seed=args.seed)
    rows = []
    for name, active in (("dense", None), ("5 % active", 0.05), ("20 % active", 0.2)):
        net: nn.Module = make_cnn(width)
        if active is not None:
            config = HashConfig(active=active, sparse_grad=True)
            convert(net, config, filter_fn=lambda _, fqn: fqn in ("1.0", "1.3"))
        ms = train_classifier(net, data.train, epochs=epochs, lr=2e-3, seed=args.seed, what=name)
        rows.append([name, f"{accuracy(net, data.test):.3f}", f"{ms:.2f}"])
    show(["classifier", "test accuracy", "ms a training step"], rows)
    return 0


if __name__ == "__main__":
    run(main)
