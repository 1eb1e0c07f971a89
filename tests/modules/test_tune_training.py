"""tune_training: what it tries, how it judges, and that it leaves the layer alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, metrics, tune_training
from hashdl.hashing import FAMILIES
from hashdl.tuning import TrainingResult, TrainingTrial, training
from hashdl.tuning.race import (
    Point,
    Run,
    _after_heats,
    _best,
    _best_of_each_kind,
    _judge,
    best_kinds,
    entrants,
)

D, N = 16, 300
BASE = HashConfig(active=12, candidates=40, bits=5, tables=4, probes=2, sparse_grad=True, seed=3)


@pytest.fixture(autouse=True)
def equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes the same time, so that races do not depend on the machine."""
    ticks = itertools.count()
    monkeypatch.setattr(training, "_clock", lambda: next(ticks) / 1000)


def task(samples: int = 480, seed: int = 0) -> tuple[HashSoftmaxWithLoss, Tensor, Tensor]:
    """A head, and inputs whose label is the row of a teacher that suits them best."""
    torch.manual_seed(seed)
    teacher, x = torch.randn(N, D), torch.randn(samples, D)
    return HashSoftmaxWithLoss(D, N, config=BASE), x, (x @ teacher.t()).argmax(1)


def tuned(layer: nn.Module, x: Tensor, labels: Tensor, **changes: Any) -> TrainingResult:
    return tune_training(
        layer,  # type: ignore[arg-type]
        x,
        labels,
        **{"batch": 32, "progress": False, "families": ["simhash", "kmeans"]} | changes,
    )


def test_what_is_tried_keeps_the_budget_and_the_rest_of_the_configuration() -> None:
    head, x, labels = task()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    result = tuned(head, x, labels, families=None)
    assert {trial.config.family for trial in result.trials} == set(FAMILIES)
    for trial in result.trials:
        assert trial.config.active == BASE.active
        assert trial.config.seed == BASE.seed
        assert 0 <= trial.gradient <= 1
    configs = [trial.config for trial in result.trials]
    assert len(set(configs)) == len(configs)
    assert result.given.config == BASE
    assert result.config == result.best.config
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert head.config == BASE


def test_those_that_raced_come_first_and_are_printed() -> None:
    result = tuned(*task())
    raced = [trial for trial in result.trials if trial.accuracy is not None]
    assert list(result.trials[: len(raced)]) == raced
    assert result.given in raced
    assert len(raced) < len(result.trials)
    for trial in raced:
        assert trial.steps is not None
        assert 1 <= trial.steps <= 480 // 32
    printed = str(result)
    assert printed.count("<-") == 1
    assert "hashdl.HashConfig(" in printed
    assert result.figures()["config"]["active"] == BASE.active


def test_it_does_better_than_a_configuration_that_finds_nothing() -> None:
    head, x, labels = task(2000)
    poor = BASE.replace(probes=1, tables=1, bits=12, balance=False, center=False)
    result = tuned(head, x, labels, base=poor, families=["simhash"], lr=0.03)
    assert result.config != poor
    assert result.best.accuracy > result.given.accuracy


def test_layers_of_all_kinds_and_several_labels() -> None:
    head, x, labels = task()
    several = torch.stack([labels, torch.full_like(labels, -1)], 1)
    for layer in (head, head.linear, nn.Linear(D, N)):
        base = BASE if isinstance(layer, nn.Linear) else None
        result = tuned(layer, x, several, base=base, families=["minhash"])
        assert result.given.config == BASE


def make_run(config: HashConfig, hits: list[Tensor], ms: float, lr: float = 0.1) -> Run:
    points = [Point(i + 1, (i + 1) * ms / 1000, share) for i, share in enumerate(hits)]
    return Run(TrainingTrial(config, 0.5, 0.5), lr, points)


