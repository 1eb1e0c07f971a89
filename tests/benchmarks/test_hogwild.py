"""Asynchronous training at a tiny size."""

from __future__ import annotations

import copy
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import hogwild, plot
from benchmarks.hidden_nets import Hashed
from benchmarks.hogwild import Schedule
from benchmarks.shared_tables import Board, Owner, Reader
from benchmarks.tables import describe
from hashdl import HashConfig
from hashdl.data import DenseDataset
from hashdl.tables import HashTables

TINY = ["--quick", "--data", "digits", "--width", "60", "--active", "0.1", "--epochs", "3"]
SIZES = [10, 50, 40, 2]


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    """The script seeds torch's generator; other tests should not see that."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.slow
def test_workers_train_one_net(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = tmp_path / "hogwild.json"
    flags = [*TINY, "--workers", "1", "2", "--simulate", "3", "--json", str(path)]
    assert hogwild.main(flags) == 0
    report = json.loads(path.read_text())
    results = report["contenders"]
    assert list(results) == ["workers_1", "workers_2", "simulated_3"]
    for name in ("workers_1", "workers_2"):
        result = results[name]
        assert result["train_seconds"] > 0
        assert 0 < result["tables_share"] < 1
        assert 0 < result["overlap"] < 1
        met = list(result["met"].values())
        assert met[0] == pytest.approx(result["overlap"])
        assert met == sorted(met)
    assert results["workers_1"]["speed_up"] == 1
    assert 1 <= results["simulated_3"]["speed_up_limit"] <= 3
    assert 0 < results["simulated_3"]["overlap_of_round"] < 1
    assert all(0 <= result["top1"] <= 1 for result in results.values())
    assert "met by 64 workers" in describe(report)
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0


def make_net(**changes: object) -> tuple[Hashed, Schedule]:
    torch.manual_seed(0)
    data = DenseDataset(torch.rand(60, 10), torch.randint(2, (60,)), 2)
    config = HashConfig(sparse_grad=True, tables=4, bits=2).replace(**changes)
    net = Hashed(SIZES, 0.1, config).train()
    with torch.no_grad():
        net(data.inputs[:8])
    return net, Schedule(data, 8, 2, 0.1, 0)


def test_updated_are_the_weights_of_active_neurons() -> None:
    net, schedule = make_net()
    one = schedule.data.inputs[:1], schedule.data.targets[:1]
    grads = hogwild.gradient(net, *one)
    places = [hogwild.places_of(grad) for grad in grads if grad is not None and grad.is_sparse]
    # Rows of layer 1, its bias; entries of layer 2, its bias; entries of the output.
    assert [len(some) for some in places] == [5, 5, 5 * 4, 4, 4 * 2]


def test_overlap_of_all_neurons_is_whole() -> None:
    net, schedule = make_net(random=1.0, shared=0)
    few, many = (hogwild.overlap(net, schedule._replace(batch=batch)) for batch in (1, 30))
    assert 0 <= few < many <= 1


def test_met_are_the_places_that_several_steps_have() -> None:
    def grad(*rows: int) -> torch.Tensor:
        return torch.sparse_coo_tensor(torch.tensor([rows]), torch.ones(len(rows), 2), (9, 2))

    assert hogwild.met_share([[grad(1, 2)], [grad(2, 3)], [grad(4, 5)]]) == pytest.approx(2 / 6)
    assert hogwild.met_share([[grad(1)], [grad(1)]]) == 1
    assert hogwild.met_share([[None], [torch.ones(2)]]) == 0


def test_workers_together_take_every_sample_once_an_epoch() -> None:
    _, schedule = make_net()
    taken = list(schedule.batches(itertools.count()))
    assert len(taken) == schedule.steps == 2 * 8
    assert [rate for rate, _ in taken] == [0.1] * 8 + [0.05] * 8
    for epoch in (taken[:8], taken[8:]):
        inputs = torch.cat([inputs for _, (inputs, _) in epoch])
        assert torch.equal(*(some.sort(0).values for some in (inputs, schedule.data.inputs)))
    apart = [list(schedule.batches(itertools.count(first, 2))) for first in (0, 1)]
    for number, (_, (inputs, _)) in enumerate(taken):
        assert torch.equal(inputs, apart[number % 2][number // 2][1][0])


def test_one_simulated_worker_trains_as_one_does() -> None:
    (one, schedule), (other, _) = make_net(), make_net()
    assert hogwild.simulate(one, schedule, 1) == 0
    optimizer = hogwild.optim.SGD(other.parameters(), lr=1.0)
    for rate, batch in schedule.batches(itertools.count()):
        hogwild.gradient(other, *batch)
        hogwild.apply(optimizer, rate)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_simulated_workers_do_not_see_one_another_in_a_round() -> None:
    net, schedule = make_net()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    seen = []

    def unchanged() -> bool:
        return all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))

    net.register_forward_pre_hook(lambda *_: seen.append(unchanged()))
    hogwild.simulate(net, schedule, schedule.steps)
    assert seen == [True] * schedule.steps
    assert not unchanged()


def test_a_run_that_diverges_ends() -> None:
    net, schedule = make_net()
    steps = []
    net.register_forward_pre_hook(lambda *_: steps.append(1))
    hogwild.simulate(net, schedule._replace(rate=1e30), 2)
    assert len(steps) == 2 < schedule.steps


@pytest.mark.parametrize("value", [1e5, float("nan"), float("-inf")])
def test_a_weight_that_is_huge_or_no_number_means_divergence(value: float) -> None:
    net, _ = make_net()
    assert not hogwild.diverged(net)
    with torch.no_grad():
        net.net.output.weight[1, 1] = value
    assert hogwild.diverged(net)


# ---- tables that one worker rebuilds while others read -----------------------------------------


def tables_and_board(workers: int) -> tuple[list[HashTables], list[HashTables], Board]:
    """The tables of the owner and of a reader, as two processes have them."""
    net, _ = make_net()
    other = copy.deepcopy(net)
    mine, theirs = hogwild.tables_of(net), hogwild.tables_of(other)
    return mine, theirs, Board(workers, threading.Lock(), mine)


def rebuild(owner: Owner, tables: HashTables, weight: torch.Tensor) -> None:
    tables.invalidate()
    tables.refresh(weight, None, training=True)
    owner.end_step()


def test_a_copy_is_not_written_while_a_step_reads_it() -> None:
    mine, theirs, board = tables_and_board(2)
    owner, reader = Owner(board, mine, 2), Reader(1, board, theirs)
    torch.manual_seed(1)
    weights = [torch.randn(mine[0].codes.shape[1], 10) for _ in range(2)]

    def reads(one: HashTables) -> bool:
        names = ("query_functions", "offsets", "rows")
        return all(torch.equal(getattr(theirs[0], n), getattr(one, n)) for n in names)

    old = copy.deepcopy(mine[0])
    assert reader.next_step() == 0
    assert owner.next_step() == 1
    rebuild(owner, mine[0], weights[0])
    first = copy.deepcopy(mine[0])
    rebuild(owner, mine[0], weights[1])  # it would go where the reader is
    assert reads(old)
    assert reader.next_step() == 2
    assert reads(first)
    owner.end_step()  # the reader has moved on: what was kept back is handed on
    assert reader.next_step() == 3
    assert reads(mine[0])


def test_marks_of_readers_reach_the_owner() -> None:
    mine, theirs, board = tables_and_board(2)
    owner, reader = Owner(board, mine, 2), Reader(1, board, theirs)
    reader.next_step()
    theirs[0].mark(torch.tensor([3], dtype=torch.int32))
    torch.manual_seed(1)
    for _ in range(2):  # once into the other copy, once into the one that was marked
        owner.next_step()
        rebuild(owner, mine[0], torch.randn(mine[0].codes.shape[1], 10))
        reader.next_step()
    assert mine[0].dirty.nonzero().flatten().tolist() == [3]
    assert all(not copies[0]["dirty"].any() for copies in board.copies)


def test_a_reader_that_is_done_holds_nothing_back() -> None:
    mine, theirs, board = tables_and_board(2)
    owner, reader = Owner(board, mine, 2), Reader(1, board, theirs)
    reader.next_step()
    for _ in range(2):
        owner.next_step()
        rebuild(owner, mine[0], torch.randn(mine[0].codes.shape[1], 10))
    assert board.spare() is None
    reader.close()
    assert board.spare() is not None


def test_the_owner_leaves_its_tables_in_shared_memory() -> None:
    mine, _, board = tables_and_board(1)
    shared = dict(mine[0].named_buffers())
    owner = Owner(board, mine, 1)
    rebuild(owner, mine[0], torch.randn(mine[0].codes.shape[1], 10))
    assert not torch.equal(shared["codes"], mine[0].codes)
    owner.close()
    assert all(torch.equal(shared[name], buffer) for name, buffer in mine[0].named_buffers())


def test_as_many_rehashes_a_sample_as_alone() -> None:
    mine, _, board = tables_and_board(4)
    alone = mine[0].rehash_every
    Owner(board, mine, 4)
    assert mine[0].rehash_every == -(-alone // 4)
