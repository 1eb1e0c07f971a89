"""refresh_tables_: what a refresh leaves in the buffers, and when it leaves them alone."""

from __future__ import annotations

from typing import Any

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import ops
from hashdl.config import HashConfig
from hashdl.hashing import FAMILIES, balancing, centering, sketching
from hashdl.hashing.functions import project_rows
from hashdl.rehash import State
from hashdl.tables import HashTables

BUFFERS = tuple(name for name, _ in HashTables(30, 6, HashConfig()).named_buffers())
REHASHES, SEEN = State.places("rehashes", "seen")  # in the buffer "state"
ENOUGH = 7  # queries: the sample has 6 features


def refresh(given: dict[str, Any]) -> None:
    torch.ops.hashdl.refresh_tables_(*given.values())


def snapshot(given: dict[str, Any], names: tuple[str, ...] = BUFFERS) -> list[Tensor]:
    return [given[name].clone() for name in names]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_first_refresh_hashes_every_row(training: bool, bias: bool) -> None:
    given = samples.sample_dict("refresh_tables_", bias=bias, training=training)
    refresh(given)
    weight, some_bias, bits = given["weight"], given["bias"], given["bits"]
    planes = plain_planes(given)
    if not bias:
        planes[-1] = 0
    center = centering.row_mean(weight, some_bias)
    codes = ops.pack_signs(project_rows(weight, some_bias, center, planes), bits)
    for name in ("functions", "query_functions"):
        assert torch.equal(given[name].view(torch.float32), planes)
    assert torch.equal(given["center"].view(torch.float32), center)
    assert torch.equal(given["codes"], codes.t())
    assert_sketches_fit(given, center)
    expected = list(ops.build_tables(codes.t(), bits))
    samples.assert_same_bits([given["offsets"], given["rows"]], expected)
    assert int(given["step"]) == int(training)


