from __future__ import annotations

import argparse
import gc
import itertools
import json
import runpy
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import gpu, kernels, output_layer, plot, scaling, steps, time_to_accuracy
from benchmarks.common import crossing, exponent, interleave, new_report
from benchmarks.layers import (
    CONFIGS,
    CORRECTED,
    NAMES,
    OPTIMIZERS,
    AdaptiveHead,
    ChunkedHead,
    OnednnHead,
    available,
    make_configs,
    make_factories,
)
from benchmarks.steps import Inputs, Setup
from benchmarks.tables import describe
from hashdl.data import SparseDataset, write_xmc
from hashdl.training import trainer
from hashdl.training.heads import DenseHead

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("output_layer", "scaling", "kernels", "time_to_accuracy", "plot", "gpu")
SCRIPTS += ("kdd2017", "width", "hogwild", "feed_forward")
LAYER = ["--dim", "16", "--batch", "8", "--repeat", "2", "--config", "rehash_every=2"]
Main = Callable[[list[str]], int]


@pytest.fixture(autouse=True)
def same_generator_afterwards() -> Iterator[None]:
    """Scripts seed torch's generator; other tests should not see that."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection() -> Iterator[None]:
    """Memory is measured after a collection, which looks at all of torch: here, at what is new."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def run(main: Main, path: Path, *flags: str) -> dict[str, Any]:
    assert main([*flags, "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    assert {"machine", "settings", "contenders"} <= set(report)
    assert report["machine"]["torch"] == torch.__version__
    assert set(report["contenders"]) <= {*NAMES, "dense_best"}
    return report


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def make_data(samples: int, labels: int, seed: int, *, several: bool) -> SparseDataset:
    """A label's samples share a feature."""
    label = torch.randint(labels, (samples, 2 if several else 1)).sort(1).values
    label[:, -1] += label[:, -1] == label[:, 0] if several else 0
    return SparseDataset(
        indptr=torch.arange(samples + 1),
        indices=label[:, 0].to(torch.int32),
        values=torch.ones(samples),
        label_indptr=torch.arange(0, label.numel() + 1, label.shape[1]),
        label_indices=label.flatten().to(torch.int32),
        n_features=labels + 1,
        n_labels=labels + 1,
    )


def xmc_files(folder: Path, *, several: bool) -> str:
    paths = folder / "train.txt", folder / "test.txt"
    for seed, path in enumerate(paths):
        write_xmc(make_data(300 if seed == 0 else 50, 299, seed, several=several), path)
    return "xmc:" + ",".join(map(str, paths))


# ---- the scripts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each script but time_to_accuracy.py."""
    folder: Path = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_MOST_STEPS", 4)
        run(output_layer.main, folder / "output_layer.json", "--rows", "400", *LAYER)
        sweep = ["--break-even", "--contenders", "hashed", "--rows", "600", "400"]
        sweep += ["--labels", "uniform", *LAYER, "--repeat", "1"]
        run(output_layer.main, folder / "sweep.json", *sweep)
        grid = ["--rows", "4e2", "6e2", "--fit-from", "400", "--contenders", "hashed_shared"]
        grid += ["--optimizer", "rowwise_adagrad", *LAYER, "--repeat", "1"]
        run(scaling.main, folder / "scaling.json", *grid)
        sizes = ["--rows", "400", "--copy-mb", "1", "--sgemm-size", "64", *LAYER, "--repeat", "1"]
        run(kernels.main, folder / "kernels.json", *sizes)
        narrow = ["--rows", "400", "--contenders", "dense", "hashed", "--optimizer", "adam_bf16"]
        run(output_layer.main, folder / "narrow.json", *narrow, *LAYER)
    return folder


def load(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_output_layer(results: Path) -> None:
    report = load(results / "output_layer.json")
    assert list(report["contenders"]) == available(NAMES)
    for name, result in report["contenders"].items():
        assert {"step_ms", "parts_ms", "vs_dense", "vs_sampled_1000", "rows_read"} <= set(result)
        assert result["longest_ms"] >= result["step_ms"]
        assert len(result["rounds_ms"]) == 2
        assert {"forward", "backward", "optimizer"} <= set(result["parts_ms"])
        assert ("rehash" in result["parts_ms"]) == name.startswith("hashed")
        assert "train_seconds" not in result
    assert report["contenders"]["hashed"]["block_steps"] == 2
    assert report["contenders"]["dense"]["vs_dense"] == 1
    assert report["settings"]["configs"]["hashed"]["active"] == 200
    printed = describe(report)
    assert "hashed_shared" in printed
    assert "of sampled_1000" in printed


def test_states_in_bfloat16(results: Path) -> None:
    report = load(results / "narrow.json")
    assert report["settings"]["optimizer"] == "adam_bf16"
    assert set(report["contenders"]) == {"dense", "hashed"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_dense_and_sparse_gradients(name: str) -> None:
    dense, rows = (nn.Parameter(torch.ones(6, 3)) for _ in range(2))
    optimizer = OPTIMIZERS[name]([dense, rows])
    dense.grad = torch.ones(6, 3)
    rows.grad = torch.sparse_coo_tensor([[2]], torch.ones(1, 3), (6, 3), check_invariants=True)
    optimizer.step()
    assert bool((dense < 1).all())
    assert (rows < 1).all(1).nonzero().tolist() == [[2]]
    states = [optimizer.state[weight].get("exp_avg") for weight in (dense, rows)]
    narrow = [state.dtype == torch.bfloat16 for state in states if state is not None]
    assert narrow == {"adam": [False] * 2, "adam_bf16": [True] * 2}.get(name, [])


def test_break_even(results: Path) -> None:
    report = load(results / "sweep.json")
    assert list(report["contenders"]) == ["dense", "hashed"]
    assert list(report["contenders"]["hashed"]["by_rows"]) == ["400", "600"]
    assert "break_even_rows" in report["contenders"]["hashed"]


def test_scaling(results: Path) -> None:
    result = load(results / "scaling.json")["contenders"]["hashed_shared"]
    assert isinstance(result["exponent"], float)
    assert {"step_ms", "parts_ms"} <= set(result["by_rows"]["600"])


def test_gpu_runs_on_a_cpu_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    sizes = ("--rows", "500", "600", "--batch", "4", "--dim", "16", "--steps", "1", "--repeat", "1")
    assert gpu.main(["--device", "cpu", "--json", str(path), *sizes]) == 0
    report = load(path)
    for name in ("dense", "hashed"):
        by_rows = report["contenders"][name]["by_rows"]
        assert set(by_rows) == {"500", "600"}
        assert all(figures["step_ms"] > 0 for figures in by_rows.values())
        assert all(figures["find_ms"] > 0 for figures in by_rows.values())
        assert all(figures["find_one_ms"] > 0 for figures in by_rows.values())
        assert all(figures["vs_dense"] > 0 for figures in by_rows.values())
    assert {"look-up", "optimizer"} <= set(by_rows["600"]["parts_ms"])
    for rows in ("break_even_rows", "find_break_even_rows", "find_one_break_even_rows"):
        assert rows in report["contenders"]["hashed"]
        assert rows not in report["contenders"]["dense"]
    assert report["kernels"]["copy"]["share_of_copy"] == 1
    assert "ms a step at 600 rows" in capsys.readouterr().out


def test_a_chunked_loss_on_a_gpu_is_the_dense_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, 16, requires_grad=True)
    weight, target = torch.randn(50, 16, requires_grad=True), torch.randint(50, (600,))
    expected = F.cross_entropy(x @ weight.t(), target)
    loss = gpu.ChunkedCrossEntropy.apply(x, weight, target)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, [x, weight])
    torch.testing.assert_close(torch.autograd.grad(loss, [x, weight]), wanted)


def test_layers_that_do_not_fit_are_left_out_of_comparisons() -> None:
    contenders = {
        "dense": {"by_rows": {"10": {"step_ms": 2.0}, "20": {"error": "out of memory"}}},
        "hashed": {"by_rows": {"10": {"step_ms": 4.0}, "20": {"step_ms": 4.0}}},
    }
    gpu.compare(contenders)
    assert contenders["hashed"]["by_rows"] == {
        "10": {"step_ms": 4.0, "vs_dense": 2.0},
        "20": {"step_ms": 4.0},
    }


def test_kernels(results: Path) -> None:
    report = load(results / "kernels.json")
    assert len(report["kernels"]) == 8
    for figures in report["kernels"].values():
        wanted = {"ms", "bytes", "flops", "ideal_ms", "share", "share_of_row_reads"}
        assert wanted == set(figures)
        assert figures["bytes"] > 0
    wanted = {"copy_gb_per_s", "row_reads_gb_per_s", "sgemm_gflop_per_s"}
    assert wanted <= set(report["machine"])


def test_a_page_of_nothing_is_not_written(tmp_path: Path) -> None:
    page = runpy.run_path(str(ROOT / "docs" / "update_benchmarks.py"))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "benchmarks.md").write_text("kept")
    with pytest.raises(ValueError, match="got no report of a finished run"):
        page["main"](tmp_path, docs)
    assert (docs / "benchmarks.md").read_text() == "kept"


def test_the_page_has_a_section_for_each_file_there_is(results: Path, tmp_path: Path) -> None:
    page = runpy.run_path(str(ROOT / "docs" / "update_benchmarks.py"))
    reports = list(results.glob("*.json"))
    (results / "rates.json").write_text("{}")
    page["main"](results, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("\n## ") == len(reports) >= 4
    assert page["TITLES"]["time_to_accuracy"] not in text
    assert "| dense " in text
    copies = tmp_path / "benchmarks"
    for stem in ("output_layer", "sweep", "scaling", "kernels"):
        assert is_png(copies / f"{stem}.png")
        assert load(copies / f"{stem}.json") == load(results / f"{stem}.json")
    assert not (copies / "rates.json").exists()


TINY_RUN = ["--hidden", "16", "--batch", "50", "--evaluate-every", "3", "--rates", "3e-2"]
TINY_RUN += ["--validation-share", "0.1", "--epochs", "all=1", "dense=2"]


def test_time_to_accuracy_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "time_to_accuracy.json"
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY_RUN]
    first = run(time_to_accuracy.main, path, *flags, "--seeds", "0", "--contenders", "dense")
    names = ["dense", "chunked"]
    stopped = load(path)
    stopped["contenders"]["hashed"] = {"validation": [], "runs": {}}  # in its search
    path.write_text(json.dumps(stopped))
    report = run(time_to_accuracy.main, path, *flags, "--seeds", "0", "1", "--contenders", *names)
    contenders = report["contenders"]
    assert contenders.pop("hashed")["runs"] == {}
    assert list(contenders) == available(names)
    before, after = first["contenders"]["dense"], contenders["dense"]
    assert after["runs"]["0"] == before["runs"]["0"]
    assert after["validation"] == before["validation"]
    for result in contenders.values():
        assert list(result["runs"]) == ["0", "1"]
        assert {"lr", "step_ms", "parts_ms", "train_seconds", "top1", "reached"} <= set(result)
        assert {"seconds_to_goal", "seconds_to_goal_std", "best_top1"} <= set(result)
    if "chunked" in contenders:  # the same loss: not searched again
        assert contenders["chunked"]["lr"] == after["lr"]
        assert contenders["chunked"]["validation"] == []
    assert after["reached"] >= 1
    assert report["goal"]["accuracy"] == pytest.approx(after["best_top1"] - 0.01)
    other = [*flags, "--seeds", "0", "--batch", "60", "--json", str(path)]
    before_refusal = path.read_text()
    assert time_to_accuracy.main(other) == 2
    assert path.read_text() == before_refusal
    assert plot.main([str(path), str(tmp_path / "plot.png")]) == 0
    assert is_png(tmp_path / "plot.png")


def test_the_goal_is_reached_in_the_fewest_seconds() -> None:
    results = [
        {"epochs": epochs, "batch": batch, "lr": lr, "train_seconds": seconds, "p1": p1}
        for epochs, batch, lr, seconds, p1 in (
            (3, 8, 0.1, 30, 0.75),
            (1, 8, 0.1, 10, 0.6),
            (2, 8, 0.1, 20, 0.73),
            (3, 16, 0.1, 18, 0.71),
            (3, 16, 0.2, 19, 0.72),  # no other step than at .1: as fast
        )
    ]
    assert time_to_accuracy.soonest(results, "p1", 0.7) == results[4]
    assert time_to_accuracy.soonest(results, "p1", 0.725) == results[2]
    assert time_to_accuracy.soonest(results, "p1", 0.74) == results[0]
    assert time_to_accuracy.soonest(results, "p1", 0.8) == results[0]


def test_sizes_of_batches_are_searched(tmp_path: Path) -> None:
    path, epochs = tmp_path / "x.json", ["--epochs", "all=1"]
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY_RUN, *epochs, "--seeds", "0"]
    flags += ["--contenders", "dense", "hashed", "--batches", "hashed=20,100"]
    contenders = run(time_to_accuracy.main, path, *flags)["contenders"]
    tried = {
        name: [trial["batch"] for trial in result["validation"]]
        for name, result in contenders.items()
    }
    assert tried == {"dense": [50], "hashed": [20, 100]}
    for result in contenders.values():
        run_of_it = result["runs"]["0"]
        assert run_of_it["batch"] == result["batch"]
        # Accuracy is looked at after as many samples: every third step of 50.
        steps = max(1, round(150 / result["batch"]))
        assert run_of_it["history"][0]["step"] == min(steps, run_of_it["steps"])


