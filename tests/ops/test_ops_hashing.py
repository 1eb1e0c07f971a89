"""pack_signs and build_tables: known answers, and tables as partitions of the rows."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hashdl import ops


def test_first_projection_is_the_lowest_bit_and_zero_counts_as_negative() -> None:
    projections = torch.tensor([[1.0, 0.0, -0.0, -1.0, 2.0, 1e-45]])
    assert ops.pack_signs(projections, 3).tolist() == [[0b001, 0b110]]


@pytest.mark.parametrize("bits", [1, 2, 24])
def test_codes_reach_both_ends(bits: int) -> None:
    ends = torch.tensor([-1.0, 1.0])[:, None].expand(2, bits)
    assert ops.pack_signs(ends, bits).tolist() == [[0], [2**bits - 1]]


@given(st.data(), st.integers(0, 40), st.integers(0, 3), st.integers(1, 5))
@samples.few_examples
def test_tables_are_partitions_in_ascending_order(
    data: st.DataObject, N: int, L: int, bits: int
) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=N * L, max_size=N * L))
    codes = samples.int32(values).reshape(L, N)
    offsets, rows = ops.build_tables(codes, bits)
    assert offsets.shape == (L, 2**bits + 1)
    assert rows.shape == (L, N)
    for table in range(L):
        ends = offsets[table].tolist()
        assert (ends[0], ends[-1]) == (0, N)
        for code in range(2**bits):
            bucket = rows[table, ends[code] : ends[code + 1]].tolist()
            assert bucket == (codes[table] == code).nonzero().flatten().tolist()
