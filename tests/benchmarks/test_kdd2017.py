"""The study of hidden layers at a tiny size, and the counts that it reports."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import kdd2017, plot
from benchmarks.hidden_nets import (
    NAMES,
    OURS_ABOVE,
    Hashed,
    Net,
    Standard,
    WinnerTakeAll,
    make_methods,
)
from benchmarks.tables import describe
from hashdl import HashConfig

pytest.importorskip("sklearn")

TINY = ["--quick", "--data", "digits", "--layers", "2", "--shares", "0.1", "--epochs", "1"]
TINY += ["--width", "60", "--rates", "1e-2", "--repeat", "2"]
SIZES = [64, 100, 80, 10]


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    """The script seeds torch's generator; other tests should not see that."""
    with torch.random.fork_rng(devices=[]):
        yield


def load(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_every_method_has_its_figures_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "kdd2017.json"
    assert kdd2017.main([*TINY, "--seeds", "0", "--json", str(path)]) == 0
    first = load(path)
    assert list(first["contenders"]) == list(NAMES)
    assert kdd2017.main([*TINY, "--seeds", "0", "1", "--json", str(path)]) == 0
    report = load(path)
    for name, result in report["contenders"].items():
        ((key, point),) = result["points"].items()
        assert point["runs"]["0"] == first["contenders"][name]["points"][key]["runs"]["0"]
        assert list(point["runs"]) == ["0", "1"]
        assert 0 <= point["top1"] <= 1
        assert 0 < point["test_share"] <= 1
        assert len(point["rounds_ms"]) == 2
        assert point["step_ms"] > 0
        assert point["joules_step_estimated"] > 0
        assert (name == "standard") == (point["train_share"] == 1)
    assert report["settings"]["configs"]["hashed_published"]["bits"] == 6
    printed = describe(report)
    assert "hashed_published 10%" in printed
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert kdd2017.main([*TINY, "--width", "50", "--json", str(path)]) == 2
    assert load(path) == report


def test_rates_as_drawn_leave_the_standard_net_alone(tmp_path: Path) -> None:
    reports = []
    for flags in ([], ["--rates-as-drawn"]):
        path = tmp_path / f"{len(flags)}.json"
        some = ["--contenders", "standard", "hashed", "--seeds", "0", "--json", str(path)]
        assert kdd2017.main([*TINY, "--epochs", "3", *some, *flags]) == 0
        reports.append(load(path)["contenders"])
    one, other = (
        [point["runs"] for point in some["standard"]["points"].values()] for some in reports
    )
    assert one == other


def test_times_are_measured_again_and_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kdd2017.json"
    flags = [*TINY, "--contenders", "standard", "hashed", "--seeds", "0", "--json", str(path)]
    assert kdd2017.main(flags) == 0
    first = load(path)
    # Whoever had trained would have asked for an accuracy.
    monkeypatch.setattr(kdd2017, "accuracy", None)
    assert kdd2017.main(["--json", str(path), "--retime", "--repeat", "3"]) == 0
    again = load(path)
    changing = {"repeat": 3, "retime": True}
    assert again["settings"] == first["settings"] | changing
    for name, result in again["contenders"].items():
        for key, point in result["points"].items():
            assert point["runs"] == first["contenders"][name]["points"][key]["runs"]
            assert len(point["rounds_ms"]) == 3


def test_only_a_finished_study_is_timed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kdd2017.main(["--retime", "--json", str(tmp_path / "none.json")]) == 2
    assert "wanted a finished study's file" in capsys.readouterr().err


def test_ctrl_c_keeps_finished_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, accuracy = tmp_path / "kdd2017.json", kdd2017.accuracy
    calls = []

    def interrupt(*args: Any) -> float:
        calls.append(args)
        if len(calls) == 2:  # the first seed's test
            signal.raise_signal(signal.SIGINT)
        return accuracy(*args)

    monkeypatch.setattr(kdd2017, "accuracy", interrupt)
    flags = [*TINY, "--contenders", "standard", "--seeds", "0", "1", "--json", str(path)]
    assert kdd2017.main(flags) == 130
    (point,) = load(path)["contenders"]["standard"]["points"].values()
    assert list(point["trials"]["0.01"]) == ["0"]
    assert not point["runs"]  # of some seeds alone they would be no mean


def test_the_rate_is_the_best_of_all_seeds_together() -> None:
    def runs(*valid: float) -> dict[str, dict[str, float]]:
        return {str(seed): {"valid": accuracy} for seed, accuracy in enumerate(valid)}

    point: dict[str, Any] = {
        "trials": {"0.001": runs(0.9, 0.5), "0.003": runs(0.8, 0.7), "0.01": runs(1.0)}
    }
    kdd2017.choose_rate(point)
    assert point["lr"] == 0.003
    assert point["lr_is_outermost"]
    assert point["runs"] == runs(0.8, 0.7)


def test_bad_shares_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kdd2017.main(["--shares", "0"])
    assert "wanted a share above 0" in capsys.readouterr().err


# ---- counts ------------------------------------------------------------------------------------


def work(net: Net) -> tuple[float, float]:
    return tuple(net.multiplications(torch.rand(20, 64), 32))


def test_multiplications_of_masked_nets() -> None:
    hidden, output = 100 * 80, 80 * 10
    methods = make_methods(HashConfig())
    assert work(methods["standard"](SIZES, 0.1)) == (
        2 * 64 * 100 + 3 * hidden + 3 * output,
        64 * 100 + hidden + output,
    )
    active = 10 * 8  # of the second hidden layer, with active inputs
    dropout = 2 * 64 * 10 + 3 * active + 3 * 8 * 10
    assert work(methods["dropout"](SIZES, 0.1)) == (dropout, 64 * 100 + hidden + output)
    forward = 64 * 100 + 10 * 80 + 8 * 10  # all are ranked
    wanted = forward + 64 * 10 + 2 * active + 2 * 8 * 10
    assert work(methods["winner_take_all"](SIZES, 0.1)) == (wanted, forward)
    assert work(methods["adaptive_dropout"](SIZES, 0.1)) == (wanted, 64 * 100 + hidden + output)


def test_multiplications_of_hashed_nets_hold_hashing_and_ranking() -> None:
    # As many candidates as there are rows, so that all are found and ranked.
    config = HashConfig(bits=1, probes=2, tables=3, candidates=100, rehash_every=10, balance=False)
    net = Hashed(SIZES, 0.1, config)
    train, test = work(net)
    hashing = 3 * 65 + 3 * 101
    forward = 64 * 100 + 10 * 80 + 8 * 10
    assert test == pytest.approx(forward + hashing)
    rehash = (100 * 3 * 65 + 80 * 3 * 101) / (10 * 32)
    backward = 64 * 10 + 2 * 10 * 8 + 2 * 8 * 10
    assert train == pytest.approx(forward + hashing + rehash + backward)
    sketched = Hashed(SIZES, 0.1, config.replace(selection="sketch", sketch_bits=32))
    extra = 32 * (65 + 101) + 32 * (100 + 80)
    assert work(sketched)[1] == pytest.approx(64 * 10 + 10 * 8 + 8 * 10 + hashing + extra)


def test_multiplications_of_a_low_rank_hold_finding_its_coordinates() -> None:
    config = HashConfig(
        rank=4,
        selection="sketch",
        bits=1,
        probes=2,
        tables=1,
        candidates=100,
        rehash_every=10,
        rehash_growth=1.0,
    )
    train, test = work(Hashed(SIZES, 0.1, config))
    # Queries are mapped by the inputs that are not zero, and met by one plane.
    hashing = 4 * 65 + 4 + 4 * 11 + 4
    ranking = 4 * (100 + 80)
    forward = 64 * 10 + 10 * 8 + 8 * 10
    assert test == pytest.approx(forward + hashing + ranking)
    rows = 100 * (4 * 65 + 4) + 80 * (4 * 101 + 4)
    directions = (3 * 100 + 2 * 256) * 65 * 4 + (3 * 80 + 2 * 256) * 101 * 4
    backward = 64 * 10 + 2 * 10 * 8 + 2 * 8 * 10
    upkeep = (rows + directions) / (10 * 32)
    assert train == pytest.approx(forward + backward + hashing + ranking + upkeep)


def test_a_prediction_has_no_neurons_in_place_of_random_ones() -> None:
    # As many candidates as there are rows.
    config = HashConfig(bits=1, probes=2, tables=1, candidates=100, rehash_every=10, balance=False)
    config = config.replace(selection="union", random=0.25)
    net = Hashed(SIZES, 0.2, config)
    train, test = work(net)
    hashing = 65 + 101
    assert test == pytest.approx(64 * 15 + 15 * 12 + 12 * 10 + hashing)
    upkeep = (100 * 65 + 80 * 101) / (10 * 32)
    steps = 2 * 64 * 20 + 3 * 20 * 16 + 3 * 16 * 10
    assert train == pytest.approx(steps + hashing + upkeep)
    for layer, n in zip(net.net.hidden, SIZES[1:], strict=False):
        assert layer.hashed.active(torch.rand(3, layer.hashed.in_features)).shape == (3, 0.2 * n)


def test_multiplications_of_balancing_are_counted() -> None:
    plain = HashConfig(bits=1, probes=2, tables=1, candidates=100, balance=False)
    counts = [work(Hashed(SIZES, 0.1, plain.replace(balance=some)))[0] for some in (False, True)]
    assert counts[1] - counts[0] > (65**2 + 101**2) / 4  # the moment of the queries alone


def test_multiplications_of_a_deviation_are_counted() -> None:
    counts = [work(Hashed(SIZES, 0.1, HashConfig(), above=above)) for above in (None, 0.0, -0.5)]
    assert counts[0] == counts[1]
    assert counts[2][0] - counts[1][0] == pytest.approx(3 * (counts[2][1] - counts[1][1]))
    assert 10 < counts[2][1] - counts[1][1] <= 2 * 10


def test_deeper_layers_may_have_more_active_neurons() -> None:
    net = Hashed([64, 100, 80, 60, 10], 0.1, HashConfig(), deeper=3.0)
    sizes = [layer.hashed.tables.sizes.A for layer in net.net.hidden]
    assert sizes == [10, 24, 18]
    everything = Hashed([64, 100, 80, 10], 0.5, HashConfig(), deeper=3.0)
    assert everything.net.hidden[1].hashed.tables is None


def test_all_neurons_active_is_the_standard_net() -> None:
    standard, winners = Standard(SIZES, 0.1), WinnerTakeAll(SIZES, 1.0)
    winners.load_state_dict(standard.state_dict())
    x = torch.rand(5, 64)
    torch.testing.assert_close(winners(x), standard(x))
    few = WinnerTakeAll(SIZES, 0.1)
    assert (few.choose(torch.randn(5, 100), 0) != 0).sum(1).max() <= 10


def test_layers_are_drawn_for_their_active_inputs() -> None:
    for name, method in make_methods(HashConfig()).items():
        net = method([64, 100, 80, 10], 0.1)
        layers = net.net.hidden if isinstance(net, Hashed) else net.layers
        first, second = (next(layer.parameters()) for layer in layers[:2])  # type: ignore[index]
        assert 0.9 * 64**-0.5 < first.abs().max() <= 64**-0.5
        inputs = 100 if name in ("standard", "dropout") else 10
        # Ours counts outputs above a level near their mean, and is drawn as much larger for it.
        largest = (3 * math.exp(OURS_ABOVE / 2) if name == "hashed" else 1) * inputs**-0.5
        assert 0.9 * largest < second.abs().max() <= 1.0001 * largest
        rates = [group["lr"] for group in net.parameter_groups(0.1)]
        assert rates[:2] == pytest.approx([0.1, 0.1 * (100 / inputs) ** 0.5])
        assert len(rates) == len(SIZES) - 1


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_adaptive_dropout_finds_its_share(share: float) -> None:
    net = make_methods(HashConfig())["adaptive_dropout"](SIZES, share).train()
    z = 2 * torch.randn(500, 100)
    for _ in range(60):
        net.choose(z.abs() + 0.1, 0)  # type: ignore[operator]
    active = (net.choose(z.abs() + 0.1, 0) != 0).float().mean()  # type: ignore[operator]
    assert active == pytest.approx(share, abs=0.03)
