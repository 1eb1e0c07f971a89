"""When a rehash is to be complete: every n training steps, n growing.

Early in training rows move fast, later slowly: after each rehash the interval grows by a factor,
as in SLIDE (Chen et al., MLSys 2020, section 3.1.4).
"""

from __future__ import annotations

import math

_MAX_FACTOR = 100


def next_rehash(step: int, rehashes: int, every: int, growth: float) -> int:
    """The step of the next rehash after one at ``step``, the ``rehashes``-th (from 0).

    Examples:
        >>> [next_rehash(0, 0, 50, 2.0), next_rehash(50, 1, 50, 2.0), next_rehash(150, 2, 50, 2.0)]
        [50, 150, 350]
    """
    # Bounded, so that a long run neither overflows nor stops rehashing for good.
    bounded = rehashes * math.log(growth) >= math.log(_MAX_FACTOR)
    return step + round(every * (_MAX_FACTOR if bounded else growth**rehashes))
