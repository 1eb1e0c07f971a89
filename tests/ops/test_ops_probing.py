"""probe_signs and best_columns against a search in plain Python."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl import ops


def brute_force_probes(projections: Tensor, bits: int) -> list[int]:
    """All 2^K codes of one table: the query's own, then by what flipping costs.

    Ties go to the set of flips that comes first as a number over the bits by ascending magnitude.
    """
    order = projections.abs().argsort(stable=True).tolist()
    own = int(ops.pack_signs(projections[None], bits)[0, 0])
    keyed = []
    for flips in range(1, 2**bits):
        cost, code = torch.zeros(()), own  # float32, added in ascending order as the op does
        for k, bit in enumerate(order):
            if flips >> k & 1:
                cost, code = cost + projections[bit] ** 2, code ^ (1 << bit)
        keyed.append((float(cost), flips, code))
    return [own, *(code for _, _, code in sorted(keyed))]


def probe_sequence(projections: Tensor, bits: int, probes: int) -> list[int]:
    """Of one table, and of the same in the second place of a second sample."""
    other = projections.new_ones(bits)
    both = torch.stack([torch.cat([projections, other]), torch.cat([other, projections])])
    buckets = ops.probe_signs(both, bits=bits, probes=probes)
    assert buckets.shape == (2, 2, min(probes, 2**bits))
    assert torch.equal(buckets[0, 0], buckets[1, 1])
    return buckets[0, 0].tolist()


# Few values, so that magnitudes tie; their squares leave float32 at both ends.
coordinates = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 1e-30, 1e30, -1e30]) | st.floats(
    -10, 10, width=32
)


@given(st.lists(coordinates, min_size=1, max_size=6), st.integers(1, 70))
@samples.few_examples
def test_probes_go_by_cost(values: list[float], probes: int) -> None:
    projections = torch.tensor(values)
    expected = brute_force_probes(projections, len(values))[:probes]
    assert probe_sequence(projections, len(values), probes) == expected


def test_probes_flip_the_least_certain_bits_first() -> None:
    projections = torch.tensor([3.0, -1.0, 2.0])  # own code 0b101; costs 9, 1, 4
    flips = [code ^ 0b101 for code in probe_sequence(projections, 3, 8)]
    assert flips == [0b000, 0b010, 0b100, 0b110, 0b001, 0b011, 0b101, 0b111]


@pytest.mark.parametrize("bits", [1, 7, 24])
def test_the_first_probe_is_the_code(bits: int) -> None:
    projections = samples.randn(50, 3 * bits)
    buckets = ops.probe_signs(projections, bits=bits, probes=5)
    assert torch.equal(buckets[..., 0], ops.pack_signs(projections, bits))


# ---- best_columns --------------------------------------------------------------------------------


@given(
    st.integers(1, 3), st.integers(1, 90), st.integers(1, 100), st.integers(0, 99), st.booleans()
)
@samples.many_examples
def test_columns_go_by_score(groups: int, width: int, count: int, seed: int, coarse: bool) -> None:
    scores = samples.randn(3, groups * width, seed=seed)
    scores = scores.round() if coarse else scores  # many ties, and zeros of both signs
    columns = ops.best_columns(scores, groups=groups, count=count)
    assert columns.shape == (3, groups, min(count, width))
    for m in range(3):
        for g in range(groups):
            own = scores[m, g * width : (g + 1) * width].tolist()
            wanted = sorted(range(width), key=lambda w, own=own: (-own[w], w))
            assert columns[m, g].tolist() == wanted[:count]


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("width", [3, 64, 70])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
def test_scores_that_are_not_finite_are_refused_wherever_they_stand(
    call: samples.Path, value: float, width: int, count: int
) -> None:
    """In a vector or among the rest, also where no score of a block is wanted."""
    for place in range(width):
        scores = torch.arange(width, 0, -1.0)[None].clone()
        scores[0, place] = value
        with pytest.raises(RuntimeError, match="best_columns: scores: got NaN or infinity"):
            call("best_columns")(scores, 1, count)
