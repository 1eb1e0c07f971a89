"""The benchmark of hash families in training, at sizes that say nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_benchmarks import (
    is_png,
    load,
    quick_garbage_collection,  # noqa: F401
    same_generator_afterwards,  # noqa: F401
    xmc_files,
)

from benchmarks import families, plot
from benchmarks.families import OracleHead
from benchmarks.tables import describe
from hashdl import HashConfig

TINY = ["--hidden", "16", "--batch", "50", "--evaluate-every", "6", "--rates", "3e-2"]
TINY += ["--validation-share", "0.1", "--config", "active=12", "candidates=40", "--epochs", "2"]


def run(path: Path, *flags: str) -> dict[str, Any]:
    assert families.main([*flags, "--json", str(path)]) == 0
    return load(path)


def test_families_go_on_where_they_stopped(tmp_path: Path) -> None:
    path = tmp_path / "families.json"
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY]
    names = ["simhash_balanced", "oracle"]
    first = run(path, *flags, "--contenders", *names)["contenders"]
    report = run(path, *flags, "--seeds", "0", "1", "--contenders", *names, "random")
    contenders = report["contenders"]
    assert list(contenders) == [*names, "random"]
    for name in names:
        assert contenders[name]["validation"] == first[name]["validation"]
        before, after = (c[name]["runs"]["0"]["same_passes"] for c in (first, contenders))
        assert after == before
    for name, result in contenders.items():
        assert list(result["runs"]) == ["0", "1"]
        assert {"lr", "step_ms", "train_seconds", "same_passes", "same_passes_std"} <= set(result)
        assert ("same_seconds" in result) == (name != "oracle")
        assert ("gradient" in result) == (name != "oracle")
    assert contenders["oracle"]["validation"] == []
    assert contenders["oracle"]["lr"] == contenders["simhash_balanced"]["lr"]
    of_random = contenders["random"]["runs"]["0"]["same_passes"]["history"][-1]["recall"]
    assert 0 < of_random < 0.3
    assert "same seconds" in describe(report)
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0
    assert is_png(tmp_path / "plot.png")
    assert families.main([*flags, "--batch", "60", "--json", str(path)]) == 2


def test_nobody_trains_longer_than_the_fastest(tmp_path: Path) -> None:
    flags = ["--data", xmc_files(tmp_path, several=True), *TINY, "--rates", "1e-2"]
    report = run(tmp_path / "x.json", *flags, "--contenders", "simhash", "minhash", "random")
    runs = [result["runs"]["0"] for result in report["contenders"].values()]
    seconds = min(one["same_passes"]["train_seconds"] for one in runs)
    for one in runs:
        own = one["same_passes"]
        share = min(1.0, one["same_seconds"]["passes"] / own["passes"])
        assert share * own["train_seconds"] <= seconds * 1.05
    assert report["comparison"]["metric"] == "p1"


def test_the_tuner_picks_a_configuration_once(tmp_path: Path) -> None:
    path = tmp_path / "families.json"
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY, "--rates", "1e-2"]
    report = run(path, *flags, "--contenders", "simhash", "tuned", "oracle")
    tuned = report["contenders"]["tuned"]
    assert tuned["config"]["active"] == 12
    assert tuned["tuning"]["config"] == tuned["config"]
    assert tuned["tune_seconds"] > 0
    comparison = report["comparison"]
    contenders = report["contenders"]
    for key, kind, other in (
        ("tuned_less_best_family", "same_seconds", "simhash"),
        ("tuned_less_oracle", "same_passes", "oracle"),
    ):
        assert comparison[key] == pytest.approx(tuned[kind] - contenders[other][kind])
    again = run(path, *flags, "--contenders", "simhash", "tuned", "oracle")
    assert again["contenders"]["tuned"]["tuning"] == tuned["tuning"]
    assert "tuned less the oracle" in describe(again)


def test_ctrl_c_keeps_finished_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "families.json"
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY, "--rates", "1e-2"]
    summarize = families.summarize

    def interrupt(*args: Any) -> None:
        summarize(*args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(families, "summarize", interrupt)
    flags += ["--contenders", "simhash", "random", "--json", str(path)]
    assert families.main(flags) == 130
    contenders = load(path)["contenders"]
    assert list(contenders["simhash"]["runs"]["0"]) == ["same_passes"]
    assert contenders["random"]["runs"] == {}


@pytest.mark.parametrize("several", [False, True])
def test_the_oracle_learns_by_the_labels_and_the_largest_outputs(several: bool) -> None:
    torch.manual_seed(0)
    head = OracleHead(8, 60, HashConfig(active=5, sparse_grad=True))
    x = torch.randn(7, 8)
    labels = torch.randint(60, (7, 2))
    labels[3, 1] = -1 if several else labels[3, 1]
    z = F.linear(x, *head.rows())
    wanted = []
    for logits, own in zip(z, labels if several else labels[:, :1], strict=True):
        named = [int(label) for label in dict.fromkeys(own.tolist()) if label >= 0]
        others = [int(i) for i in logits.argsort(descending=True) if int(i) not in named][:5]
        log_prob = logits[named + others].log_softmax(0)
        wanted.append(-log_prob[: len(named)].mean())
    loss = head.loss(x, labels if several else labels[:, 0])
    torch.testing.assert_close(loss, torch.stack(wanted).mean())
    loss.backward()
    assert head.linear.weight.grad is not None