def test_dense_is_trained_for_the_goal_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_to_accuracy, "_MARGIN", 1.0)  # any run reaches the goal
    ticks = (float(tick) for tick in itertools.count())  # of two runs the longer takes longer
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=ticks.__next__))
    path = tmp_path / "x.json"
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY_RUN, "--seeds", "0"]
    flags += ["--epochs", "dense=4,1", "hashed=1", "--contenders", "dense", "hashed"]
    contenders = run(time_to_accuracy.main, path, *flags)["contenders"]
    chosen = {name: result["runs"]["0"]["epochs"] for name, result in contenders.items()}
    assert chosen == {"dense_best": 4, "dense": 1, "hashed": 1}
    again = run(time_to_accuracy.main, path, *flags)["contenders"]
    assert again["dense_best"]["runs"] == contenders["dense_best"]["runs"]


def test_contenders_that_take_one_label_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert available(NAMES, single_label=False) == [
        name for name in NAMES if name not in ("chunked", "adaptive")
    ]
    assert "adaptive is left out" in capsys.readouterr().err


def test_time_to_accuracy_with_several_labels(tmp_path: Path) -> None:
    flags = ["--data", xmc_files(tmp_path, several=True), *TINY_RUN, "--seeds", "0"]
    report = run(time_to_accuracy.main, tmp_path / "x.json", *flags, "--contenders", "dense")
    assert report["goal"]["metric"] == "p1"
    assert report["contenders"]["dense"]["best_p1"] >= report["goal"]["accuracy"]


