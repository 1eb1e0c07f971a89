from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hashdl
from hashdl import HashConfig, HashLinear, cli, demo
from hashdl.cli import main
from hashdl.training import trainer
from hashdl.tuning import training

SMALL = ["--hidden", "16", "--epochs", "2", "--batch-size", "64", "--lr", "2e-2", "--active", "20"]


def train(data: str, out: Path, *more: str) -> int:
    return main(["train", "--data", data, "--out", str(out), *SMALL, *more])


def test_train_reports_precision(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    assert train(xmc_files, out, "--json", str(copy)) == 0
    printed = capsys.readouterr().out
    report = json.loads((out / "result.json").read_text())
    result = report["contenders"]["hashed"]
    assert f"P@1    {result['p1']:.4f}" in printed
    assert "P@3" in printed
    assert "P@5" in printed
    assert result["p1"] > 0.5
    assert json.loads(copy.read_text()) == report
    assert report["machine"]["torch"]


@pytest.mark.parametrize("head", ["dense", "sampled"])
def test_train_with_the_other_heads(xmc_files: str, tmp_path: Path, head: str) -> None:
    assert train(xmc_files, tmp_path / "out", "--head", head) == 0


def test_resume_goes_on_and_needs_a_checkpoint(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(xmc_files, out, "--resume") == 2
    assert "there is no" in capsys.readouterr().err
    assert not out.exists()
    assert train(xmc_files, out) == 0
    assert train(xmc_files, out, "--resume") == 0  # nothing is left to do: the result stands
    assert train(xmc_files, out, "--resume", "--seed", "5") == 2
    assert "saved by a run with" in capsys.readouterr().err
    for wrong in (["--hidden", "8"], ["--head", "dense"]):
        assert train(xmc_files, out, "--resume", *wrong) == 2
        assert one_line(capsys.readouterr().err).startswith("hashdl: error: ")
    (out / "checkpoint.pt").write_bytes(b"")
    assert train(xmc_files, out, "--resume") == 2
    assert "not a checkpoint of hashdl (EOFError)" in one_line(capsys.readouterr().err)


def one_line(text: str) -> str:
    """What went wrong, after lines that tell of progress."""
    (line,) = [line for line in text.splitlines() if not line.startswith("Reading")]
    return line


def truncated(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:50]) + "\n")


def malformed(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[9] = "1,2 3:x"
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("damage", [truncated, malformed])
def test_a_damaged_file_is_named_and_nothing_is_written(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object
) -> None:
    out = tmp_path / "out"
    damage(tmp_path / "train.txt")  # type: ignore[operator]
    assert train(xmc_files, out) == 2
    assert "train.txt" in capsys.readouterr().err
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("data", ["nothing", "xmc:one.txt", "xmc:missing.txt,missing.txt"])
def test_bad_data_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str) -> None:
    assert train(data, tmp_path / "out") == 2
    assert "hashdl: error:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train.txt", "test.txt"])
def test_a_file_without_samples_is_named(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("0 600 200\n")
    assert train(xmc_files, tmp_path / "out") == 2
    assert f"{name} has no samples" in capsys.readouterr().err


def test_a_missing_file_is_named_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("xmc:missing.txt,missing.txt", tmp_path / "out") == 2
    assert "hashdl: error: missing.txt: No such file" in capsys.readouterr().err


def test_a_missing_module_says_where_it_is_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_numpy(args: object) -> None:
        raise ModuleNotFoundError("No module named 'numpy'")

    monkeypatch.setattr(cli, "run_info", without_numpy)
    assert main(["info"]) == 2
    assert "No module named 'numpy': pip install 'torch-hashdl[cli]'" in capsys.readouterr().err


def test_resuming_with_other_hashing_is_refused(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(xmc_files, out) == 0
    before = (out / "result.json").read_bytes()
    assert train(xmc_files, out, "--resume", "--tables", "3") == 2
    assert "config.tables': 3}" in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == before


def test_a_json_that_cannot_be_written_fails_before_the_work(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    assert train(xmc_files, tmp_path / "out", "--json", str(file / "result.json")) == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert train(xmc_files, tmp_path / "out", "--json", str(tmp_path)) == 2
    assert f"{tmp_path} is a folder, wanted the name of a file" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_files_of_different_sizes(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "test.txt"
    path.write_text(path.read_text().replace("300 600 200", "300 601 200", 1))
    assert train(xmc_files, tmp_path / "out") == 2
    assert "differ" in capsys.readouterr().err


def test_an_unwritable_folder_fails_before_the_work(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    assert train(xmc_files, file / "out") == 2
    assert main(["demo", "--out", str(file / "out")]) == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert file.read_text() == "kept"


def test_bad_hashing_is_explained(
    xmc_files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(xmc_files, tmp_path / "out", "--random", "50") == 2
    assert "HashConfig: random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--epochs", "0", "got '0', wanted a number above 0"),
        ("--init-std", "-1", "got '-1', wanted a number of 0 or more"),
        ("--lr", "nan", "got 'nan', wanted a number above 0"),
        ("--active", "x", "got 'x', wanted a number of rows"),
        ("--tables", "-2", "got '-2', wanted a whole number of 1 or more"),
        ("--threads", "100000", "got '100000', wanted at most 1024"),
    ],
)
def test_wrong_numbers_are_refused_at_once(
    flag: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train("xmc:missing.txt,missing.txt", tmp_path / "out", flag, value)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "1e30"], "got NaN"),
        (["--hidden", "1000000000000"], "memory|alloc|storage"),
    ],
)
def test_what_cannot_be_computed_is_an_error_of_one_line(
    flags: list[str],
    message: str,
    xmc_files: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(xmc_files, tmp_path / "out", *flags) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"hashdl: error: .*({message})", last)


