r"""Learned hyperplanes (Chen et al., *MONGOOSE: a learnable LSH framework for efficient neural
network training*, ICLR 2021, section 4.2).

Hyperplanes are drawn as those of SimHash, and then turned, so that queries meet the rows with
their largest inner products. A query b, its *positives* (rows with large inner products that its
buckets miss) and its *negatives* (rows in its buckets with others) give the hinge loss

.. math::
    \sum_i \left[\gamma - s(b, r^+_i) + s(b, r^-_i)\right]_+, \qquad
    s(b, r) = \frac{1}{LK} \sum_k \tanh \langle p_k, b \rangle \tanh \langle p_k, r \rangle

over unit vectors, with tanh for the sign. It is lowered by a few steps of Adam; then the
hyperplanes have other positives and negatives, and so on. Queries are those that the layer
met last (:func:`hashdl.hashing.lowrank.remember`), or rows as long as it has met too few; and at a
rehash the training goes on from the hyperplanes in use. Labels that must be found, as in
*label-sensitive sampling* (Liu et al., HALOS, MLSys 2021), are positives as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hashdl import ops
from hashdl.hashing.simhash import SimHash
from hashdl.readback import send


class _Course(NamedTuple):
    """How hyperplanes are trained.

    Attributes:
        rates: learning rates, one for each time that positives and negatives are looked for.
        margin: of the hinge.
    """

    rates: tuple[float, ...]
    margin: float


# From drawn hyperplanes, and from those in use. At a rate that does not fall, rounds that fill the
# buckets and rounds that empty them take turns. Labels are few, and harder to find.
_DRAWN = _Course(tuple(0.06 * (1 - i / 8) for i in range(8)), 0.2)
_IN_USE = _Course((0.004,), 0.2)
_FOR_LABELS = _Course((0.03,) * 8, 0.5)
# How many of each a query has, of how many queries, and among how many rows going on.
_COUNT, _QUERIES, _ROWS = 8, 256, 1 << 12


class LearnedSimHash(SimHash):
    """Signs of projections that are trained on the rows.

    As drawn, bits agree with the probability 1 - theta / pi, as those of SimHash; once trained, no
    such law holds.
    """

    name = "learned"
    learns = True
    watches = True
    known_collisions = False

    def fit(
        self,
        functions: Tensor,
        rows: Tensor,
        codes: Tensor | None,
        K: int,
        queries: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Train hyperplanes to find for each query its best rows among the sample.

        Args:
            functions: hyperplanes (D, L K) to begin with.
            rows: float32 (M, D), a sample.
            codes: of the rows by these hyperplanes, as they were; None: they are as drawn.
            K: bits a table.
            queries: float32 (Q, D), in the coordinates of the rows. Default: some of the rows,
                which in balanced coordinates are spread as queries are.
            labels: int64 (Q, n), rows of the sample that a query must find, -1 = none.
        """
        if queries is None:
            queries, labels = rows[:: max(1, -(-rows.shape[0] // _QUERIES))], None
        if rows.shape[0] == 0 or queries.shape[0] == 0:
            return functions
        course = _DRAWN if labels is None else _FOR_LABELS
        if codes is not None:
            course, rows = _IN_USE, rows[:: max(1, -(-rows.shape[0] // _ROWS))]
        generator = torch.Generator().manual_seed(0)
        planes = functions
        for lr in course.rates:
            positives, negatives = mine(planes, rows, queries, K, generator)
            if labels is not None:
                positives = torch.cat([positives, labels], 1)
            examples = (rows, queries, positives, negatives)
            planes = train_planes(planes, *examples, lr=lr, margin=course.margin)
        return planes


def mine(
    planes: Tensor, rows: Tensor, queries: Tensor, K: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What hyperplanes are to learn: rows that queries miss, and rows that they meet in vain.

    Args:
        planes: float32 (D, L K).
        rows: float32 (M, D).
        queries: float32 (Q, D).
        K: bits a table.
        generator: of the choice of negatives, on the CPU.

    Returns:
        positives: int64 (Q, n), rows with the largest inner products of those in none of the
            query's buckets; -1 = none.
        negatives: int64 (Q, n), a random choice of rows in its buckets, but not of those with the
            2 n largest inner products; -1 = none.
    """
    of_rows, of_queries = (ops.pack_signs(vectors @ planes, K) for vectors in (rows, queries))
    met = torch.zeros(queries.shape[0], rows.shape[0], dtype=torch.bool, device=rows.device)
    for table in range(of_rows.shape[1]):
        met |= of_queries[:, table, None] == of_rows[None, :, table]
    scores, count = queries @ rows.t(), min(_COUNT, rows.shape[0])
    best = scores.topk(min(2 * count, rows.shape[0])).indices
    in_vain = met.scatter(1, best, False)
    noise = send(torch.rand(met.shape, generator=generator, dtype=torch.float32), rows)
    return _best(scores, ~met, count), _best(noise, in_vain, count)


def _best(scores: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Columns (Q, count) with the largest scores of those allowed, -1 where there are too few."""
    best = scores.masked_fill(~allowed, -torch.inf).topk(count, dim=1).indices
    return best.masked_fill(~allowed.gather(1, best), -1)


def train_planes(
    planes: Tensor,
    rows: Tensor,
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    steps: int = 5,
    lr: float = 0.03,
    margin: float = 0.5,
) -> Tensor:
    """Hyperplanes that bring queries nearer to their positives than to their negatives.

    Args:
        planes: float32 (D, L K).
        rows: float32 (M, D).
        queries: float32 (Q, D).
        positives: int64 (Q, n), rows; -1 = none.
        negatives: int64 (Q, m), likewise.
        steps: steps of Adam.
        lr: its learning rate; a hyperplane has coordinates of about 1.
        margin: of the hinge, as a mean over the bits.

    Returns:
        float32 (D, L K), new hyperplanes. The same ones where there is nothing to learn.

    Raises:
        ValueError: positives or negatives are no rows.
    """
    for name, ids in (("positives", positives), ("negatives", negatives)):
        if ids.is_cuda:  # indexing refuses them there, and nobody waits
            break
        if ids.numel() and not -1 <= int(ids.min()) <= int(ids.max()) < rows.shape[0]:
            wanted = f"wanted -1 to {rows.shape[0] - 1}"
            got = f"got rows from {int(ids.min())} to {int(ids.max())}"
            raise ValueError(f"hashdl.hashing.train_planes: {name}: {got}, {wanted}")
    places = torch.cat([positives, negatives], 1).clamp_min(0)
    if not places.is_cuda:
        if not bool((positives >= 0).any() & (negatives >= 0).any()):
            return planes
        # Rows that nobody names are not projected; on a GPU the host would wait for their number.
        named, places = places.unique(return_inverse=True)
        rows = rows[named]
    of_positives, of_negatives = places.split([positives.shape[1], negatives.shape[1]], 1)
    units = [torch.nn.functional.normalize(vectors, dim=1) for vectors in (queries, rows)]
    trained = planes.clone()
    adam = _Adam(trained, lr)
    for _ in range(steps):
        signs = [torch.tanh(vectors @ trained) for vectors in units]
        agree = signs[0] @ signs[1].t() / planes.shape[1]
        pull = _pull(
            *(agree.gather(1, of_positives), positives >= 0),
            *(agree.gather(1, of_negatives), negatives >= 0),
            margin,
        )
        slopes = torch.zeros_like(agree).scatter_add_(1, places, pull)
        # Rehashing is an op: there is no autograd inside.
        slope = units[0].t() @ ((slopes @ signs[1]) * (1 - signs[0].square()))
        slope += units[1].t() @ ((slopes.t() @ signs[0]) * (1 - signs[1].square()))
        adam.step(slope / planes.shape[1])
    return trained


class _Adam:
    """Adam (Kingma and Ba, ICLR 2015) for one tensor, in place.

    Not torch's: its first step imports the compiler, which takes seconds in the midst of training.
    """

    def __init__(self, parameter: Tensor, lr: float) -> None:
        self.parameter, self.lr, self.steps = parameter, lr, 0
        self.mean, self.square = torch.zeros_like(parameter), torch.zeros_like(parameter)

    def step(self, grad: Tensor) -> None:
        self.steps += 1
        self.mean.lerp_(grad, 1 - 0.9)
        self.square.lerp_(grad.square(), 1 - 0.999)
        root = (self.square / (1 - 0.999**self.steps)).sqrt() + 1e-8
        self.parameter -= self.lr / (1 - 0.9**self.steps) * self.mean / root


def _pull(near: Tensor, is_near: Tensor, far: Tensor, is_far: Tensor, margin: float) -> Tensor:
    """Gradient (Q, n + m) of the hinge's mean over all pairs of a positive and a negative."""
    counts = is_near[:, :, None] & is_far[:, None]
    active = counts & (margin - near[:, :, None] + far[:, None] > 0)
    return torch.cat([-active.sum(2), active.sum(1)], 1).float() / counts.sum().clamp_min(1)