def test_ctrl_c_between_runs_keeps_finished_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "time_to_accuracy.json"
    flags = ["--data", xmc_files(tmp_path, several=False), *TINY_RUN, "--seeds", "0"]
    costs = time_to_accuracy.add_costs

    def interrupt(*args: Any) -> None:
        costs(*args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(time_to_accuracy, "add_costs", interrupt)
    flags += ["--contenders", "dense", "hashed", "--json", str(path)]
    assert time_to_accuracy.main(flags) == 130
    contenders = load(path)["contenders"]
    assert list(contenders["dense"]["runs"]) == ["0"]
    assert contenders["hashed"]["runs"] == {}


# ---- their pieces ------------------------------------------------------------------------------


def test_every_script_shows_how_to_run_it() -> None:
    for name in SCRIPTS:
        text = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert f"\npython benchmarks/{name}.py" in text.replace("\n    ", "\n")


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (output_layer.main, ["--rows", "500", "600"], "without --break-even"),
        (output_layer.main, ["--config", "table=3"], "--config"),
        (output_layer.main, ["--config", "tables"], "NAME=VALUE"),
        (output_layer.main, ["--config", "rehash_growth=2"], "rehash_growth"),
        (output_layer.main, ["--rows", "1e12"], "GB"),
        (time_to_accuracy.main, ["--data", "nothing"], "--data"),
    ],
)
def test_bad_arguments_are_explained(
    main: Main, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    assert message in capsys.readouterr().err


def test_passes_and_batches_by_contender() -> None:
    default = {"dense": (1.0,), "hashed": (3.0, 4.0)}
    passes = time_to_accuracy.tried("--epochs", ["all=2", "dense=1,1.5"], default)
    assert passes == {"dense": (1, 1.5), "hashed": (2,)}
    assert time_to_accuracy.tried("--epochs", [], default) == default
    for wrong in ("dens=1", "dense=0", "dense=1,-2"):
        with pytest.raises(ValueError, match=r"--epochs: got .*dens"):
            time_to_accuracy.tried("--epochs", [wrong], default)
    with pytest.raises(ValueError, match="literal"):
        time_to_accuracy.tried("--batches", ["dense=1.5"], {"dense": (256,)})


def test_sizes_that_do_not_fit_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--rows", "400", "1e12", "--contenders", "hashed"]
    report = run(scaling.main, tmp_path / "scaling.json", *flags, *LAYER)
    assert list(report["contenders"]["hashed"]["by_rows"]) == ["400"]
    assert "exponent" not in report["contenders"]["hashed"]
    assert "left out" in capsys.readouterr().err


def test_ctrl_c_keeps_whole_rounds() -> None:
    calls: list[str] = []

    def measure(name: str) -> Callable[[], float]:
        return lambda: float(calls.append(name) or len(calls))

    measures = {"a": measure("a"), "b": measure("b")}
    assert interleave(measures, 9, lambda: len(calls) >= 5, "x") == {"a": [1, 3], "b": [2, 4]}
    calls.clear()
    assert interleave(measures, 9, lambda: len(calls) >= 4, "x") == {"a": [1, 3], "b": [2, 4]}
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        interleave(measures, 9, lambda: True, "x")


def test_crossing() -> None:
    def at(ratios: dict[int, float]) -> float | None:
        return crossing({str(rows): {"vs_dense": ratio} for rows, ratio in ratios.items()})

    assert at({100: 10.0, 10_000: 0.1}) == pytest.approx(1000)
    assert at({1: 0.5, 10: 2.0, 100: 2.0, 1000: 0.5}) == pytest.approx(316.2, 0.01)
    assert at({10: 0.9, 100: 0.5}) is None
    assert at({10: 3.0, 100: 1.5}) is None
    assert at({}) is None
    without = {"100": {"vs_dense": 10.0}, "10000": {"vs_dense": 0.1}, "10": {"step_ms": 1.0}}
    assert crossing(without) == pytest.approx(1000)


def test_exponent() -> None:
    by_rows = {str(n): {"step_ms": 3 * n**0.5} for n in (10, 1000, 4000, 90_000)}
    by_rows["10"]["step_ms"] = 1e6
    assert exponent(by_rows, 1000) == pytest.approx(0.5)
    assert exponent(by_rows, 90_000) is None


@pytest.mark.parametrize("labels", ["zipf", "uniform"])
def test_inputs(labels: str) -> None:
    inputs = Inputs(100, 16, 4000, labels, seed=1)
    hidden, targets = inputs.batches(1)[0]
    assert hidden.shape == (4000, 16)
    assert hidden.requires_grad
    assert float(hidden.detach().min()) == 0
    assert 0 <= int(targets.min()) <= int(targets.max()) < 100
    expected = inputs.frequencies() / inputs.frequencies().sum()
    drawn = torch.bincount(targets, minlength=100) / 4000
    torch.testing.assert_close(drawn, expected.float(), atol=0.03, rtol=0)
    again = Inputs(100, 16, 4000, labels, seed=1).batches(2)
    assert torch.equal(again[0][0], hidden)
    assert not torch.equal(again[1][0], hidden)


def test_hashed_contenders_find_enough_candidates() -> None:
    configs = make_configs(CONFIGS, [], rehash_growth=1.0)
    setup = Setup(20_000, 16, 8, "zipf", "adam", 0, configs)
    assert setup.build("hashed").rows_read() > 380


@pytest.mark.parametrize("make", [ChunkedHead, OnednnHead])
def test_other_dense_losses_are_the_dense_one(make: type[DenseHead]) -> None:
    if make is ChunkedHead and not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this torch has none")
    torch.manual_seed(0)
    dense, other = DenseHead(16, 500), make(16, 500)
    other.load_state_dict(dense.state_dict())
    hidden, targets = Inputs(500, 16, 200, "zipf", 0).batches(1)[0]
    expected, loss = dense.loss(hidden, targets), other.loss(hidden, targets)
    torch.testing.assert_close(loss, expected)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(other.linear.weight.grad, dense.linear.weight.grad)


def test_adaptive_orders_classes_by_frequency() -> None:
    frequencies = torch.arange(200)  # the last class is the most frequent
    head = AdaptiveHead(16, 200, frequencies)
    hidden, targets = torch.randn(30, 16), torch.arange(170, 200)
    expected = head.softmax(hidden, 199 - targets).loss
    torch.testing.assert_close(head.loss(hidden, targets), expected)
    best = head.softmax.log_prob(hidden).argmax(1)
    assert torch.equal(head.topk(hidden, 3)[:, 0], 199 - best)
    assert 0 < head.multiplications(8) < 3 * 200 * 16
    assert 0 < head.rows_read(hidden, targets) < 200


def test_every_contender_has_a_layer_and_an_estimate_of_memory() -> None:
    configs = make_configs(CONFIGS, [])
    assert set(make_factories(configs, torch.ones(200))) == {*NAMES, *CORRECTED}
    for optimizer in OPTIMIZERS:
        setup = Setup(10_000_000, 128, 128, "zipf", optimizer, 0, configs)
        assert all(1e9 < setup.bytes_needed(name) < 1e11 for name in NAMES)
    assert setup.bytes_needed("hashed") < 24e9


@pytest.mark.parametrize(
    ("given", "recorded"),
    [("xmc:/data/train.txt,old/test.txt", "xmc:train.txt,test.txt"), ("lemmas", "lemmas")],
)
def test_reports_name_files_without_folders(given: str, recorded: str) -> None:
    report = new_report("time_to_accuracy", argparse.Namespace(data=given))
    assert report["settings"]["data"] == recorded
