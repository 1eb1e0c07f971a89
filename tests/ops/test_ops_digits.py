"""Codes of digits, their probes, and projections for them: known answers and searches in Python."""

from __future__ import annotations

import itertools

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl import ops
from hashdl.reference import slots_of

LOWEST = torch.finfo(torch.float32).min


def code_values(slots: list[int], bits: int) -> Tensor:
    """One row whose digits are these slots."""
    values = [torch.eye(m)[slot] for m, slot in zip(slots_of(bits), slots, strict=True)]
    return torch.cat(values)[None]


@pytest.mark.parametrize("bits", range(1, 25))
def test_codes_use_their_whole_range(bits: int) -> None:
    sizes = slots_of(bits)
    assert torch.tensor(sizes).prod() == 2**bits
    assert ops.pack_digits(code_values([0] * len(sizes), bits), bits).tolist() == [[0]]
    ends = [m - 1 for m in sizes]
    assert ops.pack_digits(code_values(ends, bits), bits).tolist() == [[2**bits - 1]]


def test_every_code_is_reached_once() -> None:
    sizes = slots_of(5)
    every = [code_values(list(slots), 5) for slots in itertools.product(*map(range, sizes))]
    assert ops.pack_digits(torch.cat(every), 5).flatten().sort().values.tolist() == list(range(32))


def test_ties_go_to_the_lower_slot() -> None:
    assert ops.pack_digits(torch.zeros(1, 12), 5).tolist() == [[0]]
    assert ops.pack_digits(torch.tensor([[1.0, 2.0, 2.0, -0.0]]), 2).tolist() == [[1]]


def brute_force_probes(values: Tensor, bits: int) -> list[int]:
    """All codes of one table, by what they cost; equal costs in the order of the ranks."""
    digits, shift = [], 0
    for slots in values.split(slots_of(bits)):
        order = slots.argsort(descending=True, stable=True).tolist()
        costs = [(slots[order[0]] - slots[slot]) ** 2 for slot in order]
        gap = float(slots[order[0]] - slots[order[1]])
        digits.append((gap, costs, [slot << shift for slot in order]))
        shift += 3
    digits.sort(key=lambda digit: digit[0])
    keyed = []
    for ranks in itertools.product(*(range(len(codes)) for _, _, codes in digits)):
        cost = torch.zeros(())  # float32, added in ascending order as the op does
        for (_, costs, _), rank in zip(digits, ranks, strict=True):
            cost = cost + costs[rank] if rank else cost
        code = sum(codes[rank] for (_, _, codes), rank in zip(digits, ranks, strict=True))
        keyed.append((any(ranks), float(cost), ranks[::-1], code))
    return [code for *_, code in sorted(keyed)]


# Few values, so that many are equal; their squares leave float32 at both ends.
slot_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, LOWEST]) | st.floats(
    -10, 10, width=32
)


@given(st.data(), st.integers(1, 7))
@samples.few_examples
def test_probes_go_from_the_cheapest_change_to_the_dearest(data: st.DataObject, bits: int) -> None:
    size = sum(slots_of(bits))
    values = torch.tensor(data.draw(st.lists(slot_values, min_size=size, max_size=size)))
    probes = data.draw(st.integers(1, 2**bits + 1))
    assert (
        ops.probe_digits(values[None], bits=bits, probes=probes)[0, 0].tolist()
        == brute_force_probes(values, bits)[:probes]
    )


def test_an_empty_digit_takes_the_first_attempt_that_meets_something() -> None:
    functions = samples.int32([[1, 0], [0, 1], [1, 2], [3, 2]])
    vectors = torch.tensor([[0.0, 0.0, 0.0, -5.0], [0.0, 0.0, 4.0, -5.0], [0.0, -1.0, 4.0, 0.0]])
    wanted = [[-5.0, LOWEST], [LOWEST, 4.0], [LOWEST, -1.0]]
    assert ops.densified_projections(vectors, functions).tolist() == wanted


def test_no_digit_is_left_without_a_code() -> None:
    """One coordinate of 3000, that no attempt meets: its place decides, evenly."""
    functions = samples.int32([[1, *[0] * 7], [0] * 8])
    vectors = torch.eye(3000)[1:]
    values = ops.densified_projections(vectors, functions)
    assert ((values == 1).sum(1) == 1).all()
    assert ((values == LOWEST).sum(1) == 7).all()
    samples.assert_uniform(ops.pack_digits(values, 3).flatten(), 8)


def test_digits_that_nothing_meets_do_not_all_agree() -> None:
    """Two such vectors meet in as many digits as chance has it, not in all or none."""
    columns = torch.arange(2400)
    functions = torch.stack([columns % 8 == 0, columns]).int()
    vectors = torch.zeros(2, 2402)
    vectors[0, 2400] = vectors[1, 2401] = 1
    codes = ops.pack_digits(ops.densified_projections(vectors, functions), 3)
    assert 15 < int((codes[0] == codes[1]).sum()) < 65  # of 300, expected 37.5


@pytest.mark.parametrize("D", [1, 2, 8, 100])
def test_blocks_of_structured_projections_are_rotations(D: int) -> None:
    n = 1 << (D - 1).bit_length()
    functions = torch.stack([torch.full((n,), 3), torch.arange(n)]).int()
    vectors = samples.randn(6, D)
    projections = ops.hadamard_projections(vectors, functions)
    gram = projections @ projections.t() / n
    torch.testing.assert_close(gram, vectors @ vectors.t(), rtol=1e-4, atol=1e-4)


def test_a_slice_of_functions_is_a_slice_of_projections() -> None:
    vectors, functions = samples.hadamard_projections_args()
    every = ops.hadamard_projections(vectors, functions)
    some = ops.hadamard_projections(vectors, functions[:, 10:25])
    assert torch.equal(some, every[:, 10:25])
