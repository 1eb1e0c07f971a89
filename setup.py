"""Builds ``hashdl._C``; everything else about the package stands in pyproject.toml.

Environment variables read here:
    HASHDL_CPU_ONLY=1    build without CUDA kernels even when a toolkit is found.
    HASHDL_FORCE_CUDA=1  fail loudly when CUDA kernels cannot be built.
    HASHDL_NO_EXTENSION=1  install the Python package alone; every op then runs on its reference.
    CXX                  the C++ compiler (default: c++).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# The kernels in SIMD_SOURCES are built once per instruction set and chosen at load by cpuid.
# The other sources are built for the baseline alone, so that no code shared between translation
# units (a std:: template, say) can ever contain an instruction that the machine lacks.
SIMD_SOURCES = [
    f"csrc/cpu/{name}.cpp"
    for name in (
        *("columns", "gather_linear", "hadamard", "row_optimizers"),
        *("signs", "sketch", "softmax", "sparse_linear"),
    )
]
SIMD_LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mpopcnt"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
        *("-mf16c", "-mpopcnt"),
        "-mprefer-vector-width=512",
    ],
}
CXX_FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"),
]
# The oldest torch whose stable ABI the kernels use: one build serves every later version.
TORCH_TARGET = "0x020b000000000000"


@dataclass
class Ninja:
    """The lines of a build.ninja file: one compile edge per object, one link edge."""

    lines: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)

    def rule(self, name: str, command: str, **variables: str) -> None:
        extra = [f"  {key} = {value}" for key, value in variables.items()]
        self.lines += [f"rule {name}", f"  command = {command}", *extra]

    def compile(self, source: Path, output: Path, flags: list[str]) -> None:
        self.lines += [f"build {output}: cxx {source}", f"  flags = {' '.join(flags)}"]
        self.objects.append(str(output))

    def link(self, output: Path) -> None:
        self.lines += [f"build {output}: link {' '.join(self.objects)}", f"default {output}"]


def simd_levels() -> dict[str, list[str]]:
    """The instruction sets worth building on this kind of processor."""
    import platform

    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return SIMD_LEVELS if x86 else {"baseline": []}


def check_cuda_flags() -> None:
    """Refuse HASHDL_FORCE_CUDA as long as there are no CUDA kernels to build."""
    forced = os.environ.get("HASHDL_FORCE_CUDA", "0") == "1"
    if forced and os.environ.get("HASHDL_CPU_ONLY", "0") == "1":
        sys.exit("hashdl: HASHDL_FORCE_CUDA=1 and HASHDL_CPU_ONLY=1 exclude each other")
    if forced and not list((ROOT / "csrc/cuda").glob("*.cu")):
        sys.exit("hashdl: HASHDL_FORCE_CUDA=1, but this source tree has no CUDA kernels yet")


class BuildWithNinja(build_ext):  # type: ignore[misc]
    """Compile every source in parallel, the SIMD kernels once per instruction set."""

    def build_extension(self, ext: Extension) -> None:
        check_cuda_flags()
        import ninja

        build = (ROOT / self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        (build / "build.ninja").write_text(self.plan(ext, build, output))
        command = [Path(ninja.BIN_DIR) / "ninja", "-C", build]
        if not self.verbose:
            command.append("--quiet")
        subprocess.run(command, check=True)

    def plan(self, ext: Extension, build: Path, output: Path) -> str:
        ninja = Ninja(["ninja_required_version = 1.5"])
        cxx = os.environ.get("CXX", "c++")
        ninja.rule(
            "cxx",
            f"{cxx} -MD -MF $out.d $flags -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
            description="compile $out",
        )
        ninja.rule("link", f"{cxx} -shared $in -o $out {' '.join(self.link_flags())}")
        common = CXX_FLAGS + self.include_flags() + [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
        levels = simd_levels()
        common += [f"-DHASHDL_HAS_{level.upper()}=1" for level in levels]
        for source in ext.sources:
            stem = source.replace("/", ".")
            if source not in SIMD_SOURCES:
                ninja.compile(ROOT / source, build / f"{stem}.o", common)
                continue
            for level, flags in levels.items():
                level_flags = [*common, *flags, "-ffp-contract=fast"]
                level_flags.append(f"-DHASHDL_SIMD_LEVEL={level}")
                ninja.compile(ROOT / source, build / f"{stem}.{level}.o", level_flags)
        ninja.link(output)
        return "\n".join(ninja.lines) + "\n"

    def include_flags(self) -> list[str]:
        import pybind11
        import torch.utils.cpp_extension as cpp_extension

        # pybind11 of PyPI first: torch carries a copy of its own.
        folders = [pybind11.get_include(), *self.include_dirs, *cpp_extension.include_paths()]
        return [f"-I{ROOT / 'csrc'}", *(f"-isystem {folder}" for folder in folders)]

    def link_flags(self) -> list[str]:
        import torch.utils.cpp_extension as cpp_extension

        flags = [f"-L{folder}" for folder in cpp_extension.library_paths()]
        flags += ["-ltorch_cpu", "-ltorch"]
        return [*flags, "-undefined dynamic_lookup"] if sys.platform == "darwin" else flags


def extensions() -> list[Extension]:
    if os.environ.get("HASHDL_NO_EXTENSION", "0") == "1":
        return []
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        sys.exit("hashdl: no C++ compiler found; install one, or set HASHDL_NO_EXTENSION=1")
    sources = [
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "csrc/ops", "csrc/cpu")
        for path in sorted((ROOT / folder).glob("*.cpp"))
    ]
    return [Extension("hashdl._C", sources)]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWithNinja})
