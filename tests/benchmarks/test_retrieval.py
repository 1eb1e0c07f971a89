"""retrieval.py at tiny sizes: every contender answers, and what is compared is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import plot, retrieval

SMALL = ["--repeat", "1", "--batch", "8", "--targets", "0.5", "--families", "kmeans", "--k", "3"]
NAMES = ["dense", "faiss_ivf", "faiss_hnsw", "hnswlib", "hashdl"]
PACKAGES = {name: package for name, (_, package) in retrieval.CONTENDERS.items()}


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    linear, queries = retrieval._drawn(600, 8, seed=1)
    path = tmp_path / "layer.npz"
    np.savez(
        path,
        W=linear.weight.detach().numpy(),
        b=linear.bias.detach().numpy(),
        queries=queries[:200].numpy(),
    )
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_contender_finds_what_every_row_does(
    name: str, matrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if PACKAGES[name] is not None:
        pytest.importorskip(PACKAGES[name])
    monkeypatch.setattr(retrieval, "_SINGLE", 3)
    path = tmp_path / "report.json"
    flags = [*SMALL, "--matrix", str(matrix), "--json", str(path), "--contenders", name]
    assert retrieval.main(flags) == 0
    report = json.loads(path.read_text())
    result = report["contenders"][name]
    assert result["build_seconds"] >= 0
    points = list(result["points"].values())
    assert all(point["ms_single"] > 0 and point["ms_batch"] > 0 for point in points)
    best = max(point["recall"] for point in points)
    assert best >= {"dense": 1.0, "hashdl": 0.5}.get(name, 0.9)
    plot.plot(tmp_path / "plot.png", report)
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_what_is_not_installed_is_left_out(
    matrix: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(retrieval.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "report.json"
    flags = [*SMALL, "--matrix", str(matrix), "--json", str(path), "--contenders"]
    assert retrieval.main([*flags, "dense", "hnswlib"]) == 0
    assert "hnswlib is left out: hnswlib is not installed" in capsys.readouterr().err
    assert list(json.loads(path.read_text())["contenders"]) == ["dense"]


def test_compared_is_the_fastest_setting_with_enough_recall() -> None:
    points = {
        "a": {"recall": 0.90, "ms_single": 1.0, "ms_batch": 0.1},
        "b": {"recall": 0.96, "ms_single": 3.0, "ms_batch": 0.2},
        "c": {"recall": 0.99, "ms_single": 2.0, "ms_batch": 0.3},
    }
    report = {"contenders": {"x": {"points": points}, "y": {"points": {"a": points["a"]}}}}
    retrieval._compare(report, 0.95)
    assert report["contenders"]["x"]["ms_single_at"] == 2.0
    assert report["contenders"]["x"]["ms_batch_at"] == 0.2
    assert "ms_single_at" not in report["contenders"]["y"]


def test_recall_counts_shares_of_the_truth() -> None:
    linear, queries = retrieval._drawn(100, 4, seed=0)
    truth = torch.tensor([[1, 2], [3, 4]])
    task = retrieval.Task(linear, queries[:2], queries[2:4], truth)
    assert retrieval.recall_of(lambda x: torch.tensor([[2, 9], [4, 3]]), task) == 0.75


def test_a_file_that_lacks_an_array_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "layer.npz", W=np.ones((3, 2)))
    assert retrieval.main(["--matrix", str(tmp_path / "layer.npz")]) == 2
    assert "got no array queries" in capsys.readouterr().err