def test_errors_of_the_program_itself_are_not_explained_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(args: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(cli, "run_info", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["info"])


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "torch" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"hashdl {hashdl.__version__}\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["train", "--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
    assert "xmc:TRAIN,TEST" in capsys.readouterr().out


def test_ctrl_c_outside_a_step_is_an_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_info", interrupted)
    assert main(["info"]) == 130


def test_demo_writes_json_and_plot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    single_label: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "load", lambda quick: single_label)
    assert main(["demo", "--quick", "--out", str(tmp_path / "demo")]) == 0
    report = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert set(report) == {"machine", "settings", "contenders"}
    assert {"dense", "sampled_1000", "hashed"} <= set(report["contenders"])
    for result in report["contenders"].values():
        assert {"step_ms", "parts_ms", "train_seconds", "top1", "top5", "lr"} <= set(result)
        assert len(result["rates_tried"]) > 1
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "hashed" in printed
    assert "three best guesses" in printed


def test_tune_prints_writes_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, queries = (torch.randn(count, 6, generator=generator) for count in (400, 200))
    np.savez(tmp_path / "layer.npz", W=rows.numpy(), queries=queries.numpy())
    tried, index = tmp_path / "tried.json", tmp_path / "layer.index"
    flags = ["--recall", "0.3", "--families", "kmeans", "--k", "3"]
    files = ["--json", str(tried), "--index", str(index)]
    assert main(["tune", str(tmp_path / "layer.npz"), *flags, *files]) == 0
    printed = capsys.readouterr().out
    assert "hashdl.HashConfig(" in printed
    report = json.loads(tried.read_text())
    assert report["met"]
    layer = HashLinear(6, 400, bias=False, config=HashConfig(**report["config"]))
    with torch.no_grad():
        layer.weight.copy_(rows)
    layer.load_index(index)
    assert report["trials"][0]["config"] == report["config"]


def test_tune_says_by_its_exit_status_that_a_target_is_missed(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "layer.npz", W=np.eye(40), queries=np.random.default_rng(0).random((50, 40))
    )
    flags = ["--recall", "1", "--touched", "0.01", "--families", "kmeans"]
    assert main(["tune", str(tmp_path / "layer.npz"), *flags]) == 1


def test_tune_training_prints_and_writes_a_configuration(
    xmc_files: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "_clock", itertools.count().__next__)  # all steps take as long
    tried = tmp_path / "tried.json"
    flags = [*SMALL, "--after", "10", "--families", "simhash", "kmeans", "--json", str(tried)]
    assert main(["tune-training", "--data", xmc_files, *flags]) == 0
    printed = capsys.readouterr().out
    assert "hashdl.HashConfig(" in printed
    report = json.loads(tried.read_text())
    assert report["settings"]["after"] == 10
    assert report["settings"]["batch_size"] == 64
    config = HashConfig(**report["config"])
    assert config.active == 20
    assert config.family in ("simhash", "kmeans")


def test_tune_training_lets_whole_classifiers_race(
    xmc_files: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = (tick / 100 for tick in itertools.count())
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=ticks.__next__))
    tried = tmp_path / "tried.json"
    flags = [*SMALL, "--after", "5", "--families", "simhash", "--json", str(tried)]
    assert main(["tune-training", "--data", xmc_files, "--seconds", "0.3", *flags]) == 0
    assert "after 0.3" in capsys.readouterr().out
    report = json.loads(tried.read_text())
    assert report["settings"]["seconds"] == 0.3
    raced = [trial for trial in report["trials"] if trial["accuracy"] is not None]
    # The given one, three sizes, and two by sketch.
    assert len(raced) == 6
    for trial in raced:
        assert trial["steps"] > 0
        assert trial["lr"] == 2e-2
        assert 0 <= trial["accuracy"] <= 1


def test_tune_training_wants_enough_samples(
    xmc_files: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SMALL, "--after", "1", "--batch-size", "1000"]
    assert main(["tune-training", "--data", xmc_files, *flags]) == 2
    wanted = "train: got 2000 samples, wanted more than 4 batches of 1000"
    assert wanted in capsys.readouterr().err
