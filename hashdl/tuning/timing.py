"""Timing of steps that are to be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

#: What is timed.
Step = Callable[[], object]

# Read by the rounds; a test puts another one here.
_clock = time.perf_counter


def measure_ms(forms: Mapping[str, Step], seconds: float) -> dict[str, float]:
    """Median milliseconds of steps that take turns: drift of the machine hits all alike.

    Args:
        forms: what to time, by name.
        seconds: rounds begin until so many have passed, after a warm-up; there is one at least.
    """
    began = _clock()
    _one_round(forms)  # allocates states, builds tables
    if _clock() - began < seconds / 4:
        _one_round(forms)
    rounds: list[dict[str, float]] = []
    end = _clock() + seconds
    while not rounds or _clock() < end:
        rounds.append(_one_round(forms))
    return {name: statistics.median(times[name] for times in rounds) for name in forms}


def _one_round(forms: Mapping[str, Step]) -> dict[str, float]:
    """Milliseconds of each step, once."""
    times = {}
    for name, step in forms.items():
        began = _clock()
        step()
        times[name] = 1000 * (_clock() - began)
    return times
