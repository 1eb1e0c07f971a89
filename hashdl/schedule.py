"""When a rehash is to be complete: every n training steps, n growing, or as soon as rows drift.

Early in training rows move fast, later slowly: after each rehash the interval grows by a factor,
as in SLIDE (Chen et al., MLSys 2020, section 3.1.4). With a threshold of drift it ends early when
so many codes have changed, as in MONGOOSE (Chen et al., ICLR 2021, section 4.1).
"""

from __future__ import annotations

import math

#: Training steps from one look at the queries to the next.
OBSERVED_EVERY = 4
_MAX_FACTOR = 100
# Parts of the first interval: from one look at the drift to the next, and before any rehash.
_LOOKS, _SHORTEST = 16, 4


def next_rehash(step: int, rehashes: int, every: int, growth: float) -> int:
    """The step of the next rehash after one at ``step``, the ``rehashes``-th (from 0).

    Examples:
        >>> [next_rehash(0, 0, 50, 2.0), next_rehash(50, 1, 50, 2.0), next_rehash(150, 2, 50, 2.0)]
        [50, 150, 350]
    """
    # Bounded, so that a long run neither overflows nor stops rehashing for good.
    bounded = rehashes * math.log(growth) >= math.log(_MAX_FACTOR)
    return step + round(every * (_MAX_FACTOR if bounded else growth**rehashes))


def earliest_rehash(step: int, every: int) -> int:
    """The first step at which drift may bring about a rehash, after one at ``step``.

    Examples:
        >>> earliest_rehash(100, 50)
        113
    """
    return step - -every // _SHORTEST


def looks_for_drift(step: int, start: int, every: int) -> bool:
    """Whether to see in a step how far rows have drifted since a rehash at ``start``.

    Examples:
        >>> [step for step in range(10) if looks_for_drift(step, 0, 50)]
        [3, 6, 9]
    """
    return step > start and (step - start) % max(1, every // _LOOKS) == 0
