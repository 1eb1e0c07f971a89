"""That the host sees what goes wrong in a kernel: tests/cuda/simt/races.cu has the cases."""

from __future__ import annotations

import ctypes
import shutil

import pytest
import simt_library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]

SHARED = "race: nothing orders two accesses to shared memory"
CASES = [
    ("no barrier", SHARED),
    ("barrier", ""),
    ("no warp barrier", SHARED),
    ("warp barrier", ""),
    ("a vote instead of a warp barrier", SHARED),
    ("a warp barrier between two warps", SHARED),
    ("two blocks write one number", "race: nothing orders two accesses to global memory"),
    ("blocks write their own numbers", ""),
    ("atomics", ""),
    ("a read among atomics", SHARED),
    ("a read after atomics", ""),
    ("unwritten shared memory", "shared memory is read that no thread of the block has written"),
    ("lanes that never come", "threads wait for others that never come"),
    ("a load on its boundary", ""),
    ("a load off its boundary", "a number or several stand off the boundary of their size"),
]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("case", range(len(CASES)), ids=[name for name, _ in CASES])
def test_mistakes_are_seen_and_nothing_else(case: int, order: int) -> None:
    library = ctypes.CDLL(str(simt_library.build()))
    library.simt_run_case.restype = ctypes.c_char_p
    library.simt_set_order(order)
    message = library.simt_run_case(case).decode()
    library.simt_set_order(0)
    assert message == (f"simt: {CASES[case][1]}" if CASES[case][1] else "")
