"""Builds ``hashdl._C``; everything else about the package stands in pyproject.toml.

Environment variables read here:
    HASHDL_CPU_ONLY=1    build without CUDA kernels. By default they are built where torch has CUDA
                         and a toolkit is found (CUDA_HOME, CUDA_PATH, /usr/local/cuda, PATH).
    HASHDL_FORCE_CUDA=1  fail loudly when CUDA kernels cannot be built.
    TORCH_CUDA_ARCH_LIST  the GPUs to build for, as torch's own extensions take it: "8.0;9.0+PTX".
    HASHDL_NO_EXTENSION=1  install the Python package alone; every op then runs on its reference.
    CXX                  the C++ compiler (default: c++), of the CUDA compiler's host code too.
    MAX_JOBS             how many sources are compiled at once (default: ninja's, by processors).
"""

from __future__ import annotations

import os
import re
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
        *("columns", "gather_linear", "hadamard", "level_scores", "nearest", "projection"),
        *("ranking", "row_optimizers", "sign_codes", "signs", "sketch", "softmax"),
        "sparse_linear",
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
NVCC_FLAGS = [
    *("-std=c++20", "-O3", "-lineinfo", "--expt-relaxed-constexpr"),
    *("-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall"),
]
# What TORCH_CUDA_ARCH_LIST is by default: of these, those that the toolkit knows.
CUDA_ARCHS = "8.0;9.0;10.0+PTX"
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

    def compile(self, source: Path, output: Path, flags: list[str], rule: str = "cxx") -> None:
        self.lines += [f"build {output}: {rule} {source}", f"  flags = {' '.join(flags)}"]
        self.objects.append(str(output))

    def link(self, output: Path) -> None:
        self.lines += [f"build {output}: link {' '.join(self.objects)}", f"default {output}"]


def simd_levels() -> dict[str, list[str]]:
    """The instruction sets worth building on this kind of processor."""
    import platform

    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return SIMD_LEVELS if x86 else {"baseline": []}


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "0") == "1"


def find_nvcc() -> Path | None:
    """The CUDA compiler, if there is one."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = [Path(home) / "bin/nvcc" for home in homes if home]
    on_path = shutil.which("nvcc")
    found += [Path(on_path)] if on_path else []
    return next((path for path in found if path.is_file()), None)


def cuda_compiler() -> Path | None:
    """The compiler to build CUDA kernels with, or None where there shall be none."""
    forced = is_set("HASHDL_FORCE_CUDA")
    if forced and is_set("HASHDL_CPU_ONLY"):
        sys.exit("hashdl: HASHDL_FORCE_CUDA=1 and HASHDL_CPU_ONLY=1 exclude each other")
    if is_set("HASHDL_CPU_ONLY"):
        return None
    import torch

    nvcc = find_nvcc()
    missing = "no CUDA toolkit was found (nvcc; set CUDA_HOME)" if nvcc is None else None
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is built without CUDA"
    if missing and forced:
        sys.exit(f"hashdl: HASHDL_FORCE_CUDA=1, but {missing}")
    return None if missing else nvcc


def architecture_flags(wanted: str | None, known: set[str]) -> list[str]:
    """Flags of nvcc for a TORCH_CUDA_ARCH_LIST, or for the default one as far as it is known.

    Args:
        wanted: such as "8.0;9.0+PTX".
        known: what ``nvcc --list-gpu-arch`` says, such as {"compute_80"}.
    """
    flags = []
    for entry in re.split(r"[;, ]+", (wanted or CUDA_ARCHS).strip()):
        parts = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", entry)
        if parts is None:
            sys.exit(f"hashdl: TORCH_CUDA_ARCH_LIST: got {entry!r}, wanted the like of '9.0+PTX'")
        number = parts[1] + parts[2]
        if not wanted and f"compute_{number}" not in known:
            continue
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if parts[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class BuildWithNinja(build_ext):  # type: ignore[misc]
    """Compile every source in parallel, the SIMD kernels once per instruction set."""

    def build_extension(self, ext: Extension) -> None:
        import ninja

        build = (ROOT / self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        plan = self.plan(ext, build, output, cuda_compiler())
        (build / "build.ninja").write_text(plan)
        command = [Path(ninja.BIN_DIR) / "ninja", "-C", build]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        if not self.verbose:
            command.append("--quiet")
        subprocess.run(command, check=True)

    def plan(self, ext: Extension, build: Path, output: Path, nvcc: Path | None) -> str:
        ninja = Ninja(["ninja_required_version = 1.5"])
        cxx = os.environ.get("CXX", "c++")
        ninja.rule(
            "cxx",
            f"{cxx} -MD -MF $out.d $flags -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
            description="compile $out",
        )
        # nvcc links the CUDA runtime of its own.
        linker = cxx if nvcc is None else f"{nvcc} -ccbin {cxx}"
        ninja.rule("link", f"{linker} -shared $in -o $out {' '.join(self.link_flags(nvcc))}")
        common = CXX_FLAGS + self.include_flags() + [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
        if nvcc is not None:
            common += ["-DHASHDL_CUDA=1", "-DUSE_CUDA"]
            self.plan_cuda(ninja, nvcc, cxx, build)
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

    def plan_cuda(self, ninja: Ninja, nvcc: Path, cxx: str, build: Path) -> None:
        ninja.rule(
            "nvcc",
            f"{nvcc} -ccbin {cxx} -MD -MF $out.d $flags -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
            description="compile $out",
        )
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
        wanted = os.environ.get("TORCH_CUDA_ARCH_LIST")
        flags = [*NVCC_FLAGS, f"-I{ROOT / 'csrc'}"]
        flags += architecture_flags(wanted, set(listed.stdout.split()))
        for source in sorted((ROOT / "csrc/cuda").glob("*.cu")):
            ninja.compile(source, build / f"csrc.cuda.{source.name}.o", flags, rule="nvcc")

    def include_flags(self) -> list[str]:
        import pybind11
        import torch.utils.cpp_extension as cpp_extension

        # pybind11 of PyPI first: torch carries a copy of its own.
        folders = [pybind11.get_include(), *self.include_dirs, *cpp_extension.include_paths()]
        return [f"-I{ROOT / 'csrc'}", *(f"-isystem {folder}" for folder in folders)]

    def link_flags(self, nvcc: Path | None) -> list[str]:
        import torch.utils.cpp_extension as cpp_extension

        flags = [f"-L{folder}" for folder in cpp_extension.library_paths()]
        flags += ["-ltorch_cpu", "-ltorch"] + (["-ltorch_cuda"] if nvcc is not None else [])
        return [*flags, "-undefined dynamic_lookup"] if sys.platform == "darwin" else flags


def extensions() -> list[Extension]:
    if is_set("HASHDL_NO_EXTENSION"):
        return []
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        sys.exit("hashdl: no C++ compiler found; install one, or set HASHDL_NO_EXTENSION=1")
    sources = [
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "csrc/ops", "csrc/cpu")
        for path in sorted((ROOT / folder).glob("*.cpp"))
    ]
    return [Extension("hashdl._C", sources)]


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildWithNinja})
