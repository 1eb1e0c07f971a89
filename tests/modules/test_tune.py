"""tune: its measures against counting by hand, its choice, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, metrics, tune
from hashdl.tuning import Trial, TuneResult, search
from hashdl.tuning.curves import Curve, Preparation, Structure, Study
from hashdl.tuning.search import _Search, _Targets

N, D = 2000, 12


def clustered(count: int, seed: int) -> Tensor:
    """Vectors around 40 directions."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(40, D, generator=torch.Generator().manual_seed(99))
    which = torch.randint(40, (count,), generator=generator)
    return centers[which] + 0.3 * torch.randn(count, D, generator=generator)


def linear_of(bias: bool = True) -> nn.Linear:
    linear = nn.Linear(D, N, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(clustered(N, 1))
    return linear


def quick(layer: Any, inputs: Tensor, **changes: Any) -> TuneResult:
    given: dict[str, Any] = {"families": ["kmeans"], "progress": False, "k": 5}
    return tune(layer, inputs, **(given | changes))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings are not what is tested."""
    monkeypatch.setattr(search, "_SECONDS", 0.001)


def test_the_layer_found_meets_the_targets_on_other_inputs() -> None:
    linear = linear_of()
    result = quick(linear, clustered(800, 2), target_recall=0.9, max_touched=0.1)
    assert result.met
    report = metrics.recall(result.layer, clustered(500, 3), k=5)
    assert report.recall >= 0.88
    assert report.touched <= 0.12
    assert result.layer.weight is linear.weight
    assert result.layer.config == result.config == result.best.config


def test_targets_that_nothing_meets_are_said_to_be_missed() -> None:
    inputs = torch.randn(200, D)
    result = quick(nn.Linear(D, N), inputs, target_recall=1.0, max_touched=0.0026)
    assert not result.met
    assert "No configuration meets the targets" in str(result)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("family", ["kmeans", "simhash", "wta"])
def test_trials_say_what_the_built_layer_does(family: str, bias: bool) -> None:
    study = Study(linear_of(bias), clustered(300, 2), 5, seed=0)
    structure = Structure(family, Preparation(True, True), 5, 2)
    curve = Curve(study, structure, HashConfig(), lambda _: False)
    points = [*curve.unranked()[:3], *curve.ranked()[::40]]
    assert len(points) > 8
    for trial in map(curve.trial, points[:12]):
        layer = study.built(trial.config)
        report = metrics.recall(layer, study.held_out, 5)
        # A sketch is part of a longer one in the search, with other directions in the layer.
        slack = 0.0 if trial.config.selection == "exact" else 0.12
        assert report.recall == pytest.approx(trial.recall, abs=slack + 1e-9)
        assert report.touched == pytest.approx(trial.touched)


def test_more_probes_find_no_fewer_rows() -> None:
    study = Study(linear_of(), clustered(300, 2), 5, seed=0)
    structure = Structure("kmeans", Preparation(True, False), 6, 1)
    found = Curve(study, structure, HashConfig(), lambda _: False).found
    assert [point.probes for point in found] == sorted(point.probes for point in found)
    assert [point.found for point in found] == sorted(point.found for point in found)
    assert [point.recall for point in found] == sorted(point.recall for point in found)
    assert found[-1].recall > found[0].recall


def trial(recall: float, touched: float, cost: float, ms: float | None = None) -> Trial:
    return Trial(HashConfig(), recall, touched, touched, cost, ms)


@pytest.mark.parametrize(
    ("targets", "best"),
    [
        (_Targets(0.9, None, None), 1),  # the cheapest that meets it
        (_Targets(0.9, 0.015, None), 2),
        (_Targets(0.999, None, None), 3),  # the nearest
        (_Targets(None, 0.015, 5.0), 2),  # the largest recall within the others
        (_Targets(None, None, 5.0), 3),
        (_Targets(None, None, 1.5), 0),  # by estimate
    ],
)
def test_order(targets: _Targets, best: int) -> None:
    trials = [
        trial(0.5, 0.01, 1),
        trial(0.96, 0.02, 2),
        trial(0.95, 0.01, 3),
        trial(0.98, 0.05, 4),
    ]
    study = Study(linear_of(), clustered(2000, 2), 5, seed=0)  # so many: a small margin
    order = _Search(study, targets, HashConfig()).order
    assert min(trials, key=order) is trials[best]


def test_a_recall_just_above_its_target_is_not_enough() -> None:
    study = Study(linear_of(), clustered(200, 2), 5, seed=0)
    found = _Search(study, _Targets(0.9, None, None), HashConfig())
    assert not found.meets(trial(0.901, 0.01, 1))
    assert found.meets(trial(0.94, 0.01, 1))


def test_layers_of_all_kinds() -> None:
    inputs = clustered(200, 2)
    hashed = HashLinear(D, N)
    before = hashed.tables
    assert quick(hashed, inputs, target_recall=0.3).config.family == "kmeans"
    assert hashed.tables is before
    assert quick(HashSoftmaxWithLoss(D, N), inputs, target_recall=0.3).layer.out_features == N


def test_the_same_seed_tries_the_same() -> None:
    linear, inputs = linear_of(), clustered(300, 2)
    one, other = (quick(linear, inputs, target_recall=0.8).trials for _ in range(2))

    def tried(trials: tuple[Trial, ...]) -> set[tuple[HashConfig, float, float]]:
        return {(t.config, t.recall, t.touched) for t in trials}

    assert tried(one) == tried(other)


def test_the_table_has_what_was_timed_and_a_line_for_every_other_family() -> None:
    families = ["kmeans", "simhash", "wta"]
    result = quick(linear_of(), clustered(300, 2), target_recall=0.8, families=families)
    lines = result.table.splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(families)
    assert sum(line.endswith("<-") for line in lines) == 1
    assert "hashdl.HashConfig(" in str(result)


def test_it_says_when_every_row_is_faster() -> None:
    result = quick(linear_of(), clustered(300, 2), target_recall=0.8)
    for dense_ms, verdict in ((8.0, "4 times as fast as"), (0.5, "4 times as slow as")):
        told = dataclasses.replace(
            result, dense_ms=dense_ms, best=dataclasses.replace(result.best, ms=2.0)
        )
        assert f"{verdict} every row" in str(told)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target_recall": 0.0}, "target_recall: got 0.0"),
        ({"max_touched": 1.5}, "max_touched: got 1.5"),
        ({"max_ms": -1.0}, "max_ms: got -1.0"),
        ({"k": 0}, "k: got 0, wanted 1 to N = 2000"),
        ({"batch": 0}, "batch: got 0"),
        ({"families": ["best"]}, r"families: got \['best'\]"),
        ({"families": []}, "families: got none"),
        ({"inputs": torch.ones(3, D)}, "inputs: got 3 samples, wanted at least 32: half of them"),
        ({"inputs": torch.ones(30, D + 1)}, r"inputs: got shape \(30, 13\), wanted \(\*, 12\)"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], match: str) -> None:
    inputs = changes.pop("inputs", torch.ones(40, D))
    with pytest.raises(ValueError, match=f"hashdl.tune: {match}"):
        quick(linear_of(), inputs, **changes)


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="layer: got Conv2d"):
        quick(nn.Conv2d(1, 1, 1), torch.ones(40, D))
