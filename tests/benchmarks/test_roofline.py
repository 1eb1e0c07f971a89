"""The roofline table of docs/cuda.md."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs/update_roofline.py"
_spec = importlib.util.spec_from_file_location("update_roofline", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
roofline = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = roofline
_spec.loader.exec_module(roofline)


def test_the_page_has_what_the_script_writes() -> None:
    assert roofline.section() in roofline.PAGE.read_text()


def test_every_kernel_has_a_line_or_is_not_worth_one() -> None:
    folder = SCRIPT.parents[1] / "csrc/cuda"
    sources = "".join(path.read_text() for path in folder.iterdir())
    kernels = re.findall(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", sources)
    assert len(kernels) == sources.count("__global__")
    assert roofline.listed_kernels() == set(kernels)


def test_touched_rows_are_those_of_random_draws() -> None:
    assert roofline.Layer(N=10, B=1, A=1).U == 1
    assert roofline.Layer(N=2, B=100).U == 2
    distinct = roofline.Layer(N=10**6, B=1000, A=1000).U
    assert abs(distinct - 632_121) < 100


def test_time_is_that_of_the_slower_of_moving_and_multiplying() -> None:
    moving = roofline.Work("moving", moved=4.8e9, flops=1)
    multiplying = roofline.Work("multiplying", moved=1, flops=67e9)
    assert moving.seconds == pytest.approx(1e-3)
    assert multiplying.seconds == pytest.approx(1e-3)
