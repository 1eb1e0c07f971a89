"""Asynchronous training at a tiny size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import hogwild
from benchmarks.hidden_nets import Hashed
from benchmarks.tables import describe
from hashdl import HashConfig
from hashdl.data import DenseDataset

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
    assert hogwild.main([*TINY, "--workers", "1", "2", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert list(report["contenders"]) == ["workers_1", "workers_2"]
    for result in report["contenders"].values():
        assert result["train_seconds"] > 0
        assert 0 < result["overlap"] < 1
        assert 0 <= result["top1"] <= 1
        met = list(result["met"].values())
        assert met[0] == pytest.approx(result["overlap"])
        assert met == sorted(met)
    assert report["contenders"]["workers_1"]["speed_up"] == 1
    assert "met by 64 workers" in describe(report)


def make_net(**changes: object) -> tuple[Hashed, DenseDataset]:
    torch.manual_seed(0)
    data = DenseDataset(torch.rand(60, 10), torch.randint(2, (60,)), 2)
    config = HashConfig(sparse_grad=True, tables=4, bits=2).replace(**changes)
    return Hashed(SIZES, 0.1, config), data


def test_updated_are_the_weights_of_active_neurons() -> None:
    net, data = make_net()
    places = hogwild.updated(net, data.inputs[:1], data.targets[:1])
    # Rows of layer 1, its bias; entries of layer 2, its bias; entries of the output.
    assert [len(some) for some in places] == [5, 5, 5 * 4, 4, 4 * 2]
    again = hogwild.updated(net, data.inputs[:1], data.targets[:1])
    assert all(torch.equal(one, other) for one, other in zip(places, again, strict=True))


def test_overlap_of_all_neurons_is_whole() -> None:
    net, data = make_net(random=1.0, shared=0)
    few = hogwild.overlap(net, data, 1, seed=0)
    many = hogwild.overlap(net, data, 30, seed=0)
    assert 0 <= few < many <= 1


def test_a_step_that_fails_by_itself_is_not_repeated() -> None:
    net, data = make_net()
    optimizer = hogwild.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="in_features"):
        hogwild.step(net, optimizer, data.inputs[:, :5], data.targets, alone=True)
