"""tune: its measures against counting by hand, its choice, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hashdl import HashConfig, HashLinear, HashSoftmaxWithLoss, metrics, tune
from hashdl.tuning import Trial, TuneResult, search, timing
from hashdl.tuning.curves import Curve, Preparation, Structure, Study, _ranks
from hashdl.tuning.search import _entered, _Search, _Targets

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


def drawn(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def searched(
    rows: Tensor, inputs: Tensor, family: str, recall: float = 0.9, batch: int = 256
) -> list[Trial]:
    """The trials of a family, the most promising first, with the costs that are estimated."""
    linear = nn.Linear(rows.shape[1], len(rows), bias=False)
    with torch.no_grad():
        linear.weight.copy_(rows)
    study = Study(linear, inputs, 5, 0, batch)
    return _Search(study, _Targets(recall, None, None), HashConfig()).run([family], progress=False)


def test_a_transform_is_found_where_rows_differ_much_in_length() -> None:
    rows = drawn(1000, 24, seed=1) * (0.7 * drawn(1000, 1, seed=2)).exp()
    best, *others = searched(rows, drawn(200, 24, seed=3), "wta")
    assert best.config.transform is not None
    plain = next(trial for trial in others if trial.config.transform is None)
    assert best.found < plain.found
    assert best.estimate_ms < plain.estimate_ms


@pytest.mark.parametrize("family", ["kmeans", "simhash"])
def test_a_low_rank_is_found_where_inputs_tell_few_directions_apart(family: str) -> None:
    inputs = drawn(80, 6, seed=1) @ drawn(6, 80, seed=2)
    best, *others = searched(drawn(1000, 80, seed=3), inputs, family)
    assert best.config.rank is not None
    plain = next(trial for trial in others if trial.config.rank is None)
    assert best.found < plain.found / 2


def test_a_smaller_cap_is_found_where_it_costs_no_answers() -> None:
    """Half of the rows fill one bucket of each table, and none of them is ever an answer."""
    rows = drawn(1000, 12, seed=1)
    rows[500:] = 0.05 * drawn(12, seed=2) + 1e-4 * drawn(500, 12, seed=3)
    best, *others = searched(rows, drawn(200, 12, seed=4), "simhash")
    assert best.capped
    assert best.config.cap < 500
    whole = next(trial for trial in others if not trial.capped)
    assert best.found < whole.found
    assert best.recall >= 0.9


@pytest.mark.parametrize("cap", [None, 5])
def test_look_ups_with_a_cap_find_what_the_built_layer_finds(cap: int | None) -> None:
    study = Study(linear_of(), clustered(300, 2), 5, seed=0)
    structure = Structure("simhash", Preparation(True, False), 6, 2, cap)
    curve = Curve(study, structure, HashConfig(), lambda _: False)
    assert curve.max_load > 5
    for trial in map(curve.trial, curve.unranked()[:6]):
        assert trial.capped == (cap is not None)
        report = metrics.recall(study.built(trial.config), study.held_out, 5)
        # Other places in full buckets are read.
        assert report.recall == pytest.approx(trial.recall, abs=0.0 if cap is None else 0.08)
        assert report.touched == pytest.approx(trial.touched, rel=1e-6 if cap is None else 0.1)


@pytest.mark.parametrize(
    "prepared",
    [
        Preparation(True, True, transform="simple"),
        Preparation(False, False, transform="l2_alsh"),
        Preparation(True, False, rank=6),
    ],
)
def test_transforms_and_ranks_do_in_the_layer_what_was_measured(prepared: Preparation) -> None:
    study = Study(linear_of(), clustered(300, 2), 5, seed=0)
    curve = Curve(study, Structure("simhash", prepared, 5, 2), HashConfig(), lambda _: False)
    for trial in map(curve.trial, [*curve.unranked()[:3], *curve.ranked()[:60:10]]):
        assert (trial.config.rank, trial.config.transform) == prepared[2:]
        report = metrics.recall(study.built(trial.config), study.held_out, 5)
        # A sketch by coordinates is the layer's own; one of sign bits has other directions.
        known = prepared.rank is not None or trial.config.selection == "exact"
        assert report.recall == pytest.approx(trial.recall, abs=0.01 if known else 0.12)
        assert report.touched == pytest.approx(trial.touched)


def test_ranks_are_counted_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    B, C, k, count = 3, 40, 4, 5
    scores = torch.randint(12, (B, C), generator=generator).float()
    levels = torch.randint(count + 1, (B, C), generator=generator).to(torch.int8)
    of_true, of_truth = scores[:, :k], levels[:, :k]
    ranks = _ranks(scores, levels.long(), of_true, of_truth, count)
    for i, b, j in itertools.product(range(count), range(B), range(k)):
        found = scores[b][levels[b] <= i]
        before = int((found > of_true[b, j]).sum())
        rank = int(ranks[i, b, j])
        assert rank == before if of_truth[b, j] <= i else rank > C


def test_no_sketches_are_made_of_tables_that_find_too_little() -> None:
    study = Study(linear_of(), clustered(600, 2), 5, seed=0)
    found = _Search(study, _Targets(0.9, None, None), HashConfig())
    good, poor = (
        Structure(family, Preparation(True, True), 7, tables)
        for family, tables in (("kmeans", 1), ("minhash", 2))
    )
    found.add(good)
    assert any(trial.config.selection == "sketch" for trial in found.trials)
    found.add(poor)
    of_poor = [trial for trial in found.trials if trial.config.family == "minhash"]
    assert {trial.config.selection for trial in of_poor} == {"exact"}


def test_few_of_the_same_tables_are_timed() -> None:
    same = [dataclasses.replace(trial(0.9, 0.1, cost), config=HashConfig()) for cost in range(20)]
    other = dataclasses.replace(trial(0.9, 0.1, 99), config=HashConfig(bits=9))
    entered, others = _entered([*same, other])
    assert entered == [*same[:3], other]
    assert others == same[3:]


def test_with_equal_clocks_the_same_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, linear = [], linear_of()
    for _ in range(2):
        ticks = itertools.count()
        monkeypatch.setattr(timing, "_clock", lambda ticks=ticks: next(ticks) / 1024)
        chosen.append(quick(linear, clustered(300, 2), target_recall=0.8))
    assert chosen[0].config == chosen[1].config
    assert chosen[0].trials == chosen[1].trials
    assert chosen[0].table == chosen[1].table


def test_the_table_speaks_of_caps_where_there_are_any() -> None:
    result = quick(linear_of(), clustered(300, 2), target_recall=0.8)
    config = HashConfig(bits=5, cap=77, transform="simple", rank=4, selection="sketch", active=9)
    told = Trial(config, 0.9, 0.1, 0.2, 1.0, ms=1.0)
    for capped in (False, True):
        shown = dataclasses.replace(told, capped=capped)
        table = dataclasses.replace(result, best=shown, trials=(shown,)).table
        assert ("cap" in table.splitlines()[0].split()) == capped
        assert ("77" in table) == capped
        assert "center+rank 4+simple" in table
        assert "4 coordinates, then 9 rows" in table


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


def test_a_family_may_be_named_by_itself() -> None:
    result = quick(linear_of(), torch.randn(40, D), families="simhash")
    assert {trial.config.family for trial in result.trials} == {"simhash"}


def test_one_row_or_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hashdl\.tune: layer: got 1 row, wanted 2 or more"):
        quick(nn.Linear(D, 1), torch.ones(40, D), k=1)
    with pytest.raises(TypeError, match=r"hashdl\.tune: inputs: got list, wanted a Tensor"):
        quick(linear_of(), torch.ones(40, D).tolist())


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="layer: got Conv2d"):
        quick(nn.Conv2d(1, 1, 1), torch.ones(40, D))
