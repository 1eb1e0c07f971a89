"""How the compiled kernels are found: built, never built, switched off, or broken."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest
from ops_samples import RunPython

import hashdl

USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import hashdl
    import torch
    codes = hashdl.ops.pack_signs(torch.tensor([[1.0, -1.0]]), 2)
    assert codes.tolist() == [[1]]
    layer = hashdl.HashLinear(4, 50)
    layer(torch.randn(3, 4)).sum().backward()
ours = [str(w.message) for w in caught if "hashdl" in str(w.message)]
print(hashdl.has_extension(), len(ours), *ours)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the Python package, without its extension."""
    compiled = shutil.ignore_patterns("_C.*", "__pycache__")
    shutil.copytree(Path(hashdl.__file__).parent, tmp_path / "copy/hashdl", ignore=compiled)
    return tmp_path / "copy"


def test_switched_off_every_op_runs_with_one_warning(run_python: RunPython) -> None:
    result = run_python(USE, HASHDL_DISABLE_EXTENSION="1")
    assert result.stdout.startswith("False 1 hashdl: HASHDL_DISABLE_EXTENSION=1; "), result.stderr


def test_never_built_every_op_runs_with_one_warning(package: Path, run_python: RunPython) -> None:
    result = run_python(USE, package=package)
    assert result.stdout.startswith("False 1 hashdl: the C++ extension is not built; ")
    assert "pip install" in result.stdout


@pytest.mark.skipif(not hashdl.has_extension(), reason="needs the compiled kernels")
def test_built_there_is_no_warning(run_python: RunPython) -> None:
    assert run_python(USE).stdout.strip() == "True 0"


def test_broken_is_an_error_and_never_a_fallback(package: Path, run_python: RunPython) -> None:
    name = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
    (package / "hashdl" / name).write_bytes(b"not a shared library")
    result = run_python("import hashdl", package=package)
    assert result.returncode != 0
    assert "ImportError: hashdl: the C++ extension is installed but does not load" in result.stderr
    assert "Reinstall hashdl" in result.stderr


def test_jit_needs_a_source_checkout(package: Path, run_python: RunPython) -> None:
    result = run_python("import hashdl", package=package, HASHDL_JIT="1")
    assert result.returncode != 0
    assert "is not a source checkout of hashdl" in result.stderr