def test_runs_are_judged_at_the_seconds_of_the_fastest() -> None:
    """The slow one is better in the end, and was not when the fast one was done."""
    none, half, all_ = torch.zeros(100), torch.arange(100) % 2.0, torch.ones(100)
    fast = make_run(BASE, [none, half], ms=10)
    slow = make_run(BASE.replace(tables=9), [none, none, all_, all_], ms=10)
    result = _judge([fast, slow], [fast.trial, slow.trial])
    assert result.seconds == pytest.approx(0.02)
    assert result.best.config == BASE
    assert [trial.accuracy for trial in result.trials] == [0.5, 0.0]
    slow = make_run(BASE.replace(tables=9), [none, all_, all_, all_], ms=10)
    assert _judge([fast, slow], [fast.trial, slow.trial]).best.config.tables == 9


def test_between_two_looks_a_run_has_come_a_part_of_the_way() -> None:
    none, all_ = torch.zeros(100), torch.ones(100)
    fast = make_run(BASE, [none, none, none], ms=10)
    slow = make_run(BASE.replace(tables=9), [none, all_, all_], ms=12)
    result = _judge([fast, slow], [fast.trial, slow.trial])
    assert result.seconds == pytest.approx(0.03)
    assert result.best.accuracy == 1
    slow = make_run(BASE.replace(tables=9), [none, all_], ms=24)
    assert _judge([fast, slow], [fast.trial, slow.trial]).best.accuracy == pytest.approx(0.25)


def test_the_best_of_the_heat_and_the_one_given_run_the_final() -> None:
    hits = [torch.arange(100) % 10 < tenths for tenths in (1, 5, 2, 7, 3, 4)]
    heats = [
        make_run(BASE.replace(tables=i + 1), [one.float()], ms=10) for i, one in enumerate(hits)
    ]
    finalists = _best(_after_heats(heats), 3)
    assert [trial.config.tables for trial in finalists] == [1, 4, 2, 6]
    assert [trial.heat for trial in finalists] == pytest.approx([0.1, 0.7, 0.5, 0.4])


def test_every_kind_runs_the_heat_and_few_the_final() -> None:
    result = tuned(*task(), families=None)
    heats = [trial for trial in result.trials if trial.heat is not None]
    assert {trial.config.family for trial in heats} == set(FAMILIES)
    finals = [trial for trial in result.trials if trial.accuracy is not None]
    assert len(finals) == 4
    assert all(trial.heat is not None for trial in finals)
    others = [trial.heat for trial in result.trials[4 : len(heats)]]
    assert others == sorted(others, reverse=True)


def test_all_sizes_of_every_kind_run_the_heat_however_little_the_smaller_find() -> None:
    result = tuned(*task())
    heats = [trial.config for trial in result.trials if trial.heat is not None]
    for family in ("simhash", "kmeans"):
        probes = {
            config.probes
            for config in heats
            if config.family == family and config.selection == "exact"
        }
        base = 2 if family == "kmeans" else BASE.probes
        assert probes == {base, 2 * base, 3 * base}
    assert heats.count(BASE) == 1


def test_of_the_same_size_the_one_with_more_of_the_gradient_runs_the_heat() -> None:
    def look(gradient: float, **changes: object) -> TrainingTrial:
        return TrainingTrial(BASE.replace(**changes), gradient, 0.5)

    given = look(0.1)
    small, large = look(0.3, balance=False), look(0.6, balance=True, probes=6)
    looks = [given, small, look(0.2, balance=True), look(0.5, balance=False, probes=6), large]
    assert _best_of_each_kind(looks) == [given, large, small]


def test_all_sizes_of_the_best_kinds_run_a_final_of_whole_trainings() -> None:
    def heat(share: float, **changes: object) -> TrainingTrial:
        return TrainingTrial(BASE.replace(**changes), 0.5, 0.5, heat=share)

    given = heat(0.1)
    wta = [heat(0.2, family="wta"), heat(0.9, family="wta", probes=6)]
    low, minhash = heat(0.8, rank=4), [heat(0.7, family="minhash"), heat(0.3, family="minhash")]
    kinds = best_kinds([given, wta[0], minhash[1], minhash[0], wta[1], low], 2)
    assert kinds == [given, wta[1], wta[0], low]


