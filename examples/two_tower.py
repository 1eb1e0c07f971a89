"""A two-tower recommender whose items are found by hashing.

    python examples/two_tower.py

Users and items are drawn: each has a taste, and a user likes the items nearest to its own. Two
embedding towers are trained with sampled negatives; then the item tower's vectors become the rows
of a HashLinear, hashed as hashdl.tune finds best for the vectors of other users, and ``topk`` is
compared with scoring every item.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# For "python examples/two_tower.py" as well as "python -m examples.two_tower".
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.common import parse, run, show, timed
from hashdl import metrics, optim, tune
from hashdl.progress import track

_BATCH, _K = 256, 10
# Users who ask; the others tell how to hash.
_ASKING = 64


class Tower(nn.Module):
    """Embedding, hidden layer, and a vector of length 1.

    Args:
        count: users, or items.
        features: of the vectors.
    """

    def __init__(self, count: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, features, sparse=True)
        self.hidden = nn.Sequential(
            nn.Linear(features, 2 * features), nn.ReLU(), nn.Linear(2 * features, features)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, features)."""
        return F.normalize(self.hidden(self.embedding(ids)), dim=1)


def likes(users: int, items: int, each: int) -> Tensor:
    """Pairs (users * each, 2) of a user and an item near its taste."""
    tastes, kinds = torch.randn(users, 8), torch.randn(items, 8)
    found = torch.cat([(part @ kinds.t()).topk(each, 1).indices for part in tastes.split(256)])
    return torch.stack([torch.arange(users).repeat_interleave(each), found.flatten()], 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the towers, then look items up."""
    args = parse(__doc__, arguments)
    users, items, epochs = (150, 300, 1) if args.quick else (2000, 50_000, 4)
    pairs = likes(users, items, 20)
    user_tower, item_tower = Tower(users, 32), Tower(items, 32)
    optimizer = optim.Adam([*user_tower.parameters(), *item_tower.parameters()], lr=3e-3)
    for _ in track(range(epochs), "training"):
        for batch in pairs[torch.randperm(len(pairs))].split(_BATCH):
            optimizer.zero_grad()
            # Every other item of the batch is a negative.
            scores = user_tower(batch[:, 0]) @ item_tower(batch[:, 1]).t() / 0.1
            F.cross_entropy(scores, torch.arange(len(batch))).backward()
            optimizer.step()
    with torch.no_grad():
        vectors = item_tower(torch.arange(items))
        asking, others = user_tower(torch.arange(users)).split([_ASKING, users - _ASKING])
    dense = nn.Linear(32, items, bias=False)
    dense.weight = nn.Parameter(vectors)
    with torch.no_grad():
        _, ms = timed(lambda: dense(asking).topk(_K, 1), 5)
    rows = [["every item", "1.000", "100.0 %", f"{ms:.2f}"]]
    for target in (0.8, 0.95):
        layer = tune(dense, others, target_recall=target, k=_K, batch=_ASKING).layer
        report = metrics.recall(layer, asking, k=_K)
        _, ms = timed(lambda layer=layer: layer.topk(asking, _K), 5)  # type: ignore[misc]
        touched = f"{100 * report.touched:.1f} %"
        rows.append([f"tuned for {target}", f"{report.recall:.3f}", touched, f"{ms:.2f}"])
    show(["items scored", f"recall@{_K}", "items touched", f"ms for {len(asking)} users"], rows)
    return 0


if __name__ == "__main__":
    run(main)