def sketch_planes_of(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """That the maps and the seed make, for rows and for queries."""
    D, S = given["sketch_planes"].shape
    return sketching.planes(given["maps"].view(torch.float32), D, S, given["seed"])


def assert_sketches_fit(given: dict[str, Any], center: Tensor) -> None:
    """Planes, sketches and lengths of all rows, as they are, are those of one set of functions."""
    planes, query_planes = sketch_planes_of(given)
    assert torch.equal(given["sketch_planes"].view(torch.float32), planes)
    assert torch.equal(given["query_sketch_planes"].view(torch.float32), query_planes)
    projections = project_rows(given["weight"], given["bias"], center, planes)
    assert torch.equal(given["sketches"], ops.pack_signs(projections, 32))
    lengths = projections.square().mean(1).sqrt()
    torch.testing.assert_close(given["norms"].view(torch.float32), lengths)


def test_without_centring_rows_are_hashed_as_they_are() -> None:
    given = samples.sample_dict("refresh_tables_") | {"center_rows": False}
    refresh(given)
    assert given["center"].eq(0).all()


def test_training_rehashes_dirty_rows_alone_and_only_when_due() -> None:
    given = samples.sample_dict("refresh_tables_") | {"every": 3, "growth": 1.0}
    refresh(given)
    given["weight"].neg_()
    given["dirty"][4] = 1
    before = given["codes"].clone()
    for _ in (1, 2):
        refresh(given)
        assert torch.equal(given["codes"], before)
    refresh(given)  # step 3
    changed = (given["codes"] != before).any(dim=0).nonzero().flatten().tolist()
    assert changed == [4]
    assert given["dirty"].eq(0).all()
    assert int(given["step"]) == 4
    expected = list(ops.build_tables(given["codes"], given["bits"]))
    samples.assert_same_bits([given["offsets"], given["rows"]], expected)


@pytest.mark.parametrize("update", ["torch", "row optimizer"])
def test_evaluation_sees_that_the_weight_has_changed(update: str) -> None:
    given = samples.sample_dict("refresh_tables_", training=False)
    refresh(given)
    before = snapshot(given)
    refresh(given)
    samples.assert_same_bits(snapshot(given), before)  # nothing to do
    weight = given["weight"]
    if update == "torch":
        weight.neg_()
    else:
        every = torch.arange(weight.shape[0]).int()
        ops.sgd_rows_(weight, None, every, weight.clone(), lr=2.0)
    refresh(given)
    again = samples.sample_dict("refresh_tables_", training=False) | {"weight": weight}
    refresh(again)
    assert not torch.equal(given["codes"], before[BUFFERS.index("codes")])
    assert torch.equal(given["codes"], again["codes"])


@pytest.mark.parametrize("queries", [0, 20], ids=["plain", "balanced"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_leaves_the_tables_as_they_are(
    value: float, queries: int
) -> None:
    given = samples.sample_dict("refresh_tables_", training=False, queries=queries)
    refresh(given)
    before, good = snapshot(given), given["weight"].clone()
    given["weight"][3] = value
    with pytest.raises(RuntimeError, match=r"hashdl.*got NaN"):
        refresh(given)
    samples.assert_same_bits(snapshot(given), before)
    given["weight"].copy_(good)
    refresh(given)
    rebuilt = BUFFERS.index("state")  # the weight's version counts up
    samples.assert_same_bits(snapshot(given)[:rebuilt], before[:rebuilt])


# ---- balancing -----------------------------------------------------------------------------------


def observe(given: dict[str, Any], count: int, *, training: bool = True) -> None:
    x = samples.uneven(count, given["weight"].shape[1])
    buffers = (given[name] for name in ("moment", "recent", "state", "step"))
    torch.ops.hashdl.observe_queries_(x, *buffers, training)


def planes_of(given: dict[str, Any]) -> list[Tensor]:
    return [given[name].view(torch.float32).clone() for name in ("functions", "query_functions")]


def plain_planes(given: dict[str, Any]) -> Tensor:
    D, L = given["functions"].shape[0], given["codes"].shape[0]
    return FAMILIES[given["family"]].make(D, L, given["bits"], given["seed"])


@pytest.mark.parametrize("training", [True, False])
def test_after_enough_queries_rows_and_queries_have_planes_of_their_own(training: bool) -> None:
    given = samples.sample_dict("refresh_tables_", queries=20, training=training)
    refresh(given)
    weight, bias = given["weight"], given["bias"]
    center = centering.row_mean(weight, bias)
    maps = balancing.maps(
        given["moment"].view(torch.float32), balancing.row_moment(weight, bias, center)
    )
    assert torch.equal(given["maps"].view(torch.float32), maps)
    wanted = [map @ plain_planes(given) for map in maps]
    samples.assert_same_bits(planes_of(given), wanted)
    assert not torch.equal(*wanted)
    projections = project_rows(weight, bias, center, wanted[0])
    assert torch.equal(given["codes"].t(), ops.pack_signs(projections, given["bits"]))
    assert_sketches_fit(given, center)


@pytest.mark.parametrize("training", [True, False])
def test_tables_are_balanced_as_soon_as_enough_queries_were_seen(training: bool) -> None:
    given = samples.sample_dict("refresh_tables_", queries=ENOUGH - 1, training=training)
    refresh(given)
    samples.assert_same_bits(planes_of(given), [plain_planes(given)] * 2)
    rehashes = int(given["state"][REHASHES])
    observe(given, 1)
    refresh(given)
    rows, queries = planes_of(given)
    assert not torch.equal(rows, queries)
    assert int(given["state"][REHASHES]) == rehashes
    observe(given, 1)
    refresh(given)
    samples.assert_same_bits(planes_of(given), [rows, queries])


def test_training_balances_again_at_rehashes_that_are_powers_of_two() -> None:
    given = samples.sample_dict("refresh_tables_", queries=20) | {"every": 1, "growth": 1.0}
    renewed = []
    for step in range(18):
        before, codes = planes_of(given), given["codes"].clone()
        given["moment"].view(torch.float32)[0] *= 1.5
        given["moment"].view(torch.float32)[:, 0] *= 1.5
        refresh(given)
        changed = [not torch.equal(a, b) for a, b in zip(before, planes_of(given), strict=True)]
        assert changed[0] == changed[1]
        assert changed[0] or torch.equal(codes, given["codes"])
        renewed += [step] * changed[0]
    assert int(given["state"][REHASHES]) == 18
    assert renewed == [0, 1, 2, 4, 8, 16]


def test_touched_rows_are_hashed_with_the_balanced_planes() -> None:
    given = samples.sample_dict("refresh_tables_", queries=20) | {"every": 1, "growth": 1.0}
    for _ in range(3):
        refresh(given)
    before = snapshot(given)
    given["moment"].zero_()
    given["weight"].neg_()
    given["dirty"][4] = 1
    refresh(given)  # the fourth
    kept = dict(zip(BUFFERS, before, strict=True))
    for name in ("functions", "query_functions", "center", "maps", "sketch_planes"):
        assert torch.equal(given[name], kept[name])
    for name in ("sketches", "norms"):
        changed = (given[name] != kept[name]).reshape(30, -1).any(1)
        assert changed.nonzero().flatten().tolist() == [4]
    row = given["weight"][4:5], given["bias"][4:5], given["center"].view(torch.float32)
    projections = project_rows(*row, given["functions"].view(torch.float32))
    assert torch.equal(given["codes"][:, 4:5].t(), ops.pack_signs(projections, given["bits"]))
    projections = project_rows(*row, given["sketch_planes"].view(torch.float32))
    assert torch.equal(given["sketches"][4:5], ops.pack_signs(projections, 32))


def test_a_moment_of_zero_leaves_the_planes_as_they_are() -> None:
    given = samples.sample_dict("refresh_tables_")
    given["state"][SEEN] = ENOUGH
    refresh(given)
    samples.assert_same_bits(planes_of(given), [plain_planes(given)] * 2)


def test_without_balancing_there_is_no_moment_and_one_kind_of_planes() -> None:
    given = samples.sample_dict("refresh_tables_", balance=False, queries=20)
    assert given["moment"].shape == (0, 0)
    assert given["maps"].shape == (2, 0, 0)
    refresh(given)
    samples.assert_same_bits(planes_of(given), [plain_planes(given)] * 2)


# ---- observe_queries_ ----------------------------------------------------------------------------


def second_moment(x: Tensor) -> Tensor:
    with_one = torch.cat([x, torch.ones(x.shape[0], 1)], 1).double()
    return (with_one.t() @ with_one / x.shape[0]).float()


@pytest.mark.parametrize("dtype", samples.DTYPES)
def test_the_moment_is_that_of_all_queries_so_far(dtype: torch.dtype) -> None:
    x, moment, *rest = samples.observe_queries__args(B=40)
    x, state = x.to(dtype), rest[1]
    for piece in (x[:5], x[:0], x[5:25], x[25:]):
        torch.ops.hashdl.observe_queries_(piece, moment, *rest)
    torch.testing.assert_close(moment.view(torch.float32), second_moment(x.float()))
    assert int(state[SEEN]) == 40


def test_the_moment_forgets_old_queries() -> None:
    x, moment, *rest = samples.observe_queries__args(B=64)
    for scale in (torch.ones(6), torch.logspace(1, 0, 6)):
        for _ in range(300):
            torch.ops.hashdl.observe_queries_(x * scale, moment, *rest)
    wanted = second_moment(x * scale)
    torch.testing.assert_close(moment.view(torch.float32), wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_queries_that_are_not_finite_do_not_count(value: float) -> None:
    args = samples.observe_queries__args()
    torch.ops.hashdl.observe_queries_(*args)
    before = samples.tensors(samples.clone(args[1:]))
    args[0][2, 1] = value  # the square of 1e30 is infinite
    torch.ops.hashdl.observe_queries_(*args)
    samples.assert_same_bits(samples.tensors(args[1:]), before)


def test_queries_that_were_passed_over_do_not_count() -> None:
    """Of 65 queries every other is looked at: no moment of theirs has a rank of 61."""
    _, moment, _, state, *_ = args = samples.observe_queries__args(B=65, d=60)
    torch.ops.hashdl.observe_queries_(*args)
    rank = torch.linalg.matrix_rank(moment.view(torch.float32).double(), rtol=1e-5)
    assert int(state[SEEN]) == int(rank) == 33


def test_evaluation_observes_until_there_were_enough() -> None:
    given = samples.sample_dict("refresh_tables_")
    seen = []
    for _ in range(4):
        observe(given, 3, training=False)
        seen.append(int(given["state"][SEEN]))
    assert seen == [3, 6, 9, 9]
    before = given["moment"].clone()
    observe(given, 3, training=False)
    assert torch.equal(given["moment"], before)
    observe(given, 4)
    assert not torch.equal(given["moment"], before)


@pytest.mark.usefixtures("threads")
def test_the_moment_does_not_depend_on_threads() -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        args = samples.observe_queries__args(B=200, d=300)
        torch.ops.hashdl.observe_queries_(*args)
        results.append(samples.tensors(args))
        assert torch.get_num_threads() == count
    samples.assert_same_bits(*results)


def test_training_observes_every_fourth_step_once_there_were_enough() -> None:
    given = samples.sample_dict("refresh_tables_")
    counts = []
    for _ in range(9):
        observe(given, 4)
        refresh(given)
        counts.append(int(given["state"][SEEN]))
    assert counts == [4, 8, 8, 8, 12, 12, 12, 12, 16]
