"""What a training step of a layer costs, counted in multiplications: hashed, and dense."""

from __future__ import annotations

from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES, balancing, lowrank
from hashdl.schedule import OBSERVED_EVERY

#: How much dearer than in a matrix product a multiplication is whose row each sample fetches for
#: itself, look-up, selection, optimizer and rehashes included. With it :func:`hashed_work` is
#: :func:`dense_work` at the ``break_even_rows`` of ``hashed`` in ``python
#: benchmarks/output_layer.py --break-even --batch 128``: 2,246 rows on 2 threads of an AMD EPYC
#: (avx512), 128 features. Where the library of matrix products is faster, it is more.
GATHERED = 6.7

#: The same for rows shared by the batch, fetched once: by ``hashed_shared``, 2,488 rows.
SHARED = 2.0


def dense_work(n_rows: int, features: int) -> float:
    """Multiplications of a dense layer, a sample: outputs, and the gradients of both factors.

    Args:
        n_rows: N.
        features: d.

    Returns:
        :math:`3 N d`.
    """
    return 3.0 * n_rows * features


def hashing_work(config: HashConfig, n_rows: int, features: int) -> int:
    """Multiplications of hashing and sketching one sample, or one row.

    Args:
        config: how the layer is hashed.
        n_rows: N.
        features: d.
    """
    sizes, family, D = config.sizes(n_rows), FAMILIES[config.family], features + 1
    if config.rank is not None:  # its coordinates are the sketch too
        return D * config.rank + family.multiplications(config.rank, sizes.L, sizes.K)
    work = family.multiplications(D, sizes.L, sizes.K)
    if config.balances(features) and (config.transform or not family.linear):
        work += D * D  # does not fold into the functions
    if config.selection == "sketch":
        work += config.sketch_coordinates * D
    return work


def renewal_work(config: HashConfig, n_rows: int, features: int) -> float:
    """Multiplications of a rehash at most: every row is hashed, and balanced anew.

    Args:
        config: how the layer is hashed.
        n_rows: N.
        features: d.
    """
    hashing = float(n_rows) * hashing_work(config, n_rows, features)
    if config.rank:
        return hashing + lowrank.work(n_rows, features + 1, config.rank)
    if config.balances(features):
        return hashing + balancing.work(n_rows, features + 1)
    return hashing


def observing_work(config: HashConfig, features: int) -> float:
    """Multiplications a sample, at most, of learning the second moment of the queries.

    Args:
        config: how the layer is hashed.
        features: d.
    """
    return (features + 1) ** 2 / OBSERVED_EVERY if config.balances(features) else 0.0


def hashed_work(config: HashConfig, n_rows: int, features: int) -> float:
    r"""Multiplications of a hashed layer, a sample, in those of a matrix product.

    .. math::
        g \, d \, (C' + R + 3 (A' + 1)) + 3 \, s \, T d + h

    with g = :data:`GATHERED` and s = :data:`SHARED`: C' candidates are scored and R random rows
    computed, A' active rows and a label have two gradients and an update, T shared rows stand in
    a matrix product, and hashing the sample takes h. C' is no more than evenly filled buckets
    hold, and A' no more than those and R. What a dense layer pays alike is left out: the dense
    gradient of ``sparse_grad=False``, and the (B, N) output of :meth:`HashLinear.forward`.

    Args:
        config: how the layer is hashed.
        n_rows: N.
        features: d.

    Examples:
        >>> config = HashConfig(active=50)
        >>> dense_work(1_000_000, 128) > 10 * hashed_work(config, 1_000_000, 128)
        True
    """
    sizes = config.sizes(n_rows)
    in_buckets: float = sizes.L * sizes.P * min(config.cap, n_rows / (1 << sizes.K))
    found = min(sizes.C, in_buckets)
    retrieved = min(sizes.A - sizes.R, found)
    scored = found if config.selection == "exact" else retrieved
    fetched = scored + sizes.R + 3 * (retrieved + sizes.R + 1)
    shared = min(config.shared, n_rows)
    hashing = hashing_work(config, n_rows, features)
    return GATHERED * fetched * features + SHARED * 3 * shared * features + hashing


def dense_by_auto(config: HashConfig, n_rows: int, features: int) -> bool:
    """Whether ``config.auto`` makes a layer of this size compute every row, without tables.

    It follows from the configuration and the sizes alone, so that a model is the same everywhere.

    Args:
        config: how the layer would be hashed.
        n_rows: N.
        features: d.

    Examples:
        >>> dense_by_auto(HashConfig(active=50, auto=True), 500, 128)
        True
        >>> dense_by_auto(HashConfig(active=50, auto=True), 1_000_000, 128)
        False
        >>> dense_by_auto(HashConfig(active=50), 500, 128)  # auto is off
        False
    """
    if not config.auto or n_rows <= config.sizes(n_rows).A:
        return False
    return hashed_work(config, n_rows, features) >= dense_work(n_rows, features)
