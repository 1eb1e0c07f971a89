"""A word-level LSTM language model of Python's own manual, with a hashed softmax.

    python examples/lstm_language_model.py

The text is that of ``help()``, which comes with Python. The output layer over all words is an
nn.Linear with cross entropy, or a HashSoftmaxWithLoss; both are tested over all words.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from pydoc_data import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# For "python examples/lstm_language_model.py" as well as "python -m examples.lstm_language_model".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common import parse, run, show
from hashdl import HashConfig, HashSoftmaxWithLoss, optim
from hashdl.progress import track

_BATCH, _LENGTH = 16, 32


def load_words(most: int) -> tuple[Tensor, int]:
    """The manual as word numbers (at most so many), and the number of different words."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    words = re.findall(r"\w+|[^\w\s]", text)[:most]
    numbers = {word: i for i, (word, _) in enumerate(Counter(words).most_common())}
    return torch.tensor([numbers[word] for word in words]), len(numbers)


class LanguageModel(nn.Module):
    """Embedding and LSTM; the head is called by itself.

    Args:
        words: number of different words.
        features: of embeddings and of the LSTM.
        hashed: which head.
    """

    def __init__(self, words: int, features: int, hashed: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, features)
        self.lstm = nn.LSTM(features, features, batch_first=True)
        config = HashConfig(
            active=min(100, words // 4), shared=min(500, words // 4), sparse_grad=True
        )
        self.head: nn.Module = (
            HashSoftmaxWithLoss(features, words, config=config)
            if hashed
            else nn.Linear(features, words)
        )

    def loss(self, text: Tensor) -> Tensor:
        """Mean negative log probability of each word, given those before it. text (B, T + 1)."""
        hidden = self.lstm(self.embedding(text[:, :-1]))[0].flatten(0, 1)
        targets = text[:, 1:].flatten()
        if isinstance(self.head, HashSoftmaxWithLoss):
            loss: Tensor = self.head(hidden, targets)[1]
            return loss
        return F.cross_entropy(self.head(hidden), targets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train both heads and compare perplexities."""
    args = parse(__doc__, arguments)
    most, features, epochs = (4000, 16, 1) if args.quick else (200_000, 128, 3)
    text, words = load_words(most)
    pieces = text[: len(text) // (_LENGTH + 1) * (_LENGTH + 1)].reshape(-1, _LENGTH + 1)
    held_out = pieces[::20]
    train = pieces[torch.arange(len(pieces)) % 20 != 0]
    rows = []
    for name, hashed in (("dense", False), ("hashed", True)):
        torch.manual_seed(args.seed)
        model = LanguageModel(words, features, hashed)
        optimizer = optim.Adam(model.parameters(), lr=3e-3)
        steps, start = 0, time.perf_counter()
        for _ in track(range(epochs), name):
            for batch in train[torch.randperm(len(train))].split(_BATCH):
                optimizer.zero_grad()
                model.loss(batch).backward()
                optimizer.step()
                steps += 1
        ms = 1e3 * (time.perf_counter() - start) / steps
        with torch.no_grad():
            loss = torch.stack([model.eval().loss(batch) for batch in held_out.split(_BATCH)])
        rows.append([name, f"{words:,}", f"{math.exp(float(loss.mean())):.1f}", f"{ms:.1f}"])
    show(["head", "words", "test perplexity", "ms a training step"], rows)
    return 0


if __name__ == "__main__":
    run(main)