def test_of_several_rates_the_best_one_counts() -> None:
    none, half, all_ = torch.zeros(100), torch.arange(100) % 2.0, torch.ones(100)
    runs = [
        make_run(config, [reached], ms=10, lr=lr)
        for config, lr, reached in [
            (BASE, 0.1, half),
            (BASE, 0.2, none),
            (BASE.replace(tables=9), 0.1, none),
            (BASE.replace(tables=9), 0.2, all_),
        ]
    ]
    result = _judge(runs, [runs[0].trial, runs[2].trial])
    assert [(trial.accuracy, trial.lr) for trial in result.trials] == [(1.0, 0.2), (0.5, 0.1)]


def test_what_does_the_same_as_another_is_tried_once() -> None:
    tried = entrants(BASE.replace(balance=None), ["simhash", "learned"], D)
    ways = [config.replace(balance=config.balances(D)) for config in tried if config.rank is None]
    assert len(set(ways)) == len(ways)
    assert tried[0] == BASE.replace(balance=None)


def test_what_is_better_by_chance_alone_does_not_replace_what_was_given() -> None:
    some, more = torch.zeros(100), torch.zeros(100)
    some[:50], more[1:52] = 1, 1
    given, other = make_run(BASE, [some], 10), make_run(BASE.replace(tables=9), [more], 10)
    assert _judge([given, other], [given.trial, other.trial]).best.config == BASE


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": torch.zeros(9, D + 1)}, r"inputs: got shape \(9, 17\), wanted \(\*, 16\)"),
        ({"inputs": torch.zeros(99, D)}, "inputs: got 99 samples, wanted at least 4 batches of 32"),
        ({"labels": torch.zeros(7).long()}, r"labels: got shape \(7,\), wanted \(480\)"),
        ({"labels": torch.zeros(480)}, r"labels: got torch.float32, wanted integers"),
        ({"families": ["lsh"]}, r"families: got \['lsh'\], wanted some of"),
        ({"batch": 0}, "batch: got 0, wanted 1 or more"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], match: str) -> None:
    head, x, labels = task()
    if "inputs" in changes:
        x = changes.pop("inputs")
        labels = torch.zeros(len(x)).long()
    with pytest.raises(ValueError, match=f"hashdl.tune_training: {match}"):
        tuned(head, x, changes.pop("labels", labels), **changes)


def test_other_layers_are_refused() -> None:
    _, x, labels = task()
    with pytest.raises(TypeError, match=r"hashdl\.tune_training: layer: got ReLU"):
        tuned(nn.ReLU(), x, labels)


# ---- metrics.active ----------------------------------------------------------------------------


def test_active_counts_what_a_training_step_would_meet() -> None:
    head, x, labels = task(40)
    layer = head.linear.train()
    layer.active(x)  # builds the tables
    tables = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    report = metrics.active(layer, x, labels, k=5)
    for name, buffer in layer.named_buffers():
        assert torch.equal(buffer, tables[name])
    z = (x @ layer.weight.t() + layer.bias).detach()
    rows = layer.active(x)
    recalls, shares = [], []
    for logits, own, label in zip(z, rows.tolist(), labels.tolist(), strict=True):
        best = logits.topk(5).indices.tolist()
        recalls.append(len(set(best) & set(own)) / 5)
        p = logits.double().softmax(0)
        p[label] = 0
        shares.append(float(p[[row for row in own if row >= 0]].norm() / p.norm()))
    assert report.recall == pytest.approx(sum(recalls) / 40)
    assert report.gradient == pytest.approx(sum(shares) / 40, rel=1e-4)


def test_active_sets_of_all_rows_hold_everything() -> None:
    layer = HashLinear(D, 50, config=HashConfig(active=1.0))
    report = metrics.active(layer, torch.randn(5, D))
    assert report.recall == 1
    assert report.gradient == pytest.approx(1)
