r"""MinHash with one permutation, densified (Shrivastava and Li, ICML 2014; Shrivastava, *Optimal
densification for fast and accurate minwise hashing*, ICML 2017).

A vector counts as a set: its largest coordinates in magnitude, an eighth of all, or those that
are not zero if they are fewer. A digit is the first of 8 random coordinates that is in the set,
and borrowed as :mod:`hashdl.hashing.dwta` borrows where none is. Two sets A and B agree in it with
probability

.. math:: \Pr[\text{equal}] = J + q / 8, \qquad J = |A \cap B| / |A \cup B|

with q the probability that 8 coordinates that meet one of the sets do not meet the other: then
they agree by chance.
"""

from __future__ import annotations

from torch import Tensor

from hashdl.hashing.dwta import DWTA

# Of the coordinates, how many a set has: a bin of 8 meets one of them on average.
_SHARE = 1 / 8


class MinHash(DWTA):
    """First members of sets of large coordinates."""

    name = "minhash"

    def project(self, vectors: Tensor, functions: Tensor) -> Tensor:
        """Whether each slot's coordinate is in the set (M, slots)."""
        return super().project(members(vectors), functions)


def members(vectors: Tensor) -> Tensor:
    """The sets of vectors (M, D): 1 at the largest coordinates in magnitude, else 0.

    Examples:
        >>> import torch
        >>> members(torch.tensor([[0.0, -3.0, 0.5, 1.0] + 12 * [0.0]]))[:, :4]
        tensor([[0., 1., 0., 1.]])
    """
    if vectors.shape[1] == 0:
        return vectors
    magnitudes = vectors.abs()
    count = max(round(vectors.shape[1] * _SHARE), 1)
    least = magnitudes.topk(count, dim=1).values[:, -1:]
    chosen = (magnitudes >= least) & (magnitudes > 0)
    return chosen.to(vectors.dtype) + 0 * vectors  # what is not finite stays so, and is refused
