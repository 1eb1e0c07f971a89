"""feed_forward.py at tiny sizes: what is counted, and how near outputs are, is right."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import feed_forward, plot
from benchmarks.tables import describe

TINY = ["--dim", "64", "--neurons", "1000", "--repeat", "2"]
N, D = 1000, 64


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    """Scripts seed torch's generator; other tests should not see that."""
    with torch.random.fork_rng(devices=[]):
        yield


def run(path: Path, *flags: str) -> dict[str, Any]:
    assert feed_forward.main([*TINY, *flags, "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_a_contender_for_each_share(tmp_path: Path) -> None:
    path = tmp_path / "feed_forward.json"
    report = run(path, "--shares", "0.2", "0.05")
    contenders = report["contenders"]
    assert list(contenders) == ["dense", "hashed_0.05", "hashed_0.2"]
    dense = contenders["dense"]
    assert (dense["rows_read"], dense["columns_read"]) == (N, N)
    assert (dense["vs_dense"], dense["bytes_share"]) == (1, 1)
    assert dense["firing"] == pytest.approx(0.02, abs=0.01)
    for name, A in (("hashed_0.05", 50), ("hashed_0.2", 200)):
        figures = contenders[name]
        assert len(figures["rounds_ms"]) == 2
        assert figures["forward_ms"] > 0
        assert 0 < figures["columns_read"] <= A
        assert figures["columns_read"] <= figures["rows_read"] <= 2 * A
        weights = (figures["rows_read"] + figures["columns_read"]) / (2 * N)
        assert weights < figures["bytes_share"] < weights + 0.1  # and functions
        assert figures["relative_error_of_largest"] <= figures["relative_error"] + 1e-5
        # Down columns are independent of each other.
        missed = math.sqrt(1 - figures["energy"])
        assert figures["relative_error"] == pytest.approx(missed, abs=0.2)
    assert report["settings"]["configs"]["hashed_0.05"]["family"] == "kmeans"
    assert "relative error" in describe(report)
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0


def test_what_points_where_inputs_do_is_found_and_gaussians_are_not(tmp_path: Path) -> None:
    flags = ["--dim", "256", "--shares", "0.1", "--repeat", "1", "--weights"]
    errors = {
        kind: run(tmp_path / f"{kind}.json", *flags, kind)["contenders"]["hashed_0.1"]
        for kind in ("clusters", "random")
    }
    for figures in errors.values():
        assert figures["relative_error_of_largest"] < 1e-3  # more are active than fire
    assert errors["clusters"]["relative_error"] < 0.5
    assert errors["random"]["relative_error"] > 0.6


def test_all_that_is_found_makes_the_dense_output(tmp_path: Path) -> None:
    """Every bucket is probed, and all rows are candidates."""
    flags = ["--shares", "0.1", "--batch", "3", "--repeat", "1"]
    config = ["--config", "probes=1024", "candidates=1000"]
    figures = run(tmp_path / "x.json", *flags, *config)["contenders"]["hashed_0.1"]
    assert figures["relative_error"] < 1e-5
    assert figures["energy"] == pytest.approx(1)
    assert figures["rows_read"] == N


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--config", "tabels=3"], "--config"), (["--config", "tables"], "NAME=VALUE")],
)
def test_bad_arguments_are_explained(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert feed_forward.main([*TINY, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_share_lies_between_0_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        feed_forward.main(["--shares", "1"])
    assert "wanted a share above 0 and below 1" in capsys.readouterr().err
