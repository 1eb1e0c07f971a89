"""The study of widths at a tiny size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import plot, width
from benchmarks.tables import describe

pytest.importorskip("sklearn")

TINY = ["--quick", "--data", "digits", "--active", "5", "--epochs", "1", "--dense-up-to", "150"]


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    """The script seeds torch's generator; other tests should not see that."""
    with torch.random.fork_rng(devices=[]):
        yield


def test_widths_and_their_exponents(tmp_path: Path) -> None:
    path = tmp_path / "width.json"
    assert width.main([*TINY, "--neurons", "200", "--json", str(path)]) == 0
    first = json.loads(path.read_text())["contenders"]
    assert list(first) == ["hashed"]  # the dense net would be too wide
    flags = [*TINY, "--fit-from", "100", "--neurons", "100", "200", "--json", str(path)]
    assert width.main(flags) == 0
    report = json.loads(path.read_text())
    hashed = report["contenders"]["hashed"]
    assert hashed["by_rows"]["200"] == first["hashed"]["by_rows"]["200"]
    assert list(report["contenders"]["standard"]["by_rows"]) == ["100"]
    dense = 2 * 64 * 100 + 3 * 100 * 10
    assert report["contenders"]["standard"]["by_rows"]["100"]["multiplications"] == dense
    for figures in hashed["by_rows"].values():
        assert figures["multiplications"] > 0
        assert 0 <= figures["top1"] <= 1
    assert "neurons" in describe(report)
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0


def test_an_exponent_is_carried_on() -> None:
    by_rows = {str(n): {"step_ms": 1.0, "multiplications": 3 * n**0.5} for n in (100, 10_000)}
    report = {"contenders": {"hashed": {"by_rows": by_rows}}}
    width.summarize(report, 100)
    result = report["contenders"]["hashed"]
    assert result["work_exponent"] == pytest.approx(0.5)
    assert result["work_at_1e9"] == pytest.approx(3 * 1e9**0.5)
