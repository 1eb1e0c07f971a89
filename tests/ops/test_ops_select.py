"""select and shared_rows against the rule in plain Python, and the uniformity of their draws."""

from __future__ import annotations

import math

import ops_samples as samples
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hashdl import ops

scores_strategy = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan])


def rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score


@st.composite
def selections(draw: st.DrawFn) -> dict[str, object]:
    """One sample's arguments, as lists."""
    N = draw(st.integers(1, 15))
    ids = st.integers(-1, N - 1)
    candidates = draw(st.lists(st.integers(0, N - 1), max_size=N, unique=True))
    gaps = draw(st.integers(0, 3))
    candidates = draw(st.permutations(candidates + [-1] * gaps))
    active = draw(st.integers(0, 12))
    C = len(candidates)
    return {
        "N": N,
        "candidates": candidates,
        "scores": draw(st.none() | st.lists(scores_strategy, min_size=C, max_size=C)),
        "labels": draw(st.lists(ids, max_size=4)),
        "shared": draw(st.lists(ids, max_size=4)),
        "active": active,
        "random": draw(st.integers(0, active)),
    }


def select_one(case: dict[str, object], step: int = 0) -> list[int]:
    scores = case["scores"]
    rows = ops.select(
        samples.int32([case["candidates"]]),
        None if scores is None else torch.tensor([scores], dtype=torch.float32),
        samples.int32([case["labels"]]),
        samples.int32(case["shared"]),
        active=case["active"],
        random=case["random"],
        n_rows=case["N"],
        seed=0,
        step=samples.step_of(step),
    )
    return rows[0].tolist()


@given(selections())
@samples.many_examples
def test_selection_follows_the_rule(case: dict[str, object]) -> None:
    labels, shared, candidates = case["labels"], set(case["shared"]), case["candidates"]
    M, best = len(labels), case["active"] - case["random"]
    rows = select_one(case)
    assert len(rows) == M + case["active"]

    kept = [row for row in rows if row >= 0]
    assert len(set(kept)) == len(kept)
    assert not shared.intersection(kept)
    assert all(row < case["N"] for row in kept)

    # A label stays in its column, unless it is shared or stands in an earlier one.
    for m, label in enumerate(labels):
        gone = label in shared or label in labels[:m]
        assert rows[m] == (-1 if gone else label)

    # The best of the others, in order of discovery, without gaps; ties to the earlier column.
    scores = case["scores"] or [0.0] * len(candidates)
    free = [
        (-rank(score), column)
        for column, (row, score) in enumerate(zip(candidates, scores, strict=True))
        if row >= 0 and row not in shared and row not in labels
    ]
    chosen = [candidates[column] for column in sorted(c for _, c in sorted(free)[:best])]
    assert rows[M : M + best] == chosen + [-1] * (best - len(chosen))


def draws(n_rows: int, *, B: int, seed: int = 0, step: int = 0) -> Tensor:
    """One uniform draw for each of B samples."""
    rows = ops.select(
        torch.empty(B, 0, dtype=torch.int32),
        active=1,
        random=1,
        n_rows=n_rows,
        seed=seed,
        step=samples.step_of(step),
    )
    return rows.flatten()


def test_random_rows_are_uniform() -> None:
    samples.assert_uniform(draws(50, B=3000), 50)


def test_random_rows_of_one_sample_are_uniform_over_steps() -> None:
    over_steps = torch.cat([draws(20, B=1, step=step) for step in range(1000)])
    samples.assert_uniform(over_steps, 20)


def test_random_rows_reach_the_last_row_of_the_largest_layer() -> None:
    """No sign or 32-bit overflow in the draw."""
    n_rows = 2**31 - 1
    rows = draws(n_rows, B=1000)
    assert rows.min() >= 0
    assert rows.double().mean() == pytest.approx(n_rows / 2, rel=0.05)


def test_draws_that_repeat_become_padding() -> None:
    rows = ops.select(
        samples.int32([[0]]), active=9, random=8, n_rows=2, seed=0, step=samples.step_of(0)
    )
    assert rows[0, 0] == 0
    assert sorted(rows[0, 1:].tolist()) == [-1] * 7 + [1]


@given(
    st.lists(st.integers(-1, 19), max_size=15),
    st.integers(0, 25),
    st.integers(0, 25),
    st.integers(0, 3),
)
@samples.few_examples
def test_shared_rows_are_labels_then_distinct_draws(
    labels: list[int], count: int, max_labels: int, step: int
) -> None:
    max_labels = min(max_labels, count)
    rows, n_labels, distinct = ops.shared_rows(
        samples.int32(labels),
        count=count,
        max_labels=max_labels,
        n_rows=20,
        seed=0,
        step=samples.step_of(step),
    )
    wanted = list(dict.fromkeys(label for label in labels if label >= 0))[:max_labels]
    kept = [row for row in rows.tolist() if row >= 0]
    assert rows.shape == (count,)
    assert int(n_labels) == len(wanted)
    assert kept[: len(wanted)] == wanted
    assert distinct.tolist() == wanted + [-1] * (max_labels - len(wanted))
    assert len(set(kept)) == len(kept)
    assert rows.tolist() == kept + [-1] * (count - len(kept))
    if count <= 10:  # four times as many draws as rows, of twice as many: they suffice
        assert len(kept) == count


def test_shared_rows_are_uniform() -> None:
    no_labels = torch.empty(0, dtype=torch.int32)
    every = [
        ops.shared_rows(
            no_labels, count=5, max_labels=0, n_rows=50, seed=0, step=samples.step_of(step)
        )[0]
        for step in range(600)
    ]
    samples.assert_uniform(torch.cat(every), 50)


@pytest.mark.parametrize("name", ["lookup", "select", "shared_rows"])
def test_draws_follow_from_seed_and_step(name: str) -> None:
    wide = {"lookup": {"N": 300, "bits": 1, "cap": 4}, "select": {"random": 6}, "shared_rows": {}}

    def results(**key: int) -> list[Tensor]:
        args = samples.sample(name, **wide[name], **key)
        return samples.tensors(samples.kernel(name)(*args))

    first = results()
    samples.assert_same_bits(first, results())
    for other in (results(step=1), results(seed=1), results(step=2**40), results(seed=-1)):
        assert not torch.equal(first[0], other[0])
