"""refresh_tables_ with a threshold of drift: rehashes come as soon as codes of touched rows change.

Rows are negated, which changes every code of theirs; tables are not centred.
"""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch

from hashdl import rehash
from hashdl.rehash import State

N, L, EVERY = 60, 20, 32
GROUPS = rehash.groups_of(L)


def new(**changes: Any) -> dict[str, Any]:
    """Tables just built: the last rehash was at step 0."""
    given = samples.sample_dict("refresh_tables_", N=N, L=L, balance=False)
    given |= {"every": EVERY, "growth": 1.0, "drift": 0.3, "center_rows": False} | changes
    torch.ops.hashdl.refresh_tables_(*given.values())
    return given


def touch(given: dict[str, Any], touched: int, changed: int) -> None:
    rows = samples.int32(list(range(touched)))
    given["dirty"][rows.long()] = rehash.dirty_bits(L)
    given["weight"][:changed].neg_()
    given["bias"][:changed].neg_()


def rehashed_at(given: dict[str, Any], most: int = EVERY) -> int:
    """The step that completes the next rehash."""
    before = State.of(given["state"]).rehashes
    for _ in range(most + 1):
        now = int(given["step"])
        torch.ops.hashdl.refresh_tables_(*given.values())
        if State.of(given["state"]).rehashes > before:
            return now
    raise AssertionError("no rehash")


@pytest.mark.parametrize(
    ("touched", "changed", "wanted"),
    [(0, 0, EVERY), (20, 0, EVERY), (20, 5, EVERY), (20, 6, EVERY // 4), (2, 1, EVERY // 4)],
)
def test_a_rehash_comes_early_when_enough_codes_have_changed(
    touched: int, changed: int, wanted: int
) -> None:
    given = new()
    touch(given, touched, changed)
    assert rehashed_at(given) == wanted
    assert given["dirty"].eq(0).all()
    fresh = new(weight=given["weight"], bias=given["bias"])
    for name in ("codes", "offsets", "rows"):
        assert torch.equal(given[name], fresh[name])


def test_without_a_threshold_nothing_is_early() -> None:
    given = new(drift=None)
    touch(given, 20, 20)
    assert rehashed_at(given) == EVERY


@pytest.mark.parametrize("late", [0, 8, 17])
def test_a_rehash_comes_at_the_next_look(late: int) -> None:
    """Looks are two steps apart; no rehash comes before a quarter of the interval."""
    given = new()
    while int(given["step"]) <= late:
        torch.ops.hashdl.refresh_tables_(*given.values())
    touch(given, 20, 20)
    assert rehashed_at(given) == max(EVERY // 4, late + 2 - late % 2)
    # The next interval begins there.
    assert rehashed_at(given) == max(EVERY // 4, late + 2 - late % 2) + EVERY


def test_a_cycle_that_is_spread_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehash, "_SLICE", 4)
    given = new()
    while int(given["step"]) <= 15:  # half of it is done
        torch.ops.hashdl.refresh_tables_(*given.values())
    assert State.of(given["state"]).done > 0
    touch(given, 20, 20)
    assert rehashed_at(given) == 16
    last = GROUPS[-1]
    fresh = new(weight=given["weight"], bias=given["bias"])
    assert torch.equal(given["codes"][last.start :], fresh["codes"][last.start :])
    # The first two groups had passed: the rows are dirty for them still.
    assert given["dirty"][:20].eq(0b011).all()


def test_drift_is_not_looked_for_while_functions_are_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Codes of rows that were not hashed yet are those of the old functions."""
    monkeypatch.setattr(rehash, "_SLICE", 4)
    given = new(center_rows=True)
    touch(given, N, N)  # more than half: the cycle renews the functions
    for _ in range(2):
        torch.ops.hashdl.refresh_tables_(*given.values())
    assert State.of(given["state"]).renewed
    assert rehashed_at(given) == EVERY


def test_a_sample_of_many_rows_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    hash_rows = rehash._hash_rows

    def spy(*args: Any) -> None:
        hashed.append((args[3], args[4].shape[1]))
        hash_rows(*args)

    monkeypatch.setattr(rehash, "_hash_rows", spy)
    monkeypatch.setattr(rehash, "_DRIFT_ROWS", 10)
    given = new()
    hashed.clear()
    touch(given, 25, 0)
    for _ in range(3):
        torch.ops.hashdl.refresh_tables_(*given.values())
    # At step 2: every third of them, and a row in the place of a tenth that does not count.
    assert hashed == [(GROUPS[-1], 10)]
