"""Power laws fitted to figures, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

#: Of the intervals.
CONFIDENCE = 0.95


class Range(NamedTuple):
    """A predicted figure, and the interval in which one measurement of it is to be expected."""

    value: float
    low: float
    high: float


class PowerLaw(NamedTuple):
    r"""y = factor x^exponent, by least squares in logarithms.

    Attributes:
        exponent: slope of log y over log x.
        error: half of its confidence interval, by Student's t.
        factor: y at x = 1.
        points: how many figures were fitted.
        center: mean of log x.
        spread: sum of the squared distances of log x from it.
        noise: standard deviation of log y about the law.
    """

    exponent: float
    error: float
    factor: float
    points: int
    center: float
    spread: float
    noise: float

    def predict(self, x: float) -> Range:
        """The law carried on to x, if it still holds there: widest far from what was fitted."""
        away = (math.log(x) - self.center) ** 2 / self.spread
        width = _t(self.points) * self.noise * math.sqrt(1 + 1 / self.points + away)
        value = self.factor * x**self.exponent
        return Range(value, value * math.exp(-width), value * math.exp(width))


def fit(figures: Mapping[float, float]) -> PowerLaw | None:
    """The law of some figures by x; None with fewer than three: two say nothing of the error.

    Examples:
        >>> law = fit({x: 3 * x**0.5 for x in (10, 100, 1000)})
        >>> round(law.exponent, 6), round(law.factor, 6), round(law.error, 6)
        (0.5, 3.0, 0.0)
    """
    if len(figures) < 3:
        return None
    x, y = np.log(list(figures)), np.log(list(figures.values()))
    line = stats.linregress(x, y)
    residuals = y - line.intercept - line.slope * x
    return PowerLaw(
        exponent=float(line.slope),
        error=_t(len(x)) * float(line.stderr),
        factor=math.exp(float(line.intercept)),
        points=len(x),
        center=float(x.mean()),
        spread=float(((x - x.mean()) ** 2).sum()),
        noise=math.sqrt(float(residuals @ residuals) / (len(x) - 2)),
    )


def _t(points: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, points - 2))
