r"""Transforms that turn largest inner products into smallest angles or distances.

Families meet angles; a layer looks for inner products, to which the lengths of the rows belong. A
transform appends coordinates, other ones to rows than to queries, such that the angle (or the
distance) of what comes out has the order of the inner products. It composes with any family. Rows
are divided by the largest length first, queries by their own: neither changes a query's order.

Where lengths differ little, or a few rows are much longer than the rest, transforms cost more than
they bring: the appended coordinates turn all rows off all queries. Measure it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Transform(ABC):
    """Appends coordinates to rows and to queries.

    Attributes:
        name: as in ``HashConfig.transform``.
        extra: how many coordinates.
    """

    name: ClassVar[str]
    extra: ClassVar[int]

    def scale(self, rows: Tensor) -> Tensor:
        """The largest length of the rows (M, D), float32 (1,); 1 where there is none.

        Examples:
            >>> SimpleLSH().scale(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
            tensor([5.])
        """
        if rows.shape[0] == 0:
            return torch.ones(1, device=rows.device, dtype=torch.float32)
        # In float64, for squares leave float32 before lengths do.
        longest = torch.linalg.vector_norm(rows.double(), dim=1).max()
        return torch.where(longest == 0, 1, longest).float().reshape(1)

    @abstractmethod
    def rows(self, vectors: Tensor, scale: Tensor) -> Tensor:
        """Rows (M, D) as float32 (M, D + extra).

        Args:
            vectors: the rows.
            scale: one number, of :meth:`scale`, of all rows or a sample: those that are longer
                count as if they were that long, as far as the appended coordinates go.
        """

    @abstractmethod
    def queries(self, vectors: Tensor) -> Tensor:
        """Queries (B, D) as float32 (B, D + extra); the length of a query does not count."""


def _scaled(vectors: Tensor, longest: float, scale: Tensor) -> Tensor:
    """The vectors, such that rows of the length ``scale`` have the length ``longest``."""
    return vectors.float() * (longest / scale.double()).float()


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def _squares(vectors: Tensor) -> Tensor:
    """Squared lengths (M, 1), at most 1."""
    return vectors.square().sum(1, keepdim=True).clamp_max(1)


def _powers(squares: Tensor, count: int) -> list[Tensor]:
    """Lengths to the power of 2, 4, 8, ..., from their squares."""
    powers = [squares]
    while len(powers) < count:
        powers.append(powers[-1].square())
    return powers


def _filled(vectors: Tensor, count: int, value: float) -> Tensor:
    """With coordinates of one value appended."""
    return torch.nn.functional.pad(vectors, (0, count), value=value)


class SimpleLSH(Transform):
    r"""Simple-LSH (Neyshabur and Srebro, *On symmetric and asymmetric LSHs for inner product
    search*, ICML 2015, section 3.2).

    .. math::
        w \to \left[w', \sqrt{1 - |w'|^2}\right],\ w' = w / M, \qquad x \to [x / |x|, 0]

    Both have length 1, and the cosine is :math:`\langle x, w \rangle / (M |x|)`.

    Examples:
        >>> SimpleLSH().rows(torch.tensor([[3.0, 0.0], [0.0, 5.0]]), torch.tensor(5.0))
        tensor([[0.6000, 0.0000, 0.8000],
                [0.0000, 1.0000, 0.0000]])
        >>> SimpleLSH().queries(torch.tensor([[0.0, 7.0]]))
        tensor([[0., 1., 0.]])
    """

    name = "simple"
    extra = 1

    def rows(self, vectors: Tensor, scale: Tensor) -> Tensor:
        """See the class."""
        scaled = vectors.float() / scale
        return torch.cat([scaled, (1 - _squares(scaled)).sqrt()], 1)

    def queries(self, vectors: Tensor) -> Tensor:
        """See the class."""
        return _filled(_unit(vectors), self.extra, 0.0)


class SignALSH(Transform):
    r"""Sign-ALSH (Shrivastava and Li, *Improved asymmetric locality sensitive hashing for maximum
    inner product search*, UAI 2015, section 4).

    .. math::
        w \to \left[w', \tfrac12 - |w'|^2, \tfrac12 - |w'|^4\right],\ w' = 0.75\, w / M, \qquad
        x \to [x / |x|, 0, 0]

    A row has the length :math:`\sqrt{1/2 + |w'|^8}`, nearly the same for all, so that the order
    by angle is nearly that of the inner products.

    Examples:
        >>> SignALSH().rows(torch.tensor([[0.0, 4.0]]), torch.tensor(6.0))
        tensor([[0.0000, 0.5000, 0.2500, 0.4375]])
    """

    name = "sign_alsh"
    extra = 2
    longest = 0.75

    def rows(self, vectors: Tensor, scale: Tensor) -> Tensor:
        """See the class."""
        scaled = _scaled(vectors, self.longest, scale)
        powers = _powers(_squares(scaled), self.extra)
        return torch.cat([scaled, *(0.5 - power for power in powers)], 1)

    def queries(self, vectors: Tensor) -> Tensor:
        """See the class."""
        return _filled(_unit(vectors), self.extra, 0.0)


class L2ALSH(Transform):
    r"""L2-ALSH (Shrivastava and Li, *Asymmetric LSH (ALSH) for sublinear time maximum inner product
    search*, NIPS 2014, section 4.2), for families that meet distances.

    .. math::
        w \to [w', |w'|^2, |w'|^4, |w'|^8],\ w' = 0.83\, w / M, \qquad
        x \to \left[x / |x|, \tfrac12, \tfrac12, \tfrac12\right]

    Their squared distance is :math:`1 + \tfrac34 + |w'|^{16} - 2 \langle x, w' \rangle / |x|`, and
    :math:`|w'|^{16}` is at most 0.051. The families here meet angles: with them use one of the
    others.

    Examples:
        >>> L2ALSH().rows(torch.tensor([[0.0, 0.5]]), torch.tensor(0.83))
        tensor([[0.0000, 0.5000, 0.2500, 0.0625, 0.0039]])
        >>> L2ALSH().queries(torch.tensor([[2.0, 0.0]]))
        tensor([[1.0000, 0.0000, 0.5000, 0.5000, 0.5000]])
    """

    name = "l2_alsh"
    extra = 3
    longest = 0.83

    def rows(self, vectors: Tensor, scale: Tensor) -> Tensor:
        """See the class."""
        scaled = _scaled(vectors, self.longest, scale)
        return torch.cat([scaled, *_powers(_squares(scaled), self.extra)], 1)

    def queries(self, vectors: Tensor) -> Tensor:
        """See the class."""
        return _filled(_unit(vectors), self.extra, 0.5)


#: The transforms by name.
TRANSFORMS: dict[str, Transform] = {
    transform.name: transform for transform in (SimpleLSH(), SignALSH(), L2ALSH())
}
