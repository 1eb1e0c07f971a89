"""refresh_tables_ over many steps: a cycle's work is spread evenly, and tables stay consistent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import ops_samples as samples
import pytest
import torch
from torch import Tensor

from hashdl import ops, rehash
from hashdl.hashing import FAMILIES, functions
from hashdl.hashing.functions import project_rows
from hashdl.hashing.simhash import SimHash
from hashdl.rehash import State, groups_of

N, L, BITS, EVERY = 90, 20, 3, 40
GROUPS = groups_of(L)
# What look-ups meet.
IN_FORCE = ("query_functions", "offsets", "rows", "query_sketch_planes", "sketches", "norms")
FUNCTIONS = (
    *("functions", "next_query_functions", "center", "maps", "scale"),
    *("sketch_planes", "next_query_sketch_planes"),
)

Given = dict[str, Any]


class Explicit(SimHash):
    """Meets balanced vectors: functions of two cycles cannot stand side by side."""

    name = "explicit"
    linear: ClassVar[bool] = False


@pytest.fixture(autouse=True)
def explicit_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "explicit", Explicit())


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small layer's work is spread as a huge one's is."""
    monkeypatch.setattr(rehash, "_SLICE", 4)


class Work(list[tuple[int, range | int]]):
    """What was done, in order: (group, its rows that were due) or (group, table)."""

    def rows(self) -> int:
        return sum(len(piece) for _, piece in self if isinstance(piece, range))

    def tables(self) -> int:
        return sum(isinstance(piece, int) for _, piece in self)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    done, hash_slice, put_in_force = Work(), rehash._Rehash.hash_slice, rehash._Rehash.put_in_force

    def slice_spy(self: Any, index: int, piece: range, full: bool) -> None:
        done.append((index, piece))
        hash_slice(self, index, piece, full)

    def table_spy(self: Any, table: int) -> None:
        done.append((table // 8, table))
        put_in_force(self, table)

    monkeypatch.setattr(rehash._Rehash, "hash_slice", slice_spy)
    monkeypatch.setattr(rehash._Rehash, "put_in_force", table_spy)
    return done


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[range]:
    """How many rows were hashed, by group."""
    counts: Counter[range] = Counter()
    hash_rows = rehash._hash_rows

    def spy(*args: Any) -> None:
        group, codes = args[3:5]
        counts[group] += codes.shape[1]
        hash_rows(*args)

    monkeypatch.setattr(rehash, "_hash_rows", spy)
    return counts


def new(**changes: Any) -> Given:
    """Tables just built, at the beginning of a cycle."""
    parameters = {"N": N, "L": L, "bits": BITS} | changes
    given = samples.sample_dict("refresh_tables_", **parameters)
    given |= {"every": EVERY, "growth": 1.0}
    refresh(given)
    return given


def refresh(given: Given) -> None:
    torch.ops.hashdl.refresh_tables_(*given.values())


def state_of(given: Given) -> State:
    return State.of(given["state"])


def steps(given: Given, count: int = EVERY) -> Iterator[int]:
    """The following training steps."""
    for _ in range(count):
        now = int(given["step"])
        refresh(given)
        yield now


def run(given: Given, count: int = EVERY) -> None:
    for _ in steps(given, count):
        pass


def run_until(given: Given, done: int) -> None:
    """Until that much of the cycle is done."""
    while state_of(given).done < done:
        refresh(given)


def change(given: Given, row: int) -> None:
    """What marking and an update do."""
    given["weight"][row].neg_()
    given["dirty"][row] = rehash.dirty_bits(L)


def _projections(given: Given, planes: Tensor, center: Tensor) -> Tensor:
    planes, center = (tensor.view(torch.float32) for tensor in (planes, center))
    return project_rows(given["weight"], given["bias"], center, planes)


def codes_of(given: Given, met: dict[str, Tensor]) -> Tensor:
    """Codes (L, N) of the rows as they are."""
    projections = _projections(given, met["functions"], met["center"])
    return FAMILIES[given["family"]].codes(projections, given["bits"]).t()


def sketches_of(given: Given, met: dict[str, Tensor]) -> Tensor:
    """Sketches (N, W) of the rows as they are."""
    return ops.pack_signs(_projections(given, met["sketch_planes"], met["center"]), 32)


def codes_in_force(given: Given) -> Tensor:
    """Codes (L, N) that the tables say the rows have."""
    loads = given["offsets"].diff(dim=1).long()
    buckets = torch.arange(loads.shape[1], dtype=torch.int32)
    by_place = torch.stack([buckets.repeat_interleave(load) for load in loads])
    return torch.empty_like(by_place).scatter_(1, given["rows"].long(), by_place)


def kept(given: Given, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: given[name].clone() for name in names}


def turn_queries(given: Given) -> None:
    """Balanced planes will be others."""
    moment = given["moment"].view(torch.float32)
    moment[0] *= 1.5
    moment[:, 0] *= 1.5


# ---- even work -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["simhash", "kmeans"])
@pytest.mark.parametrize("renewing", [True, False])
def test_a_cycle_takes_each_row_and_each_table_once(
    renewing: bool, family: str, work: Work
) -> None:
    given = new(queries=20 * renewing, family=family)
    for _ in range(3):
        work.clear()
        run(given)
        rows = Counter((i, row) for i, piece in work if isinstance(piece, range) for row in piece)
        assert rows == Counter((i, row) for i in range(len(GROUPS)) for row in range(N))
        tables = [piece for _, piece in work if isinstance(piece, int)]
        assert tables == list(range(L))
        assert [i for i, _ in work] == sorted(i for i, _ in work)
    assert state_of(given).rehashes == 4


@pytest.mark.parametrize("every", [1, 2, 7, 40, 1000])
def test_no_step_does_more_than_its_share(every: int, work: Work) -> None:
    given = new(queries=20) | {"every": every}
    run(given, EVERY)  # the cycle that new() began
    cycle = rehash._Cycle(N, L)
    most = -(-cycle.total // every) + rehash._SLICE - 1
    work.clear()
    for _ in steps(given, 2 * every):
        assert work.rows() <= most
        assert work.tables() <= -(-most // cycle.build)
        work.clear()
    assert state_of(given).rehashes == 4


def test_small_layers_wait_until_the_cycle_ends(
    monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    monkeypatch.undo()
    given = new()
    codes = given["codes"].clone()
    given["weight"].neg_()
    given["dirty"].fill_(rehash.dirty_bits(L))
    for now in steps(given):
        assert torch.equal(given["codes"], codes) == (now < EVERY)


def test_in_a_cycle_that_keeps_its_functions_touched_rows_alone_are_hashed(
    hashed: Counter[range],
) -> None:
    given = new()
    hashed.clear()
    before = kept(given, FUNCTIONS)
    given["weight"].neg_()  # seen in marked rows alone
    for row in (3, 40, 41, 89):
        given["dirty"][row] = rehash.dirty_bits(L)
    old = given["codes"].clone()
    run(given)
    assert hashed == Counter(dict.fromkeys(GROUPS, 4))
    assert given["dirty"].eq(0).all()
    changed = (given["codes"] != old).any(0).nonzero().flatten().tolist()
    assert changed == [3, 40, 41, 89]
    assert all(torch.equal(given[name], buffer) for name, buffer in before.items())


def test_where_most_rows_were_touched_the_centre_is_renewed() -> None:
    given = new()
    before = given["center"].clone()
    for row in range(N // 2 + 1):
        change(given, row)
    run(given)
    assert not torch.equal(given["center"], before)
    assert torch.equal(given["codes"], codes_of(given, given))
    assert torch.equal(codes_in_force(given), given["codes"])


# ---- consistency ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "cycles"),
    [
        ("simhash", 4),  # rehash 0, 1, 2 and 4
        ("kmeans", 6),  # every rehash
    ],
)
def test_at_every_step_each_table_fits_the_functions_that_queries_meet(
    family: str, cycles: int
) -> None:
    given = new(queries=20, family=family)
    width = given["functions"].shape[1] // L
    known = [kept(given, FUNCTIONS)]  # the functions of all cycles so far
    touched = torch.zeros(N, dtype=torch.bool)
    mixed = 0
    turn_queries(given)
    for now in steps(given, 5 * EVERY):
        if not torch.equal(given["functions"], known[-1]["functions"]):
            known.append(kept(given, FUNCTIONS))
        expected = [(f["next_query_functions"], codes_of(given, f)) for f in known]
        actual, ages = codes_in_force(given), set()
        for table in range(L):
            columns = slice(table * width, (table + 1) * width)
            met = given["query_functions"][:, columns]
            fits = [i for i, (q, _) in enumerate(expected) if torch.equal(met, q[:, columns])]
            assert len(fits) == 1
            codes = expected[fits[0]][1][table]
            assert torch.equal(actual[table][~touched], codes[~touched])
            ages.add(fits[0])
            built = ops.build_tables(actual[table : table + 1], BITS)
            samples.assert_same_bits(
                [given["offsets"][table], given["rows"][table]], [built[0][0], built[1][0]]
            )
        mixed += len(ages) > 1
        met = given["query_sketch_planes"]
        same = [i for i, f in enumerate(known) if torch.equal(met, f["next_query_sketch_planes"])]
        assert fits[0] in same  # in force with the last table
        sketches = sketches_of(given, known[fits[0]])
        assert torch.equal(given["sketches"][~touched], sketches[~touched])
        assert max(ages) - min(ages) <= 1
        if now % 9 == 0:
            change(given, now % N)
            touched[now % N] = True
        if now % EVERY == 0:
            turn_queries(given)
    assert len(known) == cycles
    assert mixed > EVERY // 2


# ---- families that learn, and families that do not fold ------------------------------------------


def test_learned_functions_follow_the_rows_from_the_buckets_that_they_had() -> None:
    given = new(family="kmeans", balance=False) | {"center_rows": False}
    for row in range(N):
        given["weight"][row] += 0.3 * samples.randn(6, seed=row)
        given["dirty"][row] = rehash.dirty_bits(L)
    codes = given["codes"].clone()
    run(given)
    kind = FAMILIES["kmeans"]
    vectors = torch.cat([given["weight"], given["bias"][:, None]], 1)
    wanted = kind.fit(kind.make(7, L, BITS, given["seed"]), vectors, codes.t(), BITS)
    torch.testing.assert_close(given["functions"].view(torch.float32), wanted)
    assert not torch.equal(given["codes"], codes)
    assert (given["codes"] == codes).float().mean() > 0.5  # drawn anew, 1 / 8 would stay
    assert torch.equal(codes_in_force(given), codes_of(given, given))


def explicit_codes(given: Given) -> Tensor:
    maps = given["maps"].view(torch.float32)
    vectors = torch.cat([given["weight"], given["bias"][:, None]], 1)
    mapped = (vectors - given["center"].view(torch.float32)) @ maps[0]
    projections = mapped @ given["functions"].view(torch.float32)
    return ops.pack_signs(projections, BITS).t()


def test_functions_that_do_not_fold_are_renewed_all_at_once(work: Work) -> None:
    """Balanced anew at rehash 1 and 2, not at 3: then touched rows are hashed step by step."""
    given = new(queries=20, family="explicit")
    assert torch.equal(codes_in_force(given), explicit_codes(given))
    for rehashes in (1, 2, 3):
        turn_queries(given)
        change(given, 3)
        maps = given["maps"].clone()
        work.clear()
        run(given, EVERY - 1)
        balanced = rehashes < 3
        assert torch.equal(given["maps"], maps) != balanced
        assert (work.rows() == 0) == balanced
        run(given, 1)
        assert torch.equal(codes_in_force(given), explicit_codes(given))
        assert given["dirty"].eq(0).all()
        assert torch.equal(given["query_functions"], given["functions"])
        assert state_of(given).rehashes == rehashes + 1


def test_a_row_touched_between_two_passes_is_hashed_again_in_the_next_cycle(
    hashed: Counter[range],
) -> None:
    given = new()
    row, later = 5, slice(GROUPS[1].start, L)
    run_until(given, N // 2)  # group 0 has hashed it
    old = given["codes"][:, row].clone()
    change(given, row)
    wanted = codes_of(given, given)[:, row]
    assert not torch.equal(wanted[:8], old[:8])
    run(given, EVERY - int(given["step"]) + 1)
    assert torch.equal(given["codes"][:8, row], old[:8])
    assert torch.equal(given["codes"][later, row], wanted[later])
    assert given["dirty"].nonzero().flatten().tolist() == [row]
    assert int(given["dirty"][row]) == 0b001
    hashed.clear()
    run(given)
    assert hashed == {GROUPS[0]: 1}  # the other groups know it as it is
    assert torch.equal(codes_in_force(given)[:, row], wanted)
    assert given["dirty"].eq(0).all()


@pytest.mark.parametrize(("sketch", "levels"), [(False, 2), (True, 2), (True, 16)])
def test_a_cycle_ends_with_the_tables_of_a_full_rehash(sketch: bool, levels: int) -> None:
    given = new(sketch=sketch, levels=levels) | {"center_rows": False}
    given["state"][State.places("built")] = 0
    refresh(given)
    for row in range(0, N, 3):
        change(given, row)
    run(given)
    names = ("codes", *IN_FORCE)
    rolled = kept(given, names)
    given["state"][State.places("built")] = 0
    refresh(given)
    lengths = (tables["norms"].view(torch.float32) for tables in (given, rolled))
    torch.testing.assert_close(*lengths)  # a product of some rows is another one of all
    for name in set(names) - {"norms"}:
        assert torch.equal(given[name], rolled[name]), name
    assert bool(given["norms"].any()) == sketch


def test_evaluation_with_a_changed_weight_rehashes_at_once_and_begins_a_cycle() -> None:
    given = new()
    run_until(given, N + 3)
    change(given, 2)
    given["training"] = False
    refresh(given)
    assert torch.equal(codes_in_force(given), codes_of(given, given))
    state, now = state_of(given), int(given["step"])
    assert (state.start, state.due, state.done) == (now, now + EVERY, 0)
    assert state.rehashes == 1
    assert given["dirty"].eq(0).all()
    before = kept(given, (*FUNCTIONS, *IN_FORCE, "codes", "step", "state"))
    refresh(given)
    assert all(torch.equal(given[name], buffer) for name, buffer in before.items())


# ---- weights that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 50])
@pytest.mark.parametrize("queries", [0, 20])
@pytest.mark.parametrize("family", ["simhash", "kmeans"])
def test_a_bad_row_stops_the_cycle_until_it_is_mended(family: str, queries: int, row: int) -> None:
    given, other = (new(queries=queries, family=family) for _ in range(2))
    for tables in (given, other):
        for touched in (0, 50):
            change(tables, touched)
    good = given["weight"].clone()
    given["weight"][row] = torch.nan
    with pytest.raises(RuntimeError, match="weight or bias: got NaN"):
        run(given)
    before = kept(given, (*IN_FORCE, "step", "state"))
    with pytest.raises(RuntimeError, match="weight or bias: got NaN"):
        refresh(given)
    assert all(torch.equal(given[name], buffer) for name, buffer in before.items())
    given["weight"].copy_(good)
    left = EVERY + 1 - int(given["step"])
    run(given, left)
    run(other)
    names = ("codes", *FUNCTIONS, *IN_FORCE, "step", "dirty")
    assert all(torch.equal(given[name], other[name]) for name in names)


def test_functions_of_a_failed_beginning_are_not_taken_for_old_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first slice failed; by the next step too few rows are marked to renew anything."""
    monkeypatch.setattr(functions, "_SAMPLE", N // 3)
    given = new()
    given["dirty"].fill_(rehash.dirty_bits(L))
    given["weight"][::3] += 1
    good = given["weight"].clone()
    given["weight"][1] = torch.nan  # no row of the sample
    with pytest.raises(RuntimeError, match="weight or bias: got NaN"):
        run(given)
    given["weight"].copy_(good)
    given["dirty"].zero_()
    run(given, EVERY + 1 - int(given["step"]))
    assert torch.equal(codes_in_force(given), codes_of(given, given))


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_rows_are_hashed_in_pieces_of_one_size(size: int) -> None:
    """A product with few rows left over may be rounded as threads share it."""
    rows = rehash._Rows(torch.arange(size)[:, None].float(), torch.arange(size))
    pieces = [(weight, bias) for _, weight, bias in rows.chunks(rehash._PROJECTIONS // 1024)]
    sizes = [len(weight) for weight, _ in pieces]
    assert len(sizes) == -(-size // 1024)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    for part in zip(*pieces, strict=True):
        assert torch.equal(torch.cat(part).flatten().long(), torch.arange(size))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("family", "n_rows"), [("simhash", 40_000), ("kmeans", 9_000)])
def test_cycles_do_not_depend_on_threads(family: str, n_rows: int) -> None:
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        given = new(N=n_rows, d=20, L=9, bits=6, queries=40, family=family) | {"every": 5}
        for now in steps(given, 2 * EVERY):
            given["weight"][now::7].neg_()
            given["dirty"][now::7] = 3
        results.append([given[name] for name in ("codes", *FUNCTIONS, *IN_FORCE)])
    samples.assert_same_bits(*results)
