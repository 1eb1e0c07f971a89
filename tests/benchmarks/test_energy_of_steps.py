"""Joules of a training step in reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import energy
from benchmarks.hidden_nets import Hashed, Net, Standard
from benchmarks.hidden_training import energy as energy_of
from benchmarks.tables import describe
from hashdl import HashConfig
from hashdl.data import DenseDataset
from hashdl.energy import DRAM_BYTE, MULTIPLY_ADD, EnergyMeter

SIZES = [10, 50, 2]
BATCH = 4


def step(net: Net, root: Path) -> dict[str, Any]:
    data = DenseDataset(torch.rand(20, 10), torch.randint(2, (20,)), 2)
    with EnergyMeter(root) as meter:
        pass
    work = net.multiplications(data.inputs, BATCH)
    return energy_of(net, data, BATCH, work, meter, steps=5)


def test_a_dense_step_moves_every_weight_ten_times(tmp_path: Path) -> None:
    net = Standard(SIZES, 1.0)
    figures = step(net, tmp_path)
    weights = sum(p.numel() for p in net.parameters())
    # Of its inputs the first layer needs no gradient.
    multiplications = BATCH * (2 * 10 * 50 + 3 * 50 * 2)
    assert figures["joules_arithmetic"] == pytest.approx(MULTIPLY_ADD * multiplications)
    assert figures["joules_memory"] == pytest.approx(DRAM_BYTE * 4 * 10 * weights)
    assert figures["estimate_source"].startswith("estimated")
    assert figures["energy_source"].startswith("not measured")
    assert "joules_step" not in figures


def test_a_hashed_step_moves_what_it_touches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Hashed(SIZES, 0.1, HashConfig(sparse_grad=True, tables=2, bits=2, rehash_every=10))
    figures = step(net.train(), tmp_path)
    dense = step(Standard(SIZES, 1.0), tmp_path)
    assert 0 < figures["joules_memory"] < dense["joules_memory"]
    total = figures["joules_arithmetic"] + figures["joules_memory"]
    assert figures["joules_step_estimated"] == pytest.approx(total)


def test_measured_joules_are_those_of_one_step() -> None:
    class Meter(EnergyMeter):
        joules = 10.0

    figures = energy.step_energy(Meter(), 4, [], 0, 0)
    assert figures["joules_step"] == 2.5


def test_sparse_gradients_count_their_entries_once() -> None:
    layer = nn.Parameter(torch.zeros(9, 3))
    rows = torch.tensor([[1, 1, 4]])
    layer.grad = torch.sparse_coo_tensor(rows, torch.ones(3, 3), (9, 3))
    assert energy.moved_bytes([layer], 0) == 4 * 9 * 2 * 3
    layer.grad = None
    assert energy.moved_bytes([layer], 7) == 4 * 7


def test_rehashing_reads_each_row_once_an_interval() -> None:
    net = Hashed(SIZES, 0.1, HashConfig(rehash_every=10))
    assert energy.rehash_reads(net) == 50 * 10 / 10
    assert energy.rehash_reads(Standard(SIZES, 1.0)) == 0


def test_reports_say_where_joules_come_from() -> None:
    counters = {"energy_source": "measured: package-0", "joules_step": 0.25}
    guess = {"estimate_source": "estimated: so", "joules_step_estimated": 0.5}
    guess |= {"joules_arithmetic": 0.125, "joules_memory": 0.375}
    result = {"step_ms": 1.0} | counters | guess
    told = describe(
        {
            "machine": {},
            "settings": {"benchmark": "output_layer"},
            "contenders": {"dense": result, "hashed": result},
        }
    )
    for text in ("J a step, measured", "J a step, estimated", "0.25", "0.375"):
        assert text in told
    assert told.count("energy: measured: package-0") == told.count("energy: estimated: so") == 1
    by_rows = {"100": result | {"multiplications": 1.0, "top1": 0.5}}
    told = describe(
        {
            "machine": {},
            "settings": {"benchmark": "width"},
            "contenders": {"hashed": {"by_rows": by_rows}},
        }
    )
    assert "J a step, measured at 100 neurons" in told
    assert "energy: estimated: so" in told
