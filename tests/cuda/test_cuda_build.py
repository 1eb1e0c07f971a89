"""What setup.py makes of toolkits and environment variables; and that the CUDA sources compile."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[2]


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hashdl_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


SETUP = load_setup()
NVCC = SETUP.find_nvcc()


def required(nvcc: Path | None) -> Path:
    """The compiler; without one a test is skipped, or fails where HASHDL_REQUIRE_NVCC=1."""
    if nvcc is not None:
        return nvcc
    if SETUP.is_set("HASHDL_REQUIRE_NVCC"):
        pytest.fail("HASHDL_REQUIRE_NVCC=1, but no CUDA toolkit was found (nvcc; set CUDA_HOME)")
    pytest.skip("no CUDA toolkit (nvcc): nothing to compile")


# ---- setup.py ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HASHDL_CPU_ONLY", "HASHDL_FORCE_CUDA", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler at CUDA_HOME."""
    nvcc = tmp_path / "bin/nvcc"
    nvcc.parent.mkdir()
    nvcc.touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    return nvcc


def test_kernels_are_built_where_torch_has_cuda_and_a_toolkit_is_found(
    toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert SETUP.cuda_compiler() == toolkit
    monkeypatch.setenv("HASHDL_CPU_ONLY", "1")
    assert SETUP.cuda_compiler() is None


def test_a_torch_without_cuda_gets_no_kernels(
    toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert SETUP.cuda_compiler() is None
    monkeypatch.setenv("HASHDL_FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match=r"HASHDL_FORCE_CUDA=1, but torch .* built without CUDA"):
        SETUP.cuda_compiler()


def test_forced_without_a_toolkit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(SETUP, "find_nvcc", lambda: None)
    assert SETUP.cuda_compiler() is None
    monkeypatch.setenv("HASHDL_FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="HASHDL_FORCE_CUDA=1, but no CUDA toolkit was found"):
        SETUP.cuda_compiler()


def test_forced_and_cpu_only_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHDL_FORCE_CUDA", "1")
    monkeypatch.setenv("HASHDL_CPU_ONLY", "1")
    with pytest.raises(SystemExit, match="exclude each other"):
        SETUP.cuda_compiler()


def targets(wanted: str | None, *known: str) -> list[str]:
    flags = SETUP.architecture_flags(wanted, set(known))
    return [flag.rpartition("code=")[2] for flag in flags]


def test_default_architectures_are_those_that_the_toolkit_knows() -> None:
    assert targets(None, "compute_80", "compute_90") == ["sm_80", "sm_90"]
    known = ("compute_80", "compute_90", "compute_100")
    assert targets(None, *known) == ["sm_80", "sm_90", "sm_100", "compute_100"]


def test_wanted_architectures_are_taken_as_they_are() -> None:
    assert targets("8.6+PTX 9.0a") == ["sm_86", "compute_86", "sm_90a"]
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST: got 'Hopper'"):
        targets("9.0;Hopper")


def test_a_plan_with_cuda_compiles_and_links_by_nvcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho compute_80\n")
    nvcc.chmod(0o755)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    extension = SETUP.Extension("hashdl._C", ["csrc/module.cpp"])
    command = SETUP.BuildWithNinja(_distribution(extension))
    command.finalize_options()
    plan = command.plan(extension, tmp_path, tmp_path / "_C.so", nvcc)
    kernels = {path.name for path in (ROOT / "csrc/cuda").glob("*.cu")}
    assert set(re.findall(r": nvcc \S*/(\S+\.cu)", plan)) == kernels
    assert "code=sm_80" in plan
    assert plan.count(f"{nvcc} -ccbin {os.environ.get('CXX', 'c++')} ") == 2  # to compile, to link
    assert "-DHASHDL_CUDA=1" in plan
    assert "-ltorch_cuda" in plan
    plain = command.plan(extension, tmp_path, tmp_path / "_C.so", None)
    assert "cuda" not in plain.replace(str(ROOT), "").replace(str(tmp_path), "").lower()


@pytest.mark.parametrize(("jobs", "expected"), [("3", ["-j", "3"]), ("", [])])
def test_as_many_compilers_run_at_once_as_is_asked(
    jobs: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_JOBS", jobs)
    monkeypatch.setenv("HASHDL_CPU_ONLY", "1")
    commands: list[list[str]] = []
    monkeypatch.setattr(SETUP.subprocess, "run", lambda command, **_: commands.append(command))
    extension = SETUP.Extension("hashdl._C", ["csrc/module.cpp"])
    command = SETUP.BuildWithNinja(_distribution(extension))
    command.finalize_options()
    command.build_temp, command.build_lib = tmp_path, tmp_path
    command.build_extension(extension)
    (ninja,) = commands
    assert [str(word) for word in ninja if str(word) != "--quiet"][3:] == expected


def _distribution(extension: object) -> object:
    from setuptools import Distribution

    return Distribution({"name": "hashdl", "ext_modules": [extension]})


# ---- compilers -----------------------------------------------------------------------------------

ARCHS = "8.0;9.0"

# Kernels that are timed by what they read: a spill would read more. As mangled names; the division
# of float64 is a call, around which something must go to memory: of Adam where states are bfloat16.
HOT = (
    *(
        "forward_kernel",
        "forward_by_row_kernel",
        "backward_input_kernel",
        "backward_weight_kernel",
        "scatter_kernel",
    ),
    *("lookup_kernel", "select_kernel", "scores_kernel", "best_columns_kernel"),
    *("pack_signs_kernel", "log_prob_kernel", "backward_kernel"),
    *("sparse_forward_kernel", "sparse_input_kernel", "sparse_weight_kernel"),
    "count_entries_kernel",
    *("sgd_kernel", "adam_kernelI(?!dNS)", "adagrad_kernelI(?!d)"),
)
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))


def spilling(report: str) -> list[str]:
    """Mangled names of the kernels with spills, from ptxas -v."""
    kernels = re.findall(
        r"Function properties for (\S+)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads",
        report,
    )
    return [name for name, stores, loads in kernels if int(stores) + int(loads) > 0]


def test_spills_are_seen() -> None:
    report = """
ptxas info    : Function properties for _Z1kPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z1mPf
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
"""
    assert spilling(report) == ["_Z1mPf"]


# launch.h asks for more than 48 KB where dynamic memory alone is 32, row_map.h takes 88 of the 99
# that a block has on the smallest of the GPUs since sm_80.
MOST_STATIC = 11 * 1024


def static_memory(report: str) -> int:
    """Bytes of static shared memory of the kernel that has most, CUB's apart, from ptxas -v."""
    kernels = report.split("Compiling entry function '")[1:]
    own = [kernel for kernel in kernels if kernel.startswith("_ZN6hashdl")]
    found = [re.search(r"Used \d+ registers.*?(\d+) bytes smem", kernel) for kernel in own]
    return max((int(smem[1]) for smem in found if smem), default=0)


def test_static_memory_is_seen() -> None:
    report = """
ptxas info    : Compiling entry function '_ZN6hashdl1kEPf' for 'sm_80'
ptxas info    : Used 40 registers, 432 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN6hashdl1mEPf' for 'sm_80'
ptxas info    : Used 54 registers, used 1 barriers, 7200 bytes smem, 504 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN3cub1kEPf' for 'sm_80'
ptxas info    : Used 54 registers, used 1 barriers, 30000 bytes smem, 504 bytes cmem[0]
"""
    assert static_memory(report) == 7200


def test_hot_kernels_are_there() -> None:
    text = "".join(source.read_text() for source in SOURCES)
    missing = [name for name in HOT if f"{name.partition('I(')[0]}(" not in text]
    assert missing == []


def test_without_a_toolkit_compiling_is_skipped_unless_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HASHDL_REQUIRE_NVCC", raising=False)
    with pytest.raises(pytest.skip.Exception, match="nothing to compile"):
        required(None)
    monkeypatch.setenv("HASHDL_REQUIRE_NVCC", "1")
    with pytest.raises(pytest.fail.Exception, match="no CUDA toolkit was found"):
        required(None)
    assert required(Path("nvcc")) == Path("nvcc")


# nvcc takes these in a kernel without a word, and makes nonsense of the builtins in them.
HOST_BITS = re.compile(
    r"std::(count[lr]_(zero|one)|popcount|bit_(width|ceil|floor)|has_single_bit|rot[lr])\b"
    r"|__builtin_(ctz|clz|ffs|popcount|parity)"
)


def test_kernels_count_bits_by_instructions_of_the_gpu() -> None:
    headers = [path for path in (ROOT / "csrc").rglob("*.h") if path.name != "bits.h"]
    shared = [path for path in headers if "HASHDL_HOST_DEVICE" in path.read_text()]
    own = [path for path in headers if path.parent.name == "cuda" and path.name != "launch.h"]
    assert len(shared) > 2
    found = [path.name for path in {*SOURCES, *shared, *own} if HOST_BITS.search(path.read_text())]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_sources_compile_without_warnings_and_hot_kernels_without_spills(
    source: Path, tmp_path: Path
) -> None:
    flags = [*SETUP.NVCC_FLAGS, *SETUP.architecture_flags(ARCHS, set()), "--threads", "2"]
    command = [
        *(required(NVCC), *flags),
        *("-Werror", "all-warnings", "-Xptxas", "-v", f"-I{ROOT / 'csrc'}", "-c", source),
        *("-o", tmp_path / "kernels.o"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    hot = re.compile("|".join(rf"\d({name})" for name in HOT))
    assert [name for name in spilling(result.stderr) if hot.search(name)] == []
    assert static_memory(result.stderr) <= MOST_STATIC


@pytest.mark.slow
@pytest.mark.skipif(not SETUP.shutil.which("c++"), reason="no C++ compiler")
def test_the_ops_compile_with_cuda() -> None:
    """Against torch's stable headers, whatever torch is installed."""
    command = [
        *("c++", *SETUP.CXX_FLAGS, "-fsyntax-only", "-Werror", f"-I{ROOT / 'csrc'}"),
        *("-DHASHDL_CUDA=1", "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={SETUP.TORCH_TARGET}"),
        *(flag for folder in cpp_extension.include_paths() for flag in ("-isystem", folder)),
        *sorted((ROOT / "csrc/ops").glob("*.cpp")),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
