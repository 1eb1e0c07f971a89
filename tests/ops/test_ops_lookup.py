"""lookup against a search in plain Python, and its random places."""

from __future__ import annotations

from collections import Counter

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl import ops


@given(
    st.integers(0, 1000),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(0, 30),
)
@samples.few_examples
def test_candidates_stand_in_probed_buckets(
    seed: int, bits: int, probes: int, cap: int, candidates: int
) -> None:
    L, N = 3, 40
    codes, _ = samples.build_tables_args(N, L, bits)
    offsets, rows = ops.build_tables(codes, bits)
    P = min(probes, 2**bits)
    order = torch.rand(2, L, 2**bits, generator=torch.Generator().manual_seed(seed)).argsort()
    buckets = order[..., :P].int()
    buckets[:, 1, P // 2 :] = -1  # as of a family that has fewer to give
    found, hits = ops.lookup(
        buckets,
        offsets,
        rows,
        cap=cap,
        candidates=candidates,
        seed=seed,
        step=samples.step_of(0),
    )
    for b in range(2):
        probed = buckets[b].tolist()
        # How often each row can be met: once for each table whose probed buckets hold it.
        present = Counter(
            row for table in range(L) for row in range(N) if int(codes[table, row]) in probed[table]
        )
        rows_found = found[b][found[b] >= 0].tolist()
        counts = hits[b][: len(rows_found)].tolist()
        assert found[b].tolist() == rows_found + [-1] * (candidates - len(rows_found))
        assert hits[b][len(rows_found) :].eq(0).all()
        assert len(set(rows_found)) == len(rows_found)
        assert all(1 <= n <= present[row] for row, n in zip(rows_found, counts, strict=True))
        largest = max(Counter(codes[table].tolist()).most_common(1)[0][1] for table in range(L))
        if cap >= largest:  # nothing is left out but by the number of candidates
            assert len(rows_found) == min(candidates, len(present))
            assert counts == [present[row] for row in rows_found]


def full_bucket(size: int, *, cap: int, B: int, seed: int = 0, step: int = 0) -> Tensor:
    """What B samples find in a table with all its rows in one bucket."""
    offsets, rows = ops.build_tables(torch.zeros(1, size, dtype=torch.int32), 1)
    found, _ = ops.lookup(
        torch.zeros(B, 1, 1, dtype=torch.int32),
        offsets,
        rows,
        cap=cap,
        candidates=cap,
        seed=seed,
        step=samples.step_of(step),
    )
    return found


def test_cap_reads_on_from_a_random_place_around_the_end() -> None:
    found = torch.cat([full_bucket(10, cap=4, B=1, step=step) for step in range(80)])
    assert torch.equal(found, (found[:, :1] + torch.arange(4)) % 10)
    assert found[:, 0].unique().tolist() == list(range(10))


def test_a_bucket_within_the_cap_is_read_in_order() -> None:
    assert torch.equal(full_bucket(6, cap=6, B=2), torch.arange(6).int().expand(2, 6))


def test_random_places_are_uniform() -> None:
    """Over the steps, and over tables and buckets that are as full as each other."""
    starts = torch.cat([full_bucket(40, cap=1, B=1, step=step) for step in range(2000)])
    samples.assert_uniform(starts.flatten(), 40)
    tables, buckets, size = 20, 64, 40
    codes = torch.arange(buckets, dtype=torch.int32).repeat_interleave(size).expand(tables, -1)
    offsets, rows = ops.build_tables(codes.contiguous(), 6)
    every = torch.arange(buckets, dtype=torch.int32).repeat(tables, 1).t()  # (B, L)
    some = torch.full((tables, buckets, tables), -1, dtype=torch.int32)
    some[torch.arange(tables), :, torch.arange(tables)] = every.t()  # one table at a time
    found, _ = ops.lookup(
        some.reshape(-1, tables, 1),
        *(offsets, rows),
        **{"cap": 1, "candidates": 1, "seed": 0, "step": samples.step_of(0)},
    )
    samples.assert_uniform(found.flatten() % size, size)


def test_samples_do_not_depend_on_those_beside_them() -> None:
    """What stands where in a batch is nothing that an answer may follow from."""
    found = full_bucket(40, cap=3, B=9)
    assert torch.equal(found, full_bucket(40, cap=3, B=1).expand(9, -1))


def test_first_probes_of_all_tables_come_before_the_second() -> None:
    """So that what overflows comes from the least likely buckets."""
    codes = samples.int32([[0, 1], [1, 0]])  # row 1 is in the query's bucket of table 1 only
    offsets, rows = ops.build_tables(codes, 1)
    found, hits = ops.lookup(
        samples.int32([[[0, 1], [0, 1]]]),
        offsets,
        rows,
        cap=5,
        candidates=2,
        seed=0,
        step=samples.step_of(0),
    )
    assert found.tolist() == [[0, 1]]
    assert hits.tolist() == [[2, 2]]


@pytest.mark.parametrize("call", [samples.kernel, samples.fallback])
@pytest.mark.parametrize("garbage", [[0, 2, 9], [0, -1, 4], [3, 1, 4], [-(2**31), 2**31 - 1, 4]])
def test_garbage_tables_are_refused(call: samples.Path, garbage: list[int]) -> None:
    """Tables come from outside: a bucket must not reach out of its table's memory."""
    given = samples.sample_dict("lookup", B=8, L=1, N=4, bits=1, probes=2)
    given["offsets"] = samples.int32([garbage])
    with pytest.raises(RuntimeError, match="hashdl::lookup: offsets: got a bucket"):
        call("lookup")(*given.values())
