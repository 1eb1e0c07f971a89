"""benchmarks/gpu_profile.py, with something in the place of ncu."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu_profile

HEADER = ["ID", "Kernel Name", *gpu_profile._METRICS]
LAUNCHES = [
    ["", "", "ns", "byte", "%", "%", "register/thread"],
    ["0", "void hashdl::cuda::<unnamed>::adam_kernel<x>(y)", "1,500", "4,000,000", "50", "40", "6"],
    ["1", "void hashdl::cuda::(anonymous namespace)::lookup_kernel(y)", "500", "0", "1", "2", "7"],
    ["2", "void unnamed>::adam_kernel<cpu::x, 8>(cpu::y<T1>)", "500", "1,000,000", "70", "30", "6"],
]
OUTPUT = "\n".join(
    ["==PROF== Connected", *(",".join(f'"{cell}"' for cell in row) for row in [HEADER, *LAUNCHES])]
)


@pytest.fixture
def ncu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script alone in the path."""
    script = tmp_path / "bin/ncu"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", str(script.parent))
    return script


def profile(tmp_path: Path, *flags: str) -> tuple[int, dict[str, object]]:
    path = tmp_path / "gpu.json"
    path.write_text('{"contenders": {}}')
    status = gpu_profile.main(["--json", str(path), *flags])
    report = json.loads(path.read_text())
    assert report["contenders"] == {}
    return status, report["profile"]


def write(script: Path, text: str) -> None:
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


def test_launches_of_a_kernel_are_added_up(
    ncu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(ncu, f"while read -r line; do echo \"$line\"; done <<'END'\n{OUTPUT}\nEND")
    status, found = profile(tmp_path)
    assert status == 0
    adam = {"launches": 2, "us": 2.0, "mb": 5.0, "bandwidth_percent": 70, "occupancy_percent": 40}
    assert found["kernels"]["adam_kernel"] == pytest.approx(adam | {"registers": 6})
    assert list(found["kernels"]) == ["adam_kernel", "lookup_kernel"]
    assert "adam_kernel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        (None, 0, "ncu was not found"),
        ("echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1", 0, "the counters are closed to users"),
        ("while :; do :; done", 0, "ncu took more than 1 s"),
        ("echo 'RuntimeError: no'; exit 1", 1, "RuntimeError: no"),
        ("exit 0", 1, "ncu ended with 0"),
    ],
)
def test_where_nothing_is_profiled_the_report_says_why(
    ncu: Path, tmp_path: Path, text: str | None, status: int, message: str
) -> None:
    if text is not None:
        write(ncu, text)
    got, found = profile(tmp_path, "--seconds", "1")
    assert got == status
    assert message in found["error"]


def test_what_ncu_runs_is_a_step(tmp_path: Path) -> None:
    small = ["--rows", "500", "--batch", "4", "--dim", "16", "--device", "cpu"]
    path = tmp_path / "gpu.json"
    assert gpu_profile.main(["--json", str(path), "--step", *small]) == 0
    assert not path.exists()
