"""benchmarks/gpu.sh, with something in the place of what needs a GPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/gpu.sh"

# Notes what it is asked for; runs what a script of standard input says.
PYTHON = f"""#!/bin/sh
[ "$1" = - ] && exec {sys.executable} "$@"
[ "$1" = -c ] && echo 9.0 && exit "$GPU_MISSING"
echo "$TORCH_CUDA_ARCH_LIST $*" >> "$ASKED"
case "$*" in
  *benchmarks.gpu*) echo '{{"contenders": {{}}}}' > "$4";;
  *"tests/modules -k"*) echo "1 failed"; exit 3;;
  *test_config.py) exit "$CONFIG_STATUS";;
  *"not slow"*) exit 5;;
esac
"""
TOOL = """#!/bin/sh
echo "$*" >> "$ASKED"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that come first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("python3", PYTHON), ("nvidia-smi", TOOL), ("compute-sanitizer", TOOL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", str(folder / "python3"))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("GPU_MISSING", "0")
    monkeypatch.setenv("CONFIG_STATUS", "0")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    return folder


def run(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, out], capture_output=True, text=True, check=False, timeout=60
    )


def test_a_part_that_fails_is_told_and_the_others_go_on(tools: Path, tmp_path: Path) -> None:
    result = run(tmp_path / "out")
    assert result.returncode == 1, result.stderr
    report = json.loads((tmp_path / "out/gpu.json").read_text())
    assert report["contenders"] == {}
    status = {name: part["status"] for name, part in report["parts"].items()}
    sanitizers = {f"compute-sanitizer {tool}": 0 for tool in ("memcheck", "racecheck")}
    others = {"other tests": 0, "benchmarks": 0, "profile": 0}
    assert status == {"build": 0, "tests": 3, **sanitizers, **others}
    text = (tmp_path / "out/gpu.txt").read_text()
    assert "==== tests\n1 failed\n" in text
    assert text.endswith("failed: tests\n")
    asked = (tmp_path / "asked").read_text()
    assert "9.0 setup.py -q build_ext --inplace" in asked
    assert asked.count("--error-exitcode 9") == 2
    files = {path.name for path in SCRIPT.parents[1].glob("tests/**/test_*.py")}
    assert set(re.findall(r"--maxfail 3 tests/\S*/?(test_\w+\.py)", asked)) == files


def test_a_failure_among_the_other_tests_is_told(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIG_STATUS", "1")
    assert run(tmp_path / "out").returncode == 1
    report = json.loads((tmp_path / "out/gpu.json").read_text())
    assert report["parts"]["other tests"]["status"] != 0


def test_a_tool_that_is_missing_is_told(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools / "compute-sanitizer").unlink()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    if shutil.which("compute-sanitizer"):
        pytest.skip("there is one elsewhere")
    assert run(tmp_path / "out").returncode == 1
    assert "compute-sanitizer was not found" in (tmp_path / "out/gpu.txt").read_text()
    report = json.loads((tmp_path / "out/gpu.json").read_text())
    assert report["parts"]["compute-sanitizer racecheck"]["status"] == 127
    assert report["parts"]["benchmarks"]["status"] == 0


def test_without_the_benchmark_there_is_a_report_of_the_parts(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tools / "python3").write_text(PYTHON.replace("*benchmarks.gpu*)", "nothing)"))
    assert run(tmp_path).returncode == 1
    assert "build" in json.loads((tmp_path / "gpu.json").read_text())["parts"]


def test_without_a_gpu_nothing_is_begun(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_MISSING", "1")
    result = run(tmp_path / "out")
    assert result.returncode == 1
    assert "has no torch that finds a GPU" in result.stderr
    assert not (tmp_path / "out").exists()


def test_limits_of_the_parts_come_to_ten_minutes() -> None:
    parts = re.findall(r'^ *part ("[^"]*"|\w+) (\d+)', SCRIPT.read_text(), re.MULTILINE)
    assert len(parts) == 5
    # The sanitizer has two tools; the other tests may take ten seconds longer than both.
    assert sum(int(limit) * (1 + ("$tool" in name)) for name, limit in parts) + 10 <= 600
