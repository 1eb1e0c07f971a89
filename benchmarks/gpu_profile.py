"""What Nvidia's profiler counts in each CUDA kernel of one step of a hashed layer.

Runs itself under ``ncu``, for as long as it may take, and adds "profile" to a report. Where there
is no ncu, or counters are closed to users, it says so there.

    python -m benchmarks.gpu_profile --json gpu.json
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import positive
from benchmarks.gpu import contenders
from hashdl.training.report import write_json

# What is counted, by ncu's names, and how it is told.
_METRICS = {
    "gpu__time_duration.sum": "us",
    "dram__bytes.sum": "mb",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "bandwidth_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "launch__registers_per_thread": "registers",
}
_SCALES = {"us": 1e-3, "mb": 1e-6}  # from nanoseconds and bytes
_ADDED = ("us", "mb")  # over a kernel's launches; of the others the largest is told
_NO_COUNTERS = "ERR_NVGPUCTRPERM"
# ncu tells some names without what stands before "<unnamed>::".
_NAME = re.compile(r"(?:hashdl::cuda::|unnamed>::)(?:\(anonymous namespace\)::|<unnamed>::)?(\w+)")

#: By kernel: launches, and what _METRICS tells.
Profile = dict[str, dict[str, float]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--json", type=Path, required=True, help="the report to add to")
    made.add_argument("--seconds", type=positive, default=40, help="the limit (default: 40)")
    made.add_argument("--rows", type=positive, default=10**5, help="N (default: 1e5)")
    made.add_argument("--batch", type=positive, default=1024, help="B (default: 1024)")
    made.add_argument("--dim", type=positive, default=256, help="d (default: 256)")
    made.add_argument("--device", default="cuda", help="default: cuda")
    made.add_argument("--step", action="store_true", help="the step alone: what ncu runs")
    return made


def run_step(args: argparse.Namespace) -> None:
    """A step that is profiled, after some that are not."""
    layer = contenders(args.rows, args)["hashed"]()
    x = torch.randn(args.batch, args.dim, device=args.device, dtype=torch.bfloat16)
    target = torch.randint(args.rows, (args.batch,), device=args.device)
    for profiled in (False, False, False, True):
        if profiled and args.device == "cuda":
            torch.cuda.profiler.start()
        layer.train(x.detach().requires_grad_(), target)
    if args.device == "cuda":
        torch.cuda.profiler.stop()


def ncu_command(ncu: str, arguments: Sequence[str]) -> list[str]:
    """This module's step under ncu, a line of CSV a launch."""
    flags = ["--csv", "--page", "raw", "--print-units", "base", "--profile-from-start", "off"]
    flags += ["--kernel-name-base", "demangled", "--kernel-name", "regex:hashdl::cuda"]
    flags += ["--metrics", ",".join(_METRICS)]
    return [ncu, *flags, sys.executable, "-m", "benchmarks.gpu_profile", "--step", *arguments]


def profile_of(lines: Iterable[str]) -> Profile:
    """What ncu wrote, by kernel, the slowest first."""
    table = [line for line in lines if line.startswith('"')]
    found: Profile = {}
    for launch in csv.DictReader(table):
        name = _NAME.search(launch["Kernel Name"] or "")
        if name is None:  # the units
            continue
        kernel = found.setdefault(name[1], {"launches": 0})
        kernel["launches"] += 1
        for metric, told in _METRICS.items():
            value = float(launch[metric].replace(",", "")) * _SCALES.get(told, 1)
            before = kernel.get(told, 0.0)
            kernel[told] = before + value if told in _ADDED else max(before, value)
    return dict(sorted(found.items(), key=lambda item: -item[1]["us"]))


def profiled(args: argparse.Namespace, arguments: Sequence[str]) -> tuple[dict[str, Any], int]:
    """What to report, and the exit status: 1 when the step fails that is to be profiled."""
    ncu = shutil.which("ncu")
    if ncu is None:
        return {"error": "ncu was not found"}, 0
    try:
        result = subprocess.run(
            ncu_command(ncu, arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=args.seconds,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"ncu took more than {args.seconds} s"}, 0
    if _NO_COUNTERS in result.stdout + result.stderr:
        return {"error": f"the counters are closed to users ({_NO_COUNTERS})"}, 0
    kernels = profile_of(result.stdout.splitlines())
    if result.returncode != 0 or not kernels:
        said = (result.stdout + result.stderr).strip().splitlines()[-5:]
        return {"error": " | ".join(said) or f"ncu ended with {result.returncode}"}, 1
    return {"kernels": kernels}, 0


def described(profile: dict[str, Any]) -> str:
    """A table, or why there is none."""
    if "error" in profile:
        return f"not profiled: {profile['error']}"
    told = ["launches", *_METRICS.values()]
    lines = ["".join([f"{'kernel':28}", *(f"{name:>18}" for name in told)])]
    for name, kernel in profile["kernels"].items():
        lines.append("".join([f"{name:28}", *(f"{kernel[key]:18,.1f}" for key in told)]))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile a step and add what was counted to the report."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(given)
    if args.step:
        run_step(args)
        return 0
    profile, status = profiled(args, given)
    report = json.loads(args.json.read_text()) if args.json.exists() else {}
    write_json(args.json, report | {"profile": profile})
    print(described(profile))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
