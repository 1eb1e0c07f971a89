"""limit_buckets: what a full bucket keeps, and that a reservoir is a uniform sample."""

from __future__ import annotations

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import ops


def full(N: int, seed: int, capacity: int, first_table: int = 0) -> Tensor:
    """What a reservoir keeps of N rows in bucket 1 of 2, (capacity,)."""
    offsets, rows = ops.build_tables(torch.ones(1, N, dtype=torch.int32), 1)
    limited_offsets, limited = ops.limit_buckets(
        offsets,
        rows,
        capacity=capacity,
        replacement="reservoir",
        seed=seed,
        first_table=first_table,
    )
    assert limited_offsets.tolist() == [[0, 0, capacity]]
    return limited[0, :capacity].long()


def test_fifo_keeps_the_newest() -> None:
    offsets, rows = ops.build_tables(
        samples.int32([[0, 2, 0, 2, 2, 0, 0], [3, 3, 3, 0, 3, 3, 3]]), 2
    )
    limited = ops.limit_buckets(offsets, rows, capacity=2, replacement="fifo", seed=0)
    assert limited[0].tolist() == [[0, 2, 2, 4, 4], [0, 1, 1, 1, 3]]
    assert limited[1].tolist() == [[5, 6, 3, 4, -1, -1, -1], [3, 5, 6, -1, -1, -1, -1]]


@pytest.mark.parametrize("replacement", ops.REPLACEMENTS)
def test_buckets_that_are_not_full_stay(replacement: str) -> None:
    offsets, rows = ops.build_tables(*samples.build_tables_args(N=30, L=3, bits=3))
    most = int(offsets.diff(dim=1).max())
    limited = ops.limit_buckets(offsets, rows, capacity=most, replacement=replacement, seed=0)
    samples.assert_same_bits(list(limited), [offsets, rows])


def test_a_reservoir_keeps_distinct_rows_of_its_own_bucket() -> None:
    codes, bits = samples.build_tables_args(N=300, L=4, bits=3)
    offsets, rows = ops.build_tables(codes, bits)
    limited_offsets, limited = ops.limit_buckets(
        offsets, rows, capacity=10, replacement="reservoir", seed=0
    )
    assert limited.shape == (4, 80)
    for table in range(4):
        for code in range(2**bits):
            first, last = limited_offsets[table, code : code + 2].tolist()
            kept = limited[table, first:last].tolist()
            there = (codes[table] == code).nonzero().flatten().tolist()
            assert len(set(kept)) == len(kept) == min(10, len(there))
            assert set(kept) <= set(there)


def test_a_reservoir_keeps_every_arrival_with_the_same_probability() -> None:
    """12,000 kept of 2,000 seeds: the first rows, the last and those between as often."""
    samples.assert_uniform(torch.cat([full(20, seed, 6) for seed in range(2000)]), 20)


def test_pairs_of_arrivals_are_kept_together_with_the_same_probability() -> None:
    """A uniform sample of 3 of 6 rows is one of 20 sets."""
    powers = torch.stack([(1 << full(6, seed, 3)).sum() for seed in range(4000)])
    sets, of = powers.unique(return_inverse=True)
    assert sets.numel() == 20
    samples.assert_uniform(of, 20)


def test_seeds_and_tables_have_samples_of_their_own() -> None:
    kept = [
        full(10_000, seed, 100, table).sort().values for seed, table in [(0, 0), (1, 0), (0, 1)]
    ]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        both = torch.isin(kept[one], kept[other]).sum()
        assert both < 10  # one of 100 is likely
    again = full(10_000, 0, 100).sort().values
    assert torch.equal(kept[0], again)


def test_a_table_is_limited_as_it_is_among_others() -> None:
    offsets, rows = ops.build_tables(*samples.build_tables_args(N=200, L=3, bits=2))
    changes = {"capacity": 9, "replacement": "reservoir", "seed": 3}
    together = ops.limit_buckets(offsets, rows, **changes)
    alone = ops.limit_buckets(offsets[2:], rows[2:], first_table=2, **changes)
    samples.assert_same_bits([part[2:] for part in together], list(alone))
