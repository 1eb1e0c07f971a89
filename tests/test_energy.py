"""Joules by counters, of a made-up folder of them, and estimated."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hashdl import energy
from hashdl.energy import EnergyMeter


def add_zone(root: Path, folder: str, name: str, microjoules: int, full: int = 1000) -> Path:
    """A zone as Linux shows it; its counter."""
    zone = root / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text(f"{full}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone / "energy_uj"


def replace(counter: Path, microjoules: int) -> None:
    """Never empty, as a file is that is being written."""
    fresh = counter.with_name("fresh")
    fresh.write_text(str(microjoules))
    fresh.replace(counter)


def test_zones_that_lie_in_one_another_count_once(tmp_path: Path) -> None:
    package = add_zone(tmp_path, "intel-rapl:0", "package-0", 100)
    core = add_zone(tmp_path, "intel-rapl:0:0", "core", 50)
    dram = add_zone(tmp_path, "intel-rapl:0:1", "dram", 10)
    psys = add_zone(tmp_path, "intel-rapl:1", "psys", 5)
    mmio = add_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 100)
    with EnergyMeter(tmp_path) as meter:
        for counter, microjoules in ((package, 400), (core, 300), (dram, 30), (psys, 900)):
            counter.write_text(str(microjoules))
        mmio.write_text("400")
    assert meter.source == "measured: package-0, dram"
    assert meter.by_zone == {"package-0": pytest.approx(300e-6), "dram": pytest.approx(20e-6)}
    assert meter.joules == pytest.approx(320e-6)


def test_memory_of_two_packages_is_told_apart(tmp_path: Path) -> None:
    for number in (0, 1):
        add_zone(tmp_path, f"intel-rapl:{number}", f"package-{number}", 0)
        add_zone(tmp_path, f"intel-rapl:{number}:0", "dram", 0)
    with EnergyMeter(tmp_path) as meter:
        (tmp_path / "intel-rapl:1:0" / "energy_uj").write_text("7")
    assert meter.by_zone == {
        "package-0": 0,
        "dram": 0,
        "package-1": 0,
        "dram of intel-rapl:1:0": pytest.approx(7e-6),
    }


def test_a_counter_begins_again(tmp_path: Path) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 900, full=1000)
    with EnergyMeter(tmp_path) as meter:
        counter.write_text("150")
    assert meter.joules == pytest.approx(250e-6)


def test_a_counter_that_is_full_again_and_again_is_looked_at_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 0, full=1000)
    monkeypatch.setattr(energy, "_SECONDS", 0.001)
    deadline = time.monotonic() + 60
    with EnergyMeter(tmp_path) as meter:
        for microjoules, so_far in ((400, 400), (800, 800), (200, 1200), (600, 1600)):
            replace(counter, microjoules)
            while meter.by_zone["package-0"] != pytest.approx(so_far / 1e6):
                assert time.monotonic() < deadline
                time.sleep(0.001)
    assert meter.joules == pytest.approx(1600e-6)


def test_a_meter_begins_anew_each_time(tmp_path: Path) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 100)
    meter = EnergyMeter(tmp_path)
    for before, after in ((200, 300), (400, 440)):
        counter.write_text(str(before))
        with meter:
            counter.write_text(str(after))
        assert meter.joules == pytest.approx((after - before) * 1e-6)


def test_no_counters(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path / "none") as meter:
        pass
    assert meter.joules is None
    assert meter.source == f"not measured: no counter in {tmp_path / 'none'}"


def test_counters_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refuse(path: Path, *args: object) -> str:
        if path.name == "energy_uj":  # as Linux does to all but root
            raise PermissionError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.joules is None
    assert meter.source == f"not measured: no right to read the counters in {tmp_path}"


def test_a_zone_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    broken = add_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    broken.write_text("")
    assert "intel-rapl:0" in EnergyMeter(tmp_path).source
    add_zone(tmp_path, "intel-rapl:1", "package-1", 1)
    assert EnergyMeter(tmp_path).source == "measured: package-1"


def test_an_estimate_has_two_parts() -> None:
    work = energy.estimate(2e9, 3e6)
    assert work.arithmetic == pytest.approx(2e9 * (3.7e-12 + 0.9e-12))
    assert work.memory == pytest.approx(3e6 / 8 * 1.95e-9)
    assert work.joules == work.arithmetic + work.memory
