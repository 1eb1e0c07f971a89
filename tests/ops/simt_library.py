"""The CUDA kernels and the ops over them for the host: see tests/cuda/simt/cuda_runtime.h."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from ops_cases import CUDA
from ops_samples import overload
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[2]
SIMT = ROOT / "tests/cuda/simt"
BUILD = ROOT / "build" / "simt"
CXX = shutil.which("c++")


FLAGS = [
    *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-Wno-unknown-pragmas", "-DHASHDL_SIMD_LEVEL=baseline"),
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    *(f"-I{folder}" for folder in (SIMT, ROOT / "csrc")),
    *(f"-isystem {folder}" for folder in cpp_extension.include_paths()),
]
SOURCES = [
    *sorted((ROOT / "csrc/cuda").glob("*.cu")),
    *sorted((ROOT / "csrc/ops").glob("*.cpp")),
    *sorted((ROOT / "csrc/cpu").glob("*.cpp")),
    SIMT / "simt.cpp",
    SIMT / "races.cpp",
    SIMT / "races.cu",
]
# Accesses of memory are calls then, which races.cpp answers instead of the sanitizer's library.
WATCHED = "-fsanitize=thread --param tsan-distinguish-volatile=1"


def _edge(source: Path, output: Path) -> list[str]:
    watched = WATCHED if source.suffix == ".cu" else ""
    return [f"build {output}: cxx {source}", f"  watched = {watched}"]


def _plan(library: Path) -> str:
    objects = {source: BUILD / f"{source.parent.name}.{source.name}.o" for source in SOURCES}
    folders = " ".join(f"-L{folder}" for folder in cpp_extension.library_paths())
    lines = [
        "rule cxx",
        f"  command = c++ -MD -MF $out.d {' '.join(FLAGS)} $watched -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = c++ -shared $in -o $out {folders} -ltorch_cpu -ltorch",
        *(line for source, output in objects.items() for line in _edge(source, output)),
        f"build {library}: link {' '.join(map(str, objects.values()))}",
    ]
    return "\n".join(lines) + "\n"


@cache
def build() -> Path:
    """The library, built anew where a source has changed."""
    import ninja

    BUILD.mkdir(parents=True, exist_ok=True)
    library = BUILD / "hashdl_simt.so"
    (BUILD / "build.ninja").write_text(_plan(library))
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(BUILD), "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"the kernels do not compile for the host:\n{result.stdout[-8000:]}")
    return library


@cache
def define_ops() -> torch.library.Library:
    """torch.ops.hashdl_simt with the schemas of torch.ops.hashdl, and their kernels."""
    library = torch.library.Library("hashdl_simt", "DEF")
    for name in CUDA:
        library.define(str(overload(name)._schema).removeprefix("hashdl::"))
    torch.ops.load_library(str(build()))
    return library
